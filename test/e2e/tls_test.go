package e2e

import (
	"context"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"tweed/test/lab"
)

// TestCertificateFaults starts flanneld with what operators get wrong with the
// certificates of cfssl. Each message names the file or the endpoint, and the
// reason.
func TestCertificateFaults(t *testing.T) {
	s := newSite(t)
	s.writeConfig("alloc")
	p := s.pki
	other := newPKI(t, filepath.Join(p.dir, "other"))
	p.issue("expired", "client", "1m")
	p.issue("server-only", "server", "")

	endpoints := s.endpoints()
	flag := func(name, dir, file string) string { return "-etcd-" + name + "=" + filepath.Join(dir, file) }
	ca, cert, key := flag("cafile", p.dir, "ca.pem"), flag("certfile", p.dir, "client.pem"), flag("keyfile", p.dir, "client-key.pem")
	for _, c := range []struct {
		name  string
		exits bool // with 1; else it keeps trying
		args  []string
		says  []string
	}{
		{"another CA", false, []string{flag("cafile", other.dir, "ca.pem"), cert, key},
			[]string{"https://20.0.0.30:2379", "not from a CA in -etcd-cafile " + other.file("ca.pem")}},
		{"client certificate of another CA", false, []string{ca, flag("certfile", other.dir, "client.pem"), flag("keyfile", other.dir, "client-key.pem")},
			[]string{"https://20.0.0.40:2379", "does not like the client certificate -etcd-certfile " + other.file("client.pem")}},
		{"expired client certificate", false, []string{ca, flag("certfile", p.dir, "expired.pem"), flag("keyfile", p.dir, "expired-key.pem")},
			[]string{p.file("expired.pem"), "expired at "}},
		{"certificate that is not for clients", false, []string{ca, flag("certfile", p.dir, "server-only.pem"), flag("keyfile", p.dir, "server-only-key.pem")},
			[]string{"does not like the client certificate -etcd-certfile " + p.file("server-only.pem")}},
		{"no client certificate", false, []string{ca},
			[]string{"https://20.0.0.30:2379", "the server may want a client certificate (-etcd-certfile, -etcd-keyfile)"}},
		{"plain http to a TLS port", false, []string{"-etcd-endpoints=" + strings.ReplaceAll(endpoints, "https", "http")},
			[]string{"http://20.0.0.30:2379", "is http:// or https:// right?"}},
		{"key of another certificate", true, []string{ca, cert, flag("keyfile", p.dir, "expired-key.pem")},
			[]string{p.file("client.pem"), p.file("expired-key.pem"), "does not match public key"}},
		{"missing file", true, []string{flag("cafile", p.dir, "nowhere.pem"), cert, key},
			[]string{p.file("nowhere.pem"), "no such file"}},
		{"certificate without key", true, []string{ca, cert},
			[]string{"-etcd-keyfile", "want both or neither"}},
		{"key in the place of the certificate", true, []string{ca, flag("certfile", p.dir, "client-key.pem"), key},
			[]string{p.file("client-key.pem")}},
		{"no certificate in the CA file", true, []string{flag("cafile", p.dir, "ca-key.pem"), cert, key},
			[]string{p.file("ca-key.pem"), "no certificate"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := s.members[0]
			args := append([]string{"-etcd-endpoints=" + endpoints, "-subnet-file=" + h.Path("subnet.env"), "-state-dir=" + h.Path("state")}, c.args...)
			d, err := h.Start(s.ctx, lab.Command{Name: "flanneld", Path: binary(t, "flanneld"), Args: args})
			if err != nil {
				t.Fatal(err)
			}
			defer d.Stop()
			ctx, cancel := context.WithTimeout(s.ctx, 20*time.Second)
			defer cancel()
			if c.exits {
				state, err := d.Wait(ctx)
				if err != nil || state.ExitCode() != 1 {
					t.Errorf("it ended with %v, %v: want exit status 1", state, err)
				}
			} else if _, err := d.WaitLog(ctx, 0, "Couldn't fetch network config"); err != nil {
				t.Error(err)
			}
			for _, says := range c.says {
				if _, err := d.WaitLog(ctx, 0, says); err != nil {
					t.Errorf("%v; it said:\n%s", err, strings.Join(d.Lines(), "\n"))
				}
			}
			if !c.exits && !d.Running() {
				t.Errorf("it does not keep trying:\n%s", strings.Join(d.Lines(), "\n"))
			}
		})
	}

	// The server's side: etcd starts with a certificate that has expired.
	s.step("expired server certificate", func() {
		p.issue("server", "server", "1m", "-hostname="+members)
		h := s.members[0]
		d, err := h.Start(s.ctx, lab.Command{Name: "flanneld", Path: binary(t, "flanneld"), Args: append([]string{
			"-etcd-endpoints=" + s.members[1].client(), "-subnet-file=" + h.Path("subnet.env"), "-state-dir=" + h.Path("state"),
		}, ca, cert, key)})
		s.must(err)
		defer d.Stop()
		if _, err := d.WaitLog(s.ctx, 0, "the server's certificate is valid from "); err != nil {
			s.t.Errorf("%v; it said:\n%s", err, strings.Join(d.Lines(), "\n"))
		}
		p.issue("server", "server", "", "-hostname="+members)
		if err := d.WaitReady(s.ctx); err != nil {
			s.t.Error(err)
		}
	})
}
