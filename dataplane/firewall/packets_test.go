package firewall

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// The lab around the node, which is the test's own namespace:
//
//	pod 10.5.3.2 ---- 10.5.3.1 node 192.0.2.1 ------ 192.0.2.9 outside
//	                           node 198.51.100.1 --- 198.51.100.9 peer, with pod 10.5.9.2
const (
	podIP     = "10.5.3.2"
	nodePodIP = "10.5.3.1"
	nodeIP    = "192.0.2.1"
	outsideIP = "192.0.2.9"
	nodePeer  = "198.51.100.1"
	peerPodIP = "10.5.9.2"
)

type lab struct{ node, pod, outside, peer netns.NsHandle }

// newLab builds the lab. It ends with the test, whose thread holds it.
func newLab(t *testing.T) lab {
	t.Helper()
	node, err := netns.Get()
	must(t, err)
	l := lab{node: node}
	t.Cleanup(func() { node.Close() })
	must(t, os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0))

	l.pod = l.attach(t, "pod", nodePodIP+"/24", podIP+"/24")
	l.outside = l.attach(t, "outside", nodeIP+"/24", outsideIP+"/24")
	l.peer = l.attach(t, "peer", nodePeer+"/24", "198.51.100.9/24")
	in(t, l.peer, l.node, func() {
		lo, err := netlink.LinkByName("lo")
		must(t, err)
		must(t, netlink.LinkSetUp(lo))
		addAddr(t, lo, peerPodIP+"/32")
	})
	addRoute(t, "10.5.9.0/24", "198.51.100.9")
	return l
}

// attach makes a namespace with a veth to the node and a default route there.
func (l lab) attach(t *testing.T, name, nodeAddr, addr string) netns.NsHandle {
	t.Helper()
	ns, err := netns.New() // enters it as well
	must(t, err)
	t.Cleanup(func() { ns.Close() })
	must(t, netns.Set(l.node))
	must(t, netlink.LinkAdd(&netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: "eth0", PeerNamespace: netlink.NsFd(ns)}))
	up(t, name, nodeAddr)
	in(t, ns, l.node, func() {
		up(t, "eth0", addr)
		addRoute(t, "0.0.0.0/0", netip.MustParsePrefix(nodeAddr).Addr().String())
	})
	return ns
}

// in calls fn in the namespace ns and returns to the namespace back.
func in(t *testing.T, ns, back netns.NsHandle, fn func()) {
	t.Helper()
	must(t, netns.Set(ns))
	defer func() { must(t, netns.Set(back)) }()
	fn()
}

func up(t *testing.T, name, addr string) {
	t.Helper()
	link, err := netlink.LinkByName(name)
	must(t, err)
	addAddr(t, link, addr)
	must(t, netlink.LinkSetUp(link))
	must(t, os.WriteFile("/proc/sys/net/ipv4/conf/"+name+"/rp_filter", []byte("0"), 0))
}

func addAddr(t *testing.T, link netlink.Link, addr string) {
	t.Helper()
	a, err := netlink.ParseAddr(addr)
	must(t, err)
	must(t, netlink.AddrAdd(link, a))
}

func addRoute(t *testing.T, dst, gw string) {
	t.Helper()
	_, n, err := net.ParseCIDR(dst)
	must(t, err)
	must(t, netlink.RouteAdd(&netlink.Route{Dst: n, Gw: net.ParseIP(gw)}))
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// seen sends a UDP datagram from one namespace to an address in another and
// returns the source address that the receiver sees, or "nothing" after wait.
func (l lab) seen(t *testing.T, from netns.NsHandle, src string, to netns.NsHandle, dst string, wait time.Duration) string {
	t.Helper()
	var receiver, sender *net.UDPConn
	var err error
	addr := netip.MustParseAddr(dst)
	in(t, to, l.node, func() {
		if addr.IsMulticast() {
			var eth *net.Interface
			eth, err = net.InterfaceByName("eth0")
			must(t, err)
			receiver, err = net.ListenMulticastUDP("udp4", eth, &net.UDPAddr{IP: addr.AsSlice()})
		} else {
			receiver, err = net.ListenUDP("udp4", &net.UDPAddr{IP: addr.AsSlice()})
		}
	})
	must(t, err)
	defer receiver.Close()
	in(t, from, l.node, func() {
		sender, err = net.ListenUDP("udp4", &net.UDPAddr{IP: net.ParseIP(src)})
	})
	must(t, err)
	defer sender.Close()
	if addr.IsMulticast() {
		out, err := net.InterfaceByName("outside")
		must(t, err)
		raw, err := sender.SyscallConn()
		must(t, err)
		must(t, raw.Control(func(fd uintptr) {
			must(t, unix.SetsockoptIPMreqn(int(fd), unix.IPPROTO_IP, unix.IP_MULTICAST_IF, &unix.IPMreqn{Ifindex: int32(out.Index)}))
		}))
	}
	port := receiver.LocalAddr().(*net.UDPAddr).AddrPort().Port()
	if _, err := sender.WriteToUDPAddrPort([]byte("hello"), netip.AddrPortFrom(addr, port)); err != nil {
		if errors.Is(err, unix.EPERM) {
			return "nothing"
		}
		t.Fatal(err)
	}
	must(t, receiver.SetReadDeadline(time.Now().Add(wait)))
	_, source, err := receiver.ReadFromUDPAddrPort(make([]byte, 100))
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return "nothing"
	}
	must(t, err)
	return source.Addr().Unmap().String()
}

func TestPackets(t *testing.T) {
	for _, v := range variants {
		t.Run(v, func(t *testing.T) {
			f := enter(t, v)
			l := newLab(t)
			check := func(when string, wants ...string) {
				t.Helper()
				for i, p := range []struct {
					name string
					from netns.NsHandle
					src  string
					to   netns.NsHandle
					dst  string
				}{
					{"pod to outside", l.pod, podIP, l.outside, outsideIP},
					{"pod to pod of peer", l.pod, podIP, l.peer, peerPodIP},
					{"outside to own pod", l.outside, outsideIP, l.pod, podIP},
					{"outside to pod of peer", l.outside, outsideIP, l.peer, peerPodIP},
					{"node in the network to outside", l.node, nodePodIP, l.outside, outsideIP},
					{"node in the network to multicast", l.node, nodePodIP, l.outside, "239.1.2.3"},
				} {
					wait := 10 * time.Second
					if wants[i] == "nothing" {
						wait = 100 * time.Millisecond // veths deliver in microseconds
					}
					if got := l.seen(t, p.from, p.src, p.to, p.dst, wait); got != wants[i] {
						t.Errorf("%s: %s: receiver sees %s, want %s", when, p.name, got, wants[i])
					}
				}
			}
			check("no rules", podIP, podIP, outsideIP, outsideIP, nodePodIP, nodePodIP)
			sh(t, "iptables -P FORWARD DROP")
			check("policy drop", "nothing", "nothing", "nothing", "nothing", nodePodIP, nodePodIP)

			r := testRules()
			r.Masquerade = false
			ensure(t, f, r, true)
			check("forward", podIP, podIP, outsideIP, outsideIP, nodePodIP, nodePodIP)

			ensure(t, f, testRules(), true)
			check("forward and masquerade", nodeIP, podIP, outsideIP, nodePeer, nodeIP, nodePodIP)
			ensure(t, f, testRules(), false)
		})
	}
}
