package vxlan

import (
	"bytes"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"tweed/backend"
	"tweed/subnet"
	"tweed/test/nstest"
)

// lab is two Ethernet segments, 192.0.2.0/24 (near) and 198.51.100.0/24 (far),
// and a router between them, in a namespace of its own. The test's goroutine
// moves between the namespaces.
type lab struct {
	t      *testing.T
	router int // namespace
}

func newLab(t *testing.T) lab {
	t.Helper()
	x := lab{t: t, router: newNamespace(t)}
	for name, addr := range map[string]string{"near": "192.0.2.254/24", "far": "198.51.100.254/24"} {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = name
		must(t, netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}))
		addAddr(t, name, addr)
	}
	must(t, os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0))
	return x
}

// node is a host with the interface eth0 and one pod, whose address is on lo.
type node struct {
	t     *testing.T
	ns    int
	lab   lab
	under backend.Underlay
	lease subnet.Lease
	pod   netip.Addr
	conn  *net.UDPConn // of the pod
	log   bytes.Buffer
	*Backend
}

// node makes a host on a segment; its lease is sn.
func (x lab) node(segment, addr, sn string) *node {
	x.t.Helper()
	n := &node{t: x.t, ns: newNamespace(x.t), lab: x}
	p := netip.MustParsePrefix(addr)
	n.plug(segment, addr)
	n.under = backend.Underlay{Name: "eth0", MTU: 1500, Addr: p.Addr(), PublicIP: p.Addr()}
	n.lease = subnet.Lease{Subnet: netip.MustParsePrefix(sn)}

	n.pod = n.lease.Subnet.Addr().Next()
	addAddr(x.t, "lo", n.pod.String()+"/32")
	conn, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(n.pod, 7)))
	must(x.t, err)
	n.conn = conn
	x.t.Cleanup(func() { conn.Close() })
	return n
}

// plug connects the host's eth0 to a segment.
func (n *node) plug(segment, addr string) {
	n.t.Helper()
	enter(n.t, n.lab.router)
	attrs := netlink.NewLinkAttrs()
	attrs.Name = fmt.Sprintf("port%d", n.ns)
	bridge, err := netlink.LinkByName(segment)
	must(n.t, err)
	attrs.MasterIndex = bridge.Attrs().Index
	port := &netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerNamespace: netlink.NsFd(n.ns)}
	must(n.t, netlink.LinkAdd(port))
	must(n.t, netlink.LinkSetUp(port))
	enter(n.t, n.ns)
	addAddr(n.t, "eth0", addr)
	gw := netip.PrefixFrom(netip.MustParsePrefix(addr).Masked().Addr(), 32).Addr().As4()
	gw[3] = 254
	must(n.t, netlink.RouteAdd(&netlink.Route{Gw: gw[:]}))
}

// start opens the backend with the options and brings it up.
func (n *node) start(options string) {
	n.t.Helper()
	enter(n.t, n.ns)
	n.Backend = open(n.t, n.under, options, &n.log)
	n.lease.Attrs = n.Attrs()
	must(n.t, n.Up(n.t.Context(), n.lease))
}

func open(t *testing.T, u backend.Underlay, options string, log *bytes.Buffer) *Backend {
	t.Helper()
	b, err := Open(t.Context(), u, config(t, options), subnet.Attrs{}, slog.New(slog.NewTextHandler(log, nil)))
	must(t, err)
	t.Cleanup(func() { b.Close() })
	return b
}

func config(t *testing.T, options string) subnet.Config {
	t.Helper()
	cfg, err := subnet.ParseConfig([]byte(`{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan"` + options + `}}`))
	must(t, err)
	return cfg
}

// meet tells each node of all the others.
func meet(t *testing.T, nodes ...*node) {
	t.Helper()
	for _, n := range nodes {
		must(t, n.Sync(t.Context(), others(n, nodes)))
	}
}

func others(n *node, nodes []*node) []subnet.Lease {
	var peers []subnet.Lease
	for _, other := range nodes {
		if other != n {
			peers = append(peers, other.lease)
		}
	}
	return peers
}

// reach sends a datagram from pod to pod and back.
func reach(t *testing.T, a, b *node) {
	t.Helper()
	msg := []byte(fmt.Sprint("ping ", time.Now().UnixNano()))
	for _, way := range []struct{ from, to *node }{{a, b}, {b, a}} {
		_, err := way.from.conn.WriteToUDPAddrPort(msg, netip.AddrPortFrom(way.to.pod, 7))
		must(t, err)
		must(t, way.to.conn.SetReadDeadline(time.Now().Add(5*time.Second)))
		buf := make([]byte, 100)
		for {
			k, from, err := way.to.conn.ReadFromUDPAddrPort(buf)
			if err != nil {
				t.Fatalf("%s -> %s: %v", way.from.pod, way.to.pod, err)
			}
			if bytes.Equal(buf[:k], msg) && from.Addr() == way.from.pod {
				break
			}
		}
	}
}

// state lists what the node's kernel has for the overlay network, as `ip` and
// `bridge` show it.
func (n *node) state() string {
	n.t.Helper()
	enter(n.t, n.ns)
	var lines []string
	routes, err := netlink.RouteList(nil, netlink.FAMILY_V4)
	must(n.t, err)
	for _, r := range routes {
		if r.Dst.IP[0] == 10 {
			line := fmt.Sprintf("route %s via %s dev %s proto %s", r.Dst, r.Gw, linkName(r.LinkIndex), r.Protocol)
			if r.Flags&unix.RTNH_F_ONLINK != 0 {
				line += " onlink"
			}
			lines = append(lines, line)
		}
	}
	dev, err := netlink.LinkByName("flannel.1")
	must(n.t, err)
	index := dev.Attrs().Index
	addrs, err := netlink.AddrList(dev, netlink.FAMILY_V4)
	must(n.t, err)
	for _, a := range addrs {
		lines = append(lines, "addr "+a.IPNet.String())
	}
	for table, family := range map[string]int{"neigh": unix.AF_INET, "fdb": unix.AF_BRIDGE} {
		entries, err := netlink.NeighList(index, family)
		must(n.t, err)
		for _, e := range entries {
			if e.State == unix.NUD_PERMANENT {
				lines = append(lines, fmt.Sprintf("%s %s %s", table, e.IP, e.HardwareAddr))
			}
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// sees fails unless state shows what a node has for exactly these peers: those
// behind a gateway have one, the others go through the tunnel.
func (n *node) sees(peers map[*node]string) {
	n.t.Helper()
	lines := []string{"addr " + n.lease.Subnet.Addr().String() + "/32"}
	for p, gateway := range peers {
		base := p.lease.Subnet.Addr()
		if gateway != "" {
			lines = append(lines, fmt.Sprintf("route %s via %s dev eth0 proto 84", p.lease.Subnet, gateway))
			continue
		}
		lines = append(lines,
			fmt.Sprintf("route %s via %s dev flannel.1 proto 84 onlink", p.lease.Subnet, base),
			fmt.Sprintf("neigh %s %s", base, p.dev.MAC),
			fmt.Sprintf("fdb %s %s", p.under.PublicIP, p.dev.MAC))
	}
	slices.Sort(lines)
	if got, want := n.state(), strings.Join(lines, "\n"); got != want {
		n.t.Errorf("%s has\n%s\nwant\n%s", n.lease.Subnet, got, want)
	}
}

func linkName(index int) string {
	l, err := netlink.LinkByIndex(index)
	if err != nil {
		return err.Error()
	}
	return l.Attrs().Name
}

// newNamespace enters a fresh namespace and returns its descriptor.
func newNamespace(t *testing.T) int {
	t.Helper()
	nstest.Enter(t)
	ns, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	must(t, err)
	t.Cleanup(func() { unix.Close(ns) })
	return ns
}

// enter moves to a namespace, on the thread that nstest.Enter took for good.
func enter(t *testing.T, ns int) {
	t.Helper()
	runtime.LockOSThread()
	must(t, unix.Setns(ns, unix.CLONE_NEWNET))
}

func addAddr(t *testing.T, name, addr string) {
	t.Helper()
	l, err := netlink.LinkByName(name)
	must(t, err)
	a, err := netlink.ParseAddr(addr)
	must(t, err)
	must(t, netlink.AddrAdd(l, a))
	must(t, netlink.LinkSetUp(l))
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
