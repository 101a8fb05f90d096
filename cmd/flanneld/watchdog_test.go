package main

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"tweed/backend/alloc"
	"tweed/subnet"
	"tweed/subnet/subnettest"
)

func TestLiveness(t *testing.T) {
	var out bytes.Buffer
	log := slog.New(newGlogHandler(&out, logOptions{}))
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

// TestWatchdog pings a socket until a loop hangs, and again when it goes on.
func TestWatchdog(t *testing.T) {
	conn := listenNotify(t)
	t.Setenv("WATCHDOG_USEC", "3000000")
	t.Setenv("WATCHDOG_PID", strconv.Itoa(os.Getpid()))
	var out bytes.Buffer
	l := newLiveness()
	w := newWatchdog(l, slog.New(newGlogHandler(&out, logOptions{})))
	defer w.stop()
	if w.C == nil || w.every != time.Second {
		t.Fatalf("every %v, want a third of 3 s", w.every)
	}
	// ping acts as if d had gone by since the last.
	ping := func(d time.Duration, want string) {
		t.Helper()
		w.last = time.Now().Add(-d)
		w.ping()
		if got := told(t, conn); got != want {
			t.Errorf("systemd was told %q, want %q", got, want)
		}
	}
	p := l.loop("peers")
	p.within(2500 * time.Millisecond)
	ping(time.Second, "WATCHDOG=1")
	ping(time.Second, "WATCHDOG=1")
	ping(time.Second, "")
	ping(time.Second, "")
	if len(w.stuck) != 1 || !strings.HasPrefix(w.stuck[0], "peers: ") {
		t.Errorf("stuck: %q", w.stuck)
	}
	p.within(2500 * time.Millisecond)
	ping(time.Second, "WATCHDOG=1")
	wantLines(t, out.String(), "a loop is stuck", "all loops go on")

	// A machine that was paused for a day: no loop is to blame for more than two
	// intervals of that.
	out.Reset()
	p.within(2500 * time.Millisecond)
	ping(24*time.Hour, "WATCHDOG=1")
	p.within(2500 * time.Millisecond)
	ping(time.Second, "WATCHDOG=1")
	wantLines(t, out.String())
}

func wantLines(t *testing.T, text string, want ...string) {
	t.Helper()
	if strings.Count(text, "\n") != len(want) {
		t.Errorf("logged %q, want %q", text, want)
	}
	for _, w := range want {
		if !strings.Contains(text, w) {
			t.Errorf("logged %q, want %q", text, w)
		}
	}
}

func TestWatchdogEnvironment(t *testing.T) {
	own := strconv.Itoa(os.Getpid())
	for _, tt := range []struct {
		usec, pid string
		every     time.Duration // 0: off
		warns     bool
	}{
		{"", "", 0, false},
		{"", own, 0, false},
		{"30000000", "", 10 * time.Second, false},
		{"30000000", own, 10 * time.Second, false},
		{"30000000", "1", 0, false},
		{"1", own, time.Millisecond, false},
		{"0", own, 0, true},
		{"-3", own, 0, true},
		{"soon", own, 0, true},
		{"30s", own, 0, true},
		{"30000000", "me", 0, true},
		{"99999999999999999999", own, 0, true},
	} {
		t.Setenv("WATCHDOG_USEC", tt.usec)
		t.Setenv("WATCHDOG_PID", tt.pid)
		var out bytes.Buffer
		w := newWatchdog(newLiveness(), slog.New(newGlogHandler(&out, logOptions{})))
		w.stop()
		if w.every != tt.every || (w.C != nil) != (tt.every > 0) || (out.Len() > 0) != tt.warns {
			t.Errorf("%q, %q: every %v, want %v; logged %q", tt.usec, tt.pid, w.every, tt.every, out.String())
		}
	}
}

// A hangingBackend applies peers, until it hangs.
type hangingBackend struct {
	*alloc.Backend
	hangs atomic.Bool
}

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
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		n := newNode(options{subnetFile: filepath.Join(dir, "subnet.env"), stateDir: dir}, slog.New(slog.DiscardHandler))
		own := netip.MustParsePrefix("198.51.100.64/26") // of TEST-NET-2: no blackhole route of the host is there
		cfg, err := subnet.ParseConfig([]byte(`{"Network":"198.51.100.0/24"}`))
		if err != nil {
			t.Fatal(err)
		}
		memory := subnettest.NewMemory()
		store := &watchedStore{memory, n.alive, 15 * time.Second}
		m := subnet.NewManager(store, cfg, time.Hour, n.log)
		lease, err := m.Acquire(t.Context(), subnet.Attrs{PublicIP: netip.MustParseAddr("192.0.2.1")}, own)
		if err != nil {
			t.Fatal(err)
		}
		be := &hangingBackend{Backend: new(alloc.Backend)}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		loop := n.alive.loop("peers")
		go func() {
			ended <- m.Run(ctx, lease, n.applier(be, subnet.Env{Network: cfg.Network, Subnet: own, MTU: 1450}, &envFile{node: n}, loop, store.callTime))
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
