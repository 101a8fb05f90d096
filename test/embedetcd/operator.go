package embedetcd

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/server/v3/etcdserver"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v2error"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v2store"
)

// ErrNotFound: Get, List or Delete found no such key.
var ErrNotFound = errors.New("key not found")

// Record is one key of the v2 API.
type Record struct {
	Key   string // "/coreos.com/network/config"
	Value string
	TTL   time.Duration // what is left of it, in whole seconds rounded up; 0 if the key does not expire
	Index uint64        // modifiedIndex
	Dir   bool
}

// Set writes a key, whatever it held before. A ttl of 0 means that it does not
// expire. This and the following methods do what `etcdctl` with ETCDCTL_API=2
// does, but without any connection: they work from every network namespace.
func (s *Server) Set(ctx context.Context, key, value string, ttl time.Duration) error {
	r := etcdserverpb.Request{Method: "PUT", Val: value}
	if ttl > 0 {
		r.Expiration = time.Now().Add(ttl).UnixNano()
	}
	_, err := s.do(ctx, key, r)
	return err
}

// Mkdir makes an empty directory: ttl as in Set.
func (s *Server) Mkdir(ctx context.Context, key string, ttl time.Duration) error {
	r := etcdserverpb.Request{Method: "PUT", Dir: true}
	if ttl > 0 {
		r.Expiration = time.Now().Add(ttl).UnixNano()
	}
	_, err := s.do(ctx, key, r)
	return err
}

// Delete removes a key, or a directory with all that is in it: ErrNotFound.
func (s *Server) Delete(ctx context.Context, key string) error {
	_, err := s.do(ctx, key, etcdserverpb.Request{Method: "DELETE", Dir: true, Recursive: true})
	return err
}

// Get reads a key: ErrNotFound.
func (s *Server) Get(ctx context.Context, key string) (Record, error) {
	n, err := s.do(ctx, key, etcdserverpb.Request{Method: "GET", Quorum: true})
	if err != nil {
		return Record{}, err
	}
	return record(n), nil
}

// List reads what is directly inside a directory, ordered by key: ErrNotFound.
func (s *Server) List(ctx context.Context, dir string) ([]Record, error) {
	n, err := s.do(ctx, dir, etcdserverpb.Request{Method: "GET", Quorum: true, Recursive: true, Sorted: true})
	if err != nil {
		return nil, err
	}
	var all []Record
	for _, child := range n.Nodes {
		all = append(all, record(child))
	}
	return all, nil
}

func (s *Server) do(ctx context.Context, key string, r etcdserverpb.Request) (*v2store.NodeExtern, error) {
	r.Path = path.Join(etcdserver.StoreKeysPrefix, key)
	resp, err := s.etcd.Server.Do(ctx, r)
	var etcdErr *v2error.Error
	if errors.As(err, &etcdErr) && etcdErr.ErrorCode == v2error.EcodeKeyNotFound {
		err = ErrNotFound
	}
	if err != nil {
		return nil, fmt.Errorf("etcd %s %s: %w", strings.ToLower(r.Method), key, err)
	}
	return resp.Event.Node, nil
}

func record(n *v2store.NodeExtern) Record {
	r := Record{
		Key:   strings.TrimPrefix(n.Key, etcdserver.StoreKeysPrefix),
		TTL:   time.Duration(n.TTL) * time.Second,
		Index: n.ModifiedIndex,
		Dir:   n.Dir,
	}
	if n.Value != nil {
		r.Value = *n.Value
	}
	return r
}
