package etcdv2

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"tweed/test/embedetcd"
)

func newTestCA(t *testing.T, dir, name string) *embedetcd.CA {
	t.Helper()
	ca, err := embedetcd.NewCA(dir, name)
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

func issueTLS(t *testing.T, ca *embedetcd.CA, name string, hosts []string, notAfter time.Time) embedetcd.TLS {
	t.Helper()
	files, err := ca.Issue(name, hosts, notAfter)
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// TestTLSFilesAtStart has what is refused at once, by flag, file and reason.
func TestTLSFilesAtStart(t *testing.T) {
	dir := t.TempDir()
	ca := newTestCA(t, dir, "ca")
	client, other := issueTLS(t, ca, "client", nil, time.Time{}), issueTLS(t, ca, "other", nil, time.Time{})
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	junk, missing := file("junk", "junk"), filepath.Join(dir, "missing")
	badDER := file("bad-der", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("junk")})))
	encrypted := file("encrypted", string(pem.EncodeToMemory(&pem.Block{Type: "ENCRYPTED PRIVATE KEY", Bytes: []byte("x")})))
	for _, tt := range []struct {
		ca, cert, key string
		want          []string
	}{
		{missing, "", "", []string{"-etcd-cafile: open " + missing + ": no such file or directory: want a PEM file with CA certificates"}},
		{dir, "", "", []string{"-etcd-cafile: read " + dir + ": is a directory: want"}},
		{junk, "", "", []string{"-etcd-cafile: " + junk + " holds no certificate: want"}},
		{badDER, "", "", []string{"-etcd-cafile: " + badDER + " holds no certificate: want"}},
		{client.KeyFile, "", "", []string{"-etcd-cafile: " + client.KeyFile + " holds no certificate: want"}},
		{ca.File, client.CertFile, "", []string{"-etcd-certfile is " + client.CertFile + ", but -etcd-keyfile is empty"}},
		{ca.File, "", client.KeyFile, []string{"-etcd-keyfile is " + client.KeyFile + ", but -etcd-certfile is empty"}},
		{ca.File, missing, client.KeyFile, []string{"-etcd-certfile: open " + missing + ": no such file or directory: want"}},
		{ca.File, client.CertFile, missing, []string{"-etcd-keyfile: open " + missing + ": no such file or directory: want"}},
		{ca.File, dir, client.KeyFile, []string{"-etcd-certfile: read " + dir + ": is a directory"}},
		{ca.File, client.CertFile, dir, []string{"-etcd-keyfile: read " + dir + ": is a directory"}},
		{ca.File, junk, client.KeyFile, []string{"-etcd-certfile: " + junk + " holds no certificate: want"}},
		{ca.File, client.CertFile, junk, []string{"-etcd-keyfile: " + junk + " holds no private key: want"}},
		{ca.File, client.KeyFile, client.CertFile, []string{"-etcd-certfile: " + client.KeyFile + " holds no certificate"}},
		{ca.File, client.CertFile, encrypted, []string{"-etcd-keyfile: " + encrypted + " is encrypted: want a key without a passphrase"}},
		{ca.File, badDER, client.KeyFile, []string{"-etcd-certfile " + badDER + " with -etcd-keyfile " + client.KeyFile, "want a PEM certificate and its key"}},
		{ca.File, client.CertFile, other.KeyFile, []string{"-etcd-certfile " + client.CertFile + " with -etcd-keyfile " + other.KeyFile, "private key does not match public key"}},
	} {
		_, err := Open(Options{Endpoints: []string{"https://192.0.2.1:2379"}, CAFile: tt.ca, CertFile: tt.cert, KeyFile: tt.key})
		if err == nil {
			t.Errorf("%q, %q, %q: no error", tt.ca, tt.cert, tt.key)
			continue
		}
		for _, want := range tt.want {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("error %q lacks %q", err, want)
			}
		}
	}
	// What follows the certificates is none of our business at the start.
	text, err := os.ReadFile(ca.File)
	if err != nil {
		t.Fatal(err)
	}
	torn := file("torn", string(text)+string(text[:len(text)/2]))
	if _, err := Open(Options{Endpoints: []string{"https://192.0.2.1:2379"}, CAFile: torn}); err != nil {
		t.Error(err)
	}
}

func logTo(out *bytes.Buffer) *slog.Logger {
	return slog.New(slog.NewTextHandler(out, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}}))
}

// TestPipeIsReadOnce has a CA file as the shell makes one of <(cat ca.pem). To
// open it once more would block for ever.
func TestPipeIsReadOnce(t *testing.T) {
	dir := t.TempDir()
	ca := newTestCA(t, dir, "ca")
	text, err := os.ReadFile(ca.File)
	if err != nil {
		t.Fatal(err)
	}
	pipe := filepath.Join(dir, "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	wrote := make(chan error, 1)
	go func() { wrote <- os.WriteFile(pipe, text, 0) }()
	var out bytes.Buffer
	tr, err := openTransports(Options{CAFile: pipe, Log: logTo(&out)})
	if err := <-wrote; err != nil {
		t.Fatal(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	if first := tr.now; tr.current() != first || out.Len() > 0 {
		t.Errorf("a pipe was read again: %s", out.String())
	}
}

func TestAging(t *testing.T) {
	now := time.Date(2026, 1, 10, 12, 0, 0, 0, time.UTC)
	cert := func(life, left time.Duration) *x509.Certificate {
		return &x509.Certificate{NotBefore: now.Add(left - life), NotAfter: now.Add(left)}
	}
	const hour, day = time.Hour, 24 * time.Hour
	for _, tt := range []struct {
		life, left time.Duration
		want       string // "" for no warning
	}{
		{365 * day, 8 * day, ""},
		{365 * day, 7*day - hour, "expires at"},
		{365 * day, 0, "expires at"},
		{365 * day, -time.Second, "expired at"},
		{day, 7 * hour, ""}, // of those that are renewed daily
		{day, 5 * hour, "expires at"},
		{day, -hour, "expired at"},
	} {
		c := cert(tt.life, tt.left)
		when := " " + c.NotAfter.Local().Format(time.RFC3339)
		got := aging(Options{CAFile: "ca.pem"}, authorities{last: c}, identity{}, now)
		if tt.want == "" && got != nil || tt.want != "" && (len(got) != 1 || got[0] != "the CA certificate that lasts longest in -etcd-cafile ca.pem "+tt.want+when) {
			t.Errorf("%v of %v left: %q, want %q", tt.left, tt.life, got, tt.want)
		}
		if got := aging(Options{}, authorities{}, identity{}, now); got != nil {
			t.Errorf("without certificates: %q", got)
		}
	}
}
