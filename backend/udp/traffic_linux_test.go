package udp

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"tweed/dataplane"
)

func TestTraffic(t *testing.T) {
	inMixes(t, func(t *testing.T, a, b *host, onA, onB *Backend) {
		mustPing(t, a, b)
		mustPing(t, b, a)
		for _, way := range [][2]*host{{a, b}, {b, a}} {
			if err := transfer(way[0], way[1], 10<<20); err != nil {
				t.Error(err)
			}
		}
		for name, be := range map[string]*Backend{"a": onA, "b": onB} {
			for dir, s := range stats(be) {
				if s.SentBytes < 10<<20 || s.Sent > s.Received {
					t.Errorf("%s, %s: %+v", name, dir, s)
				}
			}
		}
	})
}

// On the wire a datagram is the inner packet and nothing else, from our port
// to the peer's, in both directions.
func TestWireFormat(t *testing.T) {
	for name, kind := range map[string]string{"offload": withOffload, "plain": plain} {
		t.Run(name, func(t *testing.T) {
			a, b := newHosts(t)
			a.backend = kind
			onA := a.open()
			syncPeers(t, onA, b)
			run(t, onA)
			var peer *net.UDPConn // in place of b's daemon
			b.do(func() (err error) {
				peer, err = net.ListenUDP("udp4", &net.UDPAddr{IP: b.addr.AsSlice(), Port: defaultPort})
				return err
			})
			defer peer.Close()
			pod := a.udp(t)
			deadline := time.Now().Add(patience)
			peer.SetDeadline(deadline)
			pod.SetDeadline(deadline)
			payload := bytes.Repeat([]byte{0xa5}, onA.MTU()-28) // a full packet

			if _, err := pod.WriteToUDPAddrPort(payload, netip.AddrPortFrom(b.pod(), 7)); err != nil {
				t.Fatal(err)
			}
			buf := make([]byte, 2000)
			n, from, err := peer.ReadFromUDPAddrPort(buf)
			if err != nil {
				t.Fatal(err)
			}
			ip, reason := dataplane.ParseIPv4(buf[:n])
			if from.String() != "192.0.2.1:8285" || reason != dataplane.NotDropped || n != onA.MTU() ||
				ip.TTL() != 63 || ip.Src() != a.pod() || ip.Dst() != b.pod() || !bytes.Equal(ip[28:], payload) {
				t.Fatalf("from %s: %v, % x", from, reason, buf[:min(n, 40)])
			}

			// Sent back with both ends swapped; the checksums stay right.
			reply := slices.Concat(ip[:12], ip[16:20], ip[12:16], ip[22:24], ip[20:22], ip[24:])
			if _, err := peer.WriteToUDPAddrPort(reply, from); err != nil {
				t.Fatal(err)
			}
			n, from, err = pod.ReadFromUDPAddrPort(buf)
			if err != nil || from != netip.AddrPortFrom(b.pod(), 7) || !bytes.Equal(buf[:n], payload) {
				t.Errorf("%d bytes from %s, %v", n, from, err)
			}
		})
	}
}

func stats(b *Backend) map[string]dataplane.Stats {
	s := b.Stats()
	return map[string]dataplane.Stats{"to peers": s.ToPeers, "from peers": s.FromPeers}
}

// The sender of a packet to a subnet that nobody has leased is told so.
func TestUnreachable(t *testing.T) {
	inMixes(t, func(t *testing.T, a, b *host, onA, _ *Backend) {
		a.wantUnreachable("10.5.77.1:9")
		a.do(func() error { // as some distributions have it
			return os.WriteFile("/proc/sys/net/ipv4/conf/all/rp_filter", []byte("1"), 0)
		})
		a.wantUnreachable("10.5.78.1:9")

		// A peer that leaves becomes unreachable.
		mustPing(t, a, b)
		syncPeers(t, onA)
		a.wantUnreachable(netip.AddrPortFrom(b.pod(), 9).String())
		await(t, "the answers to be counted", func() bool { return onA.Stats().ToPeers.Replies >= 3 })
		if to := onA.Stats().ToPeers; to.Dropped[dataplane.NoRoute] < to.Replies {
			t.Errorf("%+v", to)
		}
	})
}

// Packets for our own subnet that reach the TUN must not be sent anywhere.
func TestOwnSubnetIsNotSent(t *testing.T) {
	inMixes(t, func(t *testing.T, a, b *host, onA, _ *Backend) {
		a.do(func() error {
			link, err := netlink.LinkByName("docker0")
			if err != nil {
				return err
			}
			return netlink.LinkDel(link)
		})
		syncPeers(t, onA, b)
		a.wantUnreachable("10.5.1.9:9")
	})
}

// wantUnreachable expects that a connection from the host fails at once.
func (h *host) wantUnreachable(dst string) {
	h.t.Helper()
	h.do(func() error {
		d := net.Dialer{Timeout: patience}
		_, err := d.Dial("tcp4", dst)
		if !errors.Is(err, syscall.ENETUNREACH) {
			return fmt.Errorf("dial %s: %v, want %v", dst, err, syscall.ENETUNREACH)
		}
		return nil
	})
}

func TestJunkFromPeers(t *testing.T) {
	inMixes(t, func(t *testing.T, a, b *host, onA, _ *Backend) {
		mustPing(t, a, b)
		var conn *net.UDPConn
		b.do(func() (err error) {
			conn, err = net.DialUDP("udp4", nil, &net.UDPAddr{IP: a.addr.AsSlice(), Port: defaultPort})
			return err
		})
		defer conn.Close()
		whole := []byte{0x45, 0, 0, 24, 0, 0, 0, 0, 9, 17, 0, 0, 10, 5, 2, 2, 10, 5, 1, 2, 1, 2, 3, 4}
		sum := ^dataplane.Sum(0, whole[:20])
		whole[10], whole[11] = byte(sum>>8), byte(sum)
		junk := map[dataplane.Reason][][]byte{
			dataplane.Truncated:   {{}, {0x45}, whole[:19], whole[:23]},
			dataplane.NotIPv4:     {{0x60, 0, 0, 0}, make([]byte, 1400), make([]byte, 60000)},
			dataplane.BadHeader:   {change(whole, 0, 0x41), change(whole, 3, 4)},
			dataplane.BadChecksum: {change(whole, 10, whole[10]^1), change(whole, 0, 0x46)},
		}
		for _, packets := range junk {
			for _, p := range packets {
				if _, err := conn.Write(p); err != nil {
					t.Fatal(err)
				}
			}
		}
		for reason, packets := range junk {
			await(t, "drops for "+reason.String(), func() bool {
				from := onA.Stats().FromPeers
				return from.Dropped[reason] == uint64(len(packets))
			})
		}
		mustPing(t, a, b)
	})
}

func change(p []byte, at int, to byte) []byte {
	p = slices.Clone(p)
	p[at] = to
	return p
}

// A peer whose daemon is down answers with ICMP port unreachable.
func TestPeerReboots(t *testing.T) {
	inMixes(t, func(t *testing.T, a, b *host, _, onB *Backend) {
		mustPing(t, a, b)
		onB.Close()
		conn := a.udp(t)
		for range 100 {
			if _, err := conn.WriteToUDPAddrPort([]byte("x"), netip.AddrPortFrom(b.pod(), 9)); err != nil {
				t.Fatal(err)
			}
		}
		onB = b.open()
		syncPeers(t, onB, a)
		run(t, onB)
		mustPing(t, a, b)
		mustPing(t, b, a)
	})
}

// Peers that are down altogether do not answer ARP. The others do not notice.
func TestDeadPeers(t *testing.T) {
	inMixes(t, func(t *testing.T, a, b *host, onA, _ *Backend) {
		mustPing(t, a, b)
		hosts := []*host{b}
		for n := byte(90); n < 93; n++ {
			hosts = append(hosts, &host{
				addr: netip.AddrFrom4([4]byte{192, 0, 2, n}),
				sn:   netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 5, n, 0}), 24),
			})
		}
		syncPeers(t, onA, hosts...)
		conn := a.udp(t)
		before := onA.Stats().ToPeers
		for range 300 { // of 1400 bytes, which count as twice as many in the buffer
			for _, dead := range hosts[1:] {
				if _, err := conn.WriteToUDPAddrPort(make([]byte, 1400), netip.AddrPortFrom(dead.pod(), 9)); err != nil {
					t.Fatal(err)
				}
			}
		}
		start := time.Now()
		mustPing(t, a, b)
		// The kernel gives up on a neighbour after three seconds.
		if wait := time.Since(start); wait > 2*time.Second {
			t.Errorf("the live peer answered after %v", wait)
		}
		await(t, "the packets to reach the forwarder", func() bool { return onA.Stats().ToPeers.Received-before.Received >= 300 })
	})
}

// udp opens a socket of the host's pod.
func (h *host) udp(t *testing.T) *net.UDPConn {
	var conn *net.UDPConn
	h.do(func() (err error) {
		conn, err = net.ListenUDP("udp4", &net.UDPAddr{IP: h.pod().AsSlice()})
		return err
	})
	t.Cleanup(func() { conn.Close() })
	return conn
}

// A peer that comes back with another PublicIP is sent to there.
func TestPeerMoves(t *testing.T) {
	inMixes(t, func(t *testing.T, a, b *host, onA, _ *Backend) {
		mustPing(t, a, b)
		moved := *b
		moved.addr = netip.MustParseAddr("192.0.2.77")
		var there *net.UDPConn
		b.do(func() (err error) {
			if err := b.configure("eth0", "192.0.2.77/24"); err != nil {
				return err
			}
			there, err = net.ListenUDP("udp4", &net.UDPAddr{IP: moved.addr.AsSlice(), Port: defaultPort})
			return err
		})
		defer there.Close()
		syncPeers(t, onA, &moved)
		if _, err := a.udp(t).WriteToUDPAddrPort([]byte("x"), netip.AddrPortFrom(b.pod(), 9)); err != nil {
			t.Fatal(err)
		}
		there.SetDeadline(time.Now().Add(patience))
		if n, err := there.Read(make([]byte, 100)); n != 29 || err != nil {
			t.Errorf("%d bytes at the new address, %v", n, err)
		}
		syncPeers(t, onA, b)
		mustPing(t, a, b)
	})
}
