package vxlan

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"tweed/dataplane/rtnl"
	"tweed/subnet"
)

func TestThreeNodes(t *testing.T) {
	x := newLab(t)
	a := x.node("near", "192.0.2.1/24", "10.5.1.0/24")
	b := x.node("near", "192.0.2.2/24", "10.5.2.0/24")
	c := x.node("far", "198.51.100.3/24", "10.5.3.0/24")
	for _, n := range []*node{a, b, c} {
		n.start("")
	}
	meet(t, a, b, c)
	reach(t, a, b)
	reach(t, a, c)
	reach(t, b, c)
	a.sees(map[*node]string{b: "", c: ""})
	c.sees(map[*node]string{a: "", b: ""})

	// Someone meddles.
	enter(t, a.ns)
	dev := a.device()
	must(t, netlink.AddrDel(dev, &netlink.Addr{IPNet: &net.IPNet{IP: net.IPv4(10, 5, 1, 0).To4(), Mask: net.CIDRMask(32, 32)}}))
	must(t, netlink.LinkSetDown(dev)) // loses all routes
	must(t, netlink.LinkSetHardwareAddr(dev, net.HardwareAddr{2, 0, 0, 0, 0, 1}))
	must(t, netlink.LinkSetMTU(dev, 1280))
	meet(t, a)
	must(t, a.Sync(t.Context(), others(a, []*node{b, c})))
	reach(t, a, b)
	reach(t, c, a)
	a.sees(map[*node]string{b: "", c: ""})
	if mtu := a.device().Attrs().MTU; mtu != 1450 {
		t.Errorf("mtu %d, want 1450", mtu)
	}

	// A peer comes back with another MAC, another leaves.
	enter(t, b.ns)
	must(t, netlink.LinkDel(b.device()))
	b.Close()
	must(t, netlink.LinkAdd(randomMACDevice(b)))
	b.start("")
	meet(t, a, b)
	reach(t, a, b)
	a.sees(map[*node]string{b: ""})
}

// device is the node's flannel.1.
func (n *node) device() *netlink.Vxlan {
	n.t.Helper()
	enter(n.t, n.ns)
	l, err := netlink.LinkByName("flannel.1")
	must(n.t, err)
	return l.(*netlink.Vxlan)
}

// randomMACDevice is what flannel v0.10 makes.
func randomMACDevice(n *node) *netlink.Vxlan {
	n.t.Helper()
	enter(n.t, n.ns)
	eth, err := netlink.LinkByName("eth0")
	must(n.t, err)
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "flannel.1"
	return &netlink.Vxlan{LinkAttrs: attrs, VxlanId: 1, VtepDevIndex: eth.Attrs().Index, SrcAddr: n.under.Addr.AsSlice()}
}

func TestDirectRouting(t *testing.T) {
	x := newLab(t)
	a := x.node("near", "192.0.2.1/24", "10.5.1.0/24")
	b := x.node("near", "192.0.2.2/24", "10.5.2.0/24")
	c := x.node("far", "198.51.100.3/24", "10.5.3.0/24")
	all := []*node{a, b, c}
	for _, options := range []string{`,"DirectRouting":true`, "", `,"DirectRouting":true`} {
		for _, n := range all {
			if n.Backend != nil {
				n.Close()
			}
			n.start(options)
			// Nodes that differ in this still reach each other.
			must(t, n.Sync(t.Context(), others(n, startedOf(all))))
		}
		meet(t, all...)
		reach(t, a, b)
		reach(t, a, c)
		reach(t, b, c)
		if options == "" {
			a.sees(map[*node]string{b: "", c: ""})
		} else {
			a.sees(map[*node]string{b: "192.0.2.2", c: ""})
			c.sees(map[*node]string{a: "", b: ""})
		}
	}

	// b moves behind the router and back.
	moved := others(a, all)
	moved[0].Attrs.PublicIP = netip.MustParseAddr("198.51.100.2")
	must(t, a.Sync(t.Context(), moved))
	if s := a.state(); !strings.Contains(s, "route 10.5.2.0/24 via 10.5.2.0 dev flannel.1") || !strings.Contains(s, "fdb 198.51.100.2 "+b.dev.MAC.String()) {
		t.Errorf("after the move a has\n%s", s)
	}
	meet(t, all...)
	a.sees(map[*node]string{b: "192.0.2.2", c: ""})
	reach(t, a, b)
}

func startedOf(nodes []*node) []*node {
	return slices.DeleteFunc(slices.Clone(nodes), func(n *node) bool { return n.Backend == nil })
}

func TestDeviceGone(t *testing.T) {
	x := newLab(t)
	a := x.node("near", "192.0.2.1/24", "10.5.1.0/24")
	b := x.node("near", "192.0.2.2/24", "10.5.2.0/24")
	a.start("")
	b.start("")
	meet(t, a, b)
	mac := a.device().HardwareAddr.String()

	must(t, netlink.LinkDel(a.device()))
	must(t, a.Sync(t.Context(), []subnet.Lease{b.lease}))
	reach(t, a, b) // b has heard of nothing
	a.sees(map[*node]string{b: ""})
	if got := a.device().HardwareAddr.String(); got != mac {
		t.Errorf("MAC %s, published %s", got, mac)
	}
	if !strings.Contains(a.log.String(), "device was gone") {
		t.Errorf("log:\n%s", &a.log)
	}

	// Someone else's device stands in its place.
	a.log.Reset()
	must(t, netlink.LinkDel(a.device()))
	alien := randomMACDevice(a)
	alien.L2miss = true
	must(t, netlink.LinkAdd(alien))
	must(t, a.Sync(t.Context(), []subnet.Lease{b.lease}))
	reach(t, a, b)
	if log := a.log.String(); strings.Count(log, "\n") != 1 || !strings.Contains(log, "l2miss is true") {
		t.Errorf("log:\n%s\nwant one line that says why", log)
	}

	// The interface below is taken away and comes back under another index.
	enter(t, a.ns)
	eth, err := netlink.LinkByName("eth0")
	must(t, err)
	must(t, netlink.LinkDel(eth))
	if err := a.Sync(t.Context(), []subnet.Lease{b.lease}); !errors.Is(err, rtnl.ErrNoLink) || !strings.Contains(err.Error(), "eth0") {
		t.Errorf("without eth0: %v, want ErrNoLink", err)
	}
	attrs := netlink.NewLinkAttrs() // takes the free index
	attrs.Name = "br0"
	enter(t, a.ns)
	must(t, netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}))
	a.plug("near", "192.0.2.1/24")
	must(t, a.Sync(t.Context(), []subnet.Lease{b.lease}))
	reach(t, a, b)
	a.sees(map[*node]string{b: ""})
}

func TestRestart(t *testing.T) {
	x := newLab(t)
	a := x.node("near", "192.0.2.1/24", "10.5.1.0/24")
	b := x.node("near", "192.0.2.2/24", "10.5.2.0/24")
	c := x.node("near", "192.0.2.3/24", "10.5.3.0/24")
	for _, n := range []*node{a, b, c} {
		n.start("")
	}
	meet(t, a, b, c)
	before, index := a.state(), a.device().Index
	attrs := string(a.Attrs().BackendData)

	must(t, a.Close())
	reach(t, a, b)
	a.start("")
	if s := a.state(); s != before || a.device().Index != index || string(a.Attrs().BackendData) != attrs {
		t.Errorf("after the restart a has\n%s\nwant\n%s", s, before)
	}
	reach(t, a, b)
	// c left meanwhile.
	must(t, a.Sync(t.Context(), []subnet.Lease{b.lease}))
	a.sees(map[*node]string{b: ""})
	// A new lease: the old address goes.
	a.lease.Subnet = netip.MustParsePrefix("10.5.9.0/24")
	must(t, a.Up(t.Context(), a.lease))
	a.sees(map[*node]string{b: ""})
	if a.log.Len() != 0 {
		t.Errorf("log:\n%s", &a.log)
	}
}

// TestTakeover starts on what flannel v0.10 left behind.
func TestTakeover(t *testing.T) {
	x := newLab(t)
	a := x.node("near", "192.0.2.1/24", "10.5.1.0/24")
	b := x.node("near", "192.0.2.2/24", "10.5.2.0/24")
	b.start("")
	must(t, netlink.LinkAdd(randomMACDevice(a)))
	enter(t, a.ns)
	addAddr(t, "flannel.1", "10.5.77.0/32") // of an earlier lease
	dev := a.device()
	for _, gone := range []string{"10.5.2.0", "10.5.66.0"} { // one peer stays, one has left
		ip := net.ParseIP(gone).To4()
		mac := net.HardwareAddr{2, 0, 0, 0, 0, ip[2]}
		must(t, netlink.NeighAdd(&netlink.Neigh{LinkIndex: dev.Index, State: netlink.NUD_PERMANENT, Type: unix.RTN_UNICAST, IP: ip, HardwareAddr: mac}))
		must(t, netlink.NeighAdd(&netlink.Neigh{LinkIndex: dev.Index, State: netlink.NUD_PERMANENT, Family: unix.AF_BRIDGE, Flags: netlink.NTF_SELF, IP: net.IPv4(192, 0, 2, ip[2]), HardwareAddr: mac}))
		must(t, netlink.RouteReplace(&netlink.Route{LinkIndex: dev.Index, Scope: netlink.SCOPE_UNIVERSE, Dst: &net.IPNet{IP: ip, Mask: net.CIDRMask(24, 32)}, Gw: ip, Flags: unix.RTNH_F_ONLINK}))
	}
	a.start("")
	if now := a.device(); now.Index != dev.Index || now.HardwareAddr.String() != dev.HardwareAddr.String() || a.dev.MAC.String() != dev.HardwareAddr.String() {
		t.Errorf("device %d with %s became %d with %s; published %s", dev.Index, dev.HardwareAddr, now.Index, now.HardwareAddr, a.dev.MAC)
	}
	meet(t, a, b)
	a.sees(map[*node]string{b: ""})
	reach(t, a, b)
}

// TestManyPeers also shows that a Sync without news changes nothing.
func TestManyPeers(t *testing.T) {
	x := newLab(t)
	a := x.node("near", "192.0.2.1/24", "10.5.0.0/28")
	a.start("")
	var peers []subnet.Lease
	for i := 1; i <= 2000; i++ {
		peers = append(peers, subnet.Lease{
			Subnet: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 5, byte(i >> 4), byte(i << 4)}), 28),
			Attrs: subnet.Attrs{
				PublicIP:    netip.AddrFrom4([4]byte{198, 51, byte(i >> 8), byte(i)}),
				BackendType: Type,
				BackendData: []byte(fmt.Sprintf(`{"VtepMAC":"0e:00:00:00:%02x:%02x"}`, i>>8, byte(i))),
			},
		})
	}
	start := time.Now()
	must(t, a.Sync(t.Context(), peers))
	first := time.Since(start)
	if n := strings.Count(a.state(), "\n"); n != 3*len(peers) {
		t.Errorf("%d objects, want %d", n, 3*len(peers))
	}

	sock, err := nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_LINK, unix.RTNLGRP_NEIGH, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV4_ROUTE)
	must(t, err)
	defer sock.Close()
	start = time.Now()
	must(t, a.Sync(t.Context(), peers))
	t.Logf("2000 peers: first Sync %v, second %v", first, time.Since(start))
	// Notices are queued before the kernel answers the request.
	if n, _, err := unix.Recvfrom(sock.GetFd(), make([]byte, 4096), unix.MSG_DONTWAIT); !errors.Is(err, unix.EAGAIN) {
		t.Errorf("the second Sync changed something (%d bytes of notices, %v)", n, err)
	}
	must(t, a.Sync(t.Context(), nil))
	a.sees(nil)
}

func TestMTU(t *testing.T) {
	x := newLab(t)
	a := x.node("near", "192.0.2.1/24", "10.5.1.0/24")
	a.start("")
	eth, err := netlink.LinkByName("eth0")
	must(t, err)
	for _, step := range []struct{ nic, want int }{{1500, 1450}, {1400, 1350}, {1500, 1450}, {9000, 1450}, {200, 150}, {1500, 1450}} {
		must(t, netlink.LinkSetMTU(eth, step.nic))
		must(t, a.Sync(t.Context(), nil))
		if got := a.device().MTU; got != step.want || a.MTU() != 1450 {
			t.Errorf("eth0 has %d: device %d, want %d; pods %d, want 1450", step.nic, got, step.want, a.MTU())
		}
	}
	// A restart takes up the new value.
	must(t, netlink.LinkSetMTU(eth, 9000))
	a.under.MTU = 9000
	a.Close()
	a.start("")
	if got := a.device().MTU; got != 8950 || a.MTU() != 8950 {
		t.Errorf("after the restart: device %d, pods %d, want 8950", got, a.MTU())
	}
}
