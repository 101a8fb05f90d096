package main

import (
	"context"
	"net/netip"
	"time"

	"tweed/subnet"
)

// A watchedStore is a subnet.Store whose calls must end in time.
type watchedStore struct {
	subnet.Store
	alive    *liveness
	callTime time.Duration // of every call but Watch
}

// watched says that a call begins, and returns what says that it has ended.
func (s *watchedStore) watched(d time.Duration) (end func()) {
	call := s.alive.loop("store")
	call.within(d + grace)
	return call.end
}

func (s *watchedStore) Config(ctx context.Context) ([]byte, error) {
	defer s.watched(s.callTime)()
	return s.Store.Config(ctx)
}

func (s *watchedStore) List(ctx context.Context) (subnet.Snapshot, error) {
	defer s.watched(s.callTime)()
	return s.Store.List(ctx)
}

func (s *watchedStore) Create(ctx context.Context, sn netip.Prefix, a subnet.Attrs, ttl time.Duration) (subnet.Lease, error) {
	defer s.watched(s.callTime)()
	return s.Store.Create(ctx, sn, a, ttl)
}

func (s *watchedStore) Update(ctx context.Context, l subnet.Lease, ttl time.Duration) (subnet.Lease, error) {
	defer s.watched(s.callTime)()
	return s.Store.Update(ctx, l, ttl)
}

func (s *watchedStore) Delete(ctx context.Context, l subnet.Lease) error {
	defer s.watched(s.callTime)()
	return s.Store.Delete(ctx, l)
}

// Watch has to end soon after its context. fn may have to wait for the peers to
// be applied; a loop that hangs there is known by its own name.
func (s *watchedStore) Watch(ctx context.Context, after int64, fn func([]subnet.Event) error) error {
	defer s.watched(watchTime + s.callTime)()
	return s.Store.Watch(ctx, after, fn)
}

// A connected store has connections to servers, as all but the one of the tests.
type connected interface {
	Addresses() []netip.Addr
	Reconnect()
}

// addresses returns those of the store's servers, as far as they are known.
func (s *watchedStore) addresses() []netip.Addr {
	if c, ok := s.Store.(connected); ok {
		return c.Addresses()
	}
	return nil
}

// reconnect drops the connections to the store's servers.
func (s *watchedStore) reconnect() {
	if c, ok := s.Store.(connected); ok {
		c.Reconnect()
	}
}
