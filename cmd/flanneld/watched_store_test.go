package main

import (
	"context"
	"log/slog"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"tweed/subnet"
)

// A hangingStore never answers.
type hangingStore struct{}

func (hangingStore) Config(ctx context.Context) ([]byte, error) { return nil, hang(ctx) }
func (hangingStore) List(ctx context.Context) (subnet.Snapshot, error) {
	return subnet.Snapshot{}, hang(ctx)
}
func (hangingStore) Create(ctx context.Context, _ netip.Prefix, _ subnet.Attrs, _ time.Duration) (subnet.Lease, error) {
	return subnet.Lease{}, hang(ctx)
}
func (hangingStore) Update(ctx context.Context, _ subnet.Lease, _ time.Duration) (subnet.Lease, error) {
	return subnet.Lease{}, hang(ctx)
}
func (hangingStore) Delete(ctx context.Context, _ subnet.Lease) error { return hang(ctx) }
func (hangingStore) Watch(ctx context.Context, _ int64, _ func([]subnet.Event) error) error {
	return hang(ctx)
}

func hang(ctx context.Context) error {
	<-ctx.Done()
	return ctx.Err()
}

// TestHangingStoreIsStuck knows each call that does not end, and no call that
// has.
func TestHangingStoreIsStuck(t *testing.T) {
	const callTime = 15 * time.Second
	alive := newLiveness()
	s := &watchedStore{hangingStore{}, alive, callTime}
	for name, tt := range map[string]struct {
		bound time.Duration
		call  func(context.Context) error
	}{
		"config": {callTime + grace, func(ctx context.Context) error { _, err := s.Config(ctx); return err }},
		"list":   {callTime + grace, func(ctx context.Context) error { _, err := s.List(ctx); return err }},
		"create": {callTime + grace, func(ctx context.Context) error {
			_, err := s.Create(ctx, netip.Prefix{}, subnet.Attrs{}, 0)
			return err
		}},
		"update": {callTime + grace, func(ctx context.Context) error { _, err := s.Update(ctx, subnet.Lease{}, 0); return err }},
		"delete": {callTime + grace, func(ctx context.Context) error { return s.Delete(ctx, subnet.Lease{}) }},
		"watch":  {watchTime + callTime + grace, func(ctx context.Context) error { return s.Watch(ctx, 1, nil) }},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				ended := make(chan error)
				go func() { ended <- tt.call(ctx) }()
				synctest.Wait()
				log := slog.New(slog.DiscardHandler)
				if stuck := alive.pass(tt.bound, log); stuck != nil {
					t.Errorf("stuck after %v: %q", tt.bound, stuck)
				}
				if stuck := alive.pass(time.Second, log); len(stuck) != 1 {
					t.Errorf("not stuck after %v: %q", tt.bound+time.Second, stuck)
				}
				cancel()
				<-ended
				if stuck := alive.pass(time.Hour, log); stuck != nil || len(alive.loops) != 0 {
					t.Errorf("stuck after its end: %q", stuck)
				}
			})
		})
	}
}
