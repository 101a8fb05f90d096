package subnet_test

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"tweed/subnet"
	"tweed/subnet/subnettest"
)

// storeWith is a Store with some methods replaced.
type storeWith struct {
	subnet.Store
	list  func(context.Context) (subnet.Snapshot, error)
	watch func(context.Context) error
}

func (s storeWith) List(ctx context.Context) (subnet.Snapshot, error) {
	if s.list == nil {
		return s.Store.List(ctx)
	}
	return s.list(ctx)
}

func (s storeWith) Watch(ctx context.Context, after int64, fn func([]subnet.Event) error) error {
	if s.watch == nil {
		return s.Store.Watch(ctx, after, fn)
	}
	return s.watch(ctx)
}

// The monotonic clock stood still while the machine was suspended, so the lease
// has less left than the timer believes: the next list tells.
func TestRunRenewsAfterSuspend(t *testing.T) {
	inBubble(t, func(t *testing.T, store *subnettest.Memory) {
		const asleep = 23*time.Hour - 30*time.Minute
		var suspended atomic.Bool
		renewed := make(chan time.Time, 1)
		m := manager(t, storeWith{Store: store, list: func(ctx context.Context) (subnet.Snapshot, error) {
			snap, err := store.List(ctx)
			for i := range snap.Leases {
				if suspended.Load() {
					snap.Leases[i].Expires = snap.Leases[i].Expires.Add(-asleep)
				}
			}
			return snap, err
		}}, network)
		own, err := m.Acquire(t.Context(), self)
		if err != nil {
			t.Fatal(err)
		}
		store.Fail(func(op string) error {
			if op == "update" {
				suspended.Store(false)
				renewed <- time.Now()
			}
			return nil
		})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- m.Run(ctx, own, func(context.Context, []subnet.Lease) error { return nil }) }()
		time.Sleep(time.Hour)
		suspended.Store(true) // half an hour is left
		awake := time.Now()
		if late := (<-renewed).Sub(awake); late > 6*time.Minute {
			t.Errorf("renewed %v after waking up, with 30m left of the lease", late)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// A store whose watch can never follow its lists is not asked at full speed.
func TestRunSparesStoreThatForgets(t *testing.T) {
	inBubble(t, func(t *testing.T, store *subnettest.Memory) {
		lists := 0
		m := manager(t, storeWith{Store: store,
			list: func(ctx context.Context) (subnet.Snapshot, error) { lists++; return store.List(ctx) },
			watch: func(context.Context) error {
				time.Sleep(time.Millisecond)
				return subnet.ErrCompacted
			}}, network)
		own, err := m.Acquire(t.Context(), self)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
		defer cancel()
		if err := m.Run(ctx, own, func(context.Context, []subnet.Lease) error { return nil }); err != nil {
			t.Error(err)
		}
		if lists < 10 || lists > 100 {
			t.Errorf("%d lists in 10 minutes, want one every 30 s at last", lists)
		}
	})
}

// A store that answers with no time left, whatever it was told, is not asked at full
// speed.
func TestRunSparesStoreWithoutTime(t *testing.T) {
	inBubble(t, func(t *testing.T, store *subnettest.Memory) {
		var updates atomic.Int32
		m := manager(t, dueStore{store, &updates}, network)
		own, err := m.Acquire(t.Context(), self)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		if err := m.Run(ctx, own, func(context.Context, []subnet.Lease) error { return nil }); err != nil {
			t.Error(err)
		}
		if got := updates.Load(); got < 2 || got > 1300 {
			t.Errorf("%d renewals in an hour", got)
		}
	})
}

// dueStore says of all that it is about to expire.
type dueStore struct {
	subnet.Store
	updates *atomic.Int32
}

func (s dueStore) Update(ctx context.Context, l subnet.Lease, ttl time.Duration) (subnet.Lease, error) {
	l, err := s.Store.Update(ctx, l, ttl)
	l.Expires = time.Now()
	s.updates.Add(1)
	return l, err
}

func (s dueStore) List(ctx context.Context) (subnet.Snapshot, error) {
	snap, err := s.Store.List(ctx)
	for i := range snap.Leases {
		snap.Leases[i].Expires = time.Now()
	}
	return snap, err
}

// Scripts know a reservation by what flannel logs of its next renewal.
func TestRunReservationWait(t *testing.T) {
	inBubble(t, func(t *testing.T, store *subnettest.Memory) {
		store.SetRaw("10.5.1.0-24", `{"PublicIP":"192.0.2.1"}`, 0)
		cfg, err := subnet.ParseConfig([]byte(network))
		if err != nil {
			t.Fatal(err)
		}
		var log bytes.Buffer
		m := subnet.NewManager(store, cfg, time.Hour, slog.New(slog.NewTextHandler(&log, nil)))
		own, err := m.Acquire(t.Context(), self)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 48*time.Hour)
		defer cancel()
		if err := m.Run(ctx, own, func(context.Context, []subnet.Lease) error { return nil }); err != nil {
			t.Error(err)
		}
		if got := strings.Count(log.String(), "to renew lease"); got != 1 || !strings.Contains(log.String(), "Waiting for 2562046h47m16.854775808s to renew lease") {
			t.Errorf("logged %d times:\n%s", got, log.String())
		}
	})
}

// Two nodes that delete each other's records, because they share a public IP
// but not the network config, do so at a walking pace.
func TestAcquireAgainAndAgain(t *testing.T) {
	inBubble(t, func(t *testing.T, store *subnettest.Memory) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		m := manager(t, store, network)
		n := 0
		for ; n < 1000; n++ {
			l, err := m.Acquire(ctx, self, prefix("10.5.1.0/24"))
			if err != nil {
				break
			}
			store.Remove(subnet.Key(l.Subnet))
		}
		if n < 10 || n > 30 {
			t.Errorf("acquired %d times in a minute, want once in 3 s", n)
		}

		if _, err := m.Acquire(t.Context(), self); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		began := time.Now()
		if _, err := m.Acquire(t.Context(), self); err != nil || time.Since(began) > 0 {
			t.Errorf("a lease that was lost after a minute was acquired after %v, %v", time.Since(began), err)
		}
	})
}
