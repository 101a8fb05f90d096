package udpsock

import (
	"bytes"
	"errors"
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

func TestSendRecv(t *testing.T) {
	nstest.Enter(t)
	a, b := mustListen(t, "127.0.0.1:8285"), mustListen(t, "127.0.0.2:8285")
	deadline := time.Now().Add(10 * time.Second)
	b.SetReadDeadline(deadline)

	pkts := []dataplane.Packet{
		{Bytes: []byte("first"), Peer: b.Addr()},
		{Bytes: []byte{}, Peer: b.Addr()},
		{Bytes: bytes.Repeat([]byte{7}, maxDatagram), Peer: b.Addr()},
	}
	if n, err := a.Send(pkts); n != len(pkts) || err != nil {
		t.Fatalf("sent %d: %v", n, err)
	}
	got := make([]dataplane.Packet, 4)
	for i := range pkts {
		n, err := b.Recv(got)
		if n != 1 || err != nil {
			t.Fatalf("received %d: %v", n, err)
		}
		if !bytes.Equal(got[0].Bytes, pkts[i].Bytes) || got[0].Peer != a.Addr() {
			t.Errorf("packet %d: %d bytes from %s", i, len(got[0].Bytes), got[0].Peer)
		}
	}

	if allocs := testing.AllocsPerRun(100, func() {
		if n, err := a.Send(pkts[:1]); n != 1 || err != nil {
			t.Fatal(n, err)
		}
		if n, err := b.Recv(got); n != 1 || err != nil {
			t.Fatal(n, err)
		}
	}); allocs != 0 {
		t.Errorf("%v allocations per packet", allocs)
	}
}

func TestListenErrors(t *testing.T) {
	nstest.Enter(t)
	mustListen(t, "127.0.0.1:8285")
	for _, tt := range []struct {
		addr string
		want error
		text string
	}{
		{"127.0.0.1:8285", syscall.EADDRINUSE, "listen on udp 127.0.0.1:8285: bind: address already in use (another program"},
		{"0.0.0.0:8285", syscall.EADDRINUSE, "listen on udp 0.0.0.0:8285: "},
		{"192.0.2.1:8285", syscall.EADDRNOTAVAIL, "listen on udp 192.0.2.1:8285: bind: cannot assign requested address (want an address of this host)"},
		{"[::1]:8285", nil, "listen on udp [::1]:8285: "},
	} {
		s, err := Listen(netip.MustParseAddrPort(tt.addr))
		if err == nil {
			s.Close()
			t.Errorf("%s: no error", tt.addr)
			continue
		}
		if tt.want != nil && !errors.Is(err, tt.want) || !strings.HasPrefix(err.Error(), tt.text) {
			t.Errorf("%s: %v, want %v with %q", tt.addr, err, tt.want, tt.text)
		}
	}
}

// Each errno that one datagram can meet leaves the socket alive.
func TestSendErrors(t *testing.T) {
	nstest.Enter(t)
	addNIC(t, "192.0.2.1/24")
	s := mustListen(t, "192.0.2.1:8285")
	s.SetReadDeadline(time.Now().Add(10 * time.Second))
	self := s.Addr()

	for _, tt := range []struct {
		name string
		pkt  dataplane.Packet
		want syscall.Errno
	}{
		{"no route", dataplane.Packet{Peer: netip.MustParseAddrPort("198.51.100.1:8285")}, syscall.ENETUNREACH},
		{"too large", dataplane.Packet{Bytes: make([]byte, maxDatagram+1), Peer: self}, syscall.EMSGSIZE},
		{"broadcast", dataplane.Packet{Peer: netip.MustParseAddrPort("192.0.2.255:8285")}, syscall.EACCES},
		{"port 0", dataplane.Packet{Peer: netip.MustParseAddrPort("192.0.2.2:0")}, syscall.EINVAL},
		{"no peer", dataplane.Packet{}, syscall.EDESTADDRREQ},
		{"IPv6 peer", dataplane.Packet{Peer: netip.MustParseAddrPort("[2001:db8::1]:8285")}, syscall.EDESTADDRREQ},
	} {
		good := dataplane.Packet{Bytes: []byte(tt.name), Peer: self}
		n, err := s.Send([]dataplane.Packet{good, tt.pkt, good})
		if n != 1 || !errors.Is(err, tt.want) || !isTransient(err) {
			t.Errorf("%s: sent %d: %v, want 1 and a Transient %v", tt.name, n, err, tt.want)
		}
		got := make([]dataplane.Packet, 1)
		if _, err := s.Recv(got); err != nil || string(got[0].Bytes) != tt.name {
			t.Errorf("%s: received %q, %v", tt.name, got[0].Bytes, err)
		}
	}
}

// A peer whose daemon is down answers with ICMP port unreachable.
func TestPortUnreachable(t *testing.T) {
	nstest.Enter(t)
	s := mustListen(t, "127.0.0.1:8285")
	s.SetReadDeadline(time.Now().Add(10 * time.Second))
	dead := dataplane.Packet{Bytes: []byte("x"), Peer: netip.MustParseAddrPort("127.0.0.2:8285")}
	self := dataplane.Packet{Bytes: []byte("self"), Peer: s.Addr()}
	for range 10 {
		if n, err := s.Send([]dataplane.Packet{dead, self}); n != 2 && !isTransient(err) {
			t.Fatalf("sent %d: %v", n, err)
		}
		pkts := make([]dataplane.Packet, 1)
		if _, err := s.Recv(pkts); err != nil && !isTransient(err) {
			t.Fatal(err)
		}
	}
}

func TestBuffers(t *testing.T) {
	nstest.Enter(t)
	s := mustListen(t, "127.0.0.1:8285")
	raw, err := s.conn.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	raw.Control(func(fd uintptr) {
		for opt, want := range map[int]int{unix.SO_RCVBUF: recvBuffer, unix.SO_SNDBUF: sendBuffer} {
			// The kernel doubles the value for its bookkeeping (socket(7)).
			if got, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, opt); err != nil || got != 2*want {
				t.Errorf("option %d is %d, %v, want %d", opt, got, err, 2*want)
			}
			if err := setBuffer(int(fd), -1, opt, want); err != nil {
				t.Errorf("without privileges: %v", err)
			}
		}
	})
}

func TestDeadlineAndClose(t *testing.T) {
	nstest.Enter(t)
	s := mustListen(t, "127.0.0.1:8285")
	s.Send([]dataplane.Packet{{Bytes: []byte("waiting"), Peer: s.Addr()}})
	s.SetReadDeadline(time.Unix(1, 0))
	pkts := make([]dataplane.Packet, 1)
	if _, err := s.Recv(pkts); !errors.Is(err, os.ErrDeadlineExceeded) || isTransient(err) {
		t.Errorf("deadline in the past: %v", err)
	}
	s.SetReadDeadline(time.Time{})
	if _, err := s.Recv(pkts); err != nil {
		t.Error(err)
	}

	result := make(chan error, 1)
	go func() {
		_, err := s.Recv(pkts)
		result <- err
	}()
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if err := <-result; !errors.Is(err, os.ErrClosed) || isTransient(err) {
		t.Errorf("blocked Recv: %v", err)
	}
	if _, err := s.Send([]dataplane.Packet{{Peer: netip.MustParseAddrPort("127.0.0.1:1")}}); !errors.Is(err, os.ErrClosed) || isTransient(err) {
		t.Errorf("Send after Close: %v", err)
	}
}

func mustListen(t *testing.T, addr string) *Socket {
	t.Helper()
	s, err := Listen(netip.MustParseAddrPort(addr))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// addNIC gives the namespace an interface with the address.
func addNIC(t *testing.T, cidr string) {
	t.Helper()
	veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "eth0"}, PeerName: "eth1"}
	addr, err := netlink.ParseAddr(cidr)
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkAdd(veth); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(netlink.AddrAdd(veth, addr), netlink.LinkSetUp(veth)); err != nil {
		t.Fatal(err)
	}
}

func isTransient(err error) bool {
	_, ok := errors.AsType[dataplane.Transient](err)
	return ok
}
