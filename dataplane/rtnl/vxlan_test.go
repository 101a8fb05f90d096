package rtnl

import (
	"errors"
	"net"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func mac(last byte) MAC { return MAC{0x0e, 0, 0, 0, 0, last} }

func (x host) wantVXLAN() VXLAN {
	return VXLAN{Name: "flannel.1", VNI: 1, Lower: x.eth, Local: netip.MustParseAddr("192.0.2.1"), MTU: 1450, MAC: mac(1)}
}

func TestEnsureVXLAN(t *testing.T) {
	x := newHost(t)
	v := x.wantVXLAN()
	l, created, differs, err := x.ensureVXLAN(v)
	if err != nil || !created || differs != nil {
		t.Fatalf("first time: created %v, differs %q, error %v", created, differs, err)
	}
	want := Link{Index: l.Index, Name: "flannel.1", Kind: "vxlan", MTU: 1450, TxQueueLen: 0, Up: true, MAC: mac(1)}
	if l != want {
		t.Errorf("made %+v\nwant %+v", l, want)
	}
	k, err := netlink.LinkByName("flannel.1")
	x.must(err)
	dev := k.(*netlink.Vxlan)
	if dev.Port != 8472 || dev.Learning || dev.Proxy || dev.RSC || dev.L2miss || dev.L3miss || dev.TTL != 0 || dev.TOS != 0 || dev.GBP || dev.Group != nil {
		t.Errorf("attributes %+v", dev)
	}

	// Taken over: the MAC stays, what may differ is set.
	x.must(netlink.LinkSetMTU(dev, 1300))
	x.must(netlink.LinkSetTxQLen(dev, 500))
	x.must(netlink.LinkSetDown(dev))
	v.MAC = mac(2)
	for _, v.Port = range []int{8472, 0} {
		again, created, differs, err := x.ensureVXLAN(v)
		if err != nil || created || differs != nil || again != want {
			t.Errorf("port %d: %+v created %v, differs %q, error %v\nwant %+v", v.Port, again, created, differs, err, want)
		}
	}
	x.must(second(x.SetMAC(l.Index, mac(9))))
	if l, err := x.LinkByIndex(l.Index); err != nil || l.MAC != mac(9) {
		t.Errorf("MAC set while up: %+v, %v", l, err)
	}
}

func TestEnsureVXLANIncompatible(t *testing.T) {
	x := newHost(t)
	eth1 := x.veth("eth1", "198.51.100.1/24")
	tests := []struct {
		name   string
		change func(*netlink.Vxlan)
		differ string
	}{
		{"compatible", func(d *netlink.Vxlan) { d.Learning, d.L3miss, d.TTL, d.Port = true, true, 9, 8472 }, ""},
		{"VNI", func(d *netlink.Vxlan) { d.VxlanId = 2 }, "VNI is 2, not 1"},
		{"lower", func(d *netlink.Vxlan) { d.VtepDevIndex = eth1 }, "link below is"},
		{"no lower", func(d *netlink.Vxlan) { d.VtepDevIndex = 0 }, "link below is 0"},
		{"local", func(d *netlink.Vxlan) { d.SrcAddr = net.IPv4(192, 0, 2, 9) }, "local address is 192.0.2.9, not 192.0.2.1"},
		{"no local", func(d *netlink.Vxlan) { d.SrcAddr = nil }, "local address is invalid IP, not 192.0.2.1"},
		{"IPv6 local", func(d *netlink.Vxlan) { d.SrcAddr = net.ParseIP("fd00::1") }, "local address is fd00::1"},
		{"group", func(d *netlink.Vxlan) { d.Group = net.IPv4(239, 1, 1, 1) }, "group is 239.1.1.1"},
		{"l2miss", func(d *netlink.Vxlan) { d.L2miss = true }, "l2miss is true"},
		{"port", func(d *netlink.Vxlan) { d.Port = 4789 }, "port is 4789, not 8472"},
		{"gbp", func(d *netlink.Vxlan) { d.GBP = true }, "gbp is true"},
	}
	for _, tt := range tests {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = "flannel.1"
		d := &netlink.Vxlan{LinkAttrs: attrs, VxlanId: 1, VtepDevIndex: x.eth, SrcAddr: net.IPv4(192, 0, 2, 1), Port: 8472}
		tt.change(d)
		x.must(netlink.LinkAdd(d))
		before, err := x.LinkByName("flannel.1")
		x.must(err)

		v := x.wantVXLAN()
		v.Port = 8472
		l, created, differs, err := x.ensureVXLAN(v)
		if err != nil {
			t.Fatalf("%s: %v", tt.name, err)
		}
		if tt.differ == "" {
			if created || differs != nil || l.Index != before.Index || l.MAC != before.MAC {
				t.Errorf("%s: created %v, differs %q: want it taken over", tt.name, created, differs)
			}
		} else if !created || l.Index == before.Index || l.MAC != mac(1) || len(differs) != 1 || !strings.Contains(differs[0], tt.differ) {
			t.Errorf("%s: created %v, %+v, differs %q, want %q", tt.name, created, l, differs, tt.differ)
		}
		if _, created, _, err := x.ensureVXLAN(v); created || err != nil {
			t.Errorf("%s: made twice (%v)", tt.name, err)
		}
		x.must(netlink.LinkDel(byIndex(l.Index)))
	}
}

func TestEnsureVXLANOptions(t *testing.T) {
	x := newHost(t)
	v := x.wantVXLAN()
	v.VNI, v.Port, v.GBP, v.MAC = 0, 4789, true, MAC{}
	l, _, _, err := x.ensureVXLAN(v)
	x.must(err)
	k, err := netlink.LinkByIndex(l.Index)
	x.must(err)
	if dev := k.(*netlink.Vxlan); dev.VxlanId != 0 || dev.Port != 4789 || !dev.GBP || !l.MAC.IsStation() {
		t.Errorf("attributes %+v, want VNI 0, port 4789, gbp and a random MAC", dev)
	}
}

func TestEnsureVXLANErrors(t *testing.T) {
	x := newHost(t)
	good := x.wantVXLAN()
	good.Name, good.MAC = "other", mac(77) // of another daemon
	if _, _, _, err := x.ensureVXLAN(good); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name   string
		change func(*VXLAN)
		err    string
		is     error
	}{
		{"VNI and port taken", func(v *VXLAN) {}, "other has the same VNI 1 and UDP port", unix.EEXIST},
		{"VNI and explicit port taken", func(v *VXLAN) { v.Port = 8472 }, "other has the same VNI 1", unix.EEXIST},
		{"another kind", func(v *VXLAN) { v.Name = "eth0" }, "eth0 is a link of kind veth: want a vxlan device", nil},
		{"no link below", func(v *VXLAN) { v.VNI, v.Lower = 2, 999 }, "add vxlan device flannel.1 with VNI 2, local 192.0.2.1, on link number 999", ErrNoLink},
		{"VNI of 25 bits", func(v *VXLAN) { v.VNI = 1 << 24 }, "VNI 16777216", unix.ERANGE},
		{"long name", func(v *VXLAN) { v.VNI, v.Name = 2, "flannel.16777215" }, "flannel.16777215", nil},
	}
	for _, tt := range tests {
		v := x.wantVXLAN()
		tt.change(&v)
		_, _, _, err := x.ensureVXLAN(v)
		if err == nil || !strings.Contains(err.Error(), tt.err) || tt.is != nil && !errors.Is(err, tt.is) {
			t.Errorf("%s: error %v, want %q", tt.name, err, tt.err)
		}
	}
	good.MTU = 9000
	if _, _, _, err := x.ensureVXLAN(good); err == nil || !strings.Contains(err.Error(), "set mtu of other to 9000") {
		t.Errorf("mtu larger than the link below allows: %v", err)
	}

	// A program on the port, then a device whose options forbid to share it.
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{Port: 4790})
	x.must(err)
	defer conn.Close()
	for _, port := range []int{4790, 0} {
		v := x.wantVXLAN()
		v.Port, v.GBP = port, true
		want := map[int]string{4790: "UDP port 4790 is taken", 0: "UDP port 8472 "}[port]
		_, _, _, err := x.ensureVXLAN(v)
		if !errors.Is(err, unix.EADDRINUSE) || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "flannel.1") {
			t.Errorf("port %d taken: error %v, want %q", port, err, want)
		}
	}
}

// TestRenamedVXLAN: our device is known by its MAC address under any name.
func TestRenamedVXLAN(t *testing.T) {
	x := newHost(t)
	l, _, _, err := x.ensureVXLAN(x.wantVXLAN())
	x.must(err)
	x.must(netlink.LinkSetName(byIndex(l.Index), "renamed"))
	e, err := x.EnsureVXLAN(x.wantVXLAN())
	x.must(err)
	if e.Link.Index != l.Index || e.Link.Name != l.Name || !e.Link.Up || e.Created || len(e.Repairs) == 0 || e.Repairs[0] != "rename renamed to flannel.1" {
		t.Errorf("the device %+v became %+v", l, e)
	}
}

// TestVXLANPortDefault: a port that is no longer asked for goes.
func TestVXLANPortDefault(t *testing.T) {
	x := newHost(t)
	v := x.wantVXLAN()
	v.Port = 4790
	_, _, _, err := x.ensureVXLAN(v)
	x.must(err)
	v.Port = 0
	_, created, differs, err := x.ensureVXLAN(v)
	if err != nil || !created || len(differs) != 1 || differs[0] != "port is 4790, not 8472" {
		t.Errorf("port given up: created %t, differs %v, %v", created, differs, err)
	}
	if _, created, _, err = x.ensureVXLAN(v); created || err != nil {
		t.Errorf("once more: created %t, %v", created, err)
	}
}

func TestNeighboursAndFDB(t *testing.T) {
	x := newHost(t)
	l, _, _, err := x.ensureVXLAN(x.wantVXLAN())
	x.must(err)
	x.must(netlink.NeighAdd(&netlink.Neigh{LinkIndex: l.Index, Family: unix.AF_INET, State: unix.NUD_REACHABLE, IP: net.IPv4(10, 5, 7, 7), HardwareAddr: net.HardwareAddr{2, 0, 0, 0, 0, 7}}))
	x.must(netlink.NeighAdd(&netlink.Neigh{LinkIndex: l.Index, Family: unix.AF_INET, State: unix.NUD_REACHABLE, IP: net.IPv4(10, 5, 2, 0), HardwareAddr: net.HardwareAddr{2, 0, 0, 0, 0, 7}}))
	x.must(netlink.NeighAdd(&netlink.Neigh{LinkIndex: x.eth, Family: unix.AF_INET, State: unix.NUD_PERMANENT, IP: net.IPv4(192, 0, 2, 7), HardwareAddr: net.HardwareAddr{2, 0, 0, 0, 0, 7}}))
	for _, dst := range []byte{91, 92, 93} {
		x.must(netlink.NeighAppend(&netlink.Neigh{LinkIndex: l.Index, Family: unix.AF_BRIDGE, State: unix.NUD_PERMANENT, Flags: netlink.NTF_SELF, IP: net.IPv4(192, 0, 2, dst), HardwareAddr: net.HardwareAddr{0x0e, 0, 0, 0, 0, 3}}))
	}
	for _, m := range []net.HardwareAddr{{0x0e, 0, 0, 0, 0, 99}, {0, 0, 0, 0, 0, 0}} {
		x.must(netlink.NeighAdd(&netlink.Neigh{LinkIndex: l.Index, Family: unix.AF_BRIDGE, State: unix.NUD_PERMANENT, Flags: netlink.NTF_SELF, IP: net.IPv4(192, 0, 2, 99), HardwareAddr: m}))
	}

	a := netip.MustParseAddr
	neighbours := []Neighbour{{a("10.5.2.0"), mac(2)}, {a("10.5.3.0"), mac(3)}}
	fdb := []FDBEntry{{mac(2), a("192.0.2.2")}, {mac(3), a("192.0.2.3")}}
	x.must(x.replaceNeighbours(l.Index, neighbours))
	x.must(x.replaceFDB(l.Index, fdb))
	goldenNeighbours := []string{"10.5.2.0 0e:00:00:00:00:02", "10.5.3.0 0e:00:00:00:00:03"}
	goldenFDB := []string{"192.0.2.2 0e:00:00:00:00:02", "192.0.2.3 0e:00:00:00:00:03"}
	equal(t, "neighbours", x.entries(l.Index, unix.AF_INET), goldenNeighbours...)
	equal(t, "fdb", x.entries(l.Index, unix.AF_BRIDGE), goldenFDB...)
	resolved, err := netlink.NeighList(l.Index, unix.AF_INET)
	x.must(err)
	if !slices.ContainsFunc(resolved, func(n netlink.Neigh) bool { return n.IP.Equal(net.IPv4(10, 5, 7, 7)) }) {
		t.Error("a neighbour that the kernel resolved is gone")
	}
	equal(t, "neighbours of eth0", x.entries(x.eth, unix.AF_INET), "192.0.2.7 02:00:00:00:00:07")

	m := x.monitor()
	x.must(x.replaceNeighbours(l.Index, neighbours))
	x.must(x.replaceFDB(l.Index, fdb))
	m.quiet("second time")

	// Contradictions fail, and settle all the same.
	for range 2 {
		err := x.replaceNeighbours(l.Index, append(neighbours, Neighbour{a("10.5.2.0"), mac(9)}, neighbours[0]))
		if want := "add neighbour 10.5.2.0 dev flannel.1 lladdr 0e:00:00:00:00:09: another MAC address is wanted too"; err == nil || err.Error() != want {
			t.Errorf("two MACs for one IP: %v, want %s", err, want)
		}
		err = x.replaceFDB(l.Index, append(fdb, FDBEntry{mac(2), a("192.0.2.9")}, fdb[0]))
		if want := "add fdb entry 0e:00:00:00:00:02 dev flannel.1 dst 192.0.2.9: another destination is wanted too"; err == nil || err.Error() != want {
			t.Errorf("two IPs for one MAC: %v, want %s", err, want)
		}
		m.quiet("contradictions")
	}

	// A peer moves: each of its two entries is overwritten in place.
	neighbours[0].MAC, fdb[1].Dst = mac(4), a("192.0.2.30")
	x.must(x.replaceNeighbours(l.Index, neighbours))
	x.must(x.replaceFDB(l.Index, fdb))
	if n := m.changes(); n != 2 {
		t.Errorf("two entries changed: %d messages, want 2", n)
	}
	x.must(x.replaceNeighbours(l.Index, nil))
	x.must(x.replaceFDB(l.Index, nil))
	equal(t, "no neighbours", x.entries(l.Index, unix.AF_INET))
	equal(t, "no fdb", x.entries(l.Index, unix.AF_BRIDGE))

	if err := x.replaceNeighbours(999, neighbours[:1]); err == nil || !strings.Contains(err.Error(), "dev link number 999") {
		t.Errorf("no such link: %v", err)
	}
	if err := x.replaceFDB(999, fdb[:1]); err == nil || !strings.Contains(err.Error(), "add fdb entry 0e:00:00:00:00:02 dev link number 999") {
		t.Errorf("fdb of no link: %v", err)
	}
}

// TestFDBOddities: an entry without a destination, which has a nexthop group
// instead, can be removed; and what a bridge knows of a port of its own is none
// of the device's entries.
func TestFDBOddities(t *testing.T) {
	x := newHost(t)
	l, _, _, err := x.ensureVXLAN(x.wantVXLAN())
	x.must(err)
	for _, command := range []string{
		"ip nexthop add id 1 via 192.0.2.9 fdb",
		"ip nexthop add id 2 group 1 fdb",
		"bridge fdb add 0e:00:00:00:00:4d dev flannel.1 nhid 2 self permanent",
	} {
		f := strings.Fields(command)
		if out, err := exec.Command(f[0], f[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", command, err, out)
		}
	}
	equal(t, "before", x.entries(l.Index, unix.AF_BRIDGE), "invalid IP 0e:00:00:00:00:4d")
	x.must(x.replaceFDB(l.Index, nil))
	equal(t, "after", x.entries(l.Index, unix.AF_BRIDGE))

	attrs := netlink.NewLinkAttrs()
	attrs.Name = "br0"
	bridge := &netlink.Bridge{LinkAttrs: attrs}
	x.must(netlink.LinkAdd(bridge))
	x.must(netlink.LinkSetMaster(byIndex(l.Index), bridge))
	have, err := netlink.NeighList(l.Index, unix.AF_BRIDGE)
	x.must(err)
	p, err := x.compareFDB(x.desire(Entries{Scope: Scope{Link: l.Index}}))
	x.must(err)
	if p.len() != 0 || len(have) == 0 {
		t.Errorf("%d changes planned for what the bridge has: %v", p.len(), have)
	}
}

func TestEnsureAddr(t *testing.T) {
	x := newHost(t)
	link := x.veth("flannel.1", "10.5.3.0/16") // an earlier lease, as V10's udp had it
	for _, other := range []string{"10.5.3.9/24", "10.5.9.0/32", "169.254.7.7/16", "10.6.0.1/32"} {
		x.must(netlink.AddrAdd(byIndex(link), &netlink.Addr{IPNet: &net.IPNet{IP: toIP(netip.MustParsePrefix(other).Addr()), Mask: toIPNet(netip.MustParsePrefix(other)).Mask}}))
	}
	x.foreign("10.5.7.0/24", "10.5.7.0", link, Protocol)
	base := netip.MustParseAddr("10.5.3.0")
	x.must(second(x.EnsureAddr(link, base, network)))
	equal(t, "addresses", x.addrs(link), "10.5.3.0/32", "10.6.0.1/32", "169.254.7.7/16")
	if !slices.Contains(x.routes(), "10.5.7.0/24 via 10.5.7.0 dev flannel.1 onlink proto 84") {
		t.Error("routes of the link were lost")
	}
	m := x.monitor()
	x.must(second(x.EnsureAddr(link, base, network)))
	m.quiet("second time")
	x.must(second(x.EnsureAddr(link, netip.MustParseAddr("10.5.4.0"), network)))
	equal(t, "next lease", x.addrs(link), "10.5.4.0/32", "10.6.0.1/32", "169.254.7.7/16")

	// The right address, with a scope that makes the kernel not use it.
	x.must(netlink.AddrDel(byIndex(link), &netlink.Addr{IPNet: toIPNet(netip.MustParsePrefix("10.5.4.0/32"))}))
	x.must(netlink.AddrAdd(byIndex(link), &netlink.Addr{IPNet: toIPNet(netip.MustParsePrefix("10.5.4.0/32")), Scope: int(netlink.SCOPE_LINK)}))
	x.must(second(x.EnsureAddr(link, netip.MustParseAddr("10.5.4.0"), network)))
	addrs, err := netlink.AddrList(byIndex(link), netlink.FAMILY_V4)
	x.must(err)
	for _, a := range addrs {
		if fromIP(a.IP) == netip.MustParseAddr("10.5.4.0") && a.Scope != int(netlink.SCOPE_UNIVERSE) {
			t.Errorf("10.5.4.0 has scope %d", a.Scope)
		}
	}
	equal(t, "after a wrong scope", x.addrs(link), "10.5.4.0/32", "10.6.0.1/32", "169.254.7.7/16")

	if _, err := x.EnsureAddr(999, base, network); !errors.Is(err, ErrNoLink) {
		t.Errorf("no such link: %v", err)
	}
}

func TestLinks(t *testing.T) {
	x := newHost(t)
	l, err := x.LinkByName("eth0")
	if err != nil || l.Index != x.eth || l.Kind != "veth" || !l.Up || l.MTU != 1500 {
		t.Errorf("eth0 is %+v, %v", l, err)
	}
	_, err1 := x.LinkByName("eth9")
	_, err2 := x.LinkByIndex(999)
	for _, err := range []error{err1, err2, second(x.EnsureLink(999, 1500, 0)), second(x.SetMAC(999, mac(1)))} {
		if !errors.Is(err, ErrNoLink) {
			t.Errorf("error %v, want ErrNoLink", err)
		}
	}
	if _, err := x.EnsureLink(x.eth, 7, 0); err == nil || !strings.Contains(err.Error(), "set mtu of eth0 to 7: ") {
		t.Errorf("mtu 7: %v", err)
	}
	if _, err := x.SetMAC(x.eth, MAC{1}); err == nil || !strings.Contains(err.Error(), "set address of eth0 to 01:00:00:00:00:00") {
		t.Errorf("group address: %v", err)
	}
	x.must(second(x.EnsureLink(x.eth, 1400, 77)))
	if l, _ = x.LinkByName("eth0"); l.MTU != 1400 || l.TxQueueLen != 77 {
		t.Errorf("eth0 is %+v", l)
	}
}
