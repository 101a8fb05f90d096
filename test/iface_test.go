package test

import (
	"fmt"
	"strings"
	"testing"

	"tweed/test/lab"
)

// TestInterface chooses between two interfaces, eth0 with the default route
// and two addresses, and eth1, and looks at log and lease.
func TestInterface(t *testing.T) {
	t.Parallel()
	c := newLab(t, lab.Options{})
	n := c.addHost()
	n.run("ip addr add 20.0.0.200/24 dev eth0")
	n.run("ip link add eth1 type veth peer name eth1peer")
	n.run("ip addr add 20.7.0.1/24 dev eth1")
	n.run("ip link set eth1 up")
	n.run("ip link set eth1peer up")
	n.run("ip route add 20.8.0.0/16 via 20.7.0.254")
	eth0 := n.Addr.String()
	tests := []struct {
		args       string
		name, addr string
		published  string // default addr
		log        string
	}{
		{"", "eth0", eth0, "", ""},
		{"-iface=eth0", "eth0", eth0, "", ""},
		{"-iface=eth1", "eth1", "20.7.0.1", "", ""},
		{"-iface=20.7.0.1", "eth1", "20.7.0.1", "", ""},
		{"-iface=20.0.0.200", "eth0", "20.0.0.200", "", ""},
		{"-iface=wlan0 -iface=20.0.0.201 -iface=eth1 -iface=eth0", "eth1", "20.7.0.1", "", "-iface=wlan0"},
		{"-iface-regex=^20[.]7[.]", "eth1", "20.7.0.1", "", ""},
		{"-iface-regex=th1$", "eth1", "20.7.0.1", "", ""},
		{"-iface-regex=^wlan -iface-regex=^eth1", "eth1", "20.7.0.1", "", "-iface-regex=^wlan"},
		{"-iface=nope -iface-regex=^eth1$", "eth1", "20.7.0.1", "", "-iface=nope"},
		{"-iface-can-reach=20.8.9.9", "eth1", "20.7.0.1", "", ""},
		{"-iface-can-reach=9.9.9.9", "eth0", eth0, "", ""},
		{"-iface=eth1 -public-ip=198.51.100.7", "eth1", "20.7.0.1", "198.51.100.7", "Using 198.51.100.7 as external address"},
	}
	for i, tt := range tests {
		prefix := fmt.Sprintf("/net%d", i)
		c.set(prefix+"/config", `{"Network":"10.5.0.0/16","Backend":{"Type":"alloc"}}`, 0)
		n.start(append(strings.Fields(tt.args), "-etcd-prefix="+prefix)...)
		n.wantLog(fmt.Sprintf("Using interface with name %s and address %s", tt.name, tt.addr))
		if tt.log != "" {
			n.wantLog(tt.log)
		}
		if tt.published == "" {
			tt.published = tt.addr
		}
		leases, err := c.Leases(c.ctx, prefix)
		c.must(err)
		if want := fmt.Sprintf(`{"PublicIP":"%s"}`, tt.published); len(leases) != 1 || leases[0].Value != want {
			t.Errorf("%q: leases %v, want %s", tt.args, leases, want)
		}
		c.must(n.daemon.Stop())
	}
}

// TestPublicIP has a node that peers reach by another address than that of
// its interface: the lease says the one, packets leave with the other.
func TestPublicIP(t *testing.T) {
	needIPTables(t)
	for _, backend := range []string{"vxlan", "udp"} {
		t.Run(backend, func(t *testing.T) {
			t.Parallel()
			const public = "20.9.9.9"
			c := newLab(t, lab.Options{})
			c.set(configKey, config(`"`+backend+`"`), 0)
			a := c.addHost()
			// What a router with NAT would do: bring packets for the public
			// address to the interface's.
			a.run("iptables -w 10 -t nat -A PREROUTING -d %s -j DNAT --to %s", public, a.Addr)
			a.start("-public-ip=" + public)
			a.addPod()
			b := c.addHost()
			b.run("ip route add %s via %s", public, a.Addr)
			b.start()
			b.addPod()
			if !strings.Contains(a.lease().Value, `"PublicIP":"`+public+`"`) {
				t.Errorf("lease %s", a.lease().Value)
			}
			c.wantPing(a.pod.NS, b.pod.Addr)
			c.wantPing(b.pod.NS, a.pod.Addr)
			if backend == "vxlan" {
				if dev := a.vxlan("flannel.1"); dev.SrcAddr.String() != a.Addr.String() {
					t.Errorf("device sends from %s, want %s", dev.SrcAddr, a.Addr)
				}
				b.wantEntries("flannel.1", a)
			}
		})
	}
}

// TestBlackholeRoute: without docker0, packets to our own subnet would go back
// to where they came from.
func TestBlackholeRoute(t *testing.T) {
	needIPTables(t)
	t.Parallel()
	c := newLab(t, lab.Options{})
	c.set(configKey, config(`"vxlan"`), 0)
	a, b := c.addHost(), c.addHost()
	a.start("-ip-blackhole-route", readyArgs)
	b.start(readyArgs)
	b.addPod()
	unused := a.gateway().Next()
	way := func() string {
		out, err := try(a.NS, "ip", "route", "get", unused.String())
		return fmt.Sprint(out, err)
	}
	if got := a.run("ip route show type blackhole"); !strings.HasPrefix(got, "blackhole "+a.env.Subnet.String()+" proto 84 metric ") || strings.Count(got, "\n") != 1 {
		t.Errorf("blackholes: %q, want one to %s", got, a.env.Subnet)
	}
	if got := way(); strings.Contains(got, "eth0") || !strings.Contains(got, "Invalid argument") {
		t.Errorf("the way to %s: %s", unused, got)
	}
	c.wantPing(b.pod.NS, a.env.Subnet.Addr())
	a.wantSilence(func() { b.pod.NS.Ping(c.ctx, unused) })

	a.addPod() // makes docker0
	if unused != a.pod.Addr {
		t.Fatalf("the pod is %s", a.pod.Addr)
	}
	c.wantPing(b.pod.NS, a.pod.Addr)
	c.wantPing(a.pod.NS, b.pod.Addr)
	if got := way(); !strings.Contains(got, "docker0") {
		t.Errorf("the way to %s: %s", unused, got)
	}

	a.restart(readyArgs)
	a.awaitReady(200)
	if got := a.run("ip route show type blackhole"); got != "" {
		t.Errorf("left without the flag: %q", got)
	}
	c.wantPing(b.pod.NS, a.pod.Addr)
}

// wantSilence checks that what f does, which is to send packets to unused
// addresses of the node's subnet, brings none of them out of the node again.
func (n *node) wantSilence(f func()) {
	n.c.t.Helper()
	n.run("iptables -w 10 -t mangle -A POSTROUTING -o eth0 -d %s", n.env.Subnet)
	f()
	if got := n.run("iptables -w 10 -t mangle -nvxL POSTROUTING"); !strings.Contains(got, "\n       0        0 ") {
		n.c.t.Errorf("packets to %s left by eth0:\n%s", n.env.Subnet, got)
	}
}
