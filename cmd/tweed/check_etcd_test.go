package main

import (
	"context"
	"crypto/x509"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"tweed/subnet"
	"tweed/subnet/etcdv2"
	"tweed/test/embedetcd"
)

// startEtcd runs an etcd on the loopback interface until the test ends.
func startEtcd(t *testing.T, o embedetcd.Options) *embedetcd.Server {
	t.Helper()
	o.Dir, o.NoSync = t.TempDir(), true
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	s, err := embedetcd.Start(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func setKey(t *testing.T, s *embedetcd.Server, key, value string) {
	t.Helper()
	if err := s.Set(t.Context(), key, value, 0); err != nil {
		t.Fatal(err)
	}
}

// checkEtcd runs the checks that are about etcd.
func checkEtcd(t *testing.T, args ...string) []finding {
	t.Helper()
	o, err := parseCheck(args, nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), o.timeout)
	defer cancel()
	c := &checker{opts: o}
	text, err := c.readFile(ctx)
	c.settleConfig(text, err, c.checkEndpoints(ctx))
	c.checkConfig()
	c.checkNetwork()
	c.checkLeases()
	return c.found
}

const prefix = "/coreos.com/network"

func TestCheckEtcd(t *testing.T) {
	s := startEtcd(t, embedetcd.Options{})
	url := s.Endpoints()[0]

	found := checkEtcd(t, "-etcd-endpoints="+url)
	wantFinding(t, found, checkEndpoint, verdictOK, url, "etcd 3.5.", "v2 API", " ms")
	wantFinding(t, found, checkConfig, verdictFailure, prefix+"/config does not exist", "etcdctl --endpoints "+url+" set")
	wantFinding(t, found, checkNetwork, verdictSkipped)

	setKey(t, s, prefix+"/config", `{"Network":"10.5.0.0/28","Backend":{"Type":"vxlan"}}`)
	setKey(t, s, prefix+"/subnets/10.5.0.4-30", `{"PublicIP":"192.0.2.7","BackendType":"vxlan","BackendData":{"VtepMAC":"0e:00:00:00:00:07"}}`)
	setKey(t, s, prefix+"/subnets/10.5.0.8-30", `{"PublicIP":"192.0.2.8","BackendType":"host-gw"}`)
	found = checkEtcd(t, "-etcd-endpoints="+url)
	wantFinding(t, found, checkConfig, verdictOK, "backend vxlan")
	wantFinding(t, found, checkLeases, verdictOK, "2 leases, 2 of them reserved; 1 of 3 subnets free; this host has none")
	wantFinding(t, found, checkLeases, verdictNote, "1 lease of another backend")

	setKey(t, s, prefix+"/subnets/10.5.0.12-30", `{"PublicIP":"fd00::1"}`)
	setKey(t, s, prefix+"/subnets/garbage\x1b[2J", `x`)
	setKey(t, s, prefix+"/subnets/10.6.0.0-24", `{"PublicIP":"192.0.2.9","BackendType":"vxlan"}`)
	found = checkEtcd(t, "-etcd-endpoints="+url)
	wantFinding(t, found, checkLeases, verdictFailure, "0 of 3 subnets free", "delete leases")
	wantFinding(t, found, checkLeases, verdictWarning, "10.5.0.12-30 is not a lease", "fd00::1")
	wantFinding(t, found, checkLeases, verdictWarning, "garbage", "is not a lease")
	wantFinding(t, found, checkLeases, verdictNote, "1 lease outside the subnets")
	for i := range 9 {
		setKey(t, s, fmt.Sprintf("%s/subnets/bad%d", prefix, i), "x")
	}
	wantFinding(t, checkEtcd(t, "-etcd-endpoints="+url), checkLeases, verdictWarning, "and 6 records more")

	setKey(t, s, prefix+"/config", `{"Network":"10.5.0.0/33"}`)
	found = checkEtcd(t, "-etcd-endpoints="+url)
	wantFinding(t, found, checkConfig, verdictFailure, "10.5.0.0/33")

	found = checkEtcd(t, "-etcd-endpoints="+url, "-etcd-prefix=/other")
	wantFinding(t, found, checkConfig, verdictFailure, "/other/config does not exist", "-etcd-prefix")
	setKey(t, s, "/dir/config/sub", "x")
	found = checkEtcd(t, "-etcd-endpoints="+url, "-etcd-prefix=/dir")
	wantFinding(t, found, checkEndpoint, verdictFailure, "it is a directory")
}

// TestCheckNewConfig: a config from a file, with the leases of etcd.
func TestCheckNewConfig(t *testing.T) {
	s := startEtcd(t, embedetcd.Options{})
	url := s.Endpoints()[0]
	setKey(t, s, prefix+"/config", `{"Network":"10.5.0.0/16"}`)
	setKey(t, s, prefix+"/subnets/10.5.4.0-24", `{"PublicIP":"192.0.2.7"}`)
	file := t.TempDir() + "/new.json"
	if err := os.WriteFile(file, []byte(`{"Network":"10.6.0.0/16"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	found := checkEtcd(t, file, "-etcd-endpoints="+url)
	wantFinding(t, found, checkConfig, verdictOK, "10.6.0.0/16")
	wantFinding(t, found, checkConfig, verdictNote, "etcd has another config", "10.5.0.0/16")
	wantFinding(t, found, checkLeases, verdictNote, "1 lease outside the subnets")

	setKey(t, s, prefix+"/config", `{ "Network": "10.6.0.0/16" }`)
	noFinding(t, checkEtcd(t, file, "-etcd-endpoints="+url), checkConfig, verdictNote)
	wantFinding(t, checkEtcd(t, file), checkEndpoint, verdictSkipped, "give -etcd-endpoints")
}

func TestCheckCluster(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	c, err := embedetcd.StartCluster(ctx, embedetcd.ClusterOptions{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	setKey(t, c.Member(0), prefix+"/config", `{"Network":"10.5.0.0/16"}`)
	urls := c.Endpoints()
	endpoints := "-etcd-endpoints=" + strings.Join(urls, ",")

	found := checkEtcd(t, endpoints)
	noFinding(t, found, checkEndpoint, verdictNote, verdictWarning, verdictFailure, verdictSkipped)
	wantFinding(t, found, checkCluster, verdictOK, "3 of 3 endpoints")

	stranger := startEtcd(t, embedetcd.Options{}).Endpoints()[0]
	found = checkEtcd(t, endpoints+","+stranger)
	wantFinding(t, found, checkCluster, verdictFailure, "different clusters", stranger, urls[2])
	noV2 := startEtcd(t, embedetcd.Options{NoV2: true}).Endpoints()[0]
	found = checkEtcd(t, endpoints+","+noV2)
	wantFinding(t, found, checkEndpoint, verdictWarning, noV2, "--enable-v2", "as long as another endpoint works")
	wantFinding(t, checkEtcd(t, "-etcd-endpoints="+noV2), checkEndpoint, verdictFailure, noV2, "--enable-v2")

	if err := c.Stop(1); err != nil {
		t.Fatal(err)
	}
	found = checkEtcd(t, endpoints)
	wantFinding(t, found, checkEndpoint, verdictWarning, urls[1], "connection refused", "as long as another endpoint works")
	wantFinding(t, found, checkCluster, verdictOK, "2 of 3 endpoints")
	wantFinding(t, found, checkConfig, verdictOK, "10.5.0.0/16")

	if err := c.Stop(2); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	found = checkEtcd(t, endpoints, "-timeout=3s")
	wantFinding(t, found, checkEndpoint, verdictFailure, urls[0], "no answer")
	wantFinding(t, found, checkConfig, verdictSkipped, "needs an endpoint")
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("took %s with -timeout=3s", took)
	}
}

func TestCheckCertificates(t *testing.T) {
	dir := t.TempDir()
	newCA := func(name string) *embedetcd.CA {
		ca, err := embedetcd.NewCA(dir, name)
		if err != nil {
			t.Fatal(err)
		}
		return ca
	}
	issue := func(ca *embedetcd.CA, name string, hosts []string, notAfter time.Time) embedetcd.TLS {
		files, err := ca.Issue(name, hosts, notAfter)
		if err != nil {
			t.Fatal(err)
		}
		return files
	}
	ca, foreign := newCA("ca"), newCA("foreign")
	local, past := []string{"127.0.0.1"}, time.Now().Add(-time.Hour)
	good := issue(ca, "client", nil, time.Now().Add(90*24*time.Hour))
	expired := issue(ca, "old", nil, past)
	alien := issue(foreign, "alien", nil, time.Time{})
	// Of another CA that has the same name.
	otherDir := t.TempDir()
	twin, err := embedetcd.NewCA(otherDir, "ca")
	if err != nil {
		t.Fatal(err)
	}
	twinned := issue(twin, "twinned", nil, time.Time{})
	open := issue(ca, "open", nil, time.Time{})
	if err := os.Chmod(open.KeyFile, 0o644); err != nil {
		t.Fatal(err)
	}
	serverCert := issue(ca, "server", local, time.Now().Add(60*24*time.Hour))
	mutual := startEtcd(t, embedetcd.Options{TLS: &serverCert})
	setKey(t, mutual, prefix+"/config", `{"Network":"10.5.0.0/16"}`)
	oldServer := issue(ca, "old-server", local, past)
	oldServer.CAFile = ""
	old := startEtcd(t, embedetcd.Options{TLS: &oldServer}).Endpoints()[0]

	args := func(url, ca string, client embedetcd.TLS) []string {
		return []string{"-etcd-endpoints=" + url, "-etcd-cafile=" + ca, "-etcd-certfile=" + client.CertFile, "-etcd-keyfile=" + client.KeyFile}
	}
	url := mutual.Endpoints()[0]
	for _, tt := range []struct {
		name   string
		args   []string
		check  string
		result verdict
		words  []string
	}{
		{"good", args(url, ca.File, good), checkEndpoint, verdictOK, []string{"v2 API"}},
		{"time left", args(url, ca.File, good), checkTLS, verdictOK, []string{good.CertFile, "for 89 days"}},
		{"server", args(url, ca.File, good), checkEndpoint, verdictOK, []string{"server certificate", "for 59 days", "CN=ca"}},
		{"CA ends soon", args(url, ca.File, good), checkTLS, verdictWarning, []string{"-etcd-cafile " + ca.File, "expires at", "days"}},

		{"no client certificate", args(url, ca.File, embedetcd.TLS{}), checkEndpoint, verdictFailure, []string{"-etcd-certfile"}},
		{"expired client", args(url, ca.File, expired), checkTLS, verdictFailure, []string{expired.CertFile, "expired at"}},
		{"expired client at etcd", args(url, ca.File, expired), checkEndpoint, verdictFailure, []string{expired.CertFile}},
		{"foreign client", args(url, ca.File, alien), checkTLS, verdictNote, []string{alien.CertFile, "CN=foreign", ca.File}},
		{"client of a CA of the same name", args(url, ca.File, twinned), checkTLS, verdictNote, []string{twinned.CertFile, "CN=ca", ca.File}},
		{"foreign client at etcd", args(url, ca.File, alien), checkEndpoint, verdictFailure, []string{alien.CertFile}},
		{"foreign CA", args(url, foreign.File, good), checkEndpoint, verdictFailure, []string{foreign.File}},
		{"readable key", args(url, ca.File, open), checkTLS, verdictWarning, []string{open.KeyFile, "0644", "chmod 0600"}},
		{"expired server", args(old, ca.File, good), checkEndpoint, verdictFailure, []string{old, "valid from"}},
		{"http to https", args(strings.Replace(url, "https", "http", 1), "", embedetcd.TLS{}), checkEndpoint, verdictFailure, []string{"https://"}},
		{"no CA file", args(url, dir+"/none.pem", good), checkTLS, verdictFailure, []string{"-etcd-cafile", "none.pem"}},
		{"certificate alone", args(url, ca.File, embedetcd.TLS{CertFile: good.CertFile}), checkTLS, verdictFailure, []string{"both or neither"}},
		{"key of another", args(url, ca.File, embedetcd.TLS{CertFile: good.CertFile, KeyFile: open.KeyFile}), checkTLS, verdictFailure, []string{"-etcd-keyfile " + open.KeyFile}},
		{"not asked then", args(url, dir+"/none.pem", good), checkEndpoint, verdictSkipped, []string{"TLS files"}},
		{"no URL", args("192.0.2.1:2379", "", embedetcd.TLS{}), checkEndpoint, verdictFailure, []string{"-etcd-endpoints", "http://"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			wantFinding(t, checkEtcd(t, tt.args...), tt.check, tt.result, tt.words...)
		})
	}
}

func TestValidity(t *testing.T) {
	now := time.Now()
	const day = 24 * time.Hour
	for _, tt := range []struct {
		before, after time.Duration
		result        verdict
		text          string
	}{
		{-day, 365 * day, verdictOK, "for 365 days"},
		{-day, 30 * day, verdictOK, "for 30 days"},
		{-day, 30*day - time.Hour, verdictWarning, "in 30.0 days"},
		{-day, time.Hour, verdictWarning, "in 0.0 days"},
		{-2 * day, -day, verdictFailure, "expired at"},
		{day, 2 * day, verdictFailure, "valid only from"},
	} {
		f := validity(&x509.Certificate{NotBefore: now.Add(tt.before), NotAfter: now.Add(tt.after)}, now)
		if f.Result != tt.result || !strings.Contains(f.Found, tt.text) || (f.Advice == "") != (f.Result == verdictOK) {
			t.Errorf("from %s to %s: %s: %s -> %s; want %s, %q", tt.before, tt.after, f.Result, f.Found, f.Advice, tt.result, tt.text)
		}
	}
}

func TestUnhealthyEndpoint(t *testing.T) {
	f := endpointFinding(etcdv2.Answer{URL: "http://a", Version: "3.4.1", Unhealthy: `503, health "false"`}, true)
	if f.Result != verdictWarning || !strings.Contains(f.Found, "not healthy") {
		t.Errorf("got %+v", f)
	}
}

// TestPublishedTypes: leases of udp and alloc have no backend type, as with
// flannel.
func TestPublishedTypes(t *testing.T) {
	want := map[string]string{"vxlan": "vxlan", "host-gw": "host-gw", "udp": "", "alloc": ""}
	for name, newProfile := range profiles() {
		if p, err := newProfile(subnet.Config{}); err != nil || p.Type != name || p.Published != want[name] {
			t.Errorf("%s: %+v, %v, want %q", name, p, err, want[name])
		}
	}
}

// TestCheckSlowEtcd: an etcd that takes all the time it gets leaves some for
// the other checks, and CONFIGFILE is read before it is asked. The clock of one
// that answers is compared.
func TestCheckSlowEtcd(t *testing.T) {
	stop := make(chan struct{})
	slow := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-stop:
		case <-r.Context().Done():
		}
	}))
	defer slow.Close()
	defer close(stop)
	o, err := parseCheck([]string{"-timeout=900ms", "-etcd-endpoints=" + slow.URL, "-"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), o.timeout)
	defer cancel()
	c := &checker{opts: o, stdin: strings.NewReader(udpConfig)}
	text, err := c.readFile(ctx)
	c.opts.timeout = time.Minute // of a request, so that Probe itself must end
	c.settleConfig(text, err, c.checkEndpoints(ctx))
	c.checkConfig()
	if ctx.Err() != nil {
		t.Error("etcd has used up all of -timeout")
	}
	wantFinding(t, c.found, checkEndpoint, verdictFailure, "no answer")
	wantFinding(t, c.found, checkConfig, verdictOK, "10.5.0.0/16")
}

func TestCheckClock(t *testing.T) {
	for _, off := range []time.Duration{-time.Hour, 0, time.Hour} {
		etcd := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Date", time.Now().Add(off).UTC().Format(http.TimeFormat))
			fmt.Fprint(w, "{}")
		}))
		found := checkEtcd(t, "-etcd-endpoints="+etcd.URL)
		etcd.Close()
		switch off {
		case -time.Hour:
			wantFinding(t, found, checkEndpoint, verdictNote, "behind this host's", "NTP")
		case time.Hour:
			wantFinding(t, found, checkEndpoint, verdictNote, "ahead of this host's", "NTP")
		default:
			noFinding(t, found, checkEndpoint, verdictNote)
		}
	}
}
