package etcdv2

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"tweed/subnet"
	"tweed/test/embedetcd"
)

func probeOne(t *testing.T, o Options) Answer {
	t.Helper()
	answers, err := Probe(t.Context(), o)
	if err != nil || len(answers) != 1 {
		t.Fatalf("%d answers, %v", len(answers), err)
	}
	return answers[0]
}

func TestProbe(t *testing.T) {
	etcd := startEtcd(t, embedetcd.Options{})
	url := etcd.Endpoints()[0]
	o := Options{Endpoints: []string{url}, Prefix: "/p"}

	a := probeOne(t, o)
	if !errors.Is(a.ConfigErr, subnet.ErrNoConfig) || a.Err != nil || !strings.Contains(a.SetConfig, url+" set /p/config") || a.InV3 {
		t.Errorf("without config: %+v", a)
	}
	set(t, etcd, "/p/config", "{}", 0)
	set(t, etcd, "/p/subnets/10.5.3.0-24", `{"PublicIP":"192.0.2.1"}`, time.Hour)
	set(t, etcd, "/p/subnets/x", "y", 0)
	a = probeOne(t, o)
	if a.Err != nil || a.ConfigErr != nil || string(a.Config) != "{}" || a.ConfigKey != "/p/config" || a.URL != url {
		t.Errorf("config: %+v", a)
	}
	if len(a.Leases.Leases) != 1 || len(a.Leases.Bad) != 1 {
		t.Errorf("leases: %+v", a.Leases)
	}
	if !strings.HasPrefix(a.Version, "3.5.") || a.ClusterID == "" || a.Latency <= 0 || a.Skew.Abs() > 2*time.Second || a.Cert != nil || a.Unhealthy != "" {
		t.Errorf("server: %+v", a)
	}

	// Each endpoint is judged by itself, and the order stays.
	both, err := Probe(t.Context(), Options{Endpoints: []string{"http://root:s3cr3t@127.0.0.1:1", url}, Prefix: "/p"})
	if err != nil || len(both) != 2 || both[0].Err == nil || both[0].URL != "http://127.0.0.1:1" || both[1].Err != nil || strings.Contains(both[0].Err.Error(), "s3cr3t") {
		t.Errorf("two endpoints: %+v, %v", both, err)
	}
	for _, bad := range []Options{{}, {Endpoints: []string{"x"}}, {Endpoints: []string{"http://u:a", "b@h"}}, {Endpoints: []string{url}, CAFile: "/none"}} {
		answers, err := Probe(t.Context(), bad)
		if err == nil || errors.Is(err, ErrEndpoints) != (bad.CAFile == "") {
			t.Errorf("%+v: %+v, %v, want an error", bad, answers, err)
		}
	}

	off := probeOne(t, Options{Endpoints: startEtcd(t, embedetcd.Options{NoV2: true}).Endpoints()})
	if !IsV2Off(off.Err) || !strings.HasPrefix(off.Version, "3.5.") || off.InV3 {
		t.Errorf("v2 off: %+v", off)
	}
}

// TestProbeOfOthers has servers that answer as etcd would rarely do.
func TestProbeOfOthers(t *testing.T) {
	date := time.Now().Add(-time.Hour).UTC().Format(http.TimeFormat)
	v3 := `{"count":"1"}`
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Date", date)
		switch r.URL.Path {
		case "/version":
			io.WriteString(w, `{"etcdserver":"3.4.23","etcdcluster":"3.4.0"}`)
		case "/health":
			w.WriteHeader(http.StatusServiceUnavailable)
			io.WriteString(w, `{"health":"false","reason":"NOSPACE"}`)
		case "/v3/kv/range":
			if b, err := io.ReadAll(r.Body); err != nil || !strings.Contains(string(b), `"L3AvY29uZmln"`) { // /p/config
				t.Errorf("asked v3 for %s, %v", b, err)
			}
			io.WriteString(w, v3)
		default:
			http.NotFound(w, r)
		}
	}))
	defer server.Close()
	o := Options{Endpoints: []string{server.URL}, Prefix: "/p"}
	a := probeOne(t, o)
	if a.Version != "3.4.23" || !strings.Contains(a.Unhealthy, "NOSPACE") || !IsV2Off(a.Err) || !a.InV3 {
		t.Errorf("got %+v", a)
	}
	if a.Skew > -59*time.Minute || a.Skew < -61*time.Minute {
		t.Errorf("skew %s, want -1h", a.Skew)
	}
	for _, v3 = range []string{`{}`, `{"count":"0"}`, `x`} {
		if a := probeOne(t, o); a.InV3 {
			t.Errorf("the v3 API says %s: %+v", v3, a)
		}
	}
	for kind, server := range badEndpoints(t) {
		began := time.Now()
		a := probeOne(t, Options{Endpoints: []string{server.url}, RequestTimeout: 200 * time.Millisecond})
		if a.Err == nil || !strings.Contains(a.Err.Error(), server.url) {
			t.Errorf("%s: %+v, want an error with its URL", kind, a)
		}
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("%s: took %s", kind, took)
		}
	}
}

// TestProbeKeepsCertificate: what is wrong with it is best seen on it.
func TestProbeKeepsCertificate(t *testing.T) {
	dir := t.TempDir()
	ca, err := embedetcd.NewCA(dir, "ca")
	if err != nil {
		t.Fatal(err)
	}
	old, err := ca.Issue("old", []string{"127.0.0.1"}, time.Now().Add(-time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	old.CAFile = ""
	a := probeOne(t, Options{Endpoints: startEtcd(t, embedetcd.Options{TLS: &old}).Endpoints(), CAFile: ca.File})
	if a.Err == nil || a.Cert == nil || a.Cert.Subject.CommonName != "old" {
		t.Errorf("got %+v", a)
	}
}
