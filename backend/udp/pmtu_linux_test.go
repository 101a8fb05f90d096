package udp

import (
	"bytes"
	"errors"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"tweed/dataplane"
	"tweed/test/nstest"
)

// newFarHosts makes two hosts with two routers and a narrow link in between:
//
//	192.0.2.1 --1500-- router --1400-- router --1500-- 198.51.100.1
func newFarHosts(t *testing.T) (a, b *host) {
	nstest.NeedRoot(t)
	a, b = newHost(t, "192.0.2.1", 1), newHost(t, "198.51.100.1", 2)
	r, s := newHost(t, "203.0.113.1", 3), newHost(t, "203.0.113.2", 4)
	join(a, r, "eth0", "192.0.2.1/24", "192.0.2.254/24", 1500)
	join(r, s, "eth1", "203.0.113.1/24", "203.0.113.2/24", 1400)
	join(s, b, "eth0", "198.51.100.254/24", "198.51.100.1/24", 1500)
	for _, router := range []*host{r, s} {
		router.do(func() error { return os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0) })
	}
	a.route("0.0.0.0/0", "192.0.2.254")
	b.route("0.0.0.0/0", "198.51.100.254")
	r.route("198.51.100.0/24", "203.0.113.2")
	s.route("192.0.2.0/24", "203.0.113.1")
	a.addPod()
	b.addPod()
	return a, b
}

func (h *host) route(dst, via string) {
	h.t.Helper()
	h.do(func() error {
		to, err := netlink.ParseIPNet(dst)
		if err != nil {
			return err
		}
		return netlink.RouteAdd(&netlink.Route{Dst: to, Gw: netip.MustParseAddr(via).AsSlice()})
	})
}

// dialUDP opens a connected socket of the host's pod with an IP_MTU_DISCOVER
// mode (ip(7)).
func (h *host) dialUDP(t *testing.T, to netip.AddrPort, discover int) *net.UDPConn {
	t.Helper()
	var conn *net.UDPConn
	h.do(func() (err error) {
		conn, err = net.DialUDP("udp4", &net.UDPAddr{IP: h.pod().AsSlice()}, net.UDPAddrFromAddrPort(to))
		return err
	})
	t.Cleanup(func() { conn.Close() })
	if err := sockopt(conn, func(fd int) error {
		return unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, discover)
	}); err != nil {
		t.Fatal(err)
	}
	return conn
}

func sockopt(conn *net.UDPConn, f func(fd int) error) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var ferr error
	err = raw.Control(func(fd uintptr) { ferr = f(int(fd)) })
	return errors.Join(err, ferr)
}

// pathMTU is what the kernel thinks of the way of a connected socket.
func pathMTU(t *testing.T, conn *net.UDPConn) (mtu int) {
	t.Helper()
	if err := sockopt(conn, func(fd int) (err error) {
		mtu, err = unix.GetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_MTU)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return mtu
}

// A link on the way that is narrower than the underlay at both ends: pods learn
// 1400-28, and whoever does not want to know is fragmented.
func TestPathMTU(t *testing.T) {
	const narrow = 1400 - 28
	for _, mix := range mixes {
		t.Run(mix.name, func(t *testing.T) {
			a, b := newFarHosts(t)
			a.backend, b.backend = mix.a, mix.b
			onA, _ := start(t, a, b)
			mustPing(t, a, b)
			to := b.udp(t)
			dst := to.LocalAddr().(*net.UDPAddr).AddrPort()
			full := bytes.Repeat([]byte("tweed"), 1444)[:1444] // 1472 with headers
			buf := make([]byte, 2000)

			// Without DF: lost until the outer path is known, then in fragments.
			free := a.dialUDP(t, dst, unix.IP_PMTUDISC_DONT)
			await(t, "a fragmented packet", func() bool {
				if _, err := free.Write(full); err != nil {
					t.Fatal(err)
				}
				to.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
				n, err := to.Read(buf)
				return err == nil && bytes.Equal(buf[:n], full)
			})
			// Counters show at the end of a round, after its packets have left.
			await(t, "the fragments to be counted", func() bool { return onA.Stats().ToPeers.Fragmented > 0 })
			if s := onA.Stats().ToPeers; s.Replies != 0 {
				t.Errorf("%+v, want no ICMP errors", s)
			}
			if mtu := pathMTU(t, free); mtu != onA.MTU() {
				t.Errorf("the pod's path MTU is %d before anybody told it", mtu)
			}

			// With DF: the sender is told.
			df := a.dialUDP(t, dst, unix.IP_PMTUDISC_DO)
			if _, err := df.Write(full); err != nil {
				t.Fatal(err)
			}
			await(t, "the pod to learn the path MTU", func() bool { return pathMTU(t, df) != onA.MTU() })
			if mtu := pathMTU(t, df); mtu != narrow {
				t.Errorf("the pod's path MTU is %d, want %d", mtu, narrow)
			}
			told := 0
			if err := sockopt(df, func(fd int) (err error) {
				told, err = unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
				return err
			}); err != nil || told != int(unix.EMSGSIZE) {
				t.Errorf("the ICMP error was %v, %v, want %v", unix.Errno(told), err, unix.EMSGSIZE)
			}
			if _, err := df.Write(full); !errors.Is(err, unix.EMSGSIZE) {
				t.Errorf("send with DF: %v, want %v", err, unix.EMSGSIZE)
			}
			if _, err := df.Write(full[:narrow-28]); err != nil {
				t.Errorf("send what fits: %v", err)
			}
			to.SetReadDeadline(time.Now().Add(patience))
			if n, err := to.Read(buf); err != nil || !bytes.Equal(buf[:n], full[:narrow-28]) {
				t.Errorf("what fits: %d bytes, %v", n, err)
			}
			await(t, "the ICMP error to be counted", func() bool { return onA.Stats().ToPeers.Replies > 0 })
			if s := onA.Stats().ToPeers; s.Dropped[dataplane.TooBig] != 1 || s.Replies != 1 {
				t.Errorf("%+v, want 1 ICMP error for 1 packet", s)
			}

			mustPing(t, b, a)
		})
	}
}

// TCP finds its way by the ICMP errors that its first full segments meet.
func TestPathMTUOfTCP(t *testing.T) {
	for _, mix := range mixes {
		t.Run(mix.name, func(t *testing.T) {
			a, b := newFarHosts(t)
			a.backend, b.backend = mix.a, mix.b
			onA, onB := start(t, a, b)
			mustPing(t, a, b)
			if err := transfer(a, b, 4<<20); err != nil {
				t.Error(err)
			}
			to := b.udp(t).LocalAddr().(*net.UDPAddr).AddrPort()
			if mtu := pathMTU(t, a.dialUDP(t, to, unix.IP_PMTUDISC_DO)); mtu != 1400-28 {
				t.Errorf("the pod's path MTU is %d, want %d", mtu, 1400-28)
			}
			if s := onA.Stats(); s.ToPeers.Dropped[dataplane.TooBig] == 0 || s.ToPeers.Replies == 0 || onA.offload != (s.Socket.SendSupers > 0) {
				t.Errorf("%+v", s)
			}
			if s := onB.Stats().ToPeers; s.Dropped[dataplane.TooBig] > 0 { // it sends nothing large
				t.Errorf("%+v", s)
			}
			if err := transfer(b, a, 4<<20); err != nil {
				t.Error(err)
			}
		})
	}
}
