package etcdv2

import (
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"tweed/subnet"
	"tweed/test/embedetcd"
)

func TestTLS(t *testing.T) {
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
	client := issue(ca, "client", nil, time.Time{})
	oldClient := issue(ca, "old-client", nil, past)
	foreignClient := issue(foreign, "foreign-client", nil, time.Time{})

	serverOnly := issue(ca, "server", local, time.Time{})
	serverOnly.CAFile = ""
	expired := issue(ca, "expired", local, past)
	expired.CAFile = ""
	otherHost := issue(ca, "other-host", []string{"192.0.2.1", "etcd.example"}, time.Time{})
	otherHost.CAFile = ""
	mutual := issue(ca, "mutual", local, time.Time{})
	expiredCA, err := embedetcd.NewCAUntil(dir, "expired-ca", past)
	if err != nil {
		t.Fatal(err)
	}
	ofExpired := issue(expiredCA, "of-expired", local, time.Time{})
	ofExpired.CAFile = ""
	clientAsServer := client
	clientAsServer.CAFile = ""

	url := map[string]string{"plain": startEtcd(t, embedetcd.Options{}).Endpoints()[0]}
	for name, files := range map[string]embedetcd.TLS{"server": serverOnly, "expired": expired, "other host": otherHost, "mutual": mutual, "server of an expired CA": ofExpired, "client as server": clientAsServer} {
		url[name] = startEtcd(t, embedetcd.Options{TLS: &files}).Endpoints()[0]
	}
	swap := func(url, from, to string) string { return strings.Replace(url, from, to, 1) }

	tests := []struct {
		name, url, ca string
		client        embedetcd.TLS
		want          []string // in the error; nothing: it works
	}{
		{"CA alone", url["server"], ca.File, embedetcd.TLS{}, nil},
		{"mutual", url["mutual"], ca.File, client, nil},
		{"certificate not asked for", url["server"], ca.File, client, nil},
		{"files not needed", url["plain"], ca.File, client, nil},

		{"unknown CA", url["server"], "", embedetcd.TLS{}, []string{"-etcd-cafile", "x509"}},
		{"wrong CA", url["server"], foreign.File, embedetcd.TLS{}, []string{"-etcd-cafile " + foreign.File, `issued by "CN=ca"`, "x509"}},
		{"expired CA", url["server of an expired CA"], expiredCA.File, embedetcd.TLS{}, []string{`the CA "CN=expired-ca" of the server's certificate is valid from`, "expired"}},
		{"certificate without names", url["client as server"], ca.File, embedetcd.TLS{}, []string{"for another host", "doesn't contain any IP SANs"}},
		{"expired server", url["expired"], ca.File, embedetcd.TLS{}, []string{"valid from", past.Local().Format("2006-01-02"), "expired"}},
		{"other host", url["other host"], ca.File, embedetcd.TLS{}, []string{"for another host", "SANs", "192.0.2.1", "127.0.0.1"}},
		{"no client certificate", url["mutual"], ca.File, embedetcd.TLS{}, []string{"may want a client certificate (-etcd-certfile, -etcd-keyfile)", "certificate required"}},
		{"client of another CA", url["mutual"], ca.File, foreignClient, []string{"does not like the client certificate -etcd-certfile " + foreignClient.CertFile, `issued by "CN=foreign"`}},
		{"expired client", url["mutual"], ca.File, oldClient, []string{"-etcd-certfile " + oldClient.CertFile, "which expired at " + past.Local().Format(time.RFC3339)}},
		{"http to https", swap(url["server"], "https:", "http:"), "", embedetcd.TLS{}, []string{"the server wants TLS: write https://"}},
		{"https to http", swap(url["plain"], "http:", "https:"), ca.File, embedetcd.TLS{}, []string{"the server does not speak TLS: write http://"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := open(t, Options{Endpoints: []string{tt.url}, CAFile: tt.ca, CertFile: tt.client.CertFile, KeyFile: tt.client.KeyFile})
			_, err := s.Config(t.Context())
			if len(tt.want) == 0 {
				if !errors.Is(err, subnet.ErrNoConfig) {
					t.Errorf("error %v, want %v", err, subnet.ErrNoConfig)
				}
				return
			}
			if err == nil || errors.Is(err, subnet.ErrNoConfig) {
				t.Fatalf("error %v, want one with %q", err, tt.want)
			}
			for _, want := range append(tt.want, tt.url, "/coreos.com/network/config") {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error %q lacks %q", err, want)
				}
			}
		})
	}
}

func TestAuth(t *testing.T) {
	etcd := startEtcd(t, embedetcd.Options{})
	url := etcd.Endpoints()[0]
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
	admin("PUT", "/v2/auth/roles/none", `{"role":"none","permissions":{"kv":{"read":["/none"],"write":["/none"]}}}`)
	admin("PUT", "/v2/auth/users/weak", `{"user":"weak","password":"s3cr3t","roles":["none"]}`)
	admin("PUT", "/v2/auth/enable", "")
	admin("DELETE", "/v2/auth/roles/guest", "")

	with := func(userinfo string) string { return strings.Replace(url, "http://", "http://"+userinfo+"@", 1) }
	tests := []struct {
		name string
		o    Options
		want string // in the error; "" means that it works
	}{
		// With all verbs. etcd takes 0.1 s for each password, so the rest only list.
		{"flags", Options{Endpoints: []string{url}, Username: "root", Password: "s3cr3t"}, ""},
		{"wrong password", Options{Endpoints: []string{url}, Username: "root", Password: "wr0ng"}, `user "root"`},

		{"userinfo", Options{Endpoints: []string{with("root:s3cr3t")}}, ""},
		{"flags before userinfo", Options{Endpoints: []string{with("root:wr0ng")}, Username: "root", Password: "s3cr3t"}, ""},

		{"nobody", Options{Endpoints: []string{url}}, "-etcd-username"},
		{"wrong userinfo", Options{Endpoints: []string{with("root:wr0ng")}}, `user "root"`},
		{"unknown user", Options{Endpoints: []string{url}, Username: "nemo", Password: "s3cr3t"}, `user "nemo"`},
		{"no rights", Options{Endpoints: []string{url}, Username: "weak", Password: "s3cr3t"}, `user "weak"`},
		{"flags hide good userinfo", Options{Endpoints: []string{with("root:s3cr3t")}, Username: "root", Password: "wr0ng"}, `user "root"`},
	}
	for i, tt := range tests {
		for _, verb := range verbs {
			if i > 1 && verb.name != "list" {
				continue
			}
			t.Run(tt.name+"/"+verb.name, func(t *testing.T) {
				prefix := fmt.Sprintf("/net%d-%s", i, verb.name)
				set(t, etcd, prefix+"/config", "{}", 0)
				rootOpts := Options{Endpoints: []string{url}, Username: "root", Password: "s3cr3t", Prefix: prefix}
				l, err := open(t, rootOpts).Create(t.Context(), subnetOf("10.5.3.0/24"), subnet.Attrs{PublicIP: addr("192.0.2.1")}, subnet.TTL)
				if err != nil {
					t.Fatal(err)
				}
				tt.o.Prefix = prefix
				err = verb.call(t.Context(), open(t, tt.o), l)
				if tt.want == "" {
					if err != nil {
						t.Error(err)
					}
					return
				}
				if err == nil || !strings.Contains(err.Error(), tt.want) {
					t.Fatalf("error %v, want one with %q", err, tt.want)
				}
				if strings.Contains(err.Error(), "s3cr3t") || strings.Contains(err.Error(), "wr0ng") {
					t.Errorf("error %q tells a password", err)
				}
			})
		}
	}
}

// TestExplain has what the servers of the tests do not do.
func TestExplain(t *testing.T) {
	s := open(t, Options{Endpoints: []string{"https://192.0.2.1:2379"}})
	remote := func(text string) error { return &net.OpError{Op: "remote error", Err: errors.New(text)} }
	for want, err := range map[string]error{
		"want the extended key usage serverAuth":                          x509.CertificateInvalidError{Cert: &x509.Certificate{}, Reason: x509.IncompatibleUsage},
		"no TLS version that flanneld speaks: want TLS 1.2 or newer":      remote("tls: protocol version not supported"),
		"the server ended the TLS session: remote error: tls: internal":   remote("tls: internal error"),
		"may want a client certificate":                                   remote("tls: handshake failure"),
		"the server wants TLS: write https://":                            errors.New(`malformed HTTP response "\x15\x03\x01\x00\x02\x02"`),
		"closed without an answer (is http:// or https:// right?): EOF":   io.EOF,
		"closed without an answer (is http:// or https:// right?): conne": syscall.ECONNRESET,
	} {
		if got := s.explain(err); !strings.Contains(got.Error(), want) {
			t.Errorf("%v becomes %q, want %q in it", err, got, want)
		}
	}
}
