package rtnl

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"tweed/test/nstest"
)

func TestReplaceBlackholes(t *testing.T) {
	nstest.Enter(t)
	h, err := Open()
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	network := netip.MustParsePrefix("10.5.0.0/16")
	a, b := netip.MustParsePrefix("10.5.3.0/24"), netip.MustParsePrefix("10.5.4.0/24")
	// Others', inside and outside of the network; one looks much like ours.
	for dst, protocol := range map[string]netlink.RouteProtocol{"10.5.9.0/24": unix.RTPROT_STATIC, "10.9.0.0/16": Protocol, "10.5.8.0/24": Protocol} {
		r := netlink.Route{Dst: toIPNet(netip.MustParsePrefix(dst)), Type: unix.RTN_BLACKHOLE, Protocol: protocol, Priority: 7}
		if err := h.nl.RouteAdd(&r); err != nil {
			t.Fatal(err)
		}
	}
	for _, want := range [][]netip.Prefix{{a}, {a}, {a, b}, {b}, {}} {
		if _, err := h.ReplaceBlackholes(network, want...); err != nil {
			t.Fatal(err)
		}
		have := map[netip.Prefix]bool{}
		routes, err := h.nl.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Type: unix.RTN_BLACKHOLE}, netlink.RT_FILTER_TYPE)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range routes {
			have[fromIPNet(r.Dst)] = true
		}
		if len(have) != 3+len(want) || have[a] != slices.Contains(want, a) || have[b] != slices.Contains(want, b) {
			t.Errorf("want %v beside the others' three, have %v", want, have)
		}
	}
}
