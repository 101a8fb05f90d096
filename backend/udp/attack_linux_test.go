package udp

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"
	"unsafe"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"golang.org/x/sys/unix"

	"tweed/dataplane"
)

// reseal computes the header's checksum anew.
func reseal(p []byte) []byte {
	p[10], p[11] = 0, 0
	binary.BigEndian.PutUint16(p[10:], ^dataplane.Sum(0, p[:int(p[0]&15)*4]))
	return p
}

// attackers opens sockets of host b, which is the rest of the underlay: that of
// the peer 192.0.2.2, and that of the stranger 192.0.2.99.
func attackers(t *testing.T, b *host, port int) map[string]*net.UDPConn {
	t.Helper()
	conns := make(map[string]*net.UDPConn)
	b.do(func() error {
		for _, addr := range []string{"192.0.2.3/24", "192.0.2.50/24", "192.0.2.99/24"} {
			if err := b.configure("eth0", addr); err != nil {
				return err
			}
		}
		for _, addr := range []string{"192.0.2.2", "192.0.2.99"} {
			conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.ParseIP(addr), Port: port})
			if err != nil {
				return err
			}
			t.Cleanup(func() { conn.Close() })
			conns[addr] = conn
		}
		return nil
	})
	return conns
}

// victim is host a as a router between its pods and the underlay, which knows
// b and a third node as peers.
func victim(t *testing.T, backend string) (a, b *host, onA *Backend) {
	t.Helper()
	a, b = newHosts(t)
	a.backend = backend
	a.do(func() error { return os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0) })
	a.route("0.0.0.0/0", b.addr.String())
	a.singleDatagrams()
	onA = a.open()
	c := *b
	c.addr, c.sn = netip.MustParseAddr("192.0.2.3"), netip.MustParsePrefix("10.5.3.0/24")
	syncPeers(t, onA, b, &c)
	run(t, onA)
	return a, b, onA
}

// What leaves the host for the underlay because of what came to the port:
// nothing to where no pod is, and never more than came.
func TestNoReflector(t *testing.T) {
	const peer, stranger = "192.0.2.2", "192.0.2.99"
	const nothing, relayed, unreachable = "", "relayed", "unreachable"
	cases := []struct {
		name     string
		src, dst string
		change   func(p []byte) []byte
		out      string // what a stranger brings about with SourceCheck off; a peer also with the others, if its source is its own
	}{
		{name: "this host", src: "10.5.2.2", dst: "192.0.2.1"},
		{name: "another host, such as an etcd", src: "10.5.2.2", dst: "192.0.2.2"},
		{name: "another host, for an answer to a third", src: "192.0.2.50", dst: "192.0.2.3"},
		{name: "far away", src: "10.5.2.2", dst: "198.51.100.1"},
		{name: "far away, behind a source route", src: "10.5.2.2", dst: "10.5.1.2", change: sourceRoute("198.51.100.1")},
		{name: "our own source", src: "192.0.2.1", dst: "10.5.3.3"},
		{name: "broadcast of our pods", src: "192.0.2.50", dst: "10.5.1.255"},
		{name: "another node's pod", src: "10.5.2.2", dst: "10.5.3.3", out: relayed},
		{name: "another node's pod, last hop", src: "10.5.2.2", dst: "10.5.3.3", change: ttl(1)},
		{name: "a subnet that nobody has", src: "192.0.2.50", dst: "10.5.77.7", out: unreachable},
		{name: "IPv6", src: "10.5.2.2", dst: "10.5.3.3", change: func(p []byte) []byte { p[0] = 0x60; return p }},
		{name: "cut", src: "10.5.2.2", dst: "10.5.3.3", change: func(p []byte) []byte { return p[:len(p)-1] }},
		{name: "with a trailer", src: "10.5.2.2", dst: "10.5.3.3", change: func(p []byte) []byte { return append(p, "trailer"...) }, out: relayed},
	}
	for _, check := range []string{"off", "peer", "strict"} {
		t.Run(check, func(t *testing.T) {
			a, b, onA := victim(t, fmt.Sprintf(`{"Type":"udp","SourceCheck":%q}`, check))
			conns := attackers(t, b, 7777)
			seen := b.capture(t)
			to := netip.AddrPortFrom(a.addr, defaultPort)
			in := 0
			send := func(outer string, p []byte) {
				t.Helper()
				in += len(p) + overhead
				if _, err := conns[outer].WriteToUDPAddrPort(p, to); err != nil {
					t.Fatal(err)
				}
			}
			for i, tt := range cases {
				for _, outer := range []string{peer, stranger} {
					p := udpPacket(t, netip.AddrPortFrom(netip.MustParseAddr(tt.src), uint16(1000+i)), netip.MustParseAddrPort(tt.dst+":9"), "junk "+tt.name+outer)
					if tt.change != nil {
						p = tt.change(p)
					}
					send(outer, p)
				}
			}
			// The last one leaves, whatever the check is.
			send(peer, udpPacket(t, netip.MustParseAddrPort("10.5.2.2:1"), netip.MustParseAddrPort("10.5.3.3:9"), "the end"))
			await(t, "the last one to be sent on", func() bool { return onA.Stats().ToPeers.Sent > 0 && total(onA.Stats().FromPeers.Dropped) > 0 })

			got, out := make(map[string]int), 0
			for _, p := range seen.packets(t) {
				out += len(p.Data()) - 14
				ip := p.Layer(layers.LayerTypeIPv4).(*layers.IPv4)
				switch {
				case bytes.Contains(p.Data(), []byte("the end")):
					got["end"]++
				case isTunnelled(p) && ip.DstIP.String() == "192.0.2.3":
					got[string(p.Data()[14+28+28:])]++
				case ip.Protocol == layers.IPProtocolUDP && ip.DstIP.String() == peer && p.Data()[14+28+9] == unix.IPPROTO_ICMP:
					// That a TTL ended, and the kernel's redirects, for the peer's pod.
				case ip.Protocol == layers.IPProtocolICMPv4 && ip.DstIP.String() == "192.0.2.50":
					got["unreachable"]++
				default:
					got[fmt.Sprintf("% x", p.Data())]++
				}
			}
			want := map[string]int{"end": 1}
			for _, tt := range cases {
				for _, outer := range []string{peer, stranger} {
					if outer == stranger && check != "off" || check == "strict" && tt.src == "192.0.2.50" {
						continue
					}
					switch tt.out {
					case relayed:
						want["junk "+tt.name+outer]++
					case unreachable:
						want["unreachable"]++
					}
				}
			}
			for what := range want {
				if got[what] != want[what] {
					t.Errorf("%q left %d times, want %d", what, got[what], want[what])
				}
			}
			for what, n := range got {
				if want[what] == 0 {
					t.Errorf("left %d times: %s", n, what)
				}
			}
			if out > in {
				t.Errorf("%d bytes came, %d left", in, out)
			}
			if s := onA.Stats().FromPeers; s.Dropped[dataplane.Outside] == 0 || s.Dropped[dataplane.NotIPv4] == 0 || s.Dropped[dataplane.Truncated] == 0 {
				t.Errorf("%+v", s)
			}
		})
	}
}

// isTunnelled reports whether the packet is a datagram for a backend.
func isTunnelled(p gopacket.Packet) bool {
	u, ok := p.Layer(layers.LayerTypeUDP).(*layers.UDP)
	return ok && u.DstPort == defaultPort
}

func ttl(n byte) func([]byte) []byte {
	return func(p []byte) []byte { p[8] = n; return reseal(p) }
}

// sourceRoute puts a loose source route (RFC 791, 3.1) into the header.
func sourceRoute(via string) func([]byte) []byte {
	return func(p []byte) []byte {
		option := append([]byte{131, 7, 4}, netip.MustParseAddr(via).AsSlice()...)
		p = append(append(append([]byte(nil), p[:20]...), append(option, 0)...), p[20:]...)
		p[0] += 2
		binary.BigEndian.PutUint16(p[2:], uint16(len(p)))
		return reseal(p)
	}
}

// Packets whose TTL ends here, with a peer's address as their outer source: the
// peer is told no faster than the kernel would, and each answer is less than
// twice of what it is about.
func TestAnswersAreNoAmplifier(t *testing.T) {
	for _, backend := range []string{withOffload, plain} {
		a, b, onA := victim(t, backend)
		conn := attackers(t, b, 7777)["192.0.2.2"]
		p := ttl(1)(udpPacket(t, netip.MustParseAddrPort("10.5.2.2:7"), netip.MustParseAddrPort("10.5.1.2:9"), ""))
		const flood = 20000
		start := time.Now()
		for range flood {
			if _, err := conn.WriteToUDPAddrPort(p, netip.AddrPortFrom(a.addr, defaultPort)); err != nil {
				t.Fatal(err)
			}
		}
		expired := func() uint64 { return onA.Stats().FromPeers.Dropped[dataplane.TTLExceeded] }
		await(t, "the flood to be dropped", func() bool { return expired()+onA.Stats().Socket.Overflows >= flood })
		took := time.Since(start)
		s := onA.Stats().FromPeers
		if most := 50 + uint64(took/time.Millisecond) + 1; s.Replies < 50 || s.Replies > most || s.Replies+s.Muted != expired() {
			t.Errorf("%d answers and %d not sent in %v, want 50 to %d", s.Replies, s.Muted, took, most)
		}
		conn.SetReadDeadline(time.Now().Add(patience))
		answer := make([]byte, 2000)
		n, err := conn.Read(answer)
		if err != nil || n+overhead > 2*(len(p)+overhead) {
			t.Errorf("an answer of %d bytes about %d, %v", n, len(p), err)
		}
		t.Logf("%s: %d packets of %d bytes in %v: %d answers of %d bytes", backend, flood, len(p)+overhead, took, s.Replies, n+overhead)
	}
}

// Two nodes that hold each other for the owner of a third subnet send a packet
// for it across once, not until its TTL ends.
func TestLoopOfTwo(t *testing.T) {
	inMixes(t, func(t *testing.T, a, b *host, onA, onB *Backend) {
		mustPing(t, a, b)
		for h, on := range map[*host]*Backend{a: onB, b: onA} { // h is the other end
			third := *h
			third.sn = netip.MustParsePrefix("10.5.3.0/24")
			syncPeers(t, on, h, &third)
		}
		for _, h := range []*host{a, b} {
			h.do(func() error { return os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0) })
		}
		before := onA.Stats().ToPeers.Sent
		const n = 20
		conn := a.udp(t)
		for range n {
			if _, err := conn.WriteToUDPAddrPort([]byte("round and round"), netip.MustParseAddrPort("10.5.3.3:9")); err != nil {
				t.Fatal(err)
			}
		}
		await(t, "all to be dropped", func() bool { return onB.Stats().FromPeers.Dropped[dataplane.Looping] == n })
		mustPing(t, a, b)
		// The packets once each, and some pings.
		if sent := onA.Stats().ToPeers.Sent - before; sent > n+10 {
			t.Errorf("%d packets sent for %d", sent, n)
		}
	})
}

// A replayed packet is one packet more, as with IP, and fragments, tiny pieces
// and empty datagrams between them harm nothing that the kernel joins or cuts.
func TestTinyPieces(t *testing.T) {
	for _, backend := range []string{withOffload, plain} {
		a, b, onA := victim(t, backend)
		conn := attackers(t, b, 7777)["192.0.2.2"]
		pod := a.udp(t)
		p := udpPacket(t, netip.MustParseAddrPort("10.5.2.2:7"), pod.LocalAddr().(*net.UDPAddr).AddrPort(), "good")
		raw, err := conn.SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		to := &unix.SockaddrInet4{Addr: a.addr.As4(), Port: defaultPort}
		// Joined by the sender's kernel, as from any program: 64 pieces a call.
		joined := func(size, n int, fill byte) {
			t.Helper()
			cmsg := make([]byte, unix.CmsgSpace(2))
			h := (*unix.Cmsghdr)(unsafe.Pointer(&cmsg[0]))
			h.Level, h.Type = unix.SOL_UDP, unix.UDP_SEGMENT
			h.SetLen(unix.CmsgLen(2))
			binary.NativeEndian.PutUint16(cmsg[unix.CmsgLen(0):], uint16(size))
			var sendErr error
			if err := raw.Control(func(fd uintptr) {
				_, sendErr = unix.SendmsgN(int(fd), bytes.Repeat([]byte{fill}, size*n), cmsg, to, 0)
			}); err != nil || sendErr != nil {
				t.Fatal(err, sendErr)
			}
		}
		const rounds = 30
		for range rounds {
			joined(1, 64, 0x45)
			joined(2, 64, 0x60)
			for _, b := range [][]byte{{}, p, {}, p, p[:27], reseal(append(bytes.Clone(p[:6]), append([]byte{0x20, 0}, p[8:]...)...))} {
				if _, err := conn.WriteToUDPAddrPort(b, netip.AddrPortFrom(a.addr, defaultPort)); err != nil {
					t.Fatal(err)
				}
			}
			joined(len(p), 3, 0)
		}
		buf := make([]byte, 100)
		pod.SetReadDeadline(time.Now().Add(patience))
		for i := range 2 * rounds {
			if n, err := pod.Read(buf); err != nil || string(buf[:n]) != "good" {
				t.Fatalf("packet %d: %q, %v", i, buf[:n], err)
			}
		}
		// 64 of one byte, two empty ones and a cut one; 64 and 3 of another version.
		await(t, "all to be dropped", func() bool {
			s := onA.Stats().FromPeers
			return s.Dropped[dataplane.Truncated] == rounds*(64+2+1) && s.Dropped[dataplane.NotIPv4] == rounds*(64+3)
		})
		pod.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
		if n, err := pod.Read(buf); err == nil {
			t.Errorf("more arrived: %q", buf[:n])
		}
	}
}
