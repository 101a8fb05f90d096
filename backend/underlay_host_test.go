package backend

import (
	"net"
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// host furnishes the network namespace of the calling test.
type host struct{ t *testing.T }

// veth makes one end of a pair, up, with the addresses; the other end, up too,
// has none.
func (h host) veth(name string, mtu int, addrs ...string) {
	h.t.Helper()
	v := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name, MTU: mtu}, PeerName: name + "-peer"}
	h.must(netlink.LinkAdd(v))
	h.must(netlink.LinkSetUp(h.link(v.PeerName)))
	h.must(netlink.LinkSetUp(h.link(name)))
	for _, a := range addrs {
		h.addr(name, a)
	}
}

func (h host) peerAddr(name, local, peer string) {
	h.t.Helper()
	h.veth(name, 1500)
	h.must(netlink.AddrAdd(h.link(name), &netlink.Addr{IPNet: ipNet(local + "/32"), Peer: ipNet(peer + "/32")}))
}

func (h host) addr(name, cidr string) {
	h.t.Helper()
	h.must(netlink.AddrAdd(h.link(name), &netlink.Addr{IPNet: ipNet(cidr)}))
}

func (h host) down(name string) {
	h.t.Helper()
	h.must(netlink.LinkSetDown(h.link(name)))
}

// route adds one by a gateway, or to the device itself if gw is empty.
func (h host) route(dst, gw, name string, metric int) {
	h.t.Helper()
	h.must(netlink.RouteAdd(&netlink.Route{Dst: ipNet(dst), Gw: net.ParseIP(gw), LinkIndex: h.link(name).Attrs().Index, Priority: metric}))
}

func (h host) routeTOS(tos int, gw, name string) {
	h.t.Helper()
	h.must(netlink.RouteAdd(&netlink.Route{Dst: ipNet("0.0.0.0/0"), Tos: tos, Gw: net.ParseIP(gw), LinkIndex: h.link(name).Attrs().Index}))
}

func (h host) routeFrom(src, name string) {
	h.t.Helper()
	h.must(netlink.RouteAdd(&netlink.Route{Dst: ipNet("0.0.0.0/0"), Src: net.ParseIP(src), LinkIndex: h.link(name).Attrs().Index}))
}

func (h host) multipath(gw1, name1, gw2, name2 string) {
	h.t.Helper()
	h.must(netlink.RouteAdd(&netlink.Route{Dst: ipNet("0.0.0.0/0"), MultiPath: []*netlink.NexthopInfo{
		{Gw: net.ParseIP(gw1), LinkIndex: h.link(name1).Attrs().Index},
		{Gw: net.ParseIP(gw2), LinkIndex: h.link(name2).Attrs().Index},
	}}))
}

func (h host) blackhole() {
	h.t.Helper()
	h.must(netlink.RouteAdd(&netlink.Route{Dst: ipNet("0.0.0.0/0"), Type: unix.RTN_BLACKHOLE}))
}

func (h host) link(name string) netlink.Link {
	h.t.Helper()
	l, err := netlink.LinkByName(name)
	h.must(err)
	return l
}

func (h host) must(err error) {
	h.t.Helper()
	if err != nil {
		h.t.Fatal(err)
	}
}

func ipNet(cidr string) *net.IPNet {
	p := netip.MustParsePrefix(cidr)
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

func prefixes(cidrs ...string) []netip.Prefix {
	var all []netip.Prefix
	for _, c := range cidrs {
		all = append(all, netip.MustParsePrefix(c))
	}
	return all
}
