package rtnl

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"tweed/test/nstest"
)

// host is a fresh namespace with the interface eth0, 192.0.2.1/24.
type host struct {
	*Handle
	t   *testing.T
	eth int
}

func second(_ []Repair, err error) error { return err }

func (x host) ensureVXLAN(v VXLAN) (l Link, created bool, differs []string, err error) {
	e, err := x.EnsureVXLAN(v)
	return e.Link, e.Created, e.Differs, err
}

// replaceNeighbours makes want the whole of the link's neighbours.
func (x host) replaceNeighbours(link int, want []Neighbour) error {
	p, err := x.compareNeighbours(x.desire(Entries{Scope: Scope{Link: link}, Neighbours: want}))
	if err != nil {
		return err
	}
	return x.apply(p)
}

// replaceFDB makes want the whole of the link's forwarding database.
func (x host) replaceFDB(link int, want []FDBEntry) error {
	p, err := x.compareFDB(x.desire(Entries{Scope: Scope{Link: link}, FDB: want}))
	if err != nil {
		return err
	}
	return x.apply(p)
}

// replaceRoutes makes want the whole of our routes, and returns how many changes
// it took.
func (x host) replaceRoutes(s Scope, want []Route) (int, error) {
	repairs, err := x.ReplaceRoutes(s, want)
	return len(repairs), err
}

func newHost(t *testing.T) host {
	t.Helper()
	nstest.Enter(t)
	h, err := Open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.Close)
	x := host{Handle: h, t: t}
	x.eth = x.veth("eth0", "192.0.2.1/24")
	return x
}

// veth makes an interface with carrier and returns its index.
func (x host) veth(name, addr string) int {
	x.t.Helper()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	x.must(netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: name + "peer"}))
	peer, err := netlink.LinkByName(name + "peer")
	x.must(err)
	x.must(netlink.LinkSetUp(peer))
	link, err := netlink.LinkByName(name)
	x.must(err)
	x.must(netlink.LinkSetUp(link))
	x.must(netlink.AddrAdd(link, &netlink.Addr{IPNet: toIPNet(netip.MustParsePrefix(addr))}))
	return link.Attrs().Index
}

func (x host) must(err error) {
	x.t.Helper()
	if err != nil {
		x.t.Fatal(err)
	}
}

// foreign adds a route as another program would.
func (x host) foreign(dst, via string, link, protocol int, change ...func(*netlink.Route)) {
	x.t.Helper()
	r := &netlink.Route{Dst: toIPNet(netip.MustParsePrefix(dst)), LinkIndex: link, Protocol: netlink.RouteProtocol(protocol)}
	if via != "" {
		r.Gw = toIP(netip.MustParseAddr(via))
		r.Flags = unix.RTNH_F_ONLINK
	}
	for _, c := range change {
		c(r)
	}
	x.must(netlink.RouteAppend(r))
}

// routes lists the main table as text, in the kernel's order, without the
// connected network of eth0.
func (x host) routes() []string {
	x.t.Helper()
	all, err := netlink.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE)
	x.must(err)
	var texts []string
	for _, r := range all {
		dst, to, _ := compact(Route{Dst: fromIPNet(r.Dst), Via: fromIP(r.Gw), Link: r.LinkIndex, OnLink: r.Flags&unix.RTNH_F_ONLINK != 0})
		text := x.describeRoute(dst, to)
		text += " proto " + r.Protocol.String()
		if r.Priority != 0 {
			text += " metric"
		}
		if r.Type != unix.RTN_UNICAST {
			text += " special"
		}
		if text != "192.0.2.0/24 dev eth0 proto kernel" {
			texts = append(texts, text)
		}
	}
	return texts
}

// entries lists the permanent entries of a table of a link as text, sorted.
func (x host) entries(link, family int) []string {
	x.t.Helper()
	all, err := netlink.NeighList(link, family)
	x.must(err)
	var texts []string
	for _, n := range all {
		if n.State&unix.NUD_PERMANENT != 0 && n.Flags&netlink.NTF_PROXY == 0 && (family != unix.AF_BRIDGE || n.Flags&netlink.NTF_SELF != 0) {
			texts = append(texts, fromIP(n.IP).String()+" "+n.HardwareAddr.String())
		}
	}
	slices.Sort(texts)
	return texts
}

func (x host) addrs(link int) []string {
	x.t.Helper()
	all, err := netlink.AddrList(byIndex(link), netlink.FAMILY_V4)
	x.must(err)
	var texts []string
	for _, a := range all {
		texts = append(texts, a.IPNet.String())
	}
	slices.Sort(texts)
	return texts
}

func equal(t *testing.T, what string, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s:\n  %s\nwant:\n  %s", what, strings.Join(got, "\n  "), strings.Join(want, "\n  "))
	}
}

// monitor counts what the kernel tells of changes to addresses, routes and
// neighbours (FDB entries among them).
type monitor struct {
	host
	sock *nl.NetlinkSocket
}

func (x host) monitor() monitor {
	x.t.Helper()
	sock, err := nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_NEIGH, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV4_ROUTE)
	x.must(err)
	x.t.Cleanup(sock.Close)
	return monitor{x, sock}
}

// quiet fails if anything but its own mark was changed since the monitor was
// made or last asked.
func (m monitor) quiet(what string) {
	m.t.Helper()
	if n := m.changes(); n != 0 {
		m.t.Errorf("%s: %d changes in the kernel, want none", what, n)
	}
}

func (m monitor) changes() int {
	m.t.Helper()
	// A route in a table of its own marks the end: messages come in order.
	const table = 200
	mark := &netlink.Route{Dst: toIPNet(netip.MustParsePrefix("198.18.0.0/15")), Table: table, Type: unix.RTN_BLACKHOLE}
	m.must(netlink.RouteAdd(mark))
	m.must(netlink.RouteDel(mark))
	n := 0
	for {
		msgs, _, err := m.sock.Receive()
		m.must(err)
		for _, msg := range msgs {
			isRoute := msg.Header.Type == unix.RTM_NEWROUTE || msg.Header.Type == unix.RTM_DELROUTE
			switch {
			case !isRoute || nl.DeserializeRtMsg(msg.Data).Table != table:
				n++
			case msg.Header.Type == unix.RTM_DELROUTE:
				return n
			}
		}
	}
}
