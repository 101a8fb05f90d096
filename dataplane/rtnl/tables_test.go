package rtnl

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// listener collects what notices say, in order.
type listener struct {
	x     host
	mu    sync.Mutex // notices are judged between two Sets
	t     *Tables
	heard chan string
}

// listen begins to listen for what is not as wanted, and for what was done.
func (x host) listen(t *Tables, each func(l *listener, n Notice) string) *listener {
	x.t.Helper()
	m, err := OpenMonitor(OfLinks, OfAddresses, OfRoutes, OfNeighbours)
	x.must(err)
	l := &listener{x: x, t: t, heard: make(chan string, 100000)}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	x.must(m.join())
	go func() {
		ended <- m.run(ctx, func(n Notice) {
			if k, _ := parseRoute(n.body); k.table == markTable {
				if n.typ == unix.RTM_NEWROUTE {
					l.heard <- "mark"
				}
				return
			}
			l.mu.Lock()
			defer l.mu.Unlock()
			if text := each(l, n); text != "" {
				l.heard <- text
			}
		})
	}()
	x.t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			x.t.Error(err)
		}
		m.Close()
	})
	return l
}

const markTable = 200

// all returns what was heard up to now. Notices come in order, so a route in a
// table of its own marks the end.
func (l *listener) all() []string {
	l.x.t.Helper()
	mark := &netlink.Route{Dst: toIPNet(netip.MustParsePrefix("198.18.0.0/15")), Table: markTable, Type: unix.RTN_BLACKHOLE}
	l.x.must(netlink.RouteAdd(mark))
	l.x.must(netlink.RouteDel(mark))
	var texts []string
	for {
		select {
		case text := <-l.heard:
			if text == "mark" {
				return texts
			}
			texts = append(texts, text)
		case <-time.After(10 * time.Second):
			l.x.t.Fatal("no notice")
		}
	}
}

// set is Tables.Set, and waits until the notices of it were judged.
func (l *listener) set(e Entries) []string {
	l.x.t.Helper()
	l.mu.Lock()
	err := l.t.Set(e)
	l.mu.Unlock()
	l.x.must(err)
	return l.all()
}

// overlay returns the entries of n peers, 10.5.0.0/24 on.
func overlay(link, n int) Entries {
	e := Entries{Scope: Scope{Within: netip.MustParsePrefix("10.0.0.0/8"), Link: link}}
	for i := range n {
		base := netip.AddrFrom4([4]byte{10, byte(5 + i>>8), byte(i), 0})
		m := MAC{0x0e, 0, 0, 0, byte(i >> 8), byte(i)}
		e.Neighbours = append(e.Neighbours, Neighbour{base, m})
		e.FDB = append(e.FDB, FDBEntry{m, netip.AddrFrom4([4]byte{192, 1, byte(i >> 8), byte(i)})})
		e.Routes = append(e.Routes, Route{Dst: netip.PrefixFrom(base, 24), Via: base, Link: link, OnLink: true})
	}
	return e
}

func (x host) overlayDevice() int {
	x.t.Helper()
	l, _, _, err := x.ensureVXLAN(x.wantVXLAN())
	x.must(err)
	return l.Index
}

// TestTablesOrder: what a route needs is there before it, and goes after it, by
// the difference to the last Set as by a comparison with the kernel.
func TestTablesOrder(t *testing.T) {
	for name, prepare := range map[string]func(*Tables){"difference": func(*Tables) {}, "comparison": (*Tables).Doubt} {
		t.Run(name, func(t *testing.T) {
			x := newHost(t)
			link := x.overlayDevice()
			tables := x.Tables()
			x.must(tables.Set(overlay(link, 0)))
			l := x.listen(tables, func(_ *listener, n Notice) string {
				switch n.typ {
				case unix.RTM_NEWROUTE, unix.RTM_NEWNEIGH:
					return "add " + strings.Fields(bodyKey(n.typ, n.body))[0]
				case unix.RTM_DELROUTE, unix.RTM_DELNEIGH:
					return "delete " + strings.Fields(bodyKey(n.typ, n.body))[0]
				}
				return ""
			})
			prepare(tables)
			equal(t, "additions", l.set(overlay(link, 2)), "add neighbour", "add neighbour", "add fdb", "add fdb", "add route", "add route")
			prepare(tables)
			// A neighbour that goes is told of as failed first.
			removals := slices.DeleteFunc(l.set(overlay(link, 1)), func(s string) bool { return s == "add neighbour" })
			equal(t, "removals", removals, "delete route", "delete fdb", "delete neighbour")
		})
	}
}

// TestTablesKnow: a Set without news asks the kernel nothing, and one of news
// only for that.
func TestTablesKnow(t *testing.T) {
	x := newHost(t)
	link := x.overlayDevice()
	tables := x.Tables()
	e := overlay(link, 50)
	x.must(tables.Set(e))
	asked := x.raw.seq
	x.must(tables.Set(e))
	if n := x.raw.seq - asked; n != 0 {
		t.Errorf("%d requests without news", n)
	}
	x.must(tables.Set(overlay(link, 51)))
	if n := x.raw.seq - asked; n != 3 {
		t.Errorf("%d requests for one peer, want 3", n)
	}
	if n := len(x.entries(link, unix.AF_BRIDGE)); n != 51 {
		t.Errorf("%d fdb entries, want 51", n)
	}

	// What it knows is wrong: a change that fails makes it look.
	dev, err := netlink.LinkByIndex(link)
	x.must(err)
	x.must(netlink.LinkDel(dev))
	if err := tables.Set(overlay(link, 52)); err == nil || !strings.Contains(err.Error(), "no such device") || !strings.Contains(err.Error(), "more") {
		t.Errorf("without the device: %.300v, want a few errors and how many more", err)
	}
	link = x.overlayDevice()
	x.must(tables.Set(overlay(link, 52)))
	if n := len(x.entries(link, unix.AF_BRIDGE)); n != 52 {
		t.Errorf("%d fdb entries on the new device, want 52", n)
	}
	// An entry that somebody else took away: its removal is no error.
	x.must(netlink.NeighDel(&netlink.Neigh{LinkIndex: link, IP: net.IPv4(10, 5, 51, 0), HardwareAddr: net.HardwareAddr{0x0e, 0, 0, 0, 0, 51}}))
	x.must(netlink.RouteDel(&netlink.Route{Dst: toIPNet(netip.MustParsePrefix("10.5.51.0/24"))}))
	x.must(tables.Set(overlay(link, 51)))
}

// TestDiffers has others do what concerns us and what does not.
func TestDiffers(t *testing.T) {
	x := newHost(t)
	link := x.overlayDevice()
	tables := x.Tables()
	l := x.listen(tables, func(l *listener, n Notice) string { return l.t.Differs(n) })
	moved := overlay(link, 2)
	moved.Neighbours[1].MAC, moved.FDB[1].MAC = mac(9), mac(9)
	for _, e := range []Entries{overlay(link, 3), overlay(link, 2), moved, overlay(link, 2)} {
		equal(t, "our own doing", l.set(e))
	}

	neigh := func(family, state int, ip string, m byte) *netlink.Neigh {
		n := &netlink.Neigh{LinkIndex: link, Family: family, State: state, IP: toIP(netip.MustParseAddr(ip)), HardwareAddr: net.HardwareAddr{0x0e, 0, 0, 0, 0, m}}
		if family == unix.AF_BRIDGE {
			n.Flags = netlink.NTF_SELF
		}
		return n
	}
	to := func(dst, via string, link int, change ...func(*netlink.Route)) *netlink.Route {
		r := &netlink.Route{Dst: toIPNet(netip.MustParsePrefix(dst)), Gw: toIP(netip.MustParseAddr(via)), LinkIndex: link, Flags: unix.RTNH_F_ONLINK, Protocol: unix.RTPROT_BOOT}
		for _, c := range change {
			c(r)
		}
		return r
	}
	ours := func(r *netlink.Route) { r.Protocol = Protocol }
	metric := func(r *netlink.Route) { r.Priority = 7 }
	table := func(r *netlink.Route) { r.Table = 100 }
	for _, tt := range []struct {
		what string
		do   func() error
		want string // "" for nothing
	}{
		{"route gone", func() error { return netlink.RouteDel(to("10.5.0.0/24", "10.5.0.0", link, ours)) }, "route 10.5.0.0/24"},
		{"route back", func() error { return netlink.RouteAdd(to("10.5.0.0/24", "10.5.0.0", link, ours)) }, ""},
		{"route replaced", func() error { return netlink.RouteReplace(to("10.5.0.0/24", "192.0.2.9", x.eth)) }, "route 10.5.0.0/24"},
		{"route of the same place", func() error { return netlink.RouteReplace(to("10.5.0.0/24", "10.5.0.0", link, ours)) }, ""},
		{"route on our device", func() error { return netlink.RouteAdd(to("10.5.7.0/24", "10.5.7.0", link)) }, "route 10.5.7.0/24"},
		{"route on our device gone", func() error { return netlink.RouteDel(to("10.5.7.0/24", "10.5.7.0", link)) }, ""},
		{"route with our protocol", func() error { return netlink.RouteAdd(to("10.5.8.0/24", "192.0.2.9", x.eth, ours)) }, "route 10.5.8.0/24"},
		{"somebody's route", func() error { return netlink.RouteAdd(to("10.5.9.0/24", "192.0.2.9", x.eth)) }, ""},
		{"somebody's route to the same", func() error { return netlink.RouteAdd(to("10.5.0.0/24", "192.0.2.9", x.eth, metric)) }, ""},
		{"other table", func() error { return netlink.RouteAdd(to("10.5.0.0/24", "192.0.2.9", x.eth, table)) }, ""},
		{"other network", func() error { return netlink.RouteAdd(to("172.16.0.0/24", "192.0.2.9", x.eth, ours)) }, ""},

		{"neighbour gone", func() error { return netlink.NeighDel(neigh(unix.AF_INET, unix.NUD_PERMANENT, "10.5.0.0", 0)) }, "neighbour 10.5.0.0"},
		{"neighbour back", func() error { return netlink.NeighSet(neigh(unix.AF_INET, unix.NUD_PERMANENT, "10.5.0.0", 0)) }, ""},
		{"neighbour changed", func() error { return netlink.NeighSet(neigh(unix.AF_INET, unix.NUD_PERMANENT, "10.5.0.0", 7)) }, "neighbour 10.5.0.0"},
		{"neighbour no longer permanent", func() error { return netlink.NeighSet(neigh(unix.AF_INET, unix.NUD_REACHABLE, "10.5.0.0", 0)) }, "neighbour 10.5.0.0"},
		{"stray neighbour", func() error { return netlink.NeighSet(neigh(unix.AF_INET, unix.NUD_PERMANENT, "10.5.7.0", 7)) }, "neighbour 10.5.7.0"},
		{"resolved neighbour", func() error { return netlink.NeighSet(neigh(unix.AF_INET, unix.NUD_REACHABLE, "10.5.8.0", 7)) }, ""},

		{"fdb entry gone", func() error { return netlink.NeighDel(neigh(unix.AF_BRIDGE, unix.NUD_PERMANENT, "192.1.0.1", 1)) }, "fdb entry 0e:00:00:00:00:01"},
		{"fdb entry back", func() error { return netlink.NeighSet(neigh(unix.AF_BRIDGE, unix.NUD_PERMANENT, "192.1.0.1", 1)) }, ""},
		{"fdb entry changed", func() error { return netlink.NeighSet(neigh(unix.AF_BRIDGE, unix.NUD_PERMANENT, "192.1.0.9", 1)) }, "fdb entry 0e:00:00:00:00:01"},
		{"fdb entry of another VNI", func() error {
			n := neigh(unix.AF_BRIDGE, unix.NUD_PERMANENT, "192.1.0.0", 0)
			n.VNI = 77
			return netlink.NeighSet(n)
		}, "fdb entry 0e:00:00:00:00:00"},
		{"stray fdb entry", func() error { return netlink.NeighSet(neigh(unix.AF_BRIDGE, unix.NUD_PERMANENT, "192.1.0.9", 8)) }, "fdb entry 0e:00:00:00:00:08"},
	} {
		x.must(tt.do())
		heard := slices.Compact(l.all())
		if got := strings.Join(heard, ", "); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.what, got, tt.want)
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	repairs, err := tables.Compare(overlay(link, 2))
	x.must(err)
	var keys []string
	for _, r := range repairs {
		_, what, _ := strings.Cut(string(r), " ") // without the verb
		what, _, _ = strings.Cut(what, " dev ")
		what, _, _ = strings.Cut(what, " via ")
		keys = append(keys, what)
	}
	equal(t, "repairs", keys,
		"neighbour 10.5.0.0", "neighbour 10.5.7.0",
		"fdb entry 0e:00:00:00:00:00", "fdb entry 0e:00:00:00:00:01", "fdb entry 0e:00:00:00:00:08",
		"route 10.5.8.0/24")
	if repairs, err := tables.Compare(overlay(link, 2)); err != nil || len(repairs) > 0 {
		t.Errorf("once more: %v, %v", repairs, err)
	}
}

// TestScopes: many routes get other scopes, and are the same routes.
func TestScopes(t *testing.T) {
	x := newHost(t)
	link := x.overlayDevice()
	tables := x.Tables()
	scopes := func() map[netlink.Scope]int {
		t.Helper()
		routes, err := netlink.RouteList(byIndex(link), netlink.FAMILY_V4)
		x.must(err)
		n := make(map[netlink.Scope]int)
		for _, r := range routes {
			n[r.Scope]++
		}
		return n
	}
	x.must(tables.Set(overlay(link, fewRoutes)))
	if s := scopes(); len(s) != 1 || s[netlink.SCOPE_UNIVERSE] != fewRoutes {
		t.Errorf("few routes have the scopes %v", s)
	}
	many := overlay(link, 3*fewRoutes)
	x.must(tables.Set(many))
	s := scopes()
	if n := len(s); n < 150 || s[netlink.SCOPE_LINK] != 0 {
		t.Errorf("many routes have %d scopes: %v", n, s)
	}
	repairs, err := tables.Compare(many)
	if err != nil || len(repairs) > 0 {
		t.Errorf("a comparison changes %d routes: %v", len(repairs), err)
	}
	path, err := x.Lookup(netip.MustParseAddr("10.14.7.7"))
	if err != nil || path.Via != netip.MustParseAddr("10.14.7.0") || path.Link != link {
		t.Errorf("lookup: %+v, %v", path, err)
	}
	for _, n := range []int{2 * fewRoutes, 5, 0} {
		x.must(tables.Set(overlay(link, n)))
		if got := len(x.routes()); got != n {
			t.Errorf("%d routes are left, want %d", got, n)
		}
	}
}

func TestMonitorEnds(t *testing.T) {
	newHost(t)
	m, err := OpenMonitor(OfLinks)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- m.Listen(ctx, func(Notice) {}) }()
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	m.Close()
	if err := m.Listen(t.Context(), func(Notice) {}); err == nil || errors.Is(err, context.Canceled) {
		t.Errorf("listening to what is closed: %v", err)
	}
}

// TestNoticesLost has a reader that is too slow.
func TestNoticesLost(t *testing.T) {
	x := newHost(t)
	link := x.overlayDevice()
	m, err := OpenMonitor(OfNeighbours)
	x.must(err)
	defer m.Close()
	x.must(m.raw.Control(func(fd uintptr) { unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, 1) }))
	x.must(m.join())
	tables := x.Tables()
	x.must(tables.Set(overlay(link, 100)))
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	lost := false
	x.must(m.run(ctx, func(n Notice) {
		if n.Lost() {
			lost = true
			cancel()
		}
	}))
	if !lost {
		t.Error("nobody was told that notices were lost")
	}
}

func BenchmarkTables(b *testing.B) {
	for _, n := range []int{1000, 10000, 50000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			h := &Handle{}
			tables := h.Tables()
			e := overlay(7, n)
			tables.want, tables.sure = h.desire(e), true
			b.ReportAllocs()
			for b.Loop() {
				if err := tables.Set(e); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// TestTablesLeaveConnected: with what it knows alone, Set may not replace the route
// of a network that this host is connected to, of which it has not heard.
func TestTablesLeaveConnected(t *testing.T) {
	x := newHost(t)
	link := x.overlayDevice()
	tables := x.Tables()
	x.must(tables.Set(overlay(link, 1)))
	x.veth("docker0", "10.5.1.1/24")
	if err := tables.Set(overlay(link, 3)); err == nil || !strings.Contains(err.Error(), "10.5.1.0/24") || !strings.Contains(err.Error(), "connected to docker0") {
		t.Errorf("error %v, want the connected network", err)
	}
	for dst, want := range map[string]int{"10.5.0.7": link, "10.5.2.7": link, "10.5.1.7": link + 2} {
		if path, err := x.Lookup(netip.MustParseAddr(dst)); err != nil || (path.Link == link) != (want == link) {
			t.Errorf("the way to %s: %+v, %v", dst, path, err)
		}
	}
	// A route that is in the way by itself is replaced.
	x.must(netlink.RouteAdd(&netlink.Route{Dst: toIPNet(netip.MustParsePrefix("10.5.4.0/24")), LinkIndex: x.eth}))
	tables = x.Tables()
	e := overlay(link, 6)
	e.Routes = slices.Delete(e.Routes, 1, 2)
	x.must(tables.Set(Entries{Scope: e.Scope}))
	x.must(tables.Set(e))
	if path, err := x.Lookup(netip.MustParseAddr("10.5.4.7")); err != nil || path.Link != link {
		t.Errorf("the way to 10.5.4.7: %+v, %v", path, err)
	}
}

// TestTablesRepairs: what cannot be put right is an error, and no repair.
func TestTablesRepairs(t *testing.T) {
	x := newHost(t)
	tables := x.Tables()
	route := func(dst, via string) Route {
		return Route{Dst: netip.MustParsePrefix(dst), Via: netip.MustParseAddr(via), Link: x.eth}
	}
	e := Entries{Scope: Scope{Within: netip.MustParsePrefix("10.5.0.0/16")}, Routes: []Route{
		route("10.5.1.0/24", "198.51.100.1"), route("10.5.2.0/24", "192.0.2.2")}}
	for i, want := range [][]string{{"add route 10.5.2.0/24 via 192.0.2.2 dev eth0"}, nil} {
		repairs, err := tables.Compare(e)
		if err == nil || !strings.Contains(err.Error(), "10.5.1.0/24") {
			t.Errorf("%d: error %v, want that of 10.5.1.0/24", i, err)
		}
		var got []string
		for _, r := range repairs {
			got = append(got, string(r))
		}
		equal(t, "repairs", got, want...)
	}
}

// TestNexthopObject: a route by a nexthop object (ip-nexthop(8)) tells both of the
// object and of its gateway, but must not be asked for by both.
func TestNexthopObject(t *testing.T) {
	x := newHost(t)
	link := x.overlayDevice()
	tables := x.Tables()
	x.must(tables.Set(overlay(link, 1)))
	const id = 7
	var r requests
	nhmsg := [8]byte{unix.AF_INET}
	native.PutUint32(nhmsg[4:], unix.RTNH_F_ONLINK)
	r.begin(add, unix.RTM_NEWNEXTHOP, unix.NLM_F_CREATE|unix.NLM_F_EXCL, nhmsg[:])
	r.attr32(unix.NHA_ID, id)
	r.attr32(unix.NHA_OIF, uint32(link))
	r.attr(unix.NHA_GATEWAY, []byte{10, 5, 9, 0})
	r.end()
	for _, third := range []byte{0, 9} {
		rtmsg := [rtmsgLen]byte{unix.AF_INET, 24, 0, 0, unix.RT_TABLE_MAIN, unix.RTPROT_BOOT, 0, unix.RTN_UNICAST}
		r.begin(replace, unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, rtmsg[:])
		r.attr(unix.RTA_DST, []byte{10, 5, third, 0})
		r.attr32(rtaNHID, id)
		r.end()
	}
	x.must(x.raw.send(&r, func(_ int, err error) { x.must(err) }))
	repairs, err := tables.Compare(overlay(link, 1))
	if err != nil || len(repairs) != 2 {
		t.Errorf("%+v, %v", repairs, err)
	}
	equal(t, "routes", x.routes(), "10.5.0.0/24 via 10.5.0.0 dev flannel.1 onlink proto 84")
}
