package rtnl

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

var network = netip.MustParsePrefix("10.5.0.0/16")

func route(dst, via string, link int, onlink bool) Route {
	r := Route{Dst: netip.MustParsePrefix(dst), Link: link, OnLink: onlink}
	if via != "" {
		r.Via = netip.MustParseAddr(via)
	}
	return r
}

func only(_ int, err error) error { return err }

func TestReplaceRoutes(t *testing.T) {
	x := newHost(t)
	own := x.veth("flannel.1", "10.5.1.0/32")
	metric := func(r *netlink.Route) { r.Priority = 7 }
	alien := func(r *netlink.Route) { r.Table = 100 }
	blackhole := func(r *netlink.Route) { r.Type, r.LinkIndex = unix.RTN_BLACKHOLE, 0 }

	// What a daemon of flannel v0.10 left on its own device.
	x.foreign("10.5.2.0/24", "10.5.2.0", own, unix.RTPROT_BOOT)
	x.foreign("10.5.3.0/24", "10.5.3.0", own, unix.RTPROT_BOOT)
	// Stale ones of ours, elsewhere.
	x.foreign("10.5.4.0/24", "192.0.2.4", x.eth, Protocol)
	x.foreign("10.5.5.0/24", "192.0.2.5", x.eth, Protocol, metric)
	// Not ours.
	x.foreign("10.5.6.0/24", "192.0.2.6", x.eth, unix.RTPROT_BOOT)
	x.foreign("10.5.7.0/24", "192.0.2.7", x.eth, unix.RTPROT_BOOT, metric)
	x.foreign("10.6.0.0/24", "192.0.2.8", x.eth, Protocol)
	x.foreign("10.0.0.0/8", "192.0.2.8", x.eth, Protocol)
	x.foreign("10.5.8.0/24", "192.0.2.8", x.eth, Protocol, alien)
	x.foreign("10.5.1.0/24", "", 0, Protocol, blackhole)
	x.foreign("10.5.12.0/24", "", own, unix.RTPROT_KERNEL)
	// Beside a wanted one: a metric makes it another route.
	x.foreign("10.5.11.0/24", "", x.eth, unix.RTPROT_KERNEL, metric)
	// In the way of a wanted one.
	x.foreign("10.5.9.0/24", "192.0.2.99", x.eth, unix.RTPROT_STATIC)

	scope := Scope{Within: network, Link: own}
	want := []Route{
		route("10.5.2.0/24", "10.5.2.0", own, true),
		route("10.5.5.0/24", "192.0.2.5", x.eth, false), // the stale one has a metric
		route("10.5.7.0/24", "192.0.2.70", x.eth, false),
		route("10.5.9.0/24", "10.5.9.0", own, true),
		route("10.5.10.0/24", "", own, false),
		route("10.5.11.0/24", "10.5.11.0", own, true),
	}
	x.must(only(x.replaceRoutes(scope, want)))
	golden := []string{
		"10.0.0.0/8 via 192.0.2.8 dev eth0 onlink proto 84",
		"10.5.1.0/24 proto 84 special",
		"10.5.2.0/24 via 10.5.2.0 dev flannel.1 onlink proto 84",
		"10.5.5.0/24 via 192.0.2.5 dev eth0 proto 84",
		"10.5.6.0/24 via 192.0.2.6 dev eth0 onlink proto boot",
		"10.5.7.0/24 via 192.0.2.70 dev eth0 proto 84",
		"10.5.7.0/24 via 192.0.2.7 dev eth0 onlink proto boot metric",
		"10.5.9.0/24 via 10.5.9.0 dev flannel.1 onlink proto 84",
		"10.5.10.0/24 dev flannel.1 proto 84",
		"10.5.11.0/24 via 10.5.11.0 dev flannel.1 onlink proto 84",
		"10.5.11.0/24 dev eth0 proto kernel metric",
		"10.5.12.0/24 dev flannel.1 proto kernel",
		"10.6.0.0/24 via 192.0.2.8 dev eth0 onlink proto 84",
	}
	equal(t, "routes", x.routes(), golden...)

	m := x.monitor()
	x.must(only(x.replaceRoutes(scope, want)))
	m.quiet("second time")

	want[0].Via = netip.MustParseAddr("10.5.2.77")
	x.must(only(x.replaceRoutes(scope, want)))
	if n := m.changes(); n != 1 {
		t.Errorf("one gateway changed: %d messages, want 1, a replacement without a gap", n)
	}

	x.must(only(x.replaceRoutes(scope, nil)))
	equal(t, "routes of nobody", x.routes(), golden[0], golden[1], golden[4], golden[6], golden[10], golden[11], golden[12])

	tables, err := netlink.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Table: 100}, netlink.RT_FILTER_TABLE)
	if err != nil || len(tables) != 1 {
		t.Errorf("table 100: %v %v, want its one route untouched", tables, err)
	}
}

// TestReplaceRoutesDifferences has a route of ours that differs in one thing
// from the one wanted.
func TestReplaceRoutesDifferences(t *testing.T) {
	x := newHost(t)
	eth1 := x.veth("eth1", "192.0.2.200/24")
	want := route("10.5.3.0/24", "192.0.2.3", x.eth, false)
	for name, change := range map[string]func(*netlink.Route){
		"protocol": func(r *netlink.Route) { r.Protocol = unix.RTPROT_BOOT },
		"gateway":  func(r *netlink.Route) { r.Gw = toIP(netip.MustParseAddr("192.0.2.4")) },
		"link":     func(r *netlink.Route) { r.LinkIndex = eth1 },
		"onlink":   func(r *netlink.Route) { r.Flags = unix.RTNH_F_ONLINK },
		"source":   func(r *netlink.Route) { r.Src = toIP(netip.MustParseAddr("192.0.2.1")) },
		"type":     func(r *netlink.Route) { r.Type, r.Gw, r.LinkIndex = unix.RTN_UNREACHABLE, nil, 0 },
		"two gateways": func(r *netlink.Route) {
			r.MultiPath = []*netlink.NexthopInfo{{LinkIndex: x.eth, Gw: r.Gw}, {LinkIndex: eth1, Gw: toIP(netip.MustParseAddr("192.0.2.9"))}}
			r.Gw, r.LinkIndex = nil, 0
		},
	} {
		x.foreign("10.5.3.0/24", "192.0.2.3", x.eth, Protocol, func(r *netlink.Route) { r.Flags = 0; change(r) })
		n, err := x.replaceRoutes(Scope{Within: network}, []Route{want})
		x.must(err)
		if n != 1 {
			t.Errorf("%s: %d changes, want 1", name, n)
		}
		equal(t, name, x.routes(), "10.5.3.0/24 via 192.0.2.3 dev eth0 proto 84", "192.0.2.0/24 dev eth1 proto kernel")
		x.must(only(x.replaceRoutes(Scope{Within: network}, nil)))
	}
}

func TestReplaceRoutesErrors(t *testing.T) {
	x := newHost(t)
	x.veth("docker0", "10.5.20.1/24")
	good := route("10.5.3.0/24", "192.0.2.3", x.eth, false)
	tests := []struct {
		name string
		bad  Route
		err  string
	}{
		{"gateway elsewhere", route("10.5.4.0/24", "198.51.100.1", x.eth, false), "add route 10.5.4.0/24 via 198.51.100.1 dev eth0: network is unreachable"},
		{"no such link", route("10.5.4.0/24", "192.0.2.4", 999, false), "dev link number 999: network is unreachable"},
		{"connected network", route("10.5.20.0/24", "192.0.2.4", x.eth, false), "add route 10.5.20.0/24 via 192.0.2.4 dev eth0: the network is connected to docker0"},
		{"outside the network", route("10.6.0.0/24", "192.0.2.4", x.eth, false), "not a subnet of 10.5.0.0/16"},
		{"larger than the network", route("10.0.0.0/8", "192.0.2.4", x.eth, false), "not a subnet of 10.5.0.0/16"},
		{"default route", route("0.0.0.0/0", "192.0.2.4", x.eth, false), "not a subnet of 10.5.0.0/16"},
		{"host bits", route("10.5.4.1/24", "192.0.2.4", x.eth, false), "not a subnet of 10.5.0.0/16"},
		{"IPv6", route("fd00::/64", "fd00::1", x.eth, false), "not a subnet of 10.5.0.0/16"},
		{"zero", Route{}, "not a subnet of 10.5.0.0/16"},
		{"twice", route("10.5.3.0/24", "192.0.2.4", x.eth, false), "already wanted 10.5.3.0/24 via 192.0.2.3 dev eth0"},
	}
	for _, tt := range tests {
		_, err := x.ReplaceRoutes(Scope{Within: network}, []Route{good, tt.bad, good})
		if err == nil || !strings.Contains(err.Error(), tt.err) {
			t.Errorf("%s: error %v, want %q", tt.name, err, tt.err)
		}
		equal(t, tt.name, x.routes(), "10.5.3.0/24 via 192.0.2.3 dev eth0 proto 84", "10.5.20.0/24 dev docker0 proto kernel")
		if x.must(only(x.replaceRoutes(Scope{Within: network}, nil))); t.Failed() {
			t.FailNow()
		}
	}
}

// TestReplaceRoutesAliases has several routes to one destination, of which the
// kernel uses the first.
func TestReplaceRoutesAliases(t *testing.T) {
	x := newHost(t)
	x.foreign("10.5.3.0/24", "192.0.2.9", x.eth, unix.RTPROT_BOOT)
	x.foreign("10.5.3.0/24", "192.0.2.3", x.eth, Protocol, func(r *netlink.Route) { r.Flags = 0 })
	x.foreign("10.5.3.0/24", "192.0.2.8", x.eth, unix.RTPROT_BOOT)
	want := []Route{route("10.5.3.0/24", "192.0.2.3", x.eth, false)}
	x.must(only(x.replaceRoutes(Scope{Within: network}, want)))
	equal(t, "routes", x.routes(),
		"10.5.3.0/24 via 192.0.2.3 dev eth0 proto 84",
		"10.5.3.0/24 via 192.0.2.8 dev eth0 onlink proto boot")
	m := x.monitor()
	x.must(only(x.replaceRoutes(Scope{Within: network}, want)))
	m.quiet("second time")

	// A bridge that comes up later with the same network is listed behind.
	x.veth("docker0", "10.5.3.1/24")
	x.must(only(x.replaceRoutes(Scope{Within: network}, want)))
	x.must(only(x.replaceRoutes(Scope{Within: network}, nil)))
	equal(t, "routes of others", x.routes(),
		"10.5.3.0/24 via 192.0.2.8 dev eth0 onlink proto boot",
		"10.5.3.0/24 dev docker0 proto kernel")
}

func TestLookup(t *testing.T) {
	x := newHost(t)
	x.foreign("203.0.113.0/24", "192.0.2.254", x.eth, unix.RTPROT_STATIC)
	x.foreign("198.51.100.0/24", "", 0, unix.RTPROT_STATIC, func(r *netlink.Route) { r.Type = unix.RTN_BLACKHOLE })
	x.foreign("198.51.101.0/24", "", 0, unix.RTPROT_STATIC, func(r *netlink.Route) { r.Type = unix.RTN_UNREACHABLE })
	x.foreign("198.51.102.0/24", "", 0, unix.RTPROT_STATIC, func(r *netlink.Route) { r.Type = unix.RTN_PROHIBIT })
	for dst, want := range map[string]Path{
		"192.0.2.7":   {Link: x.eth, Src: netip.MustParseAddr("192.0.2.1")},
		"203.0.113.7": {Link: x.eth, Via: netip.MustParseAddr("192.0.2.254"), Src: netip.MustParseAddr("192.0.2.1")},
	} {
		got, err := x.Lookup(netip.MustParseAddr(dst))
		if err != nil || got != want {
			t.Errorf("Lookup(%s) = %+v, %v; want %+v", dst, got, err, want)
		}
	}
	for _, dst := range []string{"192.0.2.1", "192.0.2.255", "127.0.0.1", "224.0.0.1", "8.8.8.8", "198.51.100.1", "198.51.101.1", "198.51.102.1"} {
		if got, err := x.Lookup(netip.MustParseAddr(dst)); !errors.Is(err, ErrNoPath) || !strings.Contains(err.Error(), dst) {
			t.Errorf("Lookup(%s) = %+v, %v; want ErrNoPath", dst, got, err)
		}
	}
}
