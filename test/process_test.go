package test

import (
	"context"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"tweed/test/embedetcd"
	"tweed/test/lab"
)

// TestExits has every mistake that ends the daemon: with status 1 and a
// message that names what is wrong, its value, and what is valid.
func TestExits(t *testing.T) {
	t.Parallel()
	c := newLab(t, lab.Options{})
	n := c.addHost()
	dir := t.TempDir()
	ca, err := embedetcd.NewCA(dir, "ca")
	c.must(err)
	client, err := ca.Issue("client", nil, time.Time{})
	c.must(err)
	n.writeFile("junk.pem", "junk")
	junk, missing := n.Path("junk.pem"), filepath.Join(dir, "missing.pem")
	for _, tt := range []struct {
		config string // of the Backend, "" for alloc
		args   []string
		want   []string
	}{
		{"", []string{"-subnet-lease-renew-margin=0"}, []string{"-subnet-lease-renew-margin 0: want 1 to 1439 minutes"}},
		{"", []string{"-subnet-lease-renew-margin=1440"}, []string{"-subnet-lease-renew-margin 1440: want 1 to 1439 minutes"}},
		{"", []string{"-iptables-resync=0"}, []string{"-iptables-resync 0: want 1 second or more"}},
		{"", []string{"-healthz-port=65536"}, []string{"-healthz-port 65536: want a port from 1 to 65535"}},
		{"", []string{"-kube-subnet-mgr"}, []string{"-kube-subnet-mgr is not supported yet: want etcd"}},
		{"", []string{"-public-ip=here"}, []string{`-public-ip "here": not an IP address: want the IPv4 address`}},
		{"", []string{"-public-ip=2001:db8::1"}, []string{`-public-ip "2001:db8::1": IPv6 is not supported`}},
		{"", []string{"-public-ip=0.0.0.0"}, []string{`-public-ip "0.0.0.0": not the address of one host`}},
		{"", []string{"-public-ipv6=2001:db8::1"}, []string{`-public-ipv6 "2001:db8::1" is not supported yet`}},
		{"", []string{"-etcd-endpoints="}, []string{"-etcd-endpoints is empty: want"}},
		{"", []string{"-etcd-endpoints=192.0.2.1:2379"}, []string{"-etcd-endpoints", `"192.0.2.1:2379"`, "want a list such as http://"}},
		{"", []string{"-etcd-certfile=" + client.CertFile}, []string{"-etcd-certfile \"" + client.CertFile + `" and -etcd-keyfile "": want both or neither`}},
		{"", []string{"-etcd-keyfile=" + client.KeyFile}, []string{"-etcd-keyfile \"" + client.KeyFile + `": want both or neither`}},
		{"", []string{"-etcd-certfile=" + client.CertFile, "-etcd-keyfile=" + junk}, []string{"-etcd-keyfile: " + junk + " holds no private key: want a PEM file with the key of the client certificate"}},
		{"", []string{"-etcd-cafile=" + missing}, []string{"-etcd-cafile: open " + missing + ": no such file or directory: want a PEM file"}},
		{"", []string{"-etcd-cafile=" + junk}, []string{"-etcd-cafile: " + junk + " holds no certificate: want a PEM file"}},
		{"", []string{"-etcd-cafile=" + dir}, []string{"-etcd-cafile: read " + dir + ": is a directory"}},
		{"", []string{"-iface=eth7"}, []string{"no interface to use: -iface=eth7: ", "this host has ", "eth0", "name one with -iface=NAME"}},
		{"", []string{"-iface=20.0.0.77"}, []string{"-iface=20.0.0.77: "}},
		{"", []string{"-iface-regex=(("}, []string{`-iface-regex "((": `, "want a regular expression such as"}},
		{"", []string{"-iface-regex=^wlan"}, []string{"-iface-regex=^wlan: "}},
		{"", []string{"-iface-can-reach=there"}, []string{`-iface-can-reach "there": not an IP address`}},
		{`{"Type":"vlan"}`, nil, []string{`unknown backend type "vlan" in the network config: want Backend.Type to be one of alloc, host-gw, udp, vxlan`}},
		{`{"Type":""}`, nil, []string{`unknown backend type ""`, "one of alloc, host-gw, udp, vxlan"}},
		{`{"VNI":1}`, nil, []string{`unknown backend type ""`}},
		{`{"Type":"vxlan","VNI":"1"}`, nil, []string{"vxlan: in Backend: VNI: want a whole number, not a JSON string"}},
		{`{"Type":"vxlan","VNI":-1}`, nil, []string{"Backend: VNI -1: want a number from 0 to"}},
		{`{"Type":"vxlan","Port":65536}`, nil, []string{"Backend: Port 65536: want a UDP port from 1 to 65535"}},
		{`{"Type":"vxlan","GBP":1}`, nil, []string{"in Backend: GBP: want true or false, not a JSON number"}},
		{`{"Type":"vxlan","DirectRouting":"yes"}`, nil, []string{"in Backend: DirectRouting: want true or false"}},
		{`{"Type":"udp","Port":true}`, nil, []string{"in Backend: Port: want a whole number, not a JSON bool"}},
		{`{"Type":"udp","Port":0}`, nil, []string{"in Backend: Port 0: want a UDP port from 1 to 65535"}},
		{`{"Type":"host-gw"}`, []string{"-public-ip=192.0.2.1"}, []string{"host-gw", "192.0.2.1", "20.0.0.2"}},
	} {
		c.step(tt.config+joined(tt.args), func() {
			if tt.config == "" {
				tt.config = `{"Type":"alloc"}`
			}
			c.set(configKey, `{"Network":"10.5.0.0/16","Backend":`+tt.config+`}`, 0)
			n.launch(tt.args...)
			said := n.wantExit(1)
			last := n.daemon.Lines()[len(n.daemon.Lines())-1]
			wantTexts(c.t, last, tt.want...)
			if last[0] != 'E' {
				c.t.Errorf("the last line is no error: %q", last)
			}
			n.checkGlog()
			if got := c.subnets(); got != nil {
				c.t.Errorf("it left leases behind: %v; it said:\n%s", got, said)
			}
		})
	}
}

func joined(args []string) string {
	s := ""
	for _, a := range args {
		s += " " + a
	}
	return s
}

// TestNoInterface has a host without a default route.
func TestNoInterface(t *testing.T) {
	t.Parallel()
	c := newLab(t, lab.Options{})
	h, err := c.AddHostWith(c.ctx, "lonely", lab.HostOptions{Outside: true})
	c.must(err)
	n := &node{Host: h, c: c}
	n.launch()
	wantTexts(t, n.wantExit(1), "no interface to use: ", "default route", "eth0", "name one with -iface=NAME or -iface=ADDRESS")
}

// TestEnvironment sets flags by variables: the command line wins, what is
// empty counts as unset, and what cannot be used is told.
func TestEnvironment(t *testing.T) {
	t.Parallel()
	c := newLab(t, lab.Options{})
	c.set("/env/config", config(`"alloc"`), 0)
	c.set("/arg/config", config(`"host-gw"`), 0)
	n := c.addHost()
	env := []string{
		"FLANNELD_ETCD_ENDPOINTS=http://" + etcdAddr,
		"FLANNELD_ETCD_PREFIX=/env",
		"FLANNELD_SUBNET_FILE=" + n.Path("subnet.env"),
		"FLANNELD_STATE_DIR=" + n.Path("state"),
		"FLANNELD_IFACE=eth0",
		"FLANNELD_PUBLIC_IP=",
		"FLANNELD_IP_MASQ=true",
		"FLANNELD_HEALTHZ_PORT=many",
		"FLANNELD_VERSION=true",
		"FLANNELD_ETCD_PREFIXES=/other",
	}
	check := func(backend string, masq bool) {
		t.Helper()
		c.must(n.daemon.WaitReady(c.ctx))
		n.wantLog("Found network config - Backend type: " + backend)
		wantTexts(t, n.output(), `ignoring FLANNELD_HEALTHZ_PORT="many": want a whole number; going on with -healthz-port=0`,
			"ignoring the unknown environment variable FLANNELD_ETCD_PREFIXES, did you mean FLANNELD_ETCD_PREFIX?")
		got, err := n.SubnetEnv()
		c.must(err)
		if got.IPMasq != masq {
			t.Errorf("FLANNEL_IPMASQ=%t, want %t", got.IPMasq, masq)
		}
		n.stop()
	}
	n.launchWith(env)
	check("alloc", true)
	n.launchWith(env, "-etcd-prefix=/arg", "-ip-masq=false")
	check("host-gw", false)
	// What follows a word that is not a flag is ignored.
	n.launchWith(env, "-etcd-prefix=/arg", "-ip-masq", "false", "-ip-masq=false")
	check("host-gw", true)
	wantTexts(t, n.output(), "ignoring the rest of the command line behind -ip-masq, 2 word(s)")
}

// TestNotRoot starts the daemon without privileges.
func TestNotRoot(t *testing.T) {
	t.Parallel()
	for _, backend := range []string{"vxlan", "udp", "host-gw"} {
		t.Run(backend, func(t *testing.T) {
			c := newLab(t, lab.Options{})
			c.set(configKey, config(`"`+backend+`"`), 0)
			n := c.addHost()
			said, err := n.asNobody()
			if err == nil || err.Error() != "exit status 1" {
				t.Errorf("%v, want exit status 1", err)
			}
			wantTexts(t, said, "backend "+backend+": this process may not change the network: run flanneld as root")
			if got := c.subnets(); got != nil {
				t.Errorf("it left leases behind: %v", got)
			}
		})
	}
}

// asNobody runs the daemon without any privilege until it ends.
func (n *node) asNobody(args ...string) (string, error) {
	n.c.t.Helper()
	// Neither the build nor the lab need be readable for everyone.
	dir, err := os.MkdirTemp("", "tweed-nobody-")
	n.c.must(err)
	defer os.RemoveAll(dir)
	n.c.must(os.Chmod(dir, 0o755))
	program, err := os.ReadFile(binary(n.c.t, "flanneld"))
	n.c.must(err)
	path := filepath.Join(dir, "flanneld")
	n.c.must(os.WriteFile(path, program, 0o755))

	ctx, cancel := context.WithTimeout(n.c.ctx, daemonTime)
	defer cancel()
	args = append(args, "-etcd-endpoints=http://"+etcdAddr, "-subnet-file="+filepath.Join(dir, "subnet.env"), "-state-dir="+dir)
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env, cmd.Dir = []string{}, "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	var out []byte
	var runErr error
	n.c.must(n.NS.Do(func() error {
		out, runErr = cmd.CombinedOutput()
		return nil
	}))
	return string(out), runErr
}

// TestPortsTaken finds the ports in use that it needs.
func TestPortsTaken(t *testing.T) {
	t.Parallel()
	c := newLab(t, lab.Options{})
	c.set(configKey, config(`"alloc"`), 0)
	n := c.addHost()
	l, err := n.NS.Listen(c.ctx, netip.MustParseAddrPort("0.0.0.0:8081"))
	c.must(err)
	defer l.Close()
	n.launch("-healthz-port=8081")
	wantTexts(t, n.wantExit(1), "health check on 0.0.0.0:8081: ", "address already in use", "-healthz-ip and -healthz-port")
	n.launch("-healthz-port=8082", "-healthz-ip=192.0.2.1")
	wantTexts(t, n.wantExit(1), "health check on 192.0.2.1:8082: ", "cannot assign requested address")

	// Not asked for, it is not opened.
	before := n.listeners()
	n.start()
	n.wantLog("Running backend.")
	if got := n.listeners(); got != before {
		t.Errorf("%d sockets listen, were %d", got, before)
	}
	n.stop()
}
