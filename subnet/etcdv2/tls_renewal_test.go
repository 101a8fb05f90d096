package etcdv2

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"tweed/subnet"
	"tweed/test/embedetcd"
)

// replaced is a store whose TLS files change under it.
type replaced struct {
	*Store
	t   *testing.T
	out bytes.Buffer
	dir string // has ca.pem, client.pem, client-key.pem
}

// openReplaced copies the files that o names to a folder of its own.
func openReplaced(t *testing.T, endpoint string, files embedetcd.TLS) *replaced {
	t.Helper()
	r := &replaced{t: t, dir: t.TempDir()}
	r.copy(files.CAFile, "ca.pem")
	r.copy(files.CertFile, "client.pem")
	r.copy(files.KeyFile, "client-key.pem")
	r.Store = open(t, Options{Endpoints: []string{endpoint}, CAFile: r.path("ca.pem"), CertFile: r.path("client.pem"), KeyFile: r.path("client-key.pem"), Log: logTo(&r.out)})
	return r
}

func (r *replaced) path(name string) string { return filepath.Join(r.dir, name) }

func (r *replaced) write(name string, text []byte) {
	r.t.Helper()
	if err := os.WriteFile(r.path(name), text, 0o600); err != nil {
		r.t.Fatal(err)
	}
}

func (r *replaced) copy(from, name string) {
	r.t.Helper()
	r.write(name, readFile(r.t, from))
}

func readFile(t *testing.T, path string) []byte {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// want lists over a connection of its own. Without texts that has to work.
func (r *replaced) want(texts ...string) {
	r.t.Helper()
	r.transports.close()
	_, err := r.List(r.t.Context())
	if len(texts) == 0 {
		if err != nil {
			r.t.Errorf("%v", err)
		}
		return
	}
	if err == nil {
		r.t.Errorf("it works, want an error with %q", texts)
		return
	}
	for _, text := range texts {
		if !strings.Contains(err.Error(), text) {
			r.t.Errorf("error %q lacks %q", err, text)
		}
	}
}

// said returns the log since the last call.
func (r *replaced) said() string {
	defer r.out.Reset()
	return r.out.String()
}

func (r *replaced) wantSaid(texts ...string) {
	r.t.Helper()
	said := r.said()
	if strings.Count(said, "\n") != len(texts) {
		r.t.Errorf("the log is not %q:\n%s", texts, said)
	}
	for _, text := range texts {
		if !strings.Contains(said, text) {
			r.t.Errorf("the log lacks %q:\n%s", text, said)
		}
	}
}

// TestRenewal replaces all files of a running store, in every state that they
// may be found in meanwhile.
func TestRenewal(t *testing.T) {
	dir := t.TempDir()
	ca := newTestCA(t, dir, "ca")
	client, next := issueTLS(t, ca, "client", nil, time.Time{}), issueTLS(t, ca, "next", nil, time.Time{})
	old := issueTLS(t, ca, "old", nil, time.Now().Add(-time.Hour))
	server := issueTLS(t, ca, "server", []string{"127.0.0.1"}, time.Time{})
	endpoint := startEtcd(t, embedetcd.Options{TLS: &server}).Endpoints()[0]

	t.Run("expired, then renewed", func(t *testing.T) {
		r := openReplaced(t, endpoint, old)
		r.want("which expired at", "client.pem")
		r.want("which expired at")
		r.wantSaid("the client certificate -etcd-certfile " + r.path("client.pem") + " expired at ")
		r.copy(next.CertFile, "client.pem")
		r.want("which expired at") // the key is still that of the old one
		r.wantSaid("going on with the TLS files as they were read before: -etcd-certfile " + r.path("client.pem") + " with -etcd-keyfile " + r.path("client-key.pem") + ": tls: private key does not match")
		r.want("which expired at")
		r.wantSaid()
		r.copy(next.KeyFile, "client-key.pem")
		r.want()
		r.wantSaid("the TLS files are in order again", "using the TLS files that were replaced\" cert="+r.path("client.pem"))
		if got := r.ClientCertificateExpiry(); time.Until(got) < time.Hour {
			t.Errorf("it expires at %v, which is that of the old one", got)
		}
	})

	t.Run("unusable meanwhile", func(t *testing.T) {
		bundle := append(slices.Clone(readFile(t, ca.File)), readFile(t, ca.File)...)
		for name, text := range map[string][]byte{
			"ca.pem": bundle, "client.pem": append(readFile(t, client.CertFile), bundle...), "client-key.pem": readFile(t, client.KeyFile),
		} {
			r := openReplaced(t, endpoint, client)
			r.write(name, text)
			r.want()
			r.said()
			for how, harm := range map[string]func(){
				"missing":   func() { os.Remove(r.path(name)) },
				"empty":     func() { r.write(name, nil) },
				"junk":      func() { r.write(name, []byte("junk")) },
				"cut off":   func() { r.write(name, text[:len(text)-20]) },
				"directory": func() { os.Remove(r.path(name)); os.Mkdir(r.path(name), 0o700) },
			} {
				harm()
				r.want()
				r.want()
				said := r.said()
				if strings.Count(said, "\n") != 1 || !strings.Contains(said, "going on with the TLS files as they were read before: ") || !strings.Contains(said, r.path(name)) {
					t.Errorf("%s %s: the log is %q", name, how, said)
				}
				os.Remove(r.path(name))
				r.write(name, text)
				r.want()
				r.wantSaid("the TLS files are in order again")
			}
		}
	})

	t.Run("CA broken while the client certificate is renewed", func(t *testing.T) {
		r := openReplaced(t, endpoint, old)
		r.want("which expired at")
		r.write("ca.pem", []byte("junk"))
		r.copy(next.CertFile, "client.pem")
		r.copy(next.KeyFile, "client-key.pem")
		r.want()
	})
}

// TestNewCA has a server that goes over to another CA, before and after us.
func TestNewCA(t *testing.T) {
	dir := t.TempDir()
	ca, newer := newTestCA(t, dir, "ca"), newTestCA(t, dir, "newer")
	client, newClient := issueTLS(t, ca, "client", nil, time.Time{}), issueTLS(t, newer, "new-client", nil, time.Time{})
	server := issueTLS(t, ca, "server", []string{"127.0.0.1"}, time.Time{})
	newServer := issueTLS(t, newer, "new-server", []string{"127.0.0.1"}, time.Time{})
	endpoint := startEtcd(t, embedetcd.Options{TLS: &server}).Endpoints()[0]
	newEtcd := startEtcd(t, embedetcd.Options{TLS: &newServer})
	set(t, newEtcd, "/coreos.com/network/subnets/x", "", 0) // for an answer that is no error
	newEndpoint := newEtcd.Endpoints()[0]

	r := openReplaced(t, endpoint, client)
	r.want()
	r.endpoints[0].url = newEndpoint
	for range 3 {
		r.want("the server's certificate (issued by \"CN=newer\") is not from a CA in -etcd-cafile "+r.path("ca.pem"), newEndpoint)
	}
	if since, err := r.Outage(); since.IsZero() || err == nil || !strings.Contains(err.Error(), newEndpoint) {
		t.Errorf("outage since %v: %v", since, err)
	}
	r.copy(newer.File, "ca.pem")
	r.want("does not like the client certificate", `issued by "CN=ca"`)
	r.copy(newClient.CertFile, "client.pem")
	r.copy(newClient.KeyFile, "client-key.pem")
	r.want()
	if since, err := r.Outage(); !since.IsZero() || err != nil {
		t.Errorf("outage since %v: %v", since, err)
	}
	// The old CA is out of use, be the certificate good otherwise.
	r.endpoints[0].url = endpoint
	r.want("is not from a CA in -etcd-cafile")
	r.wantSaid("using the TLS files that were replaced\" ca=", "using the TLS files that were replaced\" cert=")
}

// TestRenewalThroughProxy goes by way of an HTTP proxy, for which net/http
// shakes hands elsewhere.
func TestRenewalThroughProxy(t *testing.T) {
	dir := t.TempDir()
	ca, newer := newTestCA(t, dir, "ca"), newTestCA(t, dir, "newer")
	server := issueTLS(t, ca, "server", []string{"etcd.example"}, time.Time{})
	server.CAFile = ""
	etcd := startEtcd(t, embedetcd.Options{TLS: &server})
	target := strings.TrimPrefix(etcd.Endpoints()[0], "https://")
	proxy := startProxy(t, target)

	caFile := filepath.Join(dir, "used.pem")
	use := func(ca *embedetcd.CA) {
		if err := os.WriteFile(caFile, readFile(t, ca.File), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	use(newer)
	s := open(t, Options{Endpoints: []string{"https://etcd.example:2379"}, CAFile: caFile})
	// ProxyFromEnvironment reads the environment once for the whole process.
	viaProxy := func() { s.transports.now.Proxy = http.ProxyURL(proxy) }
	viaProxy()
	if _, err := s.List(t.Context()); err == nil || !strings.Contains(err.Error(), "is not from a CA in -etcd-cafile") {
		t.Errorf("with the wrong CA: %v", err)
	}
	use(ca)
	s.transports.current()
	viaProxy()
	if _, err := s.Config(t.Context()); !errors.Is(err, subnet.ErrNoConfig) {
		t.Errorf("with the right CA: %v", err)
	}
}

// TestRenewalWhileWatching has readers of all kinds while the files change
// without a pause; to be run with -race.
func TestRenewalWhileWatching(t *testing.T) {
	dir := t.TempDir()
	ca := newTestCA(t, dir, "ca")
	server := issueTLS(t, ca, "server", []string{"127.0.0.1"}, time.Time{})
	etcd := startEtcd(t, embedetcd.Options{TLS: &server})
	clients := []embedetcd.TLS{issueTLS(t, ca, "one", nil, time.Time{}), issueTLS(t, ca, "two", nil, time.Time{})}
	r := openReplaced(t, etcd.Endpoints()[0], clients[0])
	r.transports.opts.Log = slog.New(slog.DiscardHandler) // the buffer is for one goroutine
	const key, peer = "/coreos.com/network/subnets/10.5.3.0-24", `{"PublicIP":"192.0.2.1"}`
	set(t, etcd, key, peer, 0)
	snap, err := r.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	const changes = 30
	watch := func(want int) {
		seen, enough := 0, errors.New("enough")
		err := r.Watch(t.Context(), snap.Revision, func([]subnet.Event) error {
			if seen++; seen == want {
				return enough
			}
			return nil
		})
		if err != enough {
			t.Errorf("watch: %v after %d changes, want %d", err, seen, want)
		}
	}
	var wg sync.WaitGroup
	wg.Go(func() { watch(changes) })
	for range 4 {
		wg.Go(func() {
			for range 20 {
				if _, err := r.List(t.Context()); err != nil {
					t.Error(err)
				}
				r.ClientCertificateExpiry()
				r.Outage()
			}
		})
	}
	for i := range changes { // a mismatched pair every other time
		r.copy(clients[i%2].CertFile, "client.pem")
		r.copy(clients[i%2].KeyFile, "client-key.pem")
		set(t, etcd, key, peer, 0)
	}
	wg.Wait()

	// A watch alone looks at the files, too.
	r.copy(clients[0].CertFile, "client.pem")
	r.copy(clients[0].KeyFile, "client-key.pem")
	watch(1)
	if got := r.transports.leaf.Load().Subject.CommonName; got != "one" {
		t.Errorf("a watch goes on with the certificate of %q, want that of %q", got, "one")
	}
}

// TestRenewalEndsConnections: no connection outlives the files that it was made
// with, nor the Store, but for its request.
func TestRenewalEndsConnections(t *testing.T) {
	dir := t.TempDir()
	ca := newTestCA(t, dir, "ca")
	server := issueTLS(t, ca, "server", []string{"127.0.0.1"}, time.Time{})
	next := issueTLS(t, ca, "next", nil, time.Time{})
	target := strings.TrimPrefix(startEtcd(t, embedetcd.Options{TLS: &server}).Endpoints()[0], "https://")
	var opened, closed atomic.Int64
	r := openReplaced(t, "https://"+serve(t, func(c net.Conn) {
		there, err := net.Dial("tcp", target)
		if err != nil {
			t.Error(err)
			return
		}
		defer there.Close()
		opened.Add(1)
		go io.Copy(c, there)
		io.Copy(there, c) // until the client closes
		closed.Add(1)
	}), issueTLS(t, ca, "client", nil, time.Time{}))
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	list := func() {
		t.Helper()
		if _, err := r.List(ctx); err != nil {
			t.Fatal(err)
		}
	}
	list()
	list()
	r.copy(next.CertFile, "client.pem")
	r.copy(next.KeyFile, "client-key.pem")
	list()
	waitUntil(ctx, t, 1, &closed)
	r.Close()
	waitUntil(ctx, t, 2, &closed)
	if n := opened.Load(); n != 2 {
		t.Errorf("%d connections, want one for each pair of files", n)
	}
}

// startProxy runs a proxy that tunnels CONNECT to target, whatever was asked
// for (RFC 9110, 9.3.6).
func startProxy(t *testing.T, target string) *url.URL {
	t.Helper()
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodConnect || r.Host != "etcd.example:2379" {
			t.Errorf("the proxy was asked to %s %s", r.Method, r.Host)
		}
		there, err := net.Dial("tcp", target)
		if err != nil {
			t.Error(err)
			return
		}
		defer there.Close()
		here, buffered, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer here.Close()
		io.WriteString(here, "HTTP/1.1 200 OK\r\n\r\n")
		go io.Copy(there, buffered)
		io.Copy(here, there)
	}))
	t.Cleanup(proxy.Close)
	u, err := url.Parse(proxy.URL)
	if err != nil {
		t.Fatal(err)
	}
	return u
}
