package etcdv2

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"testing"

	"tweed/subnet"
	"tweed/test/embedetcd"
)

// TestWire checks the requests byte by byte: other versions of flannel, proxies
// and access rules know them in this form.
func TestWire(t *testing.T) {
	etcd := startEtcd(t, embedetcd.Options{})
	proxy := reverseProxy(t, etcd)
	var mu sync.Mutex
	var requests []string
	recorder := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		mu.Lock()
		requests = append(requests, strings.TrimSpace(fmt.Sprintf("%s %s %s", r.Method, r.URL, body)))
		mu.Unlock()
		r.Body = io.NopCloser(strings.NewReader(string(body)))
		proxy.ServeHTTP(w, r)
	}))
	defer recorder.Close()
	set(t, etcd, "/coreos.com/network/config", "{}", 0)

	ctx := t.Context()
	s := open(t, Options{Endpoints: []string{recorder.URL + "/"}, Prefix: "coreos.com/network/"})
	expect := func(op string, err error, want string) {
		t.Helper()
		mu.Lock()
		defer mu.Unlock()
		if err != nil {
			t.Fatalf("%s: %v", op, err)
		}
		if len(requests) != 1 || requests[0] != want {
			t.Errorf("%s sent\n%s\nwant\n%s", op, strings.Join(requests, "\n"), want)
		}
		requests = nil
	}

	_, err := s.Config(ctx)
	expect("config", err, "GET /v2/keys/coreos.com/network/config?quorum=true&recursive=false&sorted=false")
	_, err = s.List(ctx)
	expect("list", err, "GET /v2/keys/coreos.com/network/subnets?quorum=true&recursive=false&sorted=false")

	a := subnet.Attrs{PublicIP: netip.MustParseAddr("192.0.2.1"), BackendType: "vxlan", BackendData: []byte(`{"VtepMAC":"0e:01:02:03:04:05"}`)}
	const value = "value=%7B%22PublicIP%22%3A%22192.0.2.1%22%2C%22BackendType%22%3A%22vxlan%22%2C%22BackendData%22%3A%7B%22VtepMAC%22%3A%220e%3A01%3A02%3A03%3A04%3A05%22%7D%7D"
	const key = "/v2/keys/coreos.com/network/subnets/10.5.3.0-24"
	l, err := s.Create(ctx, netip.MustParsePrefix("10.5.3.0/24"), a, subnet.TTL)
	expect("create", err, "PUT "+key+"?prevExist=false ttl=86400&"+value)
	revision := l.Revision
	l, err = s.Update(ctx, l, subnet.TTL)
	expect("update", err, fmt.Sprintf("PUT %s?prevIndex=%d ttl=86400&%s", key, revision, value))
	revision = l.Revision
	l, err = s.Update(ctx, l, 0)
	expect("reserve", err, fmt.Sprintf("PUT %s?prevIndex=%d %s", key, revision, value))

	stored, err := etcd.Get(ctx, "/coreos.com/network/subnets/10.5.3.0-24")
	const golden = `{"PublicIP":"192.0.2.1","BackendType":"vxlan","BackendData":{"VtepMAC":"0e:01:02:03:04:05"}}`
	if err != nil || stored.Value != golden || stored.TTL != 0 || int64(stored.Index) != l.Revision {
		t.Errorf("stored %+v, %v, want %s without TTL", stored, err, golden)
	}

	enough := errors.New("enough")
	err = s.Watch(ctx, revision, func([]subnet.Event) error { return enough })
	if err == enough {
		err = nil
	}
	expect("watch", err, fmt.Sprintf("GET /v2/keys/coreos.com/network?recursive=true&wait=true&waitIndex=%d", revision+1))
	revision = l.Revision
	expect("delete", s.Delete(ctx, l), fmt.Sprintf("DELETE %s?prevIndex=%d", key, revision))

	// Without a revision there is no condition: nothing may be sent.
	l.Revision = 0
	if _, err := s.Update(ctx, l, 0); !errors.Is(err, subnet.ErrConflict) {
		t.Errorf("update without revision: %v", err)
	}
	if err := s.Delete(ctx, l); !errors.Is(err, subnet.ErrConflict) {
		t.Errorf("delete without revision: %v", err)
	}
	if len(requests) != 0 {
		t.Errorf("sent %v", requests)
	}
}

func reverseProxy(t *testing.T, etcd *embedetcd.Server) *httputil.ReverseProxy {
	t.Helper()
	target, err := url.Parse(etcd.Endpoints()[0])
	if err != nil {
		t.Fatal(err)
	}
	return httputil.NewSingleHostReverseProxy(target)
}

func TestTTLRoundsUp(t *testing.T) {
	etcd := startEtcd(t, embedetcd.Options{})
	s := open(t, Options{Endpoints: etcd.Endpoints()})
	l, err := s.Create(t.Context(), netip.MustParsePrefix("10.5.3.0/24"), subnet.Attrs{PublicIP: netip.MustParseAddr("192.0.2.1")}, 1)
	if err != nil {
		t.Fatal(err)
	}
	if l.Reserved() {
		t.Errorf("a TTL of 1 ns made a reservation: %+v", l)
	}
}

func TestPrefixForms(t *testing.T) {
	for prefix, want := range map[string]string{
		"/coreos.com/network": "/coreos.com/network/config",
		"coreos.com/network":  "/coreos.com/network/config",
		"//a//b//":            "/a/b/config",
		"a b/%2f?#":           "/a b/%2f?#/config",
		"":                    "/config",
		"/":                   "/config",
	} {
		s, err := Open(Options{Endpoints: []string{"http://127.0.0.1:1"}, Prefix: prefix})
		if err != nil {
			t.Fatal(err)
		}
		if got := s.configKey(); got != want {
			t.Errorf("prefix %q: config key %q, want %q", prefix, got, want)
		}
	}
	etcd := startEtcd(t, embedetcd.Options{})
	set(t, etcd, "/a b/%2f?#/config", "odd", 0)
	s := open(t, Options{Endpoints: etcd.Endpoints(), Prefix: "a b/%2f?#"})
	if got, err := s.Config(context.Background()); err != nil || string(got) != "odd" {
		t.Errorf("config below an odd prefix: %q, %v", got, err)
	}
}
