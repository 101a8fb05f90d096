package udp

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"tweed/dataplane"
)

// An icmpError is what a socket learned of the fate of a packet (ip(7), IP_RECVERR).
type icmpError struct {
	from       netip.Addr
	kind, code byte
}

// probe sends a datagram with that TTL from the host's pod and returns the ICMP
// error that comes back.
func (h *host) probe(dst netip.AddrPort, ttl int) (e icmpError, err error) {
	var fd int
	h.do(func() (err error) {
		fd, err = unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		return err
	})
	defer unix.Close(fd)
	if err := errors.Join(
		unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_TTL, ttl),
		unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_RECVERR, 1),
		unix.Bind(fd, &unix.SockaddrInet4{Addr: h.pod().As4()}),
		unix.Sendto(fd, []byte("probe"), 0, &unix.SockaddrInet4{Addr: dst.Addr().As4(), Port: int(dst.Port())})); err != nil {
		return e, err
	}
	fds := []unix.PollFd{{Fd: int32(fd)}} // POLLERR is always asked for
	if n, err := unix.Poll(fds, int(patience/time.Millisecond)); n != 1 || err != nil {
		return e, fmt.Errorf("no ICMP error: %w", err)
	}
	oob := make([]byte, 512)
	_, n, _, _, err := unix.Recvmsg(fd, make([]byte, 100), oob, unix.MSG_ERRQUEUE)
	if err != nil {
		return e, err
	}
	control, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil {
		return e, err
	}
	for _, c := range control {
		// struct sock_extended_err, and behind it the address of the sender.
		if c.Header.Type == unix.IP_RECVERR && len(c.Data) >= 16+8 && c.Data[4] == unix.SO_EE_ORIGIN_ICMP {
			return icmpError{netip.AddrFrom4([4]byte(c.Data[16+4 : 16+8])), c.Data[5], c.Data[6]}, nil
		}
	}
	return e, fmt.Errorf("no ICMP error in % x", oob[:n])
}

// What traceroute shows: this end of the tunnel, the far end, the pod.
func TestTraceroute(t *testing.T) {
	inMixes(t, func(t *testing.T, a, b *host, onA, onB *Backend) {
		mustPing(t, a, b)
		closed := netip.AddrPortFrom(b.pod(), 9)
		const timeExceeded, unreachable, port = 11, 3, 3
		for ttl, want := range map[int]icmpError{
			1: {b.sn.Addr(), timeExceeded, 0},
			2: {b.sn.Addr(), timeExceeded, 0},
			3: {b.pod(), unreachable, port},
			4: {b.pod(), unreachable, port},
		} {
			if got, err := a.probe(closed, ttl); err != nil || got != want {
				t.Errorf("TTL %d: %+v, %v, want %+v", ttl, got, err, want)
			}
		}
		// Counters show at the end of a round, after its answers have left.
		await(t, "one answer of each end", func() bool {
			to, from := onA.Stats().ToPeers, onB.Stats().FromPeers
			return to.Replies == 1 && to.Dropped[dataplane.TTLExceeded] == 1 && from.Replies == 1 && from.Dropped[dataplane.TTLExceeded] == 1
		})
		if s := onA.Stats().FromPeers; total(s.Dropped) > 0 || total(s.Suspect) > 0 {
			t.Errorf("the answers are not trusted: %+v", s)
		}
		if got, err := a.probe(netip.MustParseAddrPort("10.5.77.7:9"), 64); err != nil || got.kind != unreachable || got.code != 0 {
			t.Errorf("without a route: %+v, %v", got, err)
		}
	})
}

// Whose TTL ends here is told, but only if it is a peer's: nothing goes to
// whoever wrote the outer source.
func TestNoAnswerToStrangers(t *testing.T) {
	inMixes(t, func(t *testing.T, a, b *host, onA, _ *Backend) {
		mustPing(t, a, b)
		var conns []*net.UDPConn
		b.do(func() error {
			if err := b.configure("eth0", "192.0.2.99/24"); err != nil {
				return err
			}
			for _, addr := range []string{"192.0.2.99", "192.0.2.2"} {
				conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.ParseIP(addr)})
				if err != nil {
					return err
				}
				t.Cleanup(func() { conn.Close() })
				conns = append(conns, conn)
			}
			return nil
		})
		p := udpPacket(t, netip.AddrPortFrom(b.pod(), 7), netip.AddrPortFrom(a.pod(), 9), "last hop")
		p[8], p[10], p[11] = 1, 0, 0
		sum := ^dataplane.Sum(0, p[:20])
		p[10], p[11] = byte(sum>>8), byte(sum)
		for _, conn := range conns { // the stranger first
			if _, err := conn.WriteToUDPAddrPort(p, netip.AddrPortFrom(a.addr, defaultPort)); err != nil {
				t.Fatal(err)
			}
		}
		buf := make([]byte, 200)
		conns[1].SetReadDeadline(time.Now().Add(patience))
		n, err := conns[1].Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		ip, reason := dataplane.ParseIPv4(buf[:n])
		if reason != dataplane.NotDropped || ip.Src() != a.sn.Addr() || ip.Dst() != b.pod() || ip[20] != 11 || ip[21] != 0 {
			t.Errorf("%v, % x", reason, buf[:n])
		}
		conns[0].SetReadDeadline(time.Now().Add(20 * time.Millisecond))
		if n, err := conns[0].Read(buf); err == nil {
			t.Errorf("the stranger was answered: % x", buf[:n])
		}
		await(t, "both to be counted", func() bool { return onA.Stats().FromPeers.Dropped[dataplane.TTLExceeded] == 2 })
		if s := onA.Stats().FromPeers; s.Replies != 1 {
			t.Errorf("%+v, want 1 answer", s)
		}
	})
}

// A flood of packets without a route is answered at the kernel's own rate for
// ICMP, 1000 a second after a burst of 50, and the answers that were not sent
// are counted.
func TestICMPRate(t *testing.T) {
	inMixes(t, func(t *testing.T, a, b *host, onA, _ *Backend) {
		mustPing(t, a, b)
		const flood = 5000
		conn := a.udp(t)
		dst := netip.MustParseAddrPort("10.5.77.7:9")
		start := time.Now()
		for range flood {
			if _, err := conn.WriteToUDPAddrPort([]byte("x"), dst); err != nil {
				t.Fatal(err)
			}
		}
		noRoute := func() uint64 { return onA.Stats().ToPeers.Dropped[dataplane.NoRoute] }
		await(t, "the flood to be dropped", func() bool { return noRoute()+a.tunDrops() >= flood })
		took := time.Since(start)
		s := onA.Stats().ToPeers
		if s.Replies+s.Muted != noRoute() || noRoute() < 500 {
			t.Errorf("%+v: want each packet answered or counted as muted", s)
		}
		if most := 50 + uint64(took/time.Millisecond) + 1; s.Replies < 50 || s.Replies > most {
			t.Errorf("%d answers in %v, want 50 to %d", s.Replies, took, most)
		}
		mustPing(t, a, b)
	})
}

// tunDrops is how many packets the TUN's own queue had no room for.
func (h *host) tunDrops() (n uint64) {
	h.do(func() error {
		link, err := netlink.LinkByName("flannel0")
		if err == nil {
			n = link.Attrs().Statistics.TxDropped
		}
		return err
	})
	return n
}
