package udp

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"tweed/dataplane"
	"tweed/subnet"
)

// A udpFlow sends numbered datagrams at a steady pace.
type udpFlow struct {
	from, to *net.UDPConn
	sizes    []int
	burst    int // datagrams each millisecond

	sent     uint64
	received atomic.Uint64
}

func (f *udpFlow) send(ctx context.Context) error {
	dst := f.to.LocalAddr().(*net.UDPAddr).AddrPort()
	buf := make([]byte, 65536)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for ctx.Err() == nil {
		for range f.burst {
			binary.BigEndian.PutUint64(buf, f.sent)
			size := f.sizes[f.sent%uint64(len(f.sizes))]
			if _, err := f.from.WriteToUDPAddrPort(buf[:size], dst); err != nil {
				return err
			}
			f.sent++
		}
		<-tick.C
	}
	return nil
}

// receive counts until the socket is closed; a datagram that comes after one
// with a higher number is an error.
func (f *udpFlow) receive() error {
	buf := make([]byte, 65536)
	for next := uint64(0); ; {
		n, _, err := f.to.ReadFromUDPAddrPort(buf)
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return err
		}
		seq := binary.BigEndian.Uint64(buf)
		if seq < next || n != f.sizes[seq%uint64(len(f.sizes))] {
			return fmt.Errorf("datagram %d of %d bytes after number %d", seq, n, next-1)
		}
		next = seq + 1
		f.received.Add(1)
	}
}

// backlogDrops is what the kernel had no room for between two interfaces, on
// the whole machine (/proc/net/softnet_stat, second column).
func backlogDrops(t *testing.T) (n uint64) {
	b, err := os.ReadFile("/proc/net/softnet_stat")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		var processed, dropped uint64
		if _, err := fmt.Sscanf(line, "%x %x", &processed, &dropped); err != nil {
			t.Fatal(err)
		}
		n += dropped
	}
	return n
}

// socketDrops is what the pods' sockets had no room for.
func socketDrops(t *testing.T, conns []*net.UDPConn) (n uint64) {
	for _, c := range conns {
		var info [9]uint32 // SK_MEMINFO_VARS, of which the last is SK_MEMINFO_DROPS
		if err := sockopt(c, func(fd int) error {
			size := uint32(unsafe.Sizeof(info))
			_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_MEMINFO,
				uintptr(unsafe.Pointer(&info)), uintptr(unsafe.Pointer(&size)), 0)
			if errno != 0 {
				return errno
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		n += uint64(info[8])
	}
	return n
}

// TestMixedTraffic has everything at once for a while: TCP both ways, small and
// large datagrams, pings, and peers that come and go. What was sent arrives, in
// order, but for what a full queue of the kernel has dropped and counted.
func TestMixedTraffic(t *testing.T) {
	duration := 5 * time.Second // of each
	if testing.Short() {
		duration = 500 * time.Millisecond
	}
	goroutines, files := 0, 0
	for _, mix := range mixes {
		t.Run(mix.name, func(t *testing.T) { mixedTraffic(t, mix.a, mix.b, duration) })
		// The first run has started what stays.
		if goroutines == 0 {
			goroutines, files = runtime.NumGoroutine(), openFiles(t)
		}
	}
	await(t, "goroutines to end", func() bool { return runtime.NumGoroutine() <= goroutines })
	if n := openFiles(t); n > files {
		t.Errorf("%d open files, %d before", n, files)
	}
}

func mixedTraffic(t *testing.T, kindA, kindB string, duration time.Duration) {
	a, b := newHosts(t)
	a.backend, b.backend = kindA, kindB
	onA, onB := start(t, a, b)
	mustPing(t, a, b)
	mustPing(t, b, a)
	var flows []*udpFlow
	for _, way := range [][2]*host{{a, b}, {b, a}} {
		for _, f := range []*udpFlow{{sizes: []int{64}, burst: 4}, {sizes: []int{1444}, burst: 1}, {sizes: []int{8, 1444, 700, 4000, 9}, burst: 1}} {
			f.from, f.to = way[0].udp(t), way[1].udp(t)
			if err := sockopt(f.to, func(fd int) error {
				return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 16<<20)
			}); err != nil {
				t.Fatal(err)
			}
			flows = append(flows, f)
		}
	}
	before := backlogDrops(t)

	ctx, cancel := context.WithTimeout(t.Context(), duration)
	defer cancel()
	var senders, receivers errgroup.Group
	for _, f := range flows {
		senders.Go(func() error { return f.send(ctx) })
		receivers.Go(f.receive)
	}
	senders.Go(func() error { return comeAndGo(ctx, onA, b) })
	senders.Go(func() error { return comeAndGo(ctx, onB, a) })
	for _, way := range [][2]*host{{a, b}, {b, a}} {
		for range 2 {
			senders.Go(func() error {
				for ctx.Err() == nil {
					if err := transfer(way[0], way[1], 1<<20); err != nil {
						return err
					}
				}
				return nil
			})
		}
		senders.Go(func() error {
			for ctx.Err() == nil {
				if ttl, err := way[0].ping(way[1].pod()); err != nil || ttl != 62 {
					return fmt.Errorf("TTL %d: %w", ttl, err)
				}
				time.Sleep(20 * time.Millisecond) // the pace of the pings
			}
			return nil
		})
	}
	if err := senders.Wait(); err != nil {
		t.Error(err)
	}
	count := func() (sent, received, counted uint64) {
		var conns []*net.UDPConn
		for _, f := range flows {
			sent += f.sent
			received += f.received.Load()
			conns = append(conns, f.to)
		}
		counted = onA.Stats().Socket.Overflows + onB.Stats().Socket.Overflows +
			a.tunDrops() + b.tunDrops() + socketDrops(t, conns) + backlogDrops(t) - before
		return
	}
	await(t, "all datagrams to arrive or to be counted", func() bool {
		sent, received, counted := count()
		return received+counted >= sent
	})
	for _, f := range flows {
		f.to.Close()
	}
	if err := receivers.Wait(); err != nil {
		t.Error(err)
	}
	var sent, received uint64
	for i, f := range flows {
		sent, received = sent+f.sent, received+f.received.Load()
		if 2*f.received.Load() < f.sent {
			t.Errorf("flow %d: %d of %d arrived", i, f.received.Load(), f.sent)
		}
	}
	if received == 0 || received > sent {
		t.Errorf("%d datagrams of %d arrived", received, sent)
	}
	for name, be := range map[string]*Backend{"a": onA, "b": onB} {
		for dir, s := range stats(be) {
			// The kernel sends IPv6 of its own into every interface.
			if total(s.Dropped) > s.Dropped[dataplane.NotIPv4] || total(s.Suspect) > 0 || s.RecvErrors > 0 {
				t.Errorf("%s, %s: %+v", name, dir, s)
			}
		}
		if s := be.Stats(); s.TUN.RecvMalformed > 0 || s.TUN.Fallbacks > 0 || s.Socket.Fallbacks > 0 {
			t.Errorf("%s: TUN %+v, socket %+v", name, s.TUN, s.Socket)
		}
	}
	t.Logf("%d datagrams sent, %d arrived", sent, received)
}

// comeAndGo adds and removes peers beside the one that stays.
func comeAndGo(ctx context.Context, be *Backend, stays *host) error {
	for n := 0; ctx.Err() == nil; n++ {
		leases := []subnet.Lease{stays.lease()}
		for i := range n % 50 {
			other := subnet.Lease{Subnet: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 5, byte(100 + i), 0}), 24)}
			other.Attrs.PublicIP = netip.AddrFrom4([4]byte{192, 0, 2, byte(100 + i)})
			leases = append(leases, other)
		}
		if err := be.Sync(ctx, leases); err != nil {
			return err
		}
		time.Sleep(5 * time.Millisecond) // the pace of the changes
	}
	return nil
}
