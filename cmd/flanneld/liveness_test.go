package main

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"tweed/backend/alloc"
	"tweed/cmd/flanneld/flags"
	"tweed/subnet"
	"tweed/subnet/subnettest"
)

// TEST-NET-2: no blackhole route of the host is there.
var (
	ownNetwork = netip.MustParsePrefix("198.51.100.0/24")
	ownSubnet  = netip.MustParsePrefix("198.51.100.64/26")
)

// testOptions has files in a folder of its own.
func testOptions(t *testing.T) flags.Options {
	dir := t.TempDir()
	return flags.Options{SubnetFile: filepath.Join(dir, "subnet.env"), StateDir: dir, IPTablesResync: 5 * time.Second}
}

func TestLiveness(t *testing.T) {
	var out bytes.Buffer
	log := slog.New(newGlogHandler(&out, flags.LogOptions{}))
	l := newLiveness()
	pass := func(step time.Duration, want ...string) {
		t.Helper()
		stuck := l.pass(step, log)
		if len(stuck) != len(want) {
			t.Errorf("stuck: %q, want %q", stuck, want)
			return
		}
		for i := range want {
			if !strings.HasPrefix(stuck[i], want[i]) {
				t.Errorf("stuck: %q, want %q", stuck, want)
			}
		}
	}
	pass(time.Hour)
	p := l.loop("peers")
	pass(time.Hour) // nothing to do yet
	p.within(time.Minute)
	pass(40 * time.Second)
	pass(20 * time.Second) // exactly
	pass(time.Second, "peers: not heard of for 1m1s, at most 1m0s are right")
	pass(time.Second, "peers: not heard of for 1m2s")
	if text := out.String(); strings.Count(text, "\n") != 1 || !strings.Contains(text, "loop=peers since=") || !strings.Contains(text, "silent=1m1s bound=1m0s") {
		t.Errorf("logged %q", text)
	}
	p.within(time.Hour)
	pass(time.Hour)
	q := l.loop("firewall")
	q.within(time.Second)
	p.end()
	pass(2*time.Second, "firewall")
	q.end()
	q.end()
	pass(time.Hour)
	if len(l.loops) != 0 {
		t.Errorf("%d loops left", len(l.loops))
	}
}

// A hangingBackend applies peers, until it hangs.
type hangingBackend struct {
	*alloc.Backend
	hangs atomic.Bool
}

func (b *hangingBackend) Up(ctx context.Context, _ subnet.Lease) error { return b.Sync(ctx, nil) }

func (b *hangingBackend) Sync(ctx context.Context, _ []subnet.Lease) error {
	if b.hangs.Load() {
		<-ctx.Done()
	}
	return ctx.Err()
}

// TestHangingBackendIsStuck runs the real manager and our own applier for a day,
// with a backend that hangs at the end. Before, all is well, also while the store
// fails.
func TestHangingBackendIsStuck(t *testing.T) {
	opts := testOptions(t)
	synctest.Test(t, func(t *testing.T) {
		n := newNode(opts, slog.New(slog.DiscardHandler))
		cfg, err := subnet.ParseConfig([]byte(`{"Network":"` + ownNetwork.String() + `"}`))
		if err != nil {
			t.Fatal(err)
		}
		memory := subnettest.NewMemory()
		store := &watchedStore{memory, n.alive, 15 * time.Second}
		m := subnet.NewManager(store, cfg, time.Hour, n.log)
		lease, err := m.Acquire(t.Context(), subnet.Attrs{PublicIP: netip.MustParseAddr("192.0.2.1")}, ownSubnet)
		if err != nil {
			t.Fatal(err)
		}
		be := &hangingBackend{Backend: new(alloc.Backend)}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		loop := n.alive.loop("peers")
		go func() {
			ended <- m.Run(ctx, lease, n.applier(be, loop, store.callTime))
		}()
		pass := func(d time.Duration) (stuck []string) {
			for range d / (20 * time.Second) {
				time.Sleep(20 * time.Second)
				synctest.Wait()
				stuck = n.alive.pass(20*time.Second, n.log)
			}
			return stuck
		}
		want := func(d time.Duration, hangs bool) {
			t.Helper()
			if stuck := pass(d); hangs != (len(stuck) == 1 && strings.HasPrefix(stuck[0], "peers: ")) || !hangs && stuck != nil {
				t.Errorf("stuck: %q, want peers: %t", stuck, hangs)
			}
		}
		want(time.Hour, false)
		memory.Fail(func(string) error { return errors.New("etcd is down") })
		want(time.Hour, false)
		memory.Fail(nil)
		want(23*time.Hour, false) // with a renewal
		be.hangs.Store(true)
		want(grace-syncEvery, false)
		want(40*time.Second, true)
		cancel()
		if err := <-ended; err != nil && !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
}

// wantBound checks that the loop is stuck once it was not heard of for longer
// than bound, no sooner, and no other loop is.
func wantBound(t *testing.T, alive *liveness, loop string, bound time.Duration) {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	if stuck := alive.pass(bound, log); stuck != nil {
		t.Errorf("stuck after %v: %q", bound, stuck)
	}
	if stuck := alive.pass(time.Second, log); len(stuck) != 1 || !strings.HasPrefix(stuck[0], loop+": ") {
		t.Errorf("stuck after %v: %q, want %s", bound+time.Second, stuck, loop)
	}
}

// TestHoldIsWatched has a set-up that hangs, and the firewall's loop, which is
// heard of at each turn.
func TestHoldIsWatched(t *testing.T) {
	opts := testOptions(t)
	for _, hangs := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			n := newNode(opts, slog.New(slog.DiscardHandler))
			// Without a network the firewall refuses the rules: the host keeps its own.
			var cfg subnet.Config
			be := &hangingBackend{Backend: new(alloc.Backend)}
			be.hangs.Store(hangs)
			m := subnet.NewManager(hangingStore{}, cfg, time.Hour, n.log)
			ctx, cancel := context.WithCancel(t.Context())
			ended := make(chan error)
			go func() {
				ended <- n.hold(ctx, cfg, be, m, subnet.Lease{Subnet: ownSubnet}, &envFile{node: n}, 0)
			}()
			synctest.Wait()
			if hangs {
				wantBound(t, n.alive, "set-up", ensureTime+grace)
			} else {
				for range 3 {
					wantBound(t, n.alive, "firewall", n.opts.IPTablesResync+ensureTime+grace)
					time.Sleep(n.opts.IPTablesResync)
					synctest.Wait()
				}
			}
			cancel()
			if err := <-ended; err != nil && !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
			if stuck := n.alive.pass(time.Hour, n.log); stuck != nil || len(n.alive.loops) != 0 {
				t.Errorf("%d loops left, stuck: %q", len(n.alive.loops), stuck)
			}
		})
	}
}

// TestApplierIsWatched knows a call that hangs sooner than one that does not
// come: a renewal may be under way then.
func TestApplierIsWatched(t *testing.T) {
	const callTime = 15 * time.Second
	opts := testOptions(t)
	synctest.Test(t, func(t *testing.T) {
		n := newNode(opts, slog.New(slog.DiscardHandler))
		be := &hangingBackend{Backend: new(alloc.Backend)}
		apply := n.applier(be, n.alive.loop("peers"), callTime)
		if err := apply(t.Context(), nil); err != nil {
			t.Error(err)
		}
		wantBound(t, n.alive, "peers", syncEvery+2*callTime+grace)

		be.hangs.Store(true)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- apply(ctx, nil) }()
		synctest.Wait()
		wantBound(t, n.alive, "peers", grace)
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
}
