package test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"tweed/test/embedetcd"
	"tweed/test/lab"
	"tweed/test/nstest"
)

// A tlsCluster is a node and an etcd 3.4 as Debian has it, on a host of its own,
// that demands a client certificate. Both have copies of their TLS files, which
// a test replaces; etcd reads its certificate again for each connection.
type tlsCluster struct {
	*cluster
	server, n *node
	etcd      *lab.Process
	url       string
	dir       string // of the originals
	ca        *embedetcd.CA
	good      embedetcd.TLS // of the client
	serverTLS embedetcd.TLS // good as well
}

func newTLSCluster(t *testing.T) *tlsCluster {
	t.Helper()
	c := &tlsCluster{cluster: newLab(t, lab.Options{}), dir: t.TempDir()}
	c.server, c.n = c.addHost(), c.addHost()
	c.url = fmt.Sprintf("https://%s:2379", c.server.Addr)
	c.ca = c.newCA("ca")
	c.good, c.serverTLS = c.issue(c.ca, "client"), c.issue(c.ca, "server", c.server.Addr.String())
	c.serve("ca.pem", c.serverTLS)
	c.use(c.good)
	c.startTLSEtcd()
	c.putConfig(config(`"alloc"`))
	return c
}

func (c *tlsCluster) newCA(name string) *embedetcd.CA {
	c.t.Helper()
	ca, err := embedetcd.NewCA(c.dir, name)
	c.must(err)
	return ca
}

func (c *tlsCluster) issue(ca *embedetcd.CA, name string, hosts ...string) embedetcd.TLS {
	c.t.Helper()
	return c.issueUntil(time.Time{}, ca, name, hosts...)
}

func (c *tlsCluster) issueUntil(end time.Time, ca *embedetcd.CA, name string, hosts ...string) embedetcd.TLS {
	c.t.Helper()
	files, err := ca.Issue(name, hosts, end)
	c.must(err)
	return files
}

func (c *tlsCluster) copy(from string, n *node, name string) {
	c.t.Helper()
	b, err := os.ReadFile(from)
	c.must(err)
	n.writeFile(name, string(b))
}

// serve gives etcd a certificate, and ca, of c.dir, for those of its clients;
// the latter it reads at its start only.
func (c *tlsCluster) serve(ca string, files embedetcd.TLS) {
	c.t.Helper()
	c.copy(filepath.Join(c.dir, ca), c.server, "ca.pem")
	c.copy(files.CertFile, c.server, "server.pem")
	c.copy(files.KeyFile, c.server, "server-key.pem")
}

// use gives the node a client certificate and the CA of it.
func (c *tlsCluster) use(files embedetcd.TLS) {
	c.t.Helper()
	c.copy(files.CAFile, c.n, "ca.pem")
	c.useClient(files)
}

func (c *tlsCluster) useClient(files embedetcd.TLS) {
	c.t.Helper()
	c.copy(files.CertFile, c.n, "client.pem")
	c.copy(files.KeyFile, c.n, "client-key.pem")
}

func (c *tlsCluster) startTLSEtcd() {
	c.t.Helper()
	path, err := exec.LookPath("etcd")
	if err != nil {
		nstest.Missing(c.t, "etcd (Debian package etcd-server)")
	}
	c.etcd, err = c.server.Start(c.ctx, lab.Command{Name: "etcd", Path: path, Args: []string{
		"--data-dir", c.server.Path("etcd"), "--enable-v2", "--logger=zap", "--log-level=error",
		"--listen-client-urls", c.url, "--advertise-client-urls", c.url,
		"--listen-peer-urls", fmt.Sprintf("http://%s:2380", c.server.Addr),
		"--initial-advertise-peer-urls", fmt.Sprintf("http://%s:2380", c.server.Addr),
		"--initial-cluster", fmt.Sprintf("default=http://%s:2380", c.server.Addr),
		"--client-cert-auth", "--trusted-ca-file", c.server.Path("ca.pem"),
		"--cert-file", c.server.Path("server.pem"), "--key-file", c.server.Path("server-key.pem"),
	}})
	c.must(err)
}

// putConfig writes the network config with good files, as soon as etcd is up.
func (c *tlsCluster) putConfig(value string) {
	c.t.Helper()
	pem, err := os.ReadFile(c.ca.File)
	c.must(err)
	cfg := &tls.Config{RootCAs: x509.NewCertPool()}
	cfg.RootCAs.AppendCertsFromPEM(pem)
	cert, err := tls.LoadX509KeyPair(c.good.CertFile, c.good.KeyFile)
	c.must(err)
	cfg.Certificates = []tls.Certificate{cert}
	client := http.Client{Transport: &http.Transport{DialContext: c.n.NS.DialContext, TLSClientConfig: cfg, DisableKeepAlives: true}}
	c.eventually("etcd 3.4", func() error {
		req, err := http.NewRequestWithContext(c.ctx, "PUT", c.url+"/v2/keys"+configKey, strings.NewReader("value="+value))
		if err != nil {
			return err
		}
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		resp, err := client.Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode/100 != 2 {
			return fmt.Errorf("status %s", resp.Status)
		}
		return nil
	})
}

// flags are those for etcd; more of them win.
func (c *tlsCluster) flags(more ...string) []string {
	return append([]string{"-etcd-endpoints=" + c.url, "-etcd-cafile=" + c.n.Path("ca.pem"),
		"-etcd-certfile=" + c.n.Path("client.pem"), "-etcd-keyfile=" + c.n.Path("client-key.pem")}, more...)
}

// wantComplaint waits for one line of the log with all the texts.
func (c *tlsCluster) wantComplaint(texts ...string) {
	c.t.Helper()
	c.eventually(fmt.Sprintf("a line with %q", texts), func() error {
	lines:
		for _, line := range c.n.daemon.Lines() {
			for _, text := range texts {
				if !strings.Contains(line, text) {
					continue lines
				}
			}
			c.t.Log(line)
			return nil
		}
		return fmt.Errorf("not in\n%s", c.n.output())
	})
	c.n.wantRunning()
}

// TestTLSTrouble starts the daemon with what is wrong with certificates and
// endpoints: each time it says so, waits, and goes on as soon as that is mended.
func TestTLSTrouble(t *testing.T) {
	t.Parallel()
	c := newTLSCluster(t)
	past := time.Now().Add(-time.Hour)
	foreign := c.newCA("foreign")
	expired := c.issueUntil(past, c.ca, "expired", c.server.Addr.String())
	otherHost := c.issue(c.ca, "other-host", "192.0.2.1", "etcd.example")
	newServer := c.issue(foreign, "new-server", c.server.Addr.String())
	oldClient := c.issueUntil(past, c.ca, "old-client")
	foreignClient := c.issue(foreign, "foreign-client")
	ours, certFile := c.n.Path("ca.pem"), c.n.Path("client.pem")
	asked := "Couldn't fetch network config: read " + configKey + ": " + c.url + ": "
	for _, tt := range []struct {
		name string
		harm func()
		args []string
		want []string
		mend func() // nil where it takes other flags
	}{
		{"wrong CA", func() { c.copy(foreign.File, c.n, "ca.pem") }, nil,
			[]string{asked + `the server's certificate (issued by "CN=ca") is not from a CA in -etcd-cafile ` + ours + ": ", "x509: certificate signed by unknown authority"},
			func() { c.copy(c.ca.File, c.n, "ca.pem") }},
		{"expired server certificate", func() { c.serve("ca.pem", expired) }, nil,
			[]string{asked + "the server's certificate is valid from ", " to " + past.Local().Format(time.RFC3339) + ": ", "x509: certificate has expired"},
			func() { c.serve("ca.pem", c.serverTLS) }},
		{"certificate of another host", func() { c.serve("ca.pem", otherHost) }, nil,
			[]string{asked + "the server's certificate is for another host: want it among the names and addresses (SANs) of the certificate: ", "valid for 192.0.2.1, not " + c.server.Addr.String()},
			func() { c.serve("ca.pem", c.serverTLS) }},
		{"new CA of the server", func() { c.serve("ca.pem", newServer) }, nil,
			[]string{asked + `the server's certificate (issued by "CN=foreign") is not from a CA in -etcd-cafile ` + ours + ": "},
			func() { c.copy(foreign.File, c.n, "ca.pem") }},
		{"expired client certificate", func() { c.useClient(oldClient) }, nil,
			[]string{asked + "the server does not like the client certificate -etcd-certfile " + certFile + ", which expired at " + past.Local().Format(time.RFC3339) + ": remote error: tls: "},
			func() { c.useClient(c.good) }},
		{"client of another CA", func() { c.useClient(foreignClient) }, nil,
			[]string{asked + "the server does not like the client certificate -etcd-certfile " + certFile + ` (issued by "CN=foreign"): remote error: tls: `},
			func() { c.useClient(c.good) }},
		{"no client certificate", func() {}, []string{"-etcd-certfile=", "-etcd-keyfile="},
			[]string{asked + "the server may want a client certificate (-etcd-certfile, -etcd-keyfile): remote error: tls: "}, nil},
		{"http to a TLS port", func() {}, []string{"-etcd-endpoints=" + strings.Replace(c.url, "https:", "http:", 1)},
			[]string{strings.Replace(asked, "https:", "http:", 1) + "connection closed without an answer (is http:// or https:// right?)"}, nil},
		{"https to a plain port", func() {}, []string{"-etcd-endpoints=https://" + etcdAddr},
			[]string{"https://" + etcdAddr + ": the server does not speak TLS: write http:// in -etcd-endpoints: "}, nil},
	} {
		c.step(tt.name, func() {
			c.serve("ca.pem", c.serverTLS)
			c.use(c.good)
			tt.harm()
			c.n.launch(c.flags(tt.args...)...)
			c.wantComplaint(tt.want...)
			if c.n.toldReady() {
				c.t.Error("it is ready")
			}
			if tt.mend != nil {
				tt.mend()
				ctx, cancel := context.WithTimeout(c.ctx, daemonTime)
				defer cancel()
				c.must(c.n.daemon.WaitReady(ctx))
			}
			c.n.stop()
		})
	}
}

// TestTLSReplaced replaces all certificates while the daemon runs, and is told
// of files that are no good meanwhile.
func TestTLSReplaced(t *testing.T) {
	t.Parallel()
	c := newTLSCluster(t)
	c.n.start(c.flags("-healthz-port=8081")...)
	const expiry = "tweed_etcd_client_certificate_expiry_timestamp_seconds"
	c.n.wantMetric(expiry, atLeast(float64(time.Now().Unix())))

	newer := c.newCA("newer")
	newServer, newClient := c.issue(newer, "new-server", c.server.Addr.String()), c.issueUntil(time.Now().Add(2*time.Hour), newer, "new-client")
	c.serve("newer.pem", newServer)
	c.n.writeFile("ca.pem", "-----BEGIN CERTI")
	c.must(c.etcd.Kill()) // its own end waits for our long poll
	c.startTLSEtcd()
	c.wantComplaint("going on with the TLS files as they were read before: -etcd-cafile: " + c.n.Path("ca.pem") + " holds no certificate: want")
	c.wantComplaint("Couldn't watch the leases", "CN=newer", `is not from a CA in -etcd-cafile `+c.n.Path("ca.pem"))
	at := c.n.wantTold(0, " by alloc, 0 peers; etcd does not answer since ")

	c.copy(newer.File, c.n, "ca.pem")
	c.useClient(newClient)
	c.wantComplaint("using the TLS files that were replaced", "ca="+c.n.Path("ca.pem"))
	c.wantComplaint("using the TLS files that were replaced", "cert="+c.n.Path("client.pem")+" key="+c.n.Path("client-key.pem"))
	c.n.wantTold(at, " by alloc, 0 peers")
	c.n.wantMetric(expiry, func(v float64) bool { return time.Until(time.Unix(int64(v), 0)) < 3*time.Hour })
	c.wantComplaint("the client certificate -etcd-certfile " + c.n.Path("client.pem") + " expires at ")
	c.n.stop()
}

// TestTLSFilesRefused has files that end the daemon at its start.
func TestTLSFilesRefused(t *testing.T) {
	t.Parallel()
	c := newLab(t, lab.Options{})
	n := c.addHost()
	dir := t.TempDir()
	ca, err := embedetcd.NewCA(dir, "ca")
	c.must(err)
	client, err := ca.Issue("client", nil, time.Time{})
	c.must(err)
	other, err := ca.Issue("other", nil, time.Time{})
	c.must(err)
	missing := filepath.Join(dir, "missing.pem")
	for _, tt := range []struct{ ca, cert, key, want string }{
		{missing, client.CertFile, client.KeyFile, "-etcd-cafile: open " + missing + ": no such file or directory: want a PEM file with CA certificates"},
		{ca.File, missing, client.KeyFile, "-etcd-certfile: open " + missing + ": no such file or directory: want a PEM file with the client certificate"},
		{ca.File, client.CertFile, missing, "-etcd-keyfile: open " + missing + ": no such file or directory: want a PEM file with the key of the client certificate"},
		{ca.File, client.CertFile, dir, "-etcd-keyfile: read " + dir + ": is a directory: want"},
		{ca.File, client.CertFile, other.KeyFile, "-etcd-certfile " + client.CertFile + " with -etcd-keyfile " + other.KeyFile + ": tls: private key does not match public key: want a PEM certificate and its key"},
		{client.KeyFile, client.CertFile, client.KeyFile, "-etcd-cafile: " + client.KeyFile + " holds no certificate: want"},
	} {
		c.step(tt.want, func() {
			n.launch("-etcd-cafile="+tt.ca, "-etcd-certfile="+tt.cert, "-etcd-keyfile="+tt.key)
			wantTexts(c.t, n.wantExit(1), tt.want)
		})
	}
	// root may read everything; another user may not read its key.
	said, err := n.asNobody("-etcd-certfile=/etc/hostname", "-etcd-keyfile="+client.KeyFile)
	if err == nil || err.Error() != "exit status 1" {
		t.Errorf("%v, want exit status 1", err)
	}
	wantTexts(t, said, "-etcd-keyfile: open "+client.KeyFile+": permission denied: want a PEM file")
}
