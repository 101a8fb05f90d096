package tun

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"tweed/dataplane"
	"tweed/test/nstest"
)

func TestOpenNames(t *testing.T) {
	nstest.Enter(t)
	first, second := mustOpen(t, "flannel%d", Options{}), mustOpen(t, "flannel%d", Options{Offload: true})
	if first.Name() != "flannel0" || second.Name() != "flannel1" {
		t.Errorf("names %s and %s, want flannel0 and flannel1", first.Name(), second.Name())
	}
	link, err := netlink.LinkByIndex(first.Index())
	if err != nil {
		t.Fatal(err)
	}
	a := link.Attrs()
	if a.Name != "flannel0" || link.Type() != "tuntap" || a.TxQLen != 500 ||
		a.Flags&net.FlagPointToPoint == 0 || a.RawFlags&unix.IFF_NOARP == 0 {
		t.Errorf("link %+v, want tuntap flannel0, point to point, no ARP, queue of 500", a)
	}
	if err := first.Close(); err != nil {
		t.Error(err)
	}
	if _, err := netlink.LinkByIndex(first.Index()); err == nil {
		t.Error("the interface outlives Close")
	}
}

func TestOpenErrors(t *testing.T) {
	nstest.Enter(t)
	mustOpen(t, "busy0", Options{})
	for _, tt := range []struct {
		iface string
		want  error
		text  string
	}{
		{"busy0", syscall.EBUSY, "open tun busy0: TUNSETIFF: device or resource busy (another process"},
		{"lo", syscall.EINVAL, "open tun lo: "},
		{"a/b", syscall.EINVAL, "open tun a/b: "},
		{"flannel-01234567", nil, "want 1 to 15 bytes"},
		{"", nil, "want 1 to 15 bytes"},
	} {
		d, err := Open(tt.iface, Options{})
		if err == nil {
			d.Close()
			t.Errorf("%q: no error", tt.iface)
			continue
		}
		if tt.want != nil && !errors.Is(err, tt.want) || !strings.Contains(err.Error(), tt.text) {
			t.Errorf("%q: error %v, want %v with %q", tt.iface, err, tt.want, tt.text)
		}
	}
}

func TestExplain(t *testing.T) {
	for errno, want := range map[syscall.Errno]string{
		syscall.ENOENT: "want the kernel module tun",
		syscall.ENODEV: "want the kernel module tun",
		syscall.EACCES: "want CAP_NET_ADMIN",
		syscall.EPERM:  "want CAP_NET_ADMIN",
		syscall.EMFILE: "too many open files",
	} {
		err := explain(&os.PathError{Op: "open", Path: devNetTun, Err: errno})
		if !errors.Is(err, errno) || !strings.Contains(err.Error(), want) {
			t.Errorf("%d: %v, want it with %q", errno, err, want)
		}
	}
}

// A host's own sockets talk to the other side of the TUN, which is the test.
func TestSendRecv(t *testing.T) {
	plainAndOffload(t, func(t *testing.T, o Options) {
		d := mustOpen(t, "flannel%d", o)
		configure(t, d, "10.9.0.1/24")
		conn := listen(t, "10.9.0.1:1000")
		deadline := time.Now().Add(10 * time.Second)
		conn.SetReadDeadline(deadline)
		d.SetReadDeadline(deadline)

		payload := bytes.Repeat([]byte("tweed"), 280)
		if _, err := conn.WriteToUDPAddrPort(payload, netip.MustParseAddrPort("10.9.0.2:2000")); err != nil {
			t.Fatal(err)
		}
		p := recvIPv4(t, d)
		if p.Src().String() != "10.9.0.1" || p.Dst().String() != "10.9.0.2" || !bytes.Equal(p[28:], payload) {
			t.Fatalf("received % x", p[:28])
		}

		// Sent back with the ends swapped, it arrives at the socket.
		reply := swapped(p)
		binary.BigEndian.PutUint16(reply[26:], 0) // UDP checksum: none
		mustSend(t, d, [][]byte{reply, reply})
		buf := make([]byte, 2000)
		readReply := func() {
			t.Helper()
			n, from, err := conn.ReadFromUDPAddrPort(buf)
			if err != nil {
				t.Fatal(err)
			}
			if from.String() != "10.9.0.2:2000" || !bytes.Equal(buf[:n], payload) {
				t.Errorf("%d bytes from %s", n, from)
			}
		}
		readReply()
		readReply()

		// What the kernel refuses is lost, and only that.
		pkts := asPackets([][]byte{reply, {0x15, 1, 2}, reply, {}, reply})
		for i := range pkts {
			pkts[i].Err = syscall.ENOLINK // of an earlier Send
		}
		if err := d.Send(pkts); err != nil {
			t.Errorf("junk: %v", err)
		}
		for i, want := range []syscall.Errno{0, syscall.EINVAL, 0, syscall.EINVAL, 0} {
			if pkts[i].Err != want {
				t.Errorf("packet %d: %v, want %v", i, pkts[i].Err, want)
			}
		}
		for range 3 {
			readReply()
		}
		if err := d.Send(nil); err != nil {
			t.Errorf("nothing: %v", err)
		}

		pkts = make([]dataplane.Packet, 4)
		if allocs := testing.AllocsPerRun(100, func() {
			conn.WriteToUDPAddrPort(payload, netip.MustParseAddrPort("10.9.0.2:2000"))
			n, err := d.Recv(pkts)
			if err != nil || n != 1 {
				t.Fatal(n, err)
			}
			if err := d.Send(pkts[:n]); err != nil || pkts[0].Err != 0 {
				t.Fatal(err, pkts[0].Err)
			}
		}); allocs != 0 {
			t.Errorf("%v allocations per packet", allocs)
		}
	})
}

func TestDeadline(t *testing.T) {
	plainAndOffload(t, func(t *testing.T, o Options) {
		d := mustOpen(t, "flannel%d", o)
		configure(t, d, "10.9.0.1/24")
		result := recvInBackground(d)
		d.SetReadDeadline(time.Unix(1, 0))
		if err := <-result; !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("blocked Recv: %v", err)
		}
		conn, err := net.DialUDP("udp4", nil, &net.UDPAddr{IP: net.IPv4(10, 9, 0, 2), Port: 2000})
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := conn.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		if n, err := d.Recv(make([]dataplane.Packet, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("Recv with a packet waiting: %d, %v", n, err)
		}
		d.SetReadDeadline(time.Time{})
		recvIPv4(t, d)
		d.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
		if _, err := d.Recv(make([]dataplane.Packet, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("Recv until the deadline: %v", err)
		}
	})
}

// While the interface is down packets are lost, one by one, and the Device
// lives.
func TestDown(t *testing.T) {
	plainAndOffload(t, func(t *testing.T, o Options) {
		d := mustOpen(t, "flannel%d", o)
		pkts := asPackets(encode(train(udpPacket(100), 3)))
		expect := func(when string, want syscall.Errno) {
			t.Helper()
			err := d.Send(pkts)
			for i := range pkts {
				if err != nil || pkts[i].Err != want {
					t.Errorf("%s: packet %d: %v, %v, want %v", when, i, err, pkts[i].Err, want)
				}
			}
		}
		expect("never up", syscall.EIO)
		configure(t, d, "10.9.0.1/24")
		expect("up", 0)
		link, err := netlink.LinkByIndex(d.Index())
		if err != nil {
			t.Fatal(err)
		}
		result := recvInBackground(d)
		if err := netlink.LinkSetDown(link); err != nil {
			t.Fatal(err)
		}
		expect("down", syscall.EIO)
		if err := netlink.LinkSetUp(link); err != nil {
			t.Fatal(err)
		}
		expect("up again", 0)
		select {
		case err := <-result:
			t.Errorf("Recv ended: %v", err)
		default:
		}
		d.SetReadDeadline(time.Unix(1, 0))
		<-result
		if d.Stats().Fallbacks != 0 {
			t.Error("an interface that is down passed for a kernel without offloads")
		}
	})
}

// A deleted interface ends everything, and the error says which one it was.
func TestDeleted(t *testing.T) {
	plainAndOffload(t, func(t *testing.T, o Options) {
		d := mustOpen(t, "flannel%d", o)
		configure(t, d, "10.9.0.1/24")
		pkts := asPackets(encode(train(udpPacket(100), 3)))
		received := recvInBackground(d)
		sent, busy := make(chan error, 1), make(chan struct{})
		go func() {
			for n := 0; ; n++ {
				if err := d.Send(pkts); err != nil {
					sent <- err
					return
				}
				if n == 10 {
					close(busy)
				}
			}
		}()
		<-busy
		link, err := netlink.LinkByIndex(d.Index())
		if err != nil {
			t.Fatal(err)
		}
		if err := netlink.LinkDel(link); err != nil {
			t.Fatal(err)
		}
		errs := map[string]error{"blocked Recv": <-received, "busy Send": <-sent}
		_, errs["Recv"] = d.Recv(make([]dataplane.Packet, 1))
		errs["Send"] = d.Send(asPackets(encode(train(udpPacket(100), 1))))
		for op, err := range errs {
			_, transient := errors.AsType[dataplane.Transient](err)
			if transient || !errors.Is(err, syscall.EBADFD) || !strings.Contains(err.Error(), "tun flannel0: the interface is gone") {
				t.Errorf("%s: %v", op, err)
			}
		}
	})
}

func TestClosed(t *testing.T) {
	plainAndOffload(t, func(t *testing.T, o Options) {
		d := mustOpen(t, "flannel%d", o)
		configure(t, d, "10.9.0.1/24")
		result := recvInBackground(d)
		if err := d.Close(); err != nil {
			t.Error(err)
		}
		if err := <-result; !errors.Is(err, os.ErrClosed) {
			t.Errorf("blocked Recv: %v", err)
		}
		pkts := asPackets(encode(train(udpPacket(100), 3)))
		_, recvErr := d.Recv(make([]dataplane.Packet, 1))
		for op, err := range map[string]error{
			"Recv": recvErr, "Send": d.Send(pkts), "SetReadDeadline": d.SetReadDeadline(time.Time{}),
			"SetPersistent": d.SetPersistent(true), "second Close": d.Close(),
		} {
			if !errors.Is(err, os.ErrClosed) || !strings.Contains(err.Error(), "tun flannel0") {
				t.Errorf("%s: %v", op, err)
			}
		}
	})
}

// plainAndOffload runs test for both kinds of Device, each in a namespace of
// its own where nothing but the test sends packets.
func plainAndOffload(t *testing.T, test func(*testing.T, Options)) {
	t.Run("plain", func(t *testing.T) {
		quietNamespace(t)
		test(t, Options{})
	})
	t.Run("offload", func(t *testing.T) {
		quietNamespace(t)
		test(t, Options{Offload: true})
	})
}

// quietNamespace enters a namespace whose interfaces have no IPv6, so that the
// kernel sends nothing of its own.
func quietNamespace(t *testing.T) {
	t.Helper()
	nstest.Enter(t)
	err := os.WriteFile("/proc/sys/net/ipv6/conf/default/disable_ipv6", []byte("1"), 0)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
}

func mustOpen(t testing.TB, name string, o Options) *Device {
	t.Helper()
	if _, err := os.Stat(devNetTun); err != nil {
		nstest.Missing(t, devNetTun)
	}
	d, err := Open(name, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

// mustSend sends all.
func mustSend(t testing.TB, d *Device, pkts [][]byte) {
	t.Helper()
	batch := asPackets(pkts)
	if err := d.Send(batch); err != nil {
		t.Fatal(err)
	}
	for i := range batch {
		if batch[i].Err != 0 {
			t.Fatalf("packet %d of %d: %v", i, len(batch), batch[i].Err)
		}
	}
}

// listen opens a UDP socket in the namespace of the caller.
func listen(t testing.TB, addr string) *net.UDPConn {
	t.Helper()
	conn, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.MustParseAddrPort(addr)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// swapped is a copy of a packet on its way back: addresses and ports have
// changed sides, which leaves all checksums right.
func swapped(p []byte) []byte {
	b := bytes.Clone(p)
	copy(b[12:], p[16:20])
	copy(b[16:], p[12:16])
	copy(b[20:], p[22:24])
	copy(b[22:], p[20:22])
	return b
}

func configure(t testing.TB, d *Device, cidr string) {
	t.Helper()
	link, err := netlink.LinkByIndex(d.Index())
	if err != nil {
		t.Fatal(err)
	}
	addr, err := netlink.ParseAddr(cidr)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(netlink.AddrAdd(link, addr), netlink.LinkSetUp(link)); err != nil {
		t.Fatal(err)
	}
}

// recvIPv4 waits for an IPv4 packet; the kernel sends IPv6 ones of its own.
func recvIPv4(t testing.TB, d *Device) dataplane.IPv4 {
	t.Helper()
	pkts := make([]dataplane.Packet, 1)
	for {
		if _, err := d.Recv(pkts); err != nil {
			t.Fatal(err)
		}
		if p, reason := dataplane.ParseIPv4(pkts[0].Bytes); reason == dataplane.NotDropped {
			return p
		}
	}
}

// recvInBackground receives until there is an error.
func recvInBackground(d *Device) <-chan error {
	result := make(chan error, 1)
	started := make(chan struct{})
	go func() {
		pkts := make([]dataplane.Packet, 1)
		close(started)
		for {
			if _, err := d.Recv(pkts); err != nil {
				result <- err
				return
			}
		}
	}()
	<-started
	return result
}
