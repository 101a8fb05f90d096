package test

import (
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"tweed/subnet"
	"tweed/test/lab"
)

// TestTakeover starts on hosts in the state that flannel v0.10 leaves: device
// with a MAC by the kernel, entries by "boot", a lease, a subnet.env, and a
// peer that has gone in the meantime. Pods do not notice.
func TestTakeover(t *testing.T) {
	t.Parallel()
	c := newLab(t, lab.Options{})
	c.set(configKey, config(`"vxlan"`), 0)
	a, b := c.addHost(), c.addHost()
	macs := make(map[*node]string)
	for i, n := range c.nodes {
		n.env = subnet.Env{
			Network: netip.MustParsePrefix("10.5.0.0/16"),
			Subnet:  netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 5, byte(10 * (i + 1)), 0}), 24),
			MTU:     1450,
		}
		macs[n] = n.asFlannelLeavesIt()
	}
	const gone = "10.5.30.0"
	for _, n := range c.nodes {
		n.addFlannelPeer(gone, "0e:00:00:00:00:30", "20.0.0.30")
	}
	a.addFlannelPeer(b.env.Subnet.Addr().String(), macs[b], b.Addr.String())
	b.addFlannelPeer(a.env.Subnet.Addr().String(), macs[a], a.Addr.String())
	a.addPod()
	b.addPod()
	c.wantPing(a.pod.NS, b.pod.Addr)
	traffic := c.startTraffic(a.pod, b.pod)

	for _, n := range c.nodes {
		env, index := n.env, n.vxlan("flannel.1").Index
		n.start(readyArgs)
		n.awaitReady(200)
		if n.env.Subnet != env.Subnet {
			t.Errorf("%s: subnet %s, was %s", n.Name, n.env.Subnet, env.Subnet)
		}
		dev := n.vxlan("flannel.1")
		if dev.Index != index || dev.HardwareAddr.String() != macs[n] {
			t.Errorf("%s: device %d %s, was %d %s", n.Name, dev.Index, dev.HardwareAddr, index, macs[n])
		}
		if !strings.Contains(n.lease().Value, `{"VtepMAC":"`+macs[n]+`"}`) {
			t.Errorf("%s: lease %s, want MAC %s", n.Name, n.lease().Value, macs[n])
		}
		if have := n.kernel(); strings.Contains(have, gone) || strings.Contains(have, "0e:00:00:00:00:30") {
			t.Errorf("%s: the stale peer is still there:\n%s", n.Name, have)
		}
	}
	a.wantEntries("flannel.1", b)
	b.wantEntries("flannel.1", a)
	if lost := traffic.stop(); lost > 1 {
		t.Errorf("%d pings were lost", lost)
	}
}

// asFlannelLeavesIt gives the host the device, lease and subnet.env of
// flannel v0.10, and returns the MAC.
func (n *node) asFlannelLeavesIt() (mac string) {
	n.c.t.Helper()
	n.run("ip link add flannel.1 type vxlan id 1 dev eth0 local %s dstport 8472 nolearning", n.Addr)
	n.run("ip addr add %s/32 dev flannel.1", n.env.Subnet.Addr())
	n.run("ip link set flannel.1 up")
	mac = n.vxlan("flannel.1").HardwareAddr.String()
	n.c.set(subnetsKey+subnet.Key(n.env.Subnet),
		fmt.Sprintf(`{"PublicIP":"%s","BackendType":"vxlan","BackendData":{"VtepMAC":"%s"}}`, n.Addr, mac), 20*time.Hour)
	n.c.must(os.WriteFile(n.Path("subnet.env"), n.env.Bytes(), 0o644))
	return mac
}

// addFlannelPeer makes the entries of flannel v0.10 for a peer with a /24.
func (n *node) addFlannelPeer(base, mac, public string) {
	n.c.t.Helper()
	n.run("ip neigh add %s lladdr %s dev flannel.1 nud permanent", base, mac)
	n.run("bridge fdb add %s dev flannel.1 dst %s self permanent", mac, public)
	n.run("ip route add %s/24 via %s dev flannel.1 onlink proto boot", base, base)
}
