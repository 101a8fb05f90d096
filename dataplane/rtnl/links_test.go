package rtnl

import (
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// linkNotice is one that the kernel might send.
func linkNotice(typ uint16, index int, s linkState) Notice {
	var fixed [unix.SizeofIfInfomsg]byte
	native.PutUint32(fixed[4:], uint32(index))
	native.PutUint32(fixed[8:], s.flags)
	var r requests
	r.begin(add, typ, 0, fixed[:])
	r.attr(unix.IFLA_IFNAME, append([]byte(s.name), 0))
	r.attr32(unix.IFLA_MTU, s.mtu)
	r.attr32(unix.IFLA_TXQLEN, s.txQueue)
	r.attr(unix.IFLA_ADDRESS, s.mac[:])
	r.end()
	return Notice{typ: typ, body: r.message(0)[headerLen:]}
}

// TestLinksNews: what matters is told once, and anew of a link that was gone.
func TestLinksNews(t *testing.T) {
	var l Links
	s := linkState{name: "flannel.1", flags: unix.IFF_UP, mtu: 1450, mac: mac(1)}
	news := func(what string, typ uint16, want bool) {
		t.Helper()
		name, index, ok := l.News(linkNotice(typ, 7, s))
		if ok != want || ok && (name != s.name || index != 7) {
			t.Errorf("%s: %q, %d, %t, want %t", what, name, index, ok, want)
		}
	}
	for _, c := range []struct {
		what   string
		change func()
		want   bool
	}{
		{"first", func() {}, true},
		{"again", func() {}, false},
		{"mtu", func() { s.mtu = 1400 }, true},
		{"mac", func() { s.mac = mac(2) }, true},
		{"queue", func() { s.txQueue = 500 }, true},
		{"name", func() { s.name = "other" }, true},
		{"down", func() { s.flags = 0 }, true},
		{"another flag", func() { s.flags = unix.IFF_PROMISC }, false},
	} {
		c.change()
		news(c.what, unix.RTM_NEWLINK, c.want)
	}
	news("gone", unix.RTM_DELLINK, true)
	news("back", unix.RTM_NEWLINK, true)
	if _, _, ok := l.News(Notice{typ: unix.RTM_NEWLINK, body: make([]byte, 7)}); ok {
		t.Error("a notice that is cut off tells something")
	}
}

// TestTablesNewDevice: of a device that was made again nothing is known.
func TestTablesNewDevice(t *testing.T) {
	x := newHost(t)
	link := x.overlayDevice()
	tables := x.Tables()
	x.must(tables.Set(overlay(link, 3)))
	x.must(netlink.LinkDel(byIndex(link)))
	link = x.overlayDevice()
	x.must(tables.Set(overlay(link, 3)))
	if f, n := len(x.entries(link, unix.AF_BRIDGE)), len(x.entries(link, unix.AF_INET)); f != 3 || n != 3 {
		t.Errorf("the new device has %d fdb entries and %d neighbours, want 3 of each", f, n)
	}
}

// TestTablesAfterFailure: what failed is tried again by the next Set of the same.
func TestTablesAfterFailure(t *testing.T) {
	x := newHost(t)
	tables := x.Tables()
	e := Entries{Scope: Scope{Within: netip.MustParsePrefix("10.5.0.0/16")}, Routes: []Route{
		{Dst: netip.MustParsePrefix("10.5.1.0/24"), Via: netip.MustParseAddr("198.51.100.1"), Link: x.eth}}}
	if _, err := tables.Compare(e); err == nil {
		t.Fatal("a route by a gateway out of reach")
	}
	x.must(netlink.AddrAdd(byIndex(x.eth), &netlink.Addr{IPNet: toIPNet(netip.MustParsePrefix("198.51.100.2/24"))}))
	x.must(tables.Set(e))
	if path, err := x.Lookup(netip.MustParseAddr("10.5.1.7")); err != nil || path.Via != e.Routes[0].Via {
		t.Errorf("%+v, %v", path, err)
	}
}
