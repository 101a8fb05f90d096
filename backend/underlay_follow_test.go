package backend

import (
	"log/slog"
	"net/netip"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"tweed/test/nstest"
)

// TestFollow changes what Select has chosen, step by step.
func TestFollow(t *testing.T) {
	nstest.Enter(t)
	h := host{t}
	h.veth("eth0", 1500, "192.0.2.1/24")
	h.veth("eth1", 1400, "198.51.100.1/24")
	h.route("0.0.0.0/0", "192.0.2.254", "eth0", 0)
	del := func(name, cidr string) {
		t.Helper()
		h.must(netlink.AddrDel(h.link(name), &netlink.Addr{IPNet: ipNet(cidr)}))
	}
	var s Selector
	now, err := s.Select(slog.New(slog.DiscardHandler))
	h.must(err)
	first := now
	for _, step := range []struct {
		what    string
		do      func()
		want    Underlay // the zero value for no change
		trouble string
		stay    bool // with what was before
	}{
		{what: "nothing", do: func() {}},
		{what: "a second address", do: func() { h.addr("eth0", "192.0.2.7/24") }},
		{what: "another default route", do: func() { h.route("0.0.0.0/0", "198.51.100.254", "eth1", 0+1) }},
		{what: "mtu", do: func() { h.must(netlink.LinkSetMTU(h.link("eth0"), 1450)) },
			want: Underlay{Name: "eth0", MTU: 1450, Addr: first.Addr, Net: first.Net, PublicIP: first.Addr}},
		{what: "no carrier", do: func() { h.down("eth0-peer") }, trouble: "interface eth0 has no carrier"},
		{what: "carrier again", do: func() { h.must(netlink.LinkSetUp(h.link("eth0-peer"))) }},
		{what: "down", do: func() { h.down("eth0") }, trouble: "interface eth0 is down"},
		{what: "up again", do: func() {
			h.must(netlink.LinkSetUp(h.link("eth0")))
			h.route("0.0.0.0/0", "192.0.2.254", "eth0", 0)
		}},
		{what: "address gone, the other interface has a route", do: func() { del("eth0", "192.0.2.1/24") },
			want:    Underlay{Name: "eth1", MTU: 1400, Addr: netip.MustParseAddr("198.51.100.1"), Net: netip.MustParsePrefix("198.51.100.0/24"), PublicIP: netip.MustParseAddr("198.51.100.1")},
			trouble: "interface eth0 has lost its address 192.0.2.1", stay: true},
		{what: "another address", do: func() {
			h.addr("eth0", "192.0.2.9/24")
			h.route("0.0.0.0/0", "192.0.2.254", "eth0", 0)
		},
			want: Underlay{Name: "eth0", MTU: 1450, Addr: netip.MustParseAddr("192.0.2.9"), Net: first.Net, PublicIP: netip.MustParseAddr("192.0.2.9")}},
		{what: "no address, no route", do: func() {
			del("eth0", "192.0.2.9/24")
			h.must(netlink.LinkDel(h.link("eth1")))
		}, trouble: "interface eth0 has lost its address 192.0.2.9"},
		{what: "interface gone", do: func() { h.must(netlink.LinkDel(h.link("eth0"))) }, trouble: "interface eth0 is gone"},
		{what: "all back under another name", do: func() {
			h.veth("lan0", 1500, "192.0.2.9/24")
			h.route("0.0.0.0/0", "192.0.2.254", "lan0", 0)
		}, trouble: "interface eth0 is gone", want: Underlay{Name: "lan0", MTU: 1500, Addr: netip.MustParseAddr("192.0.2.9"), Net: first.Net, PublicIP: netip.MustParseAddr("192.0.2.9")}},
	} {
		step.do()
		next, trouble, err := s.Follow(now)
		h.must(err)
		want := now
		if step.want != (Underlay{}) {
			want = step.want
		}
		if next != want || trouble != step.trouble {
			t.Errorf("%s: %+v, %q; want %+v, %q", step.what, next, trouble, want, step.trouble)
		}
		if !step.stay {
			now = next
		}
	}

	// A public IP that was asked for stays.
	s.PublicIP = "203.0.113.1"
	now.PublicIP = netip.MustParseAddr(s.PublicIP)
	del("lan0", "192.0.2.9/24")
	h.addr("lan0", "192.0.2.10/24")
	h.route("0.0.0.0/0", "192.0.2.254", "lan0", 0)
	next, trouble, err := s.Follow(now)
	if err != nil || next.Addr.String() != "192.0.2.10" || next.PublicIP != now.PublicIP || trouble != "" {
		t.Errorf("with -public-ip: %+v, %q, %v", next, trouble, err)
	}
	// An address that was asked for is waited for.
	s = Selector{Ifaces: []string{"192.0.2.10"}}
	now = next
	del("lan0", "192.0.2.10/24")
	h.addr("lan0", "192.0.2.11/24")
	if next, trouble, err = s.Follow(now); err != nil || next != now || !strings.Contains(trouble, "lost its address 192.0.2.10") {
		t.Errorf("with -iface=ADDRESS: %+v, %q, %v", next, trouble, err)
	}
}
