package udp

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"tweed/dataplane"
)

// total is the number of packets for all reasons.
func total(r dataplane.Reasons) (n uint64) {
	for _, m := range r {
		n += m
	}
	return n
}

// Several TCP flows both ways at once do not get into each other's way.
func TestParallelTransfers(t *testing.T) {
	inMixes(t, func(t *testing.T, a, b *host, onA, onB *Backend) {
		mustPing(t, a, b)
		var g errgroup.Group
		for i := range 4 {
			g.Go(func() error { return transfer(a, b, 4<<20+i) })
			g.Go(func() error { return transfer(b, a, 4<<20+i) })
		}
		if err := g.Wait(); err != nil {
			t.Error(err)
		}
		for name, be := range map[string]*Backend{"a": onA, "b": onB} {
			s := be.Stats()
			if be.offload != (s.TUN.RecvSupers > 0) || be.offload != (s.Socket.SendSupers > 0) || be.offload != (s.TUN.SendSupers > 0) {
				t.Errorf("%s: TUN %+v, socket %+v", name, s.TUN, s.Socket)
			}
			if s.TUN.RecvMalformed > 0 || s.TUN.Fallbacks > 0 || s.Socket.Fallbacks > 0 {
				t.Errorf("%s: TUN %+v, socket %+v", name, s.TUN, s.Socket)
			}
			for dir, d := range stats(be) {
				if total(d.Dropped)-d.Dropped[dataplane.NotIPv4] > 0 || total(d.Suspect) > 0 {
					t.Errorf("%s, %s: %+v", name, dir, d)
				}
			}
		}
	})
}

// A program in a pod that sends with UDP_SEGMENT gets single datagrams through,
// also where the TUN takes its superpackets whole.
func TestSegmentedUDP(t *testing.T) {
	inMixes(t, func(t *testing.T, a, b *host, onA, onB *Backend) {
		mustPing(t, a, b)
		from, to := a.udp(t), b.udp(t)
		to.SetReadBuffer(8 << 20)
		to.SetReadDeadline(time.Now().Add(patience))
		raw, err := from.SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		segment := func(size int) {
			raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_UDP, unix.UDP_SEGMENT, size) })
			if err != nil {
				t.Fatal(err)
			}
		}
		r := rand.NewChaCha8([32]byte{1})
		dst := to.LocalAddr().(*net.UDPAddr).AddrPort()
		buf := make([]byte, 2000)
		for _, tt := range []struct{ size, total int }{
			{1000, 40000}, {1444, 1444 * 44}, {1444, 1444*30 + 1}, {1, 60}, {500, 501}, {700, 700}, {100, 99}, {1444, 2000},
		} {
			segment(tt.size)
			data := make([]byte, tt.total)
			r.Read(data)
			if _, err := from.WriteToUDPAddrPort(data, dst); err != nil {
				t.Fatalf("%d bytes in segments of %d: %v", tt.total, tt.size, err)
			}
			for rest := data; len(rest) > 0; {
				want := rest[:min(tt.size, len(rest))]
				rest = rest[len(want):]
				n, src, err := to.ReadFromUDPAddrPort(buf)
				if err != nil || !bytes.Equal(buf[:n], want) || src != from.LocalAddr().(*net.UDPAddr).AddrPort() {
					t.Fatalf("%d bytes in segments of %d: received %d bytes from %s, %v, want %d", tt.total, tt.size, n, src, err, len(want))
				}
			}
		}
		if s := onA.Stats(); onA.offload != (s.TUN.RecvSupers > 0) || onA.offload != (s.Socket.SendSupers > 0) {
			t.Errorf("sender: TUN %+v, socket %+v", s.TUN, s.Socket)
		}
		// Consecutive equal datagrams that come in at once are joined again.
		if s := onB.Stats(); onA.offload && onB.offload != (s.TUN.SendSupers > 0) {
			t.Errorf("receiver: TUN %+v, socket %+v", s.TUN, s.Socket)
		}
	})
}

// UDP of all sizes that fit and of those that the pod's kernel has to fragment,
// both ways at once, arrives unchanged.
func TestUDPSizes(t *testing.T) {
	inMixes(t, func(t *testing.T, a, b *host, _, _ *Backend) {
		mustPing(t, a, b)
		var g errgroup.Group
		for _, way := range [][2]*host{{a, b}, {b, a}} {
			from, to := way[0].udp(t), way[1].udp(t)
			g.Go(func() error { return exchange(from, to) })
		}
		if err := g.Wait(); err != nil {
			t.Error(err)
		}
	})
}

func exchange(from, to *net.UDPConn) error {
	dst := to.LocalAddr().(*net.UDPAddr).AddrPort()
	r := rand.NewChaCha8([32]byte{2})
	buf := make([]byte, 65536)
	to.SetReadDeadline(time.Now().Add(patience))
	for _, size := range []int{0, 1, 2, 3, 511, 1000, 1443, 1444, 1445, 1472, 2888, 2889, 8000, 30000, 65507} {
		data := make([]byte, size)
		r.Read(data)
		if _, err := from.WriteToUDPAddrPort(data, dst); err != nil {
			return fmt.Errorf("send %d bytes: %w", size, err)
		}
		n, src, err := to.ReadFromUDPAddrPort(buf)
		if err != nil || !bytes.Equal(buf[:n], data) || src != netip.AddrPortFrom(from.LocalAddr().(*net.UDPAddr).AddrPort().Addr(), src.Port()) {
			return fmt.Errorf("received %d bytes from %s, %w, want %d", n, src, err, size)
		}
	}
	return nil
}
