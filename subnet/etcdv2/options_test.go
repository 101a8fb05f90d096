package etcdv2

import (
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"tweed/test/embedetcd"
)

func TestOpenErrors(t *testing.T) {
	dir := t.TempDir()
	ca, err := embedetcd.NewCA(dir, "ca")
	if err != nil {
		t.Fatal(err)
	}
	pair, err := ca.Issue("client", nil, time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	other, err := ca.Issue("other", nil, time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	garbage := filepath.Join(dir, "garbage.pem")
	if err := os.WriteFile(garbage, []byte("garbage"), 0o600); err != nil {
		t.Fatal(err)
	}
	endpoints := func(all ...string) Options { return Options{Endpoints: all} }
	files := func(ca, cert, key string) Options {
		return Options{Endpoints: []string{"https://192.0.2.1:2379"}, CAFile: ca, CertFile: cert, KeyFile: key}
	}
	tests := []struct {
		name string
		o    Options
		want []string // all of them in the error; nothing: no error
	}{
		{"two", endpoints("http://192.0.2.1:2379", "https://etcd.example"), nil},
		{"slash and path", endpoints("http://192.0.2.1:2379/", "https://proxy.example/etcd"), nil},
		{"IPv6", endpoints("http://[fd00::1]:2379"), nil},
		{"all files", files(ca.File, pair.CertFile, pair.KeyFile), nil},
		{"CA alone", files(ca.File, "", ""), nil},

		{"no endpoint", endpoints(), []string{"-etcd-endpoints", "empty", "http://"}},
		{"empty endpoint", endpoints("http://192.0.2.1:2379", ""), []string{"-etcd-endpoints", `""`, "http://"}},
		{"no scheme", endpoints("192.0.2.1:2379"), []string{"-etcd-endpoints", "192.0.2.1:2379", "http://"}},
		{"name without scheme", endpoints("localhost:2379"), []string{"-etcd-endpoints", `"localhost:2379"`, "http://"}},
		{"blank in front", endpoints(" http://192.0.2.1:2379"), []string{"-etcd-endpoints", `" http://192.0.2.1:2379"`}},
		{"other scheme", endpoints("unix:///run/etcd"), []string{"-etcd-endpoints", "unix:///run/etcd"}},
		{"no host", endpoints("http://"), []string{"-etcd-endpoints", "no host"}},
		{"port alone", endpoints("http://:2379"), []string{"-etcd-endpoints", "no host"}},
		{"bad port", endpoints("http://192.0.2.1:port"), []string{"-etcd-endpoints", "port"}},
		{"bad escape", endpoints("http://192.0.2.1/%zz"), []string{"-etcd-endpoints", "%zz"}},
		{"query", endpoints("http://192.0.2.1:2379/?a=b"), []string{"-etcd-endpoints", "follows"}},
		{"list in one", endpoints("http://192.0.2.1:2379 http://192.0.2.2:2379"), []string{"-etcd-endpoints"}},

		{"no CA file", files("/none/ca.pem", "", ""), []string{"-etcd-cafile", "/none/ca.pem"}},
		{"CA file is garbage", files(garbage, "", ""), []string{"-etcd-cafile", garbage, "no certificate"}},
		{"CA file is a key", files(pair.KeyFile, "", ""), []string{"-etcd-cafile", pair.KeyFile, "no certificate"}},
		{"cert alone", files("", pair.CertFile, ""), []string{"-etcd-certfile", pair.CertFile, "-etcd-keyfile", "both or neither"}},
		{"key alone", files("", "", pair.KeyFile), []string{"-etcd-certfile", pair.KeyFile, "-etcd-keyfile", "both or neither"}},
		{"no cert file", files("", "/none/c.pem", pair.KeyFile), []string{"-etcd-certfile", "/none/c.pem"}},
		{"no key file", files("", pair.CertFile, "/none/k.pem"), []string{"-etcd-keyfile", "/none/k.pem"}},
		{"swapped", files("", pair.KeyFile, pair.CertFile), []string{"-etcd-certfile", pair.KeyFile}},
		{"key of another", files("", pair.CertFile, other.KeyFile), []string{"-etcd-certfile", "-etcd-keyfile", other.KeyFile}},
		{"cert is garbage", files("", garbage, pair.KeyFile), []string{"-etcd-certfile", garbage}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s, err := Open(tt.o)
			if err == nil {
				s.Close()
			}
			if (err != nil) != (len(tt.want) > 0) {
				t.Fatalf("error %v, want one with %q", err, tt.want)
			}
			for _, want := range tt.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error %q lacks %q", err, want)
				}
			}
		})
	}
}

// TestUserinfoStaysSecret: a password in an endpoint must appear nowhere.
func TestUserinfoStaysSecret(t *testing.T) {
	const secret = "s3cr3t"
	for _, bad := range []string{
		"http://root:s3cr3t@", "root:s3cr3t@192.0.2.1:2379", "ftp://root:s3cr3t@192.0.2.1", "http://root:s3cr3t@192.0.2.1:x",
		"http://root:s3cr3t/1@192.0.2.1:2379", "http://root:1/s3cr3t@192.0.2.1:2379", "http://root:1#s3cr3t@192.0.2.1:2379", "http://root:1?s3cr3t@192.0.2.1:2379",
		"http://root:s3cr3t@x@192.0.2.1:99999x", "http://root:%s3cr3t@192.0.2.1:2379", "root:s3cr3t@http://192.0.2.1",
		"http://root:s3cr3t,x@192.0.2.1:2379", // as the daemon splits it
	} {
		s, err := Open(Options{Endpoints: strings.Split(bad, ",")})
		if err == nil {
			s.Close()
			t.Errorf("%s: no error", bad)
		} else if strings.Contains(err.Error(), secret) {
			t.Errorf("%s: error %q", bad, err)
		}
	}
	for kind, server := range badEndpoints(t) {
		endpoint := strings.Replace(server.url, "http://", "http://root:s3cr3t@", 1)
		s := open(t, Options{Endpoints: []string{endpoint}, RequestTimeout: 200 * time.Millisecond})
		if _, err := s.List(t.Context()); err == nil || strings.Contains(err.Error(), secret) || strings.Contains(err.Error(), "root") {
			t.Errorf("%s: error %v", kind, err)
		}
	}
}

// TestProxy: the library looks at HTTP_PROXY once per process, and never uses a
// proxy for the loopback interface. So a child of this test asks for a name
// that does not exist, through a proxy that answers for it.
func TestProxy(t *testing.T) {
	const variable = "TWEED_TEST_PROXIED"
	if os.Getenv(variable) != "" {
		s := open(t, Options{Endpoints: []string{"http://etcd.invalid:2379"}})
		if got, err := s.Config(t.Context()); err != nil || string(got) != "proxied" {
			t.Errorf("config %q, %v", got, err)
		}
		return
	}
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Host != "etcd.invalid:2379" {
			t.Errorf("asked for %s", r.URL)
		}
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("X-Etcd-Index", "7")
		w.Write([]byte(`{"action":"get","node":{"key":"/coreos.com/network/config","value":"proxied","modifiedIndex":3,"createdIndex":3}}`))
	}))
	defer proxy.Close()
	child := exec.Command(os.Args[0], "-test.run=^TestProxy$")
	child.Env = append(os.Environ(), variable+"=1", "HTTP_PROXY="+proxy.URL, "http_proxy="+proxy.URL, "NO_PROXY=", "no_proxy=")
	if out, err := child.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
