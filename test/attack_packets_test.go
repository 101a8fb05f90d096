package test

import (
	endian "encoding/binary"
	"errors"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A capture collects the IPv4 packets that a host puts on the underlay, as its
// port of the switch receives them.
type capture struct {
	fd  int
	wg  sync.WaitGroup
	mu  sync.Mutex
	got [][]byte // guarded by mu
}

// captureFrom begins to listen. Its end must be called.
func (c *cluster) captureFrom(n *node) *capture {
	c.t.Helper()
	link, err := c.Switch().Link("p-" + n.Name)
	c.must(err)
	p := &capture{got: [][]byte{}}
	c.must(c.Switch().Do(func() (err error) {
		// What a bridge takes over shows up for no single protocol.
		proto := endian.BigEndian.Uint16(endian.NativeEndian.AppendUint16(nil, unix.ETH_P_ALL))
		if p.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, int(proto)); err != nil {
			return err
		}
		return errors.Join(
			unix.SetsockoptInt(p.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 8<<20),
			unix.SetsockoptTimeval(p.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 100_000}),
			unix.Bind(p.fd, &unix.SockaddrLinklayer{Protocol: proto, Ifindex: link.Attrs().Index}))
	}))
	p.wg.Go(func() {
		buf := make([]byte, 65536)
		for {
			n, from, err := unix.Recvfrom(p.fd, buf, 0)
			switch l, ok := from.(*unix.SockaddrLinklayer); {
			case err == unix.EAGAIN || err == unix.EINTR:
				p.mu.Lock()
				over := p.got == nil
				p.mu.Unlock()
				if over {
					return
				}
			case err != nil:
				return
			case ok && l.Pkttype != unix.PACKET_OUTGOING && n >= 20 && buf[0]>>4 == 4: // not what the switch sends to it, nor ARP
				p.mu.Lock()
				if p.got != nil {
					p.got = append(p.got, append([]byte(nil), buf[:n]...))
				}
				p.mu.Unlock()
			}
		}
	})
	return p
}

// packets returns what was seen so far.
func (p *capture) packets() [][]byte {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.got[:len(p.got):len(p.got)]
}

func (p *capture) end() {
	p.mu.Lock()
	p.got = nil
	p.mu.Unlock()
	p.wg.Wait()
	unix.Close(p.fd)
}

// udpInIPv4 is a whole packet with checksums, but for that of UDP, which need not
// be there.
func udpInIPv4(src, dst string, ttl byte, port uint16, data string) []byte {
	p := []byte{0x45, 0, 0, 0, 0, 0, 0, 0, ttl, unix.IPPROTO_UDP, 0, 0}
	p = append(p, netip.MustParseAddr(src).AsSlice()...)
	p = append(p, netip.MustParseAddr(dst).AsSlice()...)
	p = endian.BigEndian.AppendUint16(p, 4242)
	p = endian.BigEndian.AppendUint16(p, port)
	p = endian.BigEndian.AppendUint16(p, uint16(8+len(data)))
	p = append(append(p, 0, 0), data...)
	endian.BigEndian.PutUint16(p[2:], uint16(len(p)))
	endian.BigEndian.PutUint16(p[10:], ^uint16(headerSum(p)))
	return p
}

// rawSender returns a function that sends whole IPv4 packets with any source
// (raw(7)).
func (c *cluster) rawSender(n *node) func(packet []byte) {
	c.t.Helper()
	var fd int
	c.must(n.NS.Do(func() (err error) {
		fd, err = unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
		return err
	}))
	c.t.Cleanup(func() { unix.Close(fd) })
	return func(packet []byte) {
		c.t.Helper()
		to := &unix.SockaddrInet4{Addr: [4]byte(packet[16:20])}
		if err := unix.Sendto(fd, packet, 0, to); err != nil {
			c.t.Fatalf("send % x: %v", packet[:20], err)
		}
	}
}

// inners are the packets in a datagram, or in several that the kernel of the
// sender has joined, which lie behind each other.
func inners(p []byte) (all [][]byte) {
	for rest := p[min(len(p), int(p[0]&15)*4+8):]; len(rest) >= 20; {
		n := max(20, min(len(rest), int(endian.BigEndian.Uint16(rest[2:]))))
		all, rest = append(all, rest[:n]), rest[n:]
	}
	return all
}

// carried counts the inner packets of UDP that hold the text; ICMP messages, such
// as the kernel's redirects, quote it.
func carried(p []byte, text string) (n int) {
	if p[9] != unix.IPPROTO_UDP {
		return 0
	}
	for _, inner := range inners(p) {
		if inner[9] == unix.IPPROTO_UDP && strings.Contains(string(inner), text) {
			n++
		}
	}
	return n
}

// wantReads waits for so many datagrams that begin so, and no more.
func wantReads(t *testing.T, conn *net.UDPConn, text string, want int) {
	t.Helper()
	buf := make([]byte, 2000)
	for got := 0; ; got++ {
		patience := 10 * time.Second
		if got >= want {
			patience = 50 * time.Millisecond
		}
		conn.SetReadDeadline(time.Now().Add(patience))
		n, _, err := conn.ReadFromUDPAddrPort(buf)
		switch {
		case err != nil && got == want:
			return
		case err != nil || got >= want:
			t.Errorf("%d datagrams, want %d: %v", got, want, err)
			return
		case !strings.HasPrefix(string(buf[:n]), text):
			t.Errorf("it was sent %q, want %q", buf[:n], text)
		}
	}
}
