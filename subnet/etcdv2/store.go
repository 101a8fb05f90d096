package etcdv2

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"time"

	"go.etcd.io/etcd/client/v2"

	"tweed/subnet"
)

// Config implements subnet.Store.
func (s *Store) Config(ctx context.Context) ([]byte, error) {
	key := s.configKey()
	r, err := s.do(ctx, call{verb: "read", key: key,
		means: map[int]error{client.ErrorCodeKeyNotFound: subnet.ErrNoConfig},
		send: func(ctx context.Context, keys client.KeysAPI) (*client.Response, error) {
			return keys.Get(ctx, key, &client.GetOptions{Quorum: true})
		}})
	if errors.Is(err, subnet.ErrNoConfig) {
		return nil, fmt.Errorf("%w: write one by: %s", err, s.setConfigCommand(err))
	}
	if err != nil {
		return nil, err
	}
	if r.Node.Dir {
		return nil, fmt.Errorf("read %s: it is a directory: want a plain key with the network config", key)
	}
	return []byte(r.Node.Value), nil
}

// setConfigCommand is what an operator types to write a network config to the
// endpoint that had none.
func (s *Store) setConfigCommand(err error) string {
	var r *refusal
	if !errors.As(err, &r) {
		return ""
	}
	words := []string{"ETCDCTL_API=2 etcdctl --endpoints", r.endpoint.url}
	for _, o := range []struct{ flag, value string }{
		{"--ca-file", s.opts.CAFile}, {"--cert-file", s.opts.CertFile}, {"--key-file", s.opts.KeyFile},
		{"--username", r.endpoint.username},
	} {
		if o.value != "" {
			words = append(words, o.flag, o.value)
		}
	}
	return strings.Join(append(words, "set", r.call.key, `'{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan"}}'`), " ")
}

// List implements subnet.Store. The answer is confirmed by a majority of the
// members. X-Etcd-Index, unlike the modifiedIndex of the directory, tells of
// every change up to the moment of the answer, so it is where to watch from.
// Unlike flannel's, it is not recursive: directories inside of each other, which
// one request can make, would be an answer of any length.
//
// A member that was set up anew as a cluster of its own is not believed as long as
// others may be of the cluster of the last list.
func (s *Store) List(ctx context.Context) (subnet.Snapshot, error) {
	dir := s.leaseDir()
	var l listing
	c := call{verb: "list", key: dir,
		send: func(ctx context.Context, keys client.KeysAPI) (*client.Response, error) {
			return keys.Get(ctx, dir, &client.GetOptions{Quorum: true})
		},
		digest: func(body io.Reader, asked time.Time) (seen []byte, err error) {
			if l, err = s.readList(body, asked, int(s.records.Load())); err != nil {
				return nil, err
			}
			return json.Marshal(map[string]any{"action": "get", "node": l.dir})
		}}
	if id := s.cluster.Load(); id != nil {
		c.cluster = *id
	}
	r, err := s.do(ctx, c)
	var no *refusal
	if errors.As(err, &no) && no.code.Code == client.ErrorCodeKeyNotFound {
		s.cluster.Store(nil) // an error does not tell which it is
		s.records.Store(0)
		return subnet.Snapshot{Revision: int64(no.code.Index)}, nil
	}
	if err != nil {
		return subnet.Snapshot{}, err
	}
	if !r.Node.Dir {
		return subnet.Snapshot{}, fmt.Errorf("list %s: it is a plain key: want a directory", dir)
	}
	s.cluster.Store(&r.ClusterID)
	s.records.Store(int64(len(l.leases) + len(l.bad)))
	return subnet.Snapshot{Leases: l.leases, Bad: l.bad, Revision: int64(r.Index)}, nil
}

// Create implements subnet.Store.
func (s *Store) Create(ctx context.Context, sn netip.Prefix, a subnet.Attrs, ttl time.Duration) (subnet.Lease, error) {
	return s.put(ctx, subnet.Lease{Subnet: sn, Attrs: a}, "create",
		client.SetOptions{PrevExist: client.PrevNoExist, TTL: wholeSeconds(ttl)},
		map[int]error{client.ErrorCodeNodeExist: subnet.ErrExists})
}

// Update implements subnet.Store.
func (s *Store) Update(ctx context.Context, l subnet.Lease, ttl time.Duration) (subnet.Lease, error) {
	if err := s.checkRevision("update", l); err != nil {
		return subnet.Lease{}, err
	}
	return s.put(ctx, l, "update",
		client.SetOptions{PrevIndex: uint64(l.Revision), TTL: wholeSeconds(ttl)}, changed)
}

func (s *Store) put(ctx context.Context, l subnet.Lease, verb string, o client.SetOptions, means map[int]error) (subnet.Lease, error) {
	key := s.leaseKey(subnet.Key(l.Subnet))
	value, err := encode(l)
	if err != nil {
		return subnet.Lease{}, fmt.Errorf("%s %s: %w", verb, key, err)
	}
	r, err := s.do(ctx, call{verb: verb, key: key, write: true, means: means,
		send: func(ctx context.Context, keys client.KeysAPI) (*client.Response, error) {
			return keys.Set(ctx, key, value, &o)
		}})
	if err != nil {
		return subnet.Lease{}, err
	}
	l.Revision = int64(r.Node.ModifiedIndex)
	l.Expires = expires(r.Node, r.asked)
	return l, nil
}

// Delete implements subnet.Store.
func (s *Store) Delete(ctx context.Context, l subnet.Lease) error {
	if err := s.checkRevision("delete", l); err != nil {
		return err
	}
	key := s.leaseKey(subnet.Key(l.Subnet))
	_, err := s.do(ctx, call{verb: "delete", key: key, write: true, means: changed,
		send: func(ctx context.Context, keys client.KeysAPI) (*client.Response, error) {
			return keys.Delete(ctx, key, &client.DeleteOptions{PrevIndex: uint64(l.Revision)})
		}})
	return err
}

// changed is what etcd's errors mean for a write to a known revision. A record
// that became a directory was changed, too.
var changed = map[int]error{
	client.ErrorCodeKeyNotFound: subnet.ErrNotFound,
	client.ErrorCodeTestFailed:  subnet.ErrConflict,
	client.ErrorCodeNotFile:     subnet.ErrConflict,
}

// checkRevision refuses what etcd would take for a write without condition.
func (s *Store) checkRevision(verb string, l subnet.Lease) error {
	if l.Revision > 0 {
		return nil
	}
	return fmt.Errorf("%s %s with revision %d: %w", verb, s.leaseKey(subnet.Key(l.Subnet)), l.Revision, subnet.ErrConflict)
}

// wholeSeconds rounds up: etcd counts in seconds, and 0 means for ever.
func wholeSeconds(ttl time.Duration) time.Duration {
	return (ttl + time.Second - 1).Truncate(time.Second)
}
