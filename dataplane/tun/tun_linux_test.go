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
	first, second := mustOpen(t, "flannel%d"), mustOpen(t, "flannel%d")
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
	mustOpen(t, "busy0")
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
		d, err := Open(tt.iface)
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
	nstest.Enter(t)
	d := mustOpen(t, "flannel%d")
	configure(t, d, "10.9.0.1/24")
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(10, 9, 0, 1), Port: 1000})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
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
	reply := bytes.Clone(p)
	copy(reply[12:], p[16:20])
	copy(reply[16:], p[12:16])
	copy(reply[20:], p[22:24])
	copy(reply[22:], p[20:22])
	binary.BigEndian.PutUint16(reply[26:], 0) // UDP checksum: none
	if n, err := d.Send([]dataplane.Packet{{Bytes: reply}, {Bytes: reply}}); n != 2 || err != nil {
		t.Fatalf("sent %d: %v", n, err)
	}
	buf := make([]byte, 2000)
	for range 2 {
		n, from, err := conn.ReadFromUDPAddrPort(buf)
		if err != nil {
			t.Fatal(err)
		}
		if from.String() != "10.9.0.2:2000" || !bytes.Equal(buf[:n], payload) {
			t.Errorf("%d bytes from %s", n, from)
		}
	}

	// What the kernel refuses is lost, and only that.
	n, err := d.Send([]dataplane.Packet{{Bytes: reply}, {Bytes: []byte{0x15, 1, 2}}, {Bytes: reply}})
	if _, ok := errors.AsType[dataplane.Transient](err); n != 1 || !ok {
		t.Errorf("junk: sent %d: %v, want 1 and a Transient error", n, err)
	}

	pkts := make([]dataplane.Packet, 4)
	if allocs := testing.AllocsPerRun(100, func() {
		conn.WriteToUDPAddrPort(payload, netip.MustParseAddrPort("10.9.0.2:2000"))
		n, err := d.Recv(pkts)
		if err != nil || n != 1 {
			t.Fatal(n, err)
		}
		if n, err := d.Send(pkts[:n]); n != 1 || err != nil {
			t.Fatal(n, err)
		}
	}); allocs != 0 {
		t.Errorf("%v allocations per packet", allocs)
	}
}

func TestDeadline(t *testing.T) {
	nstest.Enter(t)
	d := mustOpen(t, "flannel%d")
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
}

// What the kernel says about an interface that is down or deleted.
func TestFaults(t *testing.T) {
	pkts := []dataplane.Packet{{Bytes: []byte{0x45, 19: 0}}}

	t.Run("down", func(t *testing.T) {
		nstest.Enter(t)
		d := mustOpen(t, "flannel%d")
		if n, err := d.Send(pkts); n != 0 || err != dataplane.Transient(syscall.EIO) {
			t.Errorf("Send: %d, %v, want a Transient EIO", n, err)
		}
		configure(t, d, "10.9.0.1/24")
		if n, err := d.Send(pkts); n != 1 || err != nil {
			t.Errorf("Send after up: %d, %v", n, err)
		}
	})
	t.Run("deleted", func(t *testing.T) {
		nstest.Enter(t)
		d := mustOpen(t, "flannel%d")
		configure(t, d, "10.9.0.1/24")
		result := recvInBackground(d)
		link, err := netlink.LinkByIndex(d.Index())
		if err != nil {
			t.Fatal(err)
		}
		if err := netlink.LinkDel(link); err != nil {
			t.Fatal(err)
		}
		_, sendErr := d.Send(pkts)
		_, recvErr := d.Recv(make([]dataplane.Packet, 1))
		for op, err := range map[string]error{"blocked Recv": <-result, "Recv": recvErr, "Send": sendErr} {
			_, transient := errors.AsType[dataplane.Transient](err)
			if transient || !errors.Is(err, syscall.EBADFD) || !strings.Contains(err.Error(), "tun flannel0: the interface is gone") {
				t.Errorf("%s: %v", op, err)
			}
		}
	})
	t.Run("closed", func(t *testing.T) {
		nstest.Enter(t)
		d := mustOpen(t, "flannel%d")
		configure(t, d, "10.9.0.1/24")
		result := recvInBackground(d)
		if err := d.Close(); err != nil {
			t.Error(err)
		}
		if err := <-result; !errors.Is(err, os.ErrClosed) {
			t.Errorf("blocked Recv: %v", err)
		}
		if _, err := d.Send(pkts); !errors.Is(err, os.ErrClosed) {
			t.Errorf("Send: %v", err)
		}
		if err := d.Close(); !errors.Is(err, os.ErrClosed) {
			t.Errorf("second Close: %v", err)
		}
	})
}

func mustOpen(t *testing.T, name string) *Device {
	t.Helper()
	if _, err := os.Stat(devNetTun); err != nil {
		nstest.Missing(t, devNetTun)
	}
	d, err := Open(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

func configure(t *testing.T, d *Device, cidr string) {
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
func recvIPv4(t *testing.T, d *Device) dataplane.IPv4 {
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
