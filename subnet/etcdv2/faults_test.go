package etcdv2

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"tweed/subnet"
	"tweed/test/embedetcd"
	"tweed/test/nstest"
)

// faultProxy passes requests on to a real etcd, counts them, and spoils those
// that fault, if set, takes for itself.
type faultProxy struct {
	URL          string
	dials, polls atomic.Int64
	lists        atomic.Int64
	fault        atomic.Pointer[fault]
}

// A fault answers long polls in the place of etcd. pass does what etcd would do.
type fault func(w http.ResponseWriter, r *http.Request, pass http.Handler)

func newFaultProxy(t *testing.T, etcd *embedetcd.Server) *faultProxy {
	t.Helper()
	p := &faultProxy{}
	pass := reverseProxy(t, etcd)
	pass.FlushInterval = -1 // a header at once
	pass.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		f := p.fault.Load()
		switch {
		case q.Get("wait") == "true":
			p.polls.Add(1)
			if f != nil {
				(*f)(w, r, pass)
				return
			}
		case strings.HasSuffix(r.URL.Path, "/subnets"):
			p.lists.Add(1)
		}
		pass.ServeHTTP(w, r)
	}))
	server.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			p.dials.Add(1)
		}
	}
	server.Start()
	t.Cleanup(server.Close)
	p.URL = server.URL
	return p
}

// cutAfter lets the poll be passed on for so long, and then hangs up, or ends
// the answer as if it were complete.
func cutAfter(d time.Duration, complete bool) fault {
	return func(w http.ResponseWriter, r *http.Request, pass http.Handler) {
		ctx, cancel := context.WithTimeout(r.Context(), d)
		defer cancel()
		defer func() {
			if why := recover(); why != nil && !(complete && why == http.ErrAbortHandler) {
				panic(why)
			}
		}()
		pass.ServeHTTP(w, r.WithContext(ctx))
	}
}

// afterwards waits, and then gives an answer of its own.
func afterwards(d time.Duration, code int, header, body string) fault {
	return func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
		select {
		case <-r.Context().Done():
			return
		case <-time.After(d):
		}
		w.Header().Set("Content-Type", header)
		w.WriteHeader(code)
		io.WriteString(w, body)
	}
}

// TestProxyFaults: whatever a proxy does to long polls, there is no busy loop,
// no peer is lost, and when the proxy is in order again so is the watch.
func TestProxyFaults(t *testing.T) {
	etcd := startEtcd(t, embedetcd.Options{})
	const html = "<html><body><h1>Gateway</h1></body></html>"
	for name, f := range map[string]fault{
		"hangs up at once":      func(http.ResponseWriter, *http.Request, http.Handler) { panic(http.ErrAbortHandler) },
		"cuts after the header": cutAfter(20*time.Millisecond, false),
		"ends after the header": cutAfter(20*time.Millisecond, true),
		"cuts after 1 s":        cutAfter(time.Second, false),
		"ends after 1 s":        cutAfter(time.Second, true),
		"200 without a body":    afterwards(0, 200, "application/json", ""),
		"200 after 1 s":         afterwards(time.Second, 200, "application/json", ""),
		"200 with html":         afterwards(0, 200, "text/html", html),
		"502":                   afterwards(0, 502, "text/html", html),
		"504 after 1 s":         afterwards(time.Second, 504, "text/html", html),
		"301 to itself": func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
			http.Redirect(w, r, "http://"+r.Host+r.URL.String(), http.StatusMovedPermanently)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newFaultProxy(t, etcd)
			n := follow(t, Options{Endpoints: []string{p.URL}, Prefix: "/" + strings.ReplaceAll(name, " ", "-")}, etcd)
			n.add(2)
			n.wait(1)
			p.fault.Store(&f)
			// The poll that is waiting still works, and ends with this.
			n.add(3)
			n.wait(2)
			before, began := p.polls.Load(), time.Now()
			if err := nstest.Await(n.ctx, 4*time.Second, func() error { return errors.New("not yet") }); err == nil {
				t.Fatal("awaited nothing")
			}
			perSecond := float64(p.polls.Load()-before) / time.Since(began).Seconds()
			n.add(4)
			p.fault.Store(nil)
			n.wait(3)
			if limit := 15.0; perSecond > 3 && name != "301 to itself" || perSecond > limit {
				t.Errorf("%.1f polls a second", perSecond)
			}
			t.Logf("%.1f polls a second", perSecond)
		})
	}
}

// A followed node runs the manager against a store, and sees its peers.
type followed struct {
	t      *testing.T
	ctx    context.Context
	prefix string
	etcd   *embedetcd.Server
	peers  atomic.Int64
}

func follow(t *testing.T, o Options, etcd *embedetcd.Server) *followed {
	t.Helper()
	cfg, err := subnet.ParseConfig([]byte(`{"Network":"10.0.0.0/8"}`))
	if err != nil {
		t.Fatal(err)
	}
	n := &followed{t: t, prefix: o.Prefix, etcd: etcd}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	n.ctx = ctx
	m := subnet.NewManager(open(t, o), cfg, time.Hour, slog.New(slog.DiscardHandler))
	own, err := m.Acquire(ctx, subnet.Attrs{PublicIP: addr("192.0.2.1")}, subnetOf("10.0.1.0/24"))
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		done <- m.Run(ctx, own, func(_ context.Context, peers []subnet.Lease) error {
			if before := n.peers.Swap(int64(len(peers))); int64(len(peers)) < before {
				t.Errorf("%d peers became %d", before, len(peers))
			}
			return nil
		})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return n
}

// add writes the lease of peer i.
func (n *followed) add(i int) {
	n.t.Helper()
	sn := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 0}), 24)
	set(n.t, n.etcd, n.prefix+"/subnets/"+subnet.Key(sn), fmt.Sprintf(`{"PublicIP":"192.0.%d.%d"}`, 3+i>>8, i&255), subnet.TTL)
}

// wait waits until there are so many peers.
func (n *followed) wait(peers int64) {
	n.t.Helper()
	if err := nstest.Await(n.ctx, 45*time.Second, func() error {
		if got := n.peers.Load(); got != peers {
			return fmt.Errorf("%d peers, want %d", got, peers)
		}
		return nil
	}); err != nil {
		n.t.Fatal(err)
	}
}

// TestManyEventsWhileAway: 2000 changes that nobody saw are more than etcd
// remembers. One list makes up for them.
func TestManyEventsWhileAway(t *testing.T) {
	etcd := startEtcd(t, embedetcd.Options{})
	p := newFaultProxy(t, etcd)
	n := follow(t, Options{Endpoints: []string{p.URL}, Prefix: "/away"}, etcd)
	n.add(2)
	n.wait(1)
	gone := fault(func(http.ResponseWriter, *http.Request, http.Handler) { panic(http.ErrAbortHandler) })
	p.fault.Store(&gone)
	n.add(3) // ends the poll that is waiting
	n.wait(2)
	for i := range 1000 {
		n.add(2 + i)
		n.add(2 + i)
	}
	lists := p.lists.Load()
	p.fault.Store(nil)
	n.wait(1000)
	if got := p.lists.Load() - lists; got != 1 {
		t.Errorf("%d lists, want 1", got)
	}
}

// TestMajorityLoss: without a majority nothing can be listed or written, and
// nobody is forgotten; with it, what happened then is seen.
func TestMajorityLoss(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cluster, err := embedetcd.StartCluster(ctx, embedetcd.ClusterOptions{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cluster.Close() })
	n := follow(t, Options{Endpoints: cluster.Endpoints(), Prefix: "/net", RequestTimeout: time.Second}, cluster.Member(2))
	n.add(2)
	n.wait(1)
	if err := errors.Join(cluster.Stop(0), cluster.Stop(1)); err != nil {
		t.Fatal(err)
	}
	alone := open(t, Options{Endpoints: cluster.Endpoints(), Prefix: "/net", RequestTimeout: time.Second})
	if _, err := alone.List(ctx); err == nil {
		t.Error("listed without a majority")
	}
	if err := errors.Join(cluster.Restart(ctx, 1), cluster.Restart(ctx, 0)); err != nil {
		t.Fatal(err)
	}
	n.add(3)
	n.wait(2)
}
