package etcdv2

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"tweed/subnet"
	"tweed/test/embedetcd"
)

// nextEvent returns the next event after a revision, or the error of the watch.
func nextEvent(ctx context.Context, s *Store, after int64) (e subnet.Event, err error) {
	enough := errors.New("enough")
	err = s.Watch(ctx, after, func(events []subnet.Event) error {
		e = events[0]
		return enough
	})
	if err == enough {
		err = nil
	}
	return e, err
}

// TestWatchPrefix: what happens beside leases and config is passed over, and
// what happens to the directories is never missed.
func TestWatchPrefix(t *testing.T) {
	etcd := startEtcd(t, embedetcd.Options{})
	const config, dir = "/a/b/config", "/a/b/subnets"
	lease := func() { set(t, etcd, dir+"/10.5.3.0-24", `{"PublicIP":"192.0.2.1"}`, 0) }
	mkdir := func(key string) func() {
		return func() {
			if err := etcd.Mkdir(context.Background(), key, 0); err != nil {
				t.Error(err)
			}
		}
	}
	for _, tt := range []struct {
		name    string
		prepare func()
		change  func()
		want    string
	}{
		{"config written", nil, func() { set(t, etcd, config, "{}", 0) }, "config"},
		{"config written with TTL", nil, func() { set(t, etcd, config, "{}", time.Hour) }, "config"},
		{"config deleted", func() { set(t, etcd, config, "{}", 0) }, func() { remove(t, etcd, config) }, "config"},
		{"config expires", func() { set(t, etcd, config, "{}", time.Second) }, func() {}, "config"},
		{"config becomes a directory", nil, mkdir(config), "config"},
		{"something below config", nil, func() { set(t, etcd, config+"/x", "y", 0) }, "config"},
		{"directory config deleted", mkdir(config), func() { remove(t, etcd, config) }, "config"},
		{"elsewhere before the lease", nil, func() { set(t, etcd, "/a/b/x", "y", 0); set(t, etcd, "/a/x", "y", 0); lease() }, "put"},
		{"directory elsewhere", mkdir("/a/b/d"), func() { remove(t, etcd, "/a/b/d"); lease() }, "put"},
		{"hidden", nil, func() { set(t, etcd, "/a/b/_x", "y", 0); lease() }, "put"},
		{"leases deleted", lease, func() { remove(t, etcd, dir) }, "again"},
		{"empty lease directory made", nil, mkdir(dir), "again"},
		{"prefix deleted", lease, func() { remove(t, etcd, "/a/b") }, "again"},
		{"parent deleted", lease, func() { remove(t, etcd, "/a") }, "again"},
		{"prefix deleted and made again", lease, func() { remove(t, etcd, "/a/b"); lease() }, "again"},
		{"prefix becomes a plain key", nil, func() { remove(t, etcd, "/a/b"); set(t, etcd, "/a/b", "x", 0) }, "again"},
	} {
		for _, live := range []bool{false, true} {
			name := tt.name
			if live {
				name += ", live"
			}
			t.Run(name, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
				defer cancel()
				remove(t, etcd, "/a")
				set(t, etcd, "/a/b/x", "x", 0)
				if tt.prepare != nil {
					tt.prepare()
				}
				p := newFaultProxy(t, etcd)
				s := open(t, Options{Endpoints: []string{p.URL}, Prefix: "/a/b"})
				snap, err := s.List(ctx)
				if err != nil {
					t.Fatal(err)
				}
				if !live {
					tt.change()
				}
				type result struct {
					e   subnet.Event
					err error
				}
				done := make(chan result, 1)
				go func() {
					e, err := nextEvent(ctx, s, snap.Revision)
					done <- result{e, err}
				}()
				if live {
					waitUntil(ctx, t, 1, &p.polls)
					tt.change()
				}
				r := <-done
				got := "put"
				switch {
				case errors.Is(r.err, subnet.ErrCompacted):
					got = "again"
				case r.err != nil:
					t.Fatal(r.err)
				case r.e.Kind == subnet.Configured:
					got = "config"
				}
				if got != tt.want {
					t.Errorf("%s (%+v, %v), want %s", got, r.e, r.err, tt.want)
				}
			})
		}
	}
}

// TestWatchNarrow: where the prefix cannot be watched, the leases are, and the
// log is told once, unless nothing can be watched at all.
func TestWatchNarrow(t *testing.T) {
	etcd := startEtcd(t, embedetcd.Options{})
	url := etcd.Endpoints()[0]
	set(t, etcd, "/net/config", "{}", 0)
	set(t, etcd, "/net/subnets/10.5.3.0-24", `{"PublicIP":"192.0.2.1"}`, 0)
	set(t, etcd, "/net/subnets/10.5.4.0-24", `{"PublicIP":"192.0.2.2"}`, 0)
	admin := func(method, path, body string) {
		t.Helper()
		req, err := http.NewRequest(method, url+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/json")
		req.SetBasicAuth("root", "s3cr3t")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if resp.StatusCode/100 != 2 {
			t.Fatalf("%s %s: %s", method, path, resp.Status)
		}
	}
	admin("PUT", "/v2/auth/users/root", `{"user":"root","password":"s3cr3t"}`)
	admin("PUT", "/v2/auth/roles/net", `{"role":"net","permissions":{"kv":{"read":["/net/config","/net/subnets*"],"write":["/net/subnets/*"]}}}`)
	admin("PUT", "/v2/auth/users/node", `{"user":"node","password":"s3cr3t","roles":["net"]}`)
	admin("PUT", "/v2/auth/enable", "")
	admin("DELETE", "/v2/auth/roles/guest", "")
	var out bytes.Buffer
	o := Options{Endpoints: []string{url}, Prefix: "/net", Username: "node", Password: "s3cr3t", Log: slog.New(slog.NewTextHandler(&out, nil))}
	s := open(t, o)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	snap, err := s.List(ctx)
	if err != nil {
		t.Fatal(err)
	}
	before := max(snap.Leases[0].Revision, snap.Leases[1].Revision) - 1
	for range 2 {
		e, err := nextEvent(ctx, s, before)
		if err != nil || e.Kind != subnet.Put || e.Lease.Subnet != subnetOf("10.5.4.0/24") {
			t.Errorf("event %+v, %v", e, err)
		}
	}
	if n := strings.Count(out.String(), "\n"); n != 1 || !strings.Contains(out.String(), "watch only the leases") || !strings.Contains(out.String(), "refused=/net ") {
		t.Errorf("log:\n%s", out.String())
	}

	out.Reset()
	o.Password = "wr0ng"
	if e, err := nextEvent(ctx, open(t, o), before); err == nil || !strings.Contains(err.Error(), `user "node"`) || out.Len() > 0 {
		t.Errorf("with a wrong password: %+v, %v, log %s", e, err, out.String())
	}

	// Of the root, only the leases are watched.
	o.Prefix, o.Username, o.Password = "/", "root", "s3cr3t"
	set(t, etcd, "/config", "{}", 0)
	set(t, etcd, "/subnets/10.5.3.0-24", `{"PublicIP":"192.0.2.1"}`, 0)
	s = open(t, o)
	if snap, err = s.List(t.Context()); err != nil {
		t.Fatal(err)
	}
	if e, err := nextEvent(ctx, s, snap.Leases[0].Revision-1); err != nil || e.Kind != subnet.Put {
		t.Errorf("of the root: %+v, %v", e, err)
	}
}
