package etcdv2

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"tweed/subnet"
	"tweed/test/embedetcd"
)

// TestQuietPollMovesOn: while nothing happens to the leases, but a lot
// elsewhere, the watch keeps up, so that etcd does not forget where it is.
func TestQuietPollMovesOn(t *testing.T) {
	etcd := startEtcd(t, embedetcd.Options{})
	var polls atomic.Int64
	proxy := proxyTo(t, etcd, func(r *http.Request) {
		if r.URL.Query().Get("wait") == "true" {
			polls.Add(1)
		}
	})
	s := open(t, Options{Endpoints: []string{proxy.URL}, PollTimeout: 100 * time.Millisecond})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	l, err := s.Create(ctx, subnetOf("10.5.3.0/24"), subnet.Attrs{PublicIP: addr("192.0.2.1")}, subnet.TTL)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	enough := errors.New("enough")
	go func() {
		done <- s.Watch(ctx, l.Revision, func(events []subnet.Event) error {
			if len(events) != 1 || events[0].Kind != subnet.Removed {
				return fmt.Errorf("events %+v", events)
			}
			return enough
		})
	}()
	for range 4 { // each time less than the history, together more
		for i := range 400 {
			set(t, etcd, "/elsewhere", fmt.Sprint(i), 0)
		}
		waitUntil(ctx, t, polls.Load()+2, &polls)
	}
	if err := s.Delete(ctx, l); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != enough {
		t.Errorf("watch: %v", err)
	}
}

// waitUntil waits until n has grown to at least want.
func waitUntil(ctx context.Context, t *testing.T, want int64, n *atomic.Int64) {
	t.Helper()
	for n.Load() < want {
		select {
		case <-ctx.Done():
			t.Fatalf("%d, want %d", n.Load(), want)
		case <-time.After(time.Millisecond):
		}
	}
}

func proxyTo(t *testing.T, etcd *embedetcd.Server, saw func(*http.Request)) *httptest.Server {
	t.Helper()
	proxy := reverseProxy(t, etcd)
	proxy.FlushInterval = -1 // a header at once
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		saw(r)
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	return server
}

// TestRestoredFromBackup: etcd waits silently for an index that it will only
// reach after many changes, or belongs to another cluster at once.
func TestRestoredFromBackup(t *testing.T) {
	etcd := startEtcd(t, embedetcd.Options{})
	noEvent := func([]subnet.Event) error { return errors.New("called") }
	s := open(t, Options{Endpoints: etcd.Endpoints(), PollTimeout: 100 * time.Millisecond})
	snap, err := s.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	err = s.Watch(t.Context(), snap.Revision+1000, noEvent)
	if !errors.Is(err, subnet.ErrCompacted) || !strings.Contains(err.Error(), "backup") {
		t.Errorf("watch from the future: %v", err)
	}

	set(t, etcd, "/coreos.com/network/subnets/x", "x", 0)
	if _, err := s.List(t.Context()); err != nil {
		t.Fatal(err)
	}
	other := startAnotherCluster(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	s.endpoints[0].url = other.Endpoints()[0]
	s.opts.PollTimeout = time.Minute
	if err := s.Watch(ctx, 1, noEvent); !errors.Is(err, subnet.ErrCompacted) || !strings.Contains(err.Error(), "another cluster") {
		t.Errorf("watch at another cluster: %v", err)
	}
	if _, err := s.List(ctx); err != nil {
		t.Fatal(err)
	}
	brief, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
	defer cancel()
	if err := s.Watch(brief, 1000000, noEvent); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("watch after a new list: %v", err)
	}
	if err := s.Watch(ctx, 0, noEvent); !errors.Is(err, subnet.ErrCompacted) {
		t.Errorf("watch after revision 0: %v", err)
	}
}

// TestWatchLeavesNothing: no goroutine outlives a watch and its Store.
func TestWatchLeavesNothing(t *testing.T) {
	etcd := startEtcd(t, embedetcd.Options{})
	hole := "http://" + blackHole(t)
	before := len(clientGoroutines())
	for _, endpoints := range [][]string{etcd.Endpoints(), {hole}, {etcd.Endpoints()[0], hole}} {
		s, err := Open(Options{Endpoints: endpoints, PollTimeout: 30 * time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		if err := s.Watch(ctx, 1, func([]subnet.Event) error { return nil }); err == nil {
			t.Error("watch ended without an error")
		}
		cancel()
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
	// A connection that was closed takes a moment to notice.
	for deadline := time.Now().Add(20 * time.Second); len(clientGoroutines()) > before; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("more than %d goroutines are left:\n%s", before, strings.Join(clientGoroutines(), "\n\n"))
		}
	}
}

// clientGoroutines returns the stacks of all goroutines that a Store may start.
func clientGoroutines() []string {
	buf := make([]byte, 4<<20)
	var found []string
	for _, stack := range strings.Split(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
		for _, mine := range []string{"net/http.(*persistConn)", "net/http.(*Transport)", "etcd/client/v2.", "etcdv2.(*Store)"} {
			if strings.Contains(stack, mine) {
				found = append(found, stack)
				break
			}
		}
	}
	return found
}
