package etcdv2

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"tweed/subnet"
	"tweed/test/embedetcd"
)

// verbs are all methods, each called so that it succeeds on a store that has
// what prepare makes.
var verbs = []struct {
	name string
	call func(ctx context.Context, s *Store, l subnet.Lease) error
}{
	{"config", func(ctx context.Context, s *Store, _ subnet.Lease) error {
		_, err := s.Config(ctx)
		return err
	}},
	{"list", func(ctx context.Context, s *Store, _ subnet.Lease) error {
		_, err := s.List(ctx)
		return err
	}},
	{"create", func(ctx context.Context, s *Store, l subnet.Lease) error {
		l.Subnet = netip.MustParsePrefix("10.5.9.0/24")
		_, err := s.Create(ctx, l.Subnet, l.Attrs, subnet.TTL)
		return err
	}},
	{"update", func(ctx context.Context, s *Store, l subnet.Lease) error {
		_, err := s.Update(ctx, l, subnet.TTL)
		return err
	}},
	{"delete", func(ctx context.Context, s *Store, l subnet.Lease) error {
		return s.Delete(ctx, l)
	}},
	{"watch", func(ctx context.Context, s *Store, l subnet.Lease) error {
		enough := errors.New("enough")
		err := s.Watch(ctx, l.Revision-1, func([]subnet.Event) error { return enough })
		if err == enough {
			return nil
		}
		return err
	}},
}

// prepare writes a config and a lease below prefix.
func prepare(t *testing.T, etcd *embedetcd.Server, prefix string) subnet.Lease {
	t.Helper()
	set(t, etcd, prefix+"/config", "{}", 0)
	s := open(t, Options{Endpoints: etcd.Endpoints(), Prefix: prefix})
	l, err := s.Create(t.Context(), netip.MustParsePrefix("10.5.3.0/24"),
		subnet.Attrs{PublicIP: netip.MustParseAddr("192.0.2.1")}, subnet.TTL)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// badEndpoints are servers that do not work, each in its own way, with a part
// of the error that they cause.
func badEndpoints(t *testing.T) map[string]struct{ url, fault string } {
	status := func(code int, body string) string {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("X-Etcd-Index", "7")
			if strings.HasPrefix(body, "{") {
				w.Header().Set("Content-Type", "application/json")
			}
			w.WriteHeader(code)
			io.WriteString(w, body)
		}))
		t.Cleanup(s.Close)
		return s.URL
	}
	noV2 := startEtcd(t, embedetcd.Options{NoV2: true})
	return map[string]struct{ url, fault string }{
		"dead":        {"http://" + deadAddress(t), "connection refused"},
		"black hole":  {"http://" + blackHole(t), ""}, // two timers, two texts
		"hangs up":    {"http://" + hangsUp(t), "closed without an answer"},
		"503":         {status(503, "Service Unavailable"), "503 Service Unavailable"},
		"no leader":   {status(500, `{"errorCode":300,"message":"Raft Internal Error","cause":"etcdserver: no leader","index":0}`), "etcdserver: no leader"},
		"v2 disabled": {noV2.Endpoints()[0], "--enable-v2"},
		"not etcd":    {status(200, "<html>hello"), "not one of etcd"},
		"empty":       {status(200, ""), "not one of etcd"},
		"no node":     {status(200, "{}"), "no node"},
		"null node":   {status(200, `{"action":"get","node":null}`), "no node"},
		"broken JSON": {status(200, `{"action":"get","node":{`), "not one of etcd"},
		"gateway":     {status(404, `{"message":"no route matched"}`), "not one of etcd: 404 Not Found"},
		"401 of JSON": {status(401, `{"code":401}`), "not one of etcd: 401 Unauthorized"},
		"no index":    {status(404, `{"errorCode":100,"message":"Key not found"}`), "not one of etcd"},
	}
}

func deadAddress(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// blackHole accepts connections and never answers.
func blackHole(t *testing.T) string {
	return serve(t, func(c net.Conn) { io.Copy(io.Discard, c) })
}

func hangsUp(t *testing.T) string {
	return serve(t, func(c net.Conn) { c.Read(make([]byte, 4096)) })
}

func serve(t *testing.T, handle func(net.Conn)) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				handle(c)
			}()
		}
	}()
	return l.Addr().String()
}

func TestFailover(t *testing.T) {
	etcd := startEtcd(t, embedetcd.Options{})
	n := 0
	for kind, bad := range badEndpoints(t) {
		for _, verb := range verbs {
			n++
			prefix := fmt.Sprintf("/net%d", n)
			t.Run(kind+"/"+verb.name, func(t *testing.T) {
				t.Parallel()
				l := prepare(t, etcd, prefix)
				ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
				defer cancel()

				s := open(t, Options{
					Endpoints:      []string{bad.url, etcd.Endpoints()[0], bad.url},
					Prefix:         prefix,
					RequestTimeout: 2 * time.Second,
					PollTimeout:    2 * time.Second,
				})
				if err := verb.call(ctx, s, l); err != nil {
					t.Errorf("%s: %v", verb.name, err)
				}
				if at := s.pinned.Load(); at != 1 && verb.name != "watch" {
					t.Errorf("endpoint %d is in use, want 1", at)
				}

				alone := open(t, Options{Endpoints: []string{bad.url}, Prefix: prefix, RequestTimeout: 200 * time.Millisecond, PollTimeout: 200 * time.Millisecond})
				err := verb.call(ctx, alone, l)
				if err == nil || !strings.Contains(err.Error(), bad.fault) || !strings.Contains(err.Error(), bad.url) || !strings.Contains(err.Error(), prefix) {
					t.Errorf("error %v, want one with %q, %q and the key", err, bad.fault, bad.url)
				}
			})
		}
	}
}

func TestAllEndpointsFail(t *testing.T) {
	hole, dead := "http://"+blackHole(t), "http://"+deadAddress(t)
	s := open(t, Options{Endpoints: []string{hole, dead}, RequestTimeout: 200 * time.Millisecond})
	_, err := s.List(t.Context())
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{"/coreos.com/network/subnets", hole, dead, "connection refused"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("error %q does not name %q", err, want)
		}
	}
	if strings.Contains(err.Error(), "\n") {
		t.Errorf("error %q has several lines", err)
	}
}

// One fault has one text, whichever endpoint is tried first, so that a log can
// tell that nothing has changed.
func TestFaultsAreInOrder(t *testing.T) {
	s := open(t, Options{Endpoints: []string{"http://" + deadAddress(t), "http://" + deadAddress(t), "http://" + deadAddress(t)}})
	_, first := s.Config(t.Context())
	for range 5 {
		if _, err := s.Config(t.Context()); err == nil || err.Error() != first.Error() {
			t.Errorf("first %v\nthen  %v", first, err)
		}
	}
}

// TestDeadlineIsShared: an endpoint that swallows everything must not use up
// the time that is meant for all.
func TestDeadlineIsShared(t *testing.T) {
	etcd := startEtcd(t, embedetcd.Options{})
	prepare(t, etcd, "/net")
	s := open(t, Options{Endpoints: []string{"http://" + blackHole(t), etcd.Endpoints()[0]}, Prefix: "net", RequestTimeout: time.Hour})
	ctx, cancel := context.WithTimeout(t.Context(), 6*time.Second)
	defer cancel()
	if _, err := s.List(ctx); err != nil {
		t.Error(err)
	}
}

// TestLostAnswer: a write that was carried out, but whose answer got lost, must
// not look like the work of another node when the next endpoint refuses it.
func TestLostAnswer(t *testing.T) {
	etcd := startEtcd(t, embedetcd.Options{})
	proxy := reverseProxy(t, etcd)
	lossy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		proxy.ServeHTTP(httptest.NewRecorder(), r)
		panic(http.ErrAbortHandler)
	}))
	defer lossy.Close()
	for i, verb := range verbs {
		if verb.name != "create" && verb.name != "update" && verb.name != "delete" {
			continue
		}
		t.Run(verb.name, func(t *testing.T) {
			prefix := fmt.Sprintf("/net%d", i)
			l := prepare(t, etcd, prefix)
			s := open(t, Options{Endpoints: []string{lossy.URL, etcd.Endpoints()[0]}, Prefix: prefix})
			err := verb.call(t.Context(), s, l)
			if err == nil || !strings.Contains(err.Error(), "earlier try") {
				t.Errorf("error %v, want one about an earlier try", err)
			}
			for _, promised := range []error{subnet.ErrExists, subnet.ErrConflict, subnet.ErrNotFound} {
				if errors.Is(err, promised) {
					t.Errorf("error %v claims to know: %v", err, promised)
				}
			}
			if err := verb.call(t.Context(), s, l); err == nil || strings.Contains(err.Error(), "earlier try") {
				t.Errorf("second call, without any loss: %v", err)
			}
		})
	}
}

func TestClusterMembersStop(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	dir := t.TempDir()
	ca, err := embedetcd.NewCA(dir, "ca")
	if err != nil {
		t.Fatal(err)
	}
	client, err := ca.Issue("client", nil, time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	cluster, err := embedetcd.StartCluster(ctx, embedetcd.ClusterOptions{Dir: dir, CA: ca})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := cluster.Close(); err != nil {
			t.Error(err)
		}
	})
	s := open(t, Options{Endpoints: cluster.Endpoints(), CAFile: ca.File, CertFile: client.CertFile, KeyFile: client.KeyFile})
	a := subnet.Attrs{PublicIP: netip.MustParseAddr("192.0.2.1")}
	l, err := s.Create(ctx, netip.MustParsePrefix("10.5.3.0/24"), a, subnet.TTL)
	if err != nil {
		t.Fatal(err)
	}

	// One watch lives on while each member in turn stops and comes back.
	events := make(chan subnet.Event, 100)
	watched := make(chan error, 1)
	watchCtx, stop := context.WithCancel(ctx)
	defer stop()
	go func() {
		after := l.Revision
		for watchCtx.Err() == nil {
			err := s.Watch(watchCtx, after, func(all []subnet.Event) error {
				for _, e := range all {
					after = e.Revision
					events <- e
				}
				return nil
			})
			if errors.Is(err, subnet.ErrCompacted) {
				watched <- err
				return
			}
		}
		watched <- nil
	}()
	for i := range cluster.Endpoints() {
		if err := cluster.Stop(i); err != nil {
			t.Error(err)
		}
		l = updateSoon(ctx, t, s, l)
		for seen := int64(0); seen != l.Revision; {
			select {
			case e := <-events:
				seen = e.Revision
			case <-ctx.Done():
				t.Fatalf("no event of revision %d after stopping member %d", l.Revision, i)
			}
		}
		if err := cluster.Restart(ctx, i); err != nil {
			t.Fatal(err)
		}
	}
	stop()
	if err := <-watched; err != nil {
		t.Errorf("watch: %v", err)
	}
}

// updateSoon updates l as soon as the cluster has a leader again. A try whose
// answer got lost is looked up.
func updateSoon(ctx context.Context, t *testing.T, s *Store, l subnet.Lease) subnet.Lease {
	t.Helper()
	for {
		updated, err := s.Update(ctx, l, subnet.TTL)
		if err == nil {
			return updated
		}
		if ctx.Err() != nil {
			t.Fatalf("update: %v", err)
		}
		if snap, err := s.List(ctx); err == nil && snap.Leases[0].Revision != l.Revision {
			return snap.Leases[0]
		}
	}
}
