package etcdv2

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"tweed/subnet/subnettest"
	"tweed/test/embedetcd"
)

func TestConformance(t *testing.T) {
	etcd := startEtcd(t, embedetcd.Options{})
	n := 0
	subnettest.Conformance(t, func(t *testing.T) subnettest.Fixture {
		n++
		prefix := fmt.Sprintf("/tweed/net%d", n)
		return subnettest.Fixture{
			Store: open(t, Options{Endpoints: etcd.Endpoints(), Prefix: prefix}),
			SetConfig: func(value string) {
				if value == "" {
					remove(t, etcd, prefix+"/config")
				} else {
					set(t, etcd, prefix+"/config", value, 0)
				}
			},
			SetRaw: func(key, value string, ttl time.Duration) {
				set(t, etcd, prefix+"/subnets/"+key, value, ttl)
			},
			Remove:    func(key string) { remove(t, etcd, prefix+"/subnets/"+key) },
			RemoveAll: func() { remove(t, etcd, prefix+"/subnets") },
			Compact: func() { // etcd keeps the last 1000 events
				for i := range 1100 {
					set(t, etcd, "/elsewhere", fmt.Sprint(i), 0)
				}
			},
			TTL: time.Second,
		}
	})
}

func startEtcd(t testing.TB, o embedetcd.Options) *embedetcd.Server {
	t.Helper()
	o.Dir, o.NoSync = t.TempDir(), true
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	s, err := embedetcd.Start(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// startAnotherCluster starts three members. A cluster ID follows from the members'
// addresses, so it is not that of a single one.
func startAnotherCluster(t testing.TB) *embedetcd.Cluster {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	c, err := embedetcd.StartCluster(ctx, embedetcd.ClusterOptions{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

func open(t testing.TB, o Options) *Store {
	t.Helper()
	if o.Prefix == "" {
		o.Prefix = "/coreos.com/network"
	}
	s, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	s.pinned.Store(0) // not at random
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func set(t testing.TB, etcd *embedetcd.Server, key, value string, ttl time.Duration) {
	t.Helper()
	if err := etcd.Set(context.Background(), key, value, ttl); err != nil {
		t.Error(err)
	}
}

func remove(t testing.TB, etcd *embedetcd.Server, key string) {
	t.Helper()
	if err := etcd.Delete(context.Background(), key); err != nil && !errors.Is(err, embedetcd.ErrNotFound) {
		t.Error(err)
	}
}
