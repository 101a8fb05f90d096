package udp

import (
	"bytes"
	"net"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"golang.org/x/sys/unix"

	"tweed/dataplane"
)

// A node of flannel v0.10 sends one datagram per packet. A thousand segments of
// a TCP flow that wait in the socket reach the pod's kernel merged, and as the
// same stream; what that kernel answers comes back one packet per datagram.
func TestFlannelPeer(t *testing.T) {
	for _, kind := range []string{withOffload, plain} {
		t.Run(kind, func(t *testing.T) {
			a, b := newHosts(t)
			a.backend = kind
			onA := a.open()
			syncPeers(t, onA, b)
			var peer *net.UDPConn // in place of flannel's daemon
			b.do(func() (err error) {
				peer, err = net.ListenUDP("udp4", &net.UDPAddr{IP: b.addr.AsSlice(), Port: defaultPort})
				return err
			})
			defer peer.Close()
			peer.SetReadBuffer(8 << 20)
			raw := a.rawTCP(t)

			const segments, size, firstSeq = 1000, 1432, 1<<32 - 700_000 // it wraps around
			var stream []byte
			onOneCPU(t, func() {
				for i := range segments {
					data := bytes.Repeat([]byte{byte(i), byte(i >> 8)}, size/2)
					stream = append(stream, data...)
					p := tcpPacket(t, b.pod(), a.pod(), uint32(firstSeq+i*size), data)
					if i%10 == 3 { // what is behind the packet's end belongs to nobody
						p = append(p, "trailing"...)
					}
					if _, err := peer.WriteToUDPAddrPort(p, netip.AddrPortFrom(a.addr, defaultPort)); err != nil {
						t.Fatal(err)
					}
				}
			})
			run(t, onA) // all of them are there

			// A raw socket sees what the kernel got of us, merged or not.
			buf := make([]byte, 1<<17)
			var got []byte
			pieces := 0
			for len(got) < len(stream) {
				n, _, err := unix.Recvfrom(raw, buf, 0)
				if err != nil {
					t.Fatalf("after %d bytes of %d: %v", len(got), len(stream), err)
				}
				p := gopacket.NewPacket(buf[:n], layers.LayerTypeIPv4, gopacket.Default)
				tcp, ok := p.TransportLayer().(*layers.TCP)
				if !ok {
					t.Fatalf("% x", buf[:min(n, 60)])
				}
				ip := p.NetworkLayer().(*layers.IPv4)
				seq := uint32((firstSeq + len(got)) % (1 << 32))
				if tcp.Seq != seq || ip.TTL != 62 || int(ip.Length) != n || !tcp.ACK || tcp.SYN || tcp.RST {
					t.Fatalf("after %d bytes: %+v, TTL %d, %d bytes in %d", len(got), tcp, ip.TTL, ip.Length, n)
				}
				got = append(got, tcp.Payload...)
				pieces++
			}
			if !bytes.Equal(got, stream) {
				t.Errorf("%d bytes, or others: want %d", len(got), len(stream))
			}
			// Counters show at the end of a round, after its packets have left.
			await(t, "all segments to be counted", func() bool { return onA.Stats().FromPeers.Sent >= segments })
			s := onA.Stats()
			if merged := s.TUN.SendSegments; kind == plain && (merged > 0 || pieces != segments) || kind == withOffload && (merged < segments/2 || pieces > segments/2) {
				t.Errorf("%d pieces, TUN %+v", pieces, s.TUN)
			}
			if total(s.FromPeers.Dropped) > 0 || total(s.FromPeers.Suspect) > 0 || s.FromPeers.Sent != segments {
				t.Errorf("%+v", s.FromPeers)
			}

			// The kernel, which knows of no such connection, answers with resets.
			peer.SetReadDeadline(time.Now().Add(patience))
			n, src, err := peer.ReadFromUDPAddrPort(buf)
			if err != nil || src != netip.AddrPortFrom(a.addr, defaultPort) {
				t.Fatalf("%d bytes from %s, %v", n, src, err)
			}
			if ip, reason := dataplane.ParseIPv4(buf[:n]); reason != dataplane.NotDropped || len(ip) != n ||
				ip.TTL() != 63 || ip.Src() != a.pod() || ip.Dst() != b.pod() || ip.Protocol() != unix.IPPROTO_TCP {
				t.Errorf("%v, % x", reason, buf[:n])
			}
		})
	}
}

// onOneCPU calls f on a thread that stays on its CPU. A veth queues what it gets
// per CPU: under load, a sender that moves overtakes itself.
func onOneCPU(t *testing.T, f func()) {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var all, one unix.CPUSet
	if err := unix.SchedGetaffinity(0, &all); err != nil {
		t.Fatal(err)
	}
	for cpu := 0; one.Count() == 0; cpu++ {
		if all.IsSet(cpu) {
			one.Set(cpu)
		}
	}
	if err := unix.SchedSetaffinity(0, &one); err != nil {
		t.Fatal(err)
	}
	defer unix.SchedSetaffinity(0, &all)
	f()
}

// tcpPacket is a TCP segment in the middle of a connection.
func tcpPacket(t *testing.T, src, dst netip.Addr, seq uint32, data []byte) []byte {
	t.Helper()
	ip := &layers.IPv4{Version: 4, TTL: 63, Id: uint16(seq / 1432), Flags: layers.IPv4DontFragment, Protocol: layers.IPProtocolTCP, SrcIP: src.AsSlice(), DstIP: dst.AsSlice()}
	tcp := &layers.TCP{SrcPort: 1000, DstPort: 2000, Seq: seq, Ack: 7, ACK: true, Window: 500}
	tcp.SetNetworkLayerForChecksum(ip)
	buf := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, ip, tcp, gopacket.Payload(data)); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// rawTCP opens a socket that sees all TCP packets for the host.
func (h *host) rawTCP(t *testing.T) (fd int) {
	t.Helper()
	h.do(func() (err error) {
		fd, err = unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP)
		if err != nil {
			return err
		}
		every := unix.NsecToTimeval(int64(patience))
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 32<<20); err != nil {
			return err
		}
		return unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &every)
	})
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}
