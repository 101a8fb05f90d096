package lab

import (
	"context"
	"errors"
	"strings"

	"tweed/test/embedetcd"
)

// DefaultPrefix is flanneld's default -etcd-prefix.
const DefaultPrefix = "/coreos.com/network"

// Leases lists the lease records below an etcd prefix as they are stored: none
// if no node has come yet.
func (l *Lab) Leases(ctx context.Context, prefix string) ([]embedetcd.Record, error) {
	list, err := l.Etcd.List(ctx, strings.TrimSuffix(prefix, "/")+"/subnets")
	if errors.Is(err, embedetcd.ErrNotFound) {
		return nil, nil
	}
	return list, err
}
