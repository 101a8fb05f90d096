package udpsock

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"net/netip"
	"os"
	"runtime"
	"testing"
	"time"
	"unsafe"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"tweed/dataplane"
	"tweed/test/nstest"
)

const patience = 20 * time.Second // for what happens at once on an idle machine

// modes has both kinds of sockets at both ends.
var modes = []struct {
	name     string
	from, to Options
}{
	{"offload to offload", Options{Offload: true}, Options{Offload: true}},
	{"offload to plain", Options{Offload: true}, Options{}},
	{"plain to offload", Options{}, Options{Offload: true}},
	{"plain to plain", Options{}, Options{}},
}

// sameModes has both kinds of sockets at both ends at once.
var sameModes = []struct {
	name string
	Options
}{{"offload", Options{Offload: true}}, {"plain", Options{}}}

func mustListen(t testing.TB, addr string, o Options) *Socket {
	t.Helper()
	s, err := Listen(netip.MustParseAddrPort(addr), o)
	if err != nil {
		t.Fatal(err)
	}
	s.SetReadDeadline(time.Now().Add(patience))
	t.Cleanup(func() { s.Close() })
	return s
}

// mustSend sends packets of which each must have the Err want.
func mustSend(t testing.TB, s *Socket, pkts []dataplane.Packet, want error) {
	t.Helper()
	if err := s.Send(pkts); err != nil {
		t.Fatal(err)
	}
	if want == nil {
		want = unix.Errno(0)
	}
	for i := range pkts {
		if error(pkts[i].Err) != want {
			t.Fatalf("packet %d of %d, %d bytes to %s: %d (%v), want %v",
				i, len(pkts), len(pkts[i].Bytes), pkts[i].Peer, pkts[i].Err, pkts[i].Err, want)
		}
	}
}

// wantRecv receives exactly the packets want, with at most room at a time. It
// spoils what it has looked at, as the caller of Recv may.
func wantRecv(t *testing.T, s *Socket, room int, want []dataplane.Packet) {
	t.Helper()
	pkts := make([]dataplane.Packet, room)
	for got := 0; got < len(want); {
		n, err := s.Recv(pkts)
		if err != nil || n < 1 || n > room {
			t.Fatalf("after %d packets of %d: received %d: %v", got, len(want), n, err)
		}
		if got+n > len(want) {
			t.Fatalf("received %d packets, want %d", got+n, len(want))
		}
		for i := range n {
			p, w := &pkts[i], &want[got+i]
			if !bytes.Equal(p.Bytes, w.Bytes) || w.Peer.IsValid() && p.Peer != w.Peer {
				t.Fatalf("packet %d: %d bytes from %s, want %d from %s; same content %t",
					got+i, len(p.Bytes), p.Peer, len(w.Bytes), w.Peer, bytes.Equal(p.Bytes, w.Bytes))
			}
			if cap(p.Bytes) != len(p.Bytes) {
				t.Fatalf("packet %d: an append would write into the next packet", got+i)
			}
			for j := range p.Bytes {
				p.Bytes[j] = 0xee
			}
		}
		got += n
	}
	wantNothing(t, s)
}

// wantNothing checks that no packet waits.
func wantNothing(t *testing.T, s *Socket) {
	t.Helper()
	// A deadline that is about to pass, not one that has: that would hide what waits.
	s.SetReadDeadline(time.Now().Add(5 * time.Millisecond))
	defer s.SetReadDeadline(time.Now().Add(patience))
	pkts := make([]dataplane.Packet, 1)
	if n, err := s.Recv(pkts); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("one more packet: %d, %d bytes from %s, %v", n, len(pkts[0].Bytes), pkts[0].Peer, err)
	}
}

// greet sends one packet, so that the neighbour is known. What waits for ARP may
// be overtaken by what is sent when the answer has come.
func greet(t testing.TB, s, to *Socket) {
	t.Helper()
	mustSend(t, s, packets(to.Addr(), 1), nil)
	if n, err := to.Recv(make([]dataplane.Packet, 1)); n != 1 || err != nil {
		t.Fatal(n, err)
	}
}

// packets makes packets of these sizes for a peer, each with another content.
func packets(to netip.AddrPort, sizes ...int) []dataplane.Packet {
	r := rand.NewChaCha8([32]byte{byte(to.Port()), byte(len(sizes))})
	pkts := make([]dataplane.Packet, len(sizes))
	for i, n := range sizes {
		b := make([]byte, n)
		r.Read(b)
		pkts[i] = dataplane.Packet{Bytes: b, Peer: to}
	}
	return pkts
}

// from returns the packets as their receiver should see them.
func from(s *Socket, pkts []dataplane.Packet) []dataplane.Packet {
	var out []dataplane.Packet
	for _, p := range pkts {
		out = append(out, dataplane.Packet{Bytes: p.Bytes, Peer: s.Addr()})
	}
	return out
}

func times(n, size int) []int {
	sizes := make([]int, n)
	for i := range sizes {
		sizes[i] = size
	}
	return sizes
}

// segmenting reports whether the socket makes use of UDP_SEGMENT.
func segmenting(s *Socket) bool {
	for _, f := range s.Features() {
		if f.Name == "udp_segment" {
			return f.On
		}
	}
	return false
}

// await waits until ok returns true.
func await(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited %v for %s", patience, what)
		}
	}
}

// A space is a thread in a network namespace of its own.
type space struct {
	t     *testing.T
	calls chan func()
	ns    netns.NsHandle
}

func newSpace(t *testing.T) *space {
	nstest.NeedRoot(t)
	s := &space{t: t, calls: make(chan func())}
	entered := make(chan error)
	go func() {
		runtime.LockOSThread() // for good: the thread dies with its namespace
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			s.ns, err = netns.Get()
		}
		if err == nil {
			// One processor takes in what a veth brings, or else packets that two
			// have sent may overtake each other.
			err = os.WriteFile("/proc/sys/net/core/rps_default_mask", []byte("1"), 0)
		}
		entered <- err
		for call := range s.calls {
			call()
		}
	}()
	if err := <-entered; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.ns.Close()
		close(s.calls)
	})
	return s
}

// do runs f in the namespace; an error ends the test.
func (s *space) do(f func() error) {
	s.t.Helper()
	result := make(chan error)
	s.calls <- func() { result <- f() }
	if err := <-result; err != nil {
		s.t.Fatal(err)
	}
}

func (s *space) listen(addr string, o Options) *Socket {
	s.t.Helper()
	var sock *Socket
	s.do(func() (err error) {
		sock, err = Listen(netip.MustParseAddrPort(addr), o)
		return err
	})
	sock.SetReadDeadline(time.Now().Add(patience))
	s.t.Cleanup(func() { sock.Close() })
	return sock
}

// join connects two namespaces by a veth pair, whose ends are named alike.
func join(a, b *space, name, cidrA, cidrB string, mtu int) {
	a.t.Helper()
	a.do(func() error {
		return netlink.LinkAdd(&netlink.Veth{
			LinkAttrs: netlink.LinkAttrs{Name: name, MTU: mtu},
			PeerName:  name, PeerNamespace: netlink.NsFd(b.ns), PeerMTU: uint32(mtu),
		})
	})
	a.do(func() error { return configure(name, cidrA) })
	b.do(func() error { return configure(name, cidrB) })
}

func configure(name, cidr string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	addr, err := netlink.ParseAddr(cidr)
	if err != nil {
		return err
	}
	return errors.Join(netlink.AddrAdd(link, addr), netlink.LinkSetUp(link))
}

// route sends what is for dst to a gateway.
func (s *space) route(dst, via string) {
	s.t.Helper()
	s.do(func() error {
		to, err := netlink.ParseIPNet(dst)
		if err != nil {
			return err
		}
		return netlink.RouteAdd(&netlink.Route{Dst: to, Gw: netip.MustParseAddr(via).AsSlice()})
	})
}

func (s *space) sysctl(name, value string) {
	s.t.Helper()
	s.do(func() error { return os.WriteFile("/proc/sys/net/"+name, []byte(value), 0) })
}

// refuseSendmmsg makes sendmmsg(2) with exactly one message fail on the
// calling thread from now on, which must never be given back to the scheduler
// (seccomp(2)). Here no device refuses UDP_SEGMENT: since Linux 6.11 one
// without checksum offload takes it as well, and there is no IPsec.
func refuseSendmmsg(errno unix.Errno) error {
	const nr, vlen = 0, 16 + 2*8 // offsets in struct seccomp_data
	low := uint32(0)
	if one := uint16(1); *(*byte)(unsafe.Pointer(&one)) == 0 {
		low = 4 // big endian
	}
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: nr},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.SYS_SENDMMSG, Jf: 3},
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: vlen + low},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: 1, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(errno)},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	}
	prog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	_, _, e := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, uintptr(unsafe.Pointer(&prog)))
	runtime.KeepAlive(filter)
	if e != 0 {
		return e
	}
	return nil
}
