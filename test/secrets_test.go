package test

import (
	"os"
	"strings"
	"testing"
	"time"

	"tweed/test/embedetcd"
	"tweed/test/lab"
)

const rootPassword = "s3cr3t-of-root"

// TestTLS has certificates that fit, and some that do not.
func TestTLS(t *testing.T) {
	t.Parallel()
	c := newLab(t, lab.Options{})
	ca, err := embedetcd.NewCA(t.TempDir(), "ca")
	c.must(err)
	stranger, err := embedetcd.NewCA(t.TempDir(), "stranger")
	c.must(err)
	issue := func(ca *embedetcd.CA, name string, notAfter time.Time, hosts ...string) embedetcd.TLS {
		files, err := ca.Issue(name, hosts, notAfter)
		c.must(err)
		return files
	}
	server := issue(ca, "server", time.Time{}, "20.0.0.1")
	expired := issue(ca, "expired", time.Now().Add(-time.Hour))
	client := issue(ca, "client", time.Time{})
	alien := issue(stranger, "alien", time.Time{})
	elsewhere := issue(ca, "elsewhere", time.Time{}, "192.0.2.9")
	open := server
	open.CAFile = ""
	const plainURL, openURL, mutualURL = "http://" + etcdAddr, "https://20.0.0.1:2401", "https://20.0.0.1:2402"
	for _, s := range []*embedetcd.Server{
		c.serve("20.0.0.1:2401", embedetcd.Options{TLS: &open}),
		c.serve("20.0.0.1:2402", embedetcd.Options{TLS: &server}),
		c.serve("20.0.0.1:2403", embedetcd.Options{TLS: &elsewhere}),
		c.Etcd,
	} {
		c.must(s.Set(c.ctx, configKey, config(`"alloc"`), 0))
	}

	n := c.addHost()
	for _, tt := range []struct {
		name string
		url  string
		ca   string
		cert embedetcd.TLS
		log  []string // nil if all is well
	}{
		{"CA only", openURL, ca.File, embedetcd.TLS{}, nil},
		{"client certificate", mutualURL, ca.File, client, nil},
		{"client certificate not asked for", openURL, ca.File, client, nil},
		{"no client certificate", mutualURL, ca.File, embedetcd.TLS{}, []string{mutualURL, "may want a client certificate (-etcd-certfile, -etcd-keyfile)"}},
		{"strange client certificate", mutualURL, ca.File, alien, []string{mutualURL, "does not like the client certificate -etcd-certfile " + alien.CertFile}},
		{"expired client certificate", mutualURL, ca.File, expired, []string{mutualURL, "-etcd-certfile " + expired.CertFile, "which expired at"}},
		{"wrong CA", openURL, stranger.File, embedetcd.TLS{}, []string{openURL, "not from a CA in -etcd-cafile " + stranger.File}},
		{"no CA", openURL, "", embedetcd.TLS{}, []string{openURL, "-etcd-cafile names no other"}},
		{"http to https", "http://20.0.0.1:2401", ca.File, embedetcd.TLS{}, []string{"http://20.0.0.1:2401", "write https:// in -etcd-endpoints"}},
		{"https to http", "https://" + etcdAddr, ca.File, embedetcd.TLS{}, []string{"https://" + etcdAddr, "write http:// in -etcd-endpoints"}},
		{"not in the certificate", "https://20.0.0.1:2403", ca.File, client, []string{"https://20.0.0.1:2403", "192.0.2.9", "not 20.0.0.1"}},
	} {
		c.step(tt.name, func() {
			n.launch("-etcd-endpoints="+tt.url, "-etcd-cafile="+tt.ca, "-etcd-certfile="+tt.cert.CertFile, "-etcd-keyfile="+tt.cert.KeyFile)
			if tt.log == nil {
				c.must(n.daemon.WaitReady(c.ctx))
			} else {
				n.wantLog(noConfig)
				wantTexts(c.t, strings.Join(n.linesWith(noConfig), "\n"), append(tt.log, configKey)...)
				n.wantRunning()
			}
			n.stop()
		})
	}
}

// TestAuth has an etcd with users, and looks for their passwords wherever the
// daemon writes to.
func TestAuth(t *testing.T) {
	t.Parallel()
	c := newLab(t, lab.Options{})
	c.set(configKey, config(`"vxlan"`), 0)
	const user, secret, wrong = "flannel", "pa55word-x", "pa55wrong-x"
	c.admin(etcdAddr, "PUT", "/v2/auth/users/root", `{"user":"root","password":"`+rootPassword+`"}`)
	c.admin(etcdAddr, "PUT", "/v2/auth/roles/net", `{"role":"net","permissions":{"kv":{"read":["/coreos.com/*"],"write":["/coreos.com/*"]}}}`)
	c.admin(etcdAddr, "PUT", "/v2/auth/users/"+user, `{"user":"`+user+`","password":"`+secret+`","roles":["net"]}`)
	c.admin(etcdAddr, "PUT", "/v2/auth/enable", "")
	c.admin(etcdAddr, "DELETE", "/v2/auth/roles/guest", "")
	const url, userinfo = "http://" + etcdAddr, "http://" + user + ":" + secret + "@" + etcdAddr

	n := c.addHost()
	for _, tt := range []struct {
		name string
		env  []string
		args []string
		log  string // "" if all is well
	}{
		{"flags", nil, []string{"-etcd-endpoints=" + url, "-etcd-username=" + user, "-etcd-password=" + secret}, ""},
		{"environment", []string{"FLANNELD_ETCD_USERNAME=" + user, "FLANNELD_ETCD_PASSWORD=" + secret, "FLANNELD_ETCD_PASSWROD=" + secret},
			[]string{"-etcd-endpoints=" + url}, ""},
		{"userinfo", nil, []string{"-etcd-endpoints=" + userinfo}, ""},
		{"userinfo, one endpoint dead", nil, []string{"-etcd-endpoints=http://" + user + ":" + secret + "@20.0.0.1:1," + userinfo}, ""},
		{"nobody", nil, []string{"-etcd-endpoints=" + url}, "etcd wants a user for this (-etcd-username, -etcd-password)"},
		{"wrong password", nil, []string{"-etcd-endpoints=" + url, "-etcd-username=" + user, "-etcd-password=" + wrong}, `etcd does not let user "` + user + `" do this`},
		{"wrong userinfo", nil, []string{"-etcd-endpoints=http://" + user + ":" + wrong + "@" + etcdAddr}, `etcd does not let user "` + user + `" do this`},
		{"userinfo, all dead", nil, []string{"-etcd-endpoints=http://" + user + ":" + secret + "@20.0.0.1:1"}, "connection refused"},
	} {
		c.step(tt.name, func() {
			n.launchWith(tt.env, n.fileArgs(append(tt.args, "-v=10", "-healthz-port=8081")...)...)
			if tt.log == "" {
				n.wantHealth("/readyz", 200)
			} else {
				n.wantLog(noConfig)
				wantTexts(c.t, n.output(), tt.log)
			}
			_, ready := n.health("/readyz")
			_, alive := n.health("/healthz")
			n.stop()
			wantNoSecret(c.t, "the log and the health checks", n.output()+ready+alive)
			for _, f := range []string{n.Path("subnet.env"), n.stateFile(), n.daemon.Log} {
				b, _ := os.ReadFile(f)
				wantNoSecret(c.t, f, string(b))
			}
		})
	}
	// Those that end the daemon have something to say, too.
	for _, endpoint := range []string{
		"ftp://" + user + ":" + secret + "@" + etcdAddr,
		user + ":" + secret + "@" + etcdAddr,
		"http://" + user + ":" + secret + "/@" + etcdAddr,
		"http://" + user + ":" + secret + "%zz@" + etcdAddr,
	} {
		c.step(endpoint, func() {
			n.launch("-etcd-endpoints=" + endpoint)
			said := n.wantExit(1)
			wantTexts(c.t, said, "-etcd-endpoints", "want")
			wantNoSecret(c.t, "the log", said)
		})
	}
}

// TestProxySecret has a dead proxy before etcd, with a password in its URL.
func TestProxySecret(t *testing.T) {
	t.Parallel()
	c := newLab(t, lab.Options{})
	n := c.addHost()
	for _, proxy := range []string{
		"http://user:pa55word-x@20.0.0.1:1",
		"socks5://user:pa55word-x@20.0.0.1:1",
	} {
		c.step(proxy, func() {
			n.launchWith([]string{"HTTP_PROXY=" + proxy, "NO_PROXY="}, n.fileArgs("-etcd-endpoints=http://"+etcdAddr, "-v=10", readyArgs)...)
			n.wantLog("20.0.0.1:1: connect: connection refused")
			_, ready := n.health("/readyz")
			n.stop()
			wantNoSecret(c.t, "the log and /readyz", n.output()+ready)
		})
	}
}

func wantNoSecret(t *testing.T, where, text string) {
	t.Helper()
	for _, secret := range []string{"pa55", "cGE1N", "Zmxhbm5lbDpwYTU1"} { // plain, and two forms of base64
		if strings.Contains(text, secret) {
			t.Errorf("%s has %q in it:\n%s", where, secret, text)
		}
	}
}
