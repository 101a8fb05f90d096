package test

import (
	"crypto/rand"
	endian "encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tweed/test/lab"
)

// TestUDPAsARouter looks at what pods see of the tunnel: each end counts the
// TTL down, the MTU is that of the underlay less 28, and a subnet that nobody
// has is unreachable.
func TestUDPAsARouter(t *testing.T) {
	t.Parallel()
	c := newCluster(t, config(`"udp"`), 2)
	a, b := c.nodes[0], c.nodes[1]
	if r := c.wantPing(a.NS, b.gateway()); r.TTL != 62 {
		t.Errorf("TTL %d from host to host, want 62", r.TTL)
	}
	// The hosts count once each, as well.
	if r := c.wantPing(a.pod.NS, b.pod.Addr); r.TTL != 60 {
		t.Errorf("TTL %d from pod to pod, want 60", r.TTL)
	}
	if a.env.MTU != 1472 {
		t.Errorf("MTU %d, want 1472", a.env.MTU)
	}
	if _, err := a.pod.NS.PingSize(c.ctx, b.pod.Addr, 1472); err != nil {
		t.Error(err)
	}
	if _, err := a.pod.NS.PingSize(c.ctx, b.pod.Addr, 1473); !errors.Is(err, unix.EMSGSIZE) {
		t.Errorf("a packet of 1473 bytes: %v, want %v", err, unix.EMSGSIZE)
	}
	for _, from := range []lab.NS{a.pod.NS, a.NS} {
		_, err := from.DialTCP(c.ctx, netip.MustParseAddrPort("10.5.254.9:80"))
		if !errors.Is(err, unix.ENETUNREACH) {
			t.Errorf("dial an unleased subnet from %s: %v, want %v", from, err, unix.ENETUNREACH)
		}
	}
}

// TestUDPOnTheWire compares what goes into the TUN device with what a peer
// receives in a datagram: the same packet, with one hop less. The peer's
// record is of another backend, which udp does not mind, and the port is not
// the usual one.
func TestUDPOnTheWire(t *testing.T) {
	t.Parallel()
	const port = 9285
	c := newCluster(t, config(fmt.Sprintf(`"udp","Port":%d`, port)), 1)
	n := c.nodes[0]
	peer := c.addHost()
	wire, err := peer.NS.ListenPacket(c.ctx, netip.AddrPortFrom(peer.Addr, port))
	c.must(err)
	defer wire.Close()
	tap := n.sniff("flannel0")
	defer unix.Close(tap)
	c.set(subnetsKey+"10.5.200.0-24", fmt.Sprintf(`{"PublicIP":"%s","BackendType":"vxlan","BackendData":{"VtepMAC":"0e:00:00:00:00:99"}}`, peer.Addr), time.Hour)

	pod, err := n.pod.NS.ListenPacket(c.ctx, netip.AddrPortFrom(n.pod.Addr, 7777))
	c.must(err)
	defer pod.Close()
	to := net.UDPAddrFromAddrPort(netip.MustParseAddrPort("10.5.200.5:7778"))
	for _, size := range []int{1, 63, 1472 - 28} {
		data := make([]byte, size)
		rand.Read(data)
		var datagram []byte
		c.eventually("a datagram", func() error { // once the peer is known
			if _, err := pod.WriteTo(data, to); err != nil && !errors.Is(err, unix.ENETUNREACH) {
				return err
			}
			datagram = make([]byte, 2000)
			wire.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
			n, from, err := wire.ReadFromUDPAddrPort(datagram)
			if err == nil && from != netip.AddrPortFrom(c.nodes[0].Addr, port) {
				return fmt.Errorf("from %s", from)
			}
			datagram = datagram[:n]
			if n != 28+size {
				return fmt.Errorf("%d bytes (%w), want %d", n, err, 28+size)
			}
			return err
		})
		if len(datagram) != 28+size {
			return
		}
		inner := sniffed(c, tap, datagram)
		if inner[8] != datagram[8]+1 || inner[8] != 63 {
			t.Errorf("into the TUN went\n%x, on the wire was\n%x", inner, datagram)
		}
		// All but TTL and checksums is the same: the kernel leaves that of UDP to
		// flanneld, whose result TestOnTheWire of backend/udp looks at.
		for _, i := range []int{8, 10, 11, 26, 27} {
			inner[i] = datagram[i]
		}
		if string(inner) != string(datagram) || string(inner[28:]) != string(data) || headerSum(datagram) != 0xffff {
			t.Errorf("into the TUN went\n%x, on the wire was\n%x", inner, datagram)
		}
	}
}

// sniff opens a packet socket (packet(7)) for all packets of a device; those that
// are sent show up for no other protocol.
func (n *node) sniff(dev string) (fd int) {
	n.c.t.Helper()
	link, err := n.NS.Link(dev)
	n.c.must(err)
	n.c.must(n.NS.Do(func() (err error) {
		proto := endian.BigEndian.Uint16(endian.NativeEndian.AppendUint16(nil, unix.ETH_P_ALL))
		if fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, int(proto)); err != nil {
			return err
		}
		return errors.Join(
			unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 5}),
			unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: proto, Ifindex: link.Attrs().Index}))
	}))
	return fd
}

// sniffed returns the next packet of that length and with that identification.
func sniffed(c *cluster, fd int, packet []byte) []byte {
	c.t.Helper()
	buf := make([]byte, 2000)
	for {
		n, _, err := unix.Recvfrom(fd, buf, 0)
		c.must(err)
		if n == len(packet) && string(buf[4:6]) == string(packet[4:6]) {
			return buf[:n]
		}
	}
}

// headerSum adds up the words of a header without options (RFC 1071).
func headerSum(packet []byte) uint32 {
	var sum uint32
	for i := 0; i < 20; i += 2 {
		sum += uint32(endian.BigEndian.Uint16(packet[i:]))
	}
	return sum>>16 + sum&0xffff
}

// TestUDPJunk sends all sorts of nonsense to the daemon's port.
func TestUDPJunk(t *testing.T) {
	t.Parallel()
	c := newCluster(t, config(`"udp"`), 2)
	a, b := c.nodes[0], c.nodes[1]
	c.wantPing(a.pod.NS, b.pod.Addr)
	stranger := c.addHostWith(lab.HostOptions{Outside: true})
	conn, err := stranger.NS.ListenPacket(c.ctx, netip.AddrPortFrom(stranger.Addr, 8285))
	c.must(err)
	defer conn.Close()
	good := []byte("\x45\x00\x00\x1c\x00\x00\x40\x00\x40\x11\x00\x00\x0a\x05\xfe\x01\x0a\x05\xfe\x02\x00\x01\x00\x02\x00\x08\x00\x00")
	change := func(at int, b byte) []byte {
		p := append([]byte(nil), good...)
		p[at] = b
		return p
	}
	random := make([]byte, 400)
	rand.Read(random)
	junk := [][]byte{
		{}, {0}, {0x45}, good[:19], good[:20], random, good,
		change(0, 0x65), change(0, 0x60), change(0, 0x40), change(0, 0x4f), change(0, 0x05),
		change(2, 0xff), change(3, 0), change(3, 19), change(8, 0), change(8, 1), change(12, 0xe0), change(16, 0xff), change(16, 127),
		append([]byte{0x60, 0, 0, 0, 0, 0, 59, 64}, random[:32]...),
		append(append([]byte(nil), good...), make([]byte, 1445)...), // more than the TUN takes
		append([]byte{0x45, 0, 0xff, 0xff}, make([]byte, 60000)...),
	}
	for _, p := range junk { // with a good checksum as well, where there is a header
		if len(p) >= 20 {
			p = append([]byte(nil), p...)
			p[10], p[11] = 0, 0
			endian.BigEndian.PutUint16(p[10:], uint16(^headerSum(p)))
			junk = append(junk, p)
		}
	}
	for range 20 {
		for _, p := range junk {
			if _, err := conn.WriteToUDPAddrPort(p, netip.AddrPortFrom(a.Addr, 8285)); err != nil {
				t.Fatalf("send %d bytes: %v", len(p), err)
			}
		}
	}
	c.wantPing(a.pod.NS, b.pod.Addr)
	if err := lab.SendBytes(c.ctx, b.pod.NS, a.pod.NS, a.pod.Addr, 1<<20); err != nil {
		t.Error(err)
	}
	if !a.daemon.Running() {
		t.Error("the daemon has ended")
	}
	if lines := a.daemon.Lines(); len(lines) > 100 {
		t.Errorf("%d lines in the log", len(lines))
	}
}

// TestUDPPortTaken: the daemon says so and leaves no lease behind.
func TestUDPPortTaken(t *testing.T) {
	t.Parallel()
	c := newLab(t, lab.Options{})
	c.set(configKey, config(`"udp"`), 0)
	n := c.addHost()
	other, err := n.NS.ListenPacket(c.ctx, netip.AddrPortFrom(n.Addr, 8285))
	c.must(err)
	n.wantExit1(nil, n.Addr.String()+":8285", "address already in use")
	c.must(other.Close())
	n.start()
}

// TestUDPDeviceDeleted: the daemon makes its TUN device again, as often as
// somebody deletes it.
func TestUDPDeviceDeleted(t *testing.T) {
	t.Parallel()
	c := newCluster(t, config(`"udp"`), 2, readyArgs)
	a, b := c.nodes[0], c.nodes[1]
	for range 3 {
		c.wantPing(a.pod.NS, b.pod.Addr)
		a.run("ip link del flannel0")
		a.awaitKernelHas("flannel0")
		c.wantPing(b.pod.NS, a.pod.Addr)
	}
	a.wantRunning()
	a.awaitReady(200)
	wantTexts(t, a.output(), "opening the backend again", "the interface is gone")
}

// awaitKernelHas waits for an interface.
func (n *node) awaitKernelHas(link string) {
	n.c.t.Helper()
	n.c.eventually("the interface "+link, func() error {
		_, err := n.NS.Link(link)
		return err
	})
}
