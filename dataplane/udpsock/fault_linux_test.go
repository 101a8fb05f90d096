package udpsock

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"tweed/dataplane"
	"tweed/test/nstest"
)

// A firewall that forbids one peer does not hurt the others, and says nothing
// about offloads.
func TestFirewall(t *testing.T) {
	if _, err := exec.LookPath("iptables"); err != nil {
		nstest.Missing(t, "iptables")
	}
	for _, mode := range sameModes {
		t.Run(mode.name, func(t *testing.T) {
			nstest.Enter(t)
			s, open, shut := mustListen(t, "127.0.0.1:1", mode.Options), mustListen(t, "127.0.0.2:2", mode.Options), mustListen(t, "127.0.0.3:3", mode.Options)
			rule := func(op string) {
				out, err := exec.Command("iptables", "-w", op, "OUTPUT", "-d", "127.0.0.3", "-j", "DROP").CombinedOutput()
				if err != nil {
					t.Fatalf("iptables: %v: %s", err, out)
				}
			}
			rule("-A")
			good, bad := packets(open.Addr(), times(30, 500)...), packets(shut.Addr(), times(30, 500)...)
			var pkts []dataplane.Packet
			for i := range good {
				pkts = append(pkts, bad[i], good[i])
			}
			if err := s.Send(pkts); err != nil {
				t.Fatal(err)
			}
			for i, p := range pkts {
				want := syscall.Errno(0)
				if p.Peer == shut.Addr() {
					want = syscall.EPERM
				}
				if p.Err != want {
					t.Errorf("packet %d to %s: %v, want %v", i, p.Peer, p.Err, want)
				}
			}
			wantRecv(t, open, 132, from(s, good))
			wantNothing(t, shut)
			if got := s.Stats(); got.Fallbacks > 0 {
				t.Errorf("%+v", got)
			}
			rule("-D")
			wantGroups(t, s, shut, mode.Offload, 500)
		})
	}
}

// The kernel refuses a group: its packets are sent one by one, and so are, or
// in smaller groups, all that follow.
func TestOffloadRefused(t *testing.T) {
	for _, tt := range []struct {
		errno  syscall.Errno
		sizes  []int
		again  bool // the packets are sent in another form
		groups int  // how many groups 126 packets make afterwards, 0 for none
	}{
		{syscall.EIO, times(128, 100), true, 0},
		{syscall.EIO, times(2, 100), true, 0},
		{syscall.EOPNOTSUPP, times(10, 100), true, 0},
		{syscall.ENOPROTOOPT, times(10, 100), true, 0},
		{syscall.EINVAL, times(128, 100), true, 2},   // Linux before 6.8
		{syscall.EINVAL, times(64, 100), true, 1},    // the path, Linux before 6.13
		{syscall.EMSGSIZE, times(128, 100), true, 1}, // the path
		{syscall.EPERM, times(20, 100), false, 1},
		{syscall.ENOBUFS, times(20, 100), false, 1},
	} {
		t.Run(fmt.Sprintf("%v with %d", tt.errno, len(tt.sizes)), func(t *testing.T) {
			nstest.Enter(t)
			s, to, other := mustListen(t, "127.0.0.1:1", Options{Offload: true}), mustListen(t, "127.0.0.2:2", Options{Offload: true}), mustListen(t, "127.0.0.3:3", Options{})
			pkts := packets(to.Addr(), tt.sizes...)
			err := inThread(func() error {
				if err := refuseSendmmsg(tt.errno); err != nil {
					nstest.Missing(t, "seccomp: "+err.Error())
				}
				return s.Send(pkts)
			})
			if err != nil {
				t.Fatal(err)
			}
			var arrive []dataplane.Packet
			for i, p := range pkts {
				want := tt.errno
				if tt.again {
					want = 0
					arrive = append(arrive, p)
				}
				if p.Err != want {
					t.Fatalf("packet %d: %v, want %v", i, p.Err, want)
				}
			}
			wantRecv(t, to, 132, from(s, arrive))
			stats := s.Stats()
			if want := map[bool]uint64{true: 1}[tt.again]; stats.Fallbacks != want || stats.SendSupers != 0 {
				t.Errorf("%+v, want %d fallbacks", stats, want)
			}

			next, more := packets(to.Addr(), times(126, 100)...), packets(other.Addr(), 9)
			mustSend(t, s, append(next, more...), nil)
			wantRecv(t, to, 132, from(s, next))
			wantRecv(t, other, 132, from(s, more))
			after := s.Stats()
			if after.SendSupers != uint64(tt.groups) || after.Fallbacks != stats.Fallbacks || segmenting(s) != (tt.groups > 0) {
				t.Errorf("126 packets in %d groups, want %d; %+v, UDP_SEGMENT in use: %t", after.SendSupers, tt.groups, after, segmenting(s))
			}
		})
	}
}

// inThread runs f on a thread that ends with it.
func inThread(f func() error) error {
	result := make(chan error, 1)
	go func() {
		err := errors.New("the function ended its goroutine")
		defer func() { result <- err }()
		runtime.LockOSThread() // for good
		err = f()
	}()
	return <-result
}

// Peers that do not answer ARP keep their packets for three seconds in the
// kernel, at the expense of the socket's buffer. The others must not wait.
func TestDeadNeighbours(t *testing.T) {
	for _, mode := range sameModes {
		t.Run(mode.name, func(t *testing.T) {
			a, b := newSpace(t), newSpace(t)
			join(a, b, "eth0", "192.0.2.1/24", "192.0.2.2/24", 1500)
			s, live := a.listen("192.0.2.1:8285", mode.Options), b.listen("192.0.2.2:8285", mode.Options)
			greet(t, s, live)
			var dead []dataplane.Packet
			for n := range 8 {
				peer := live.Addr().Addr().As4()
				peer[3] = byte(100 + n)
				dead = append(dead, packets(addrPort(peer), times(300, 1400)...)...)
			}
			good := packets(live.Addr(), times(300, 1400)...)
			start := time.Now()
			mustSend(t, s, dead, nil)
			mustSend(t, s, good, nil)
			wantRecv(t, live, 132, from(s, good))
			if took := time.Since(start); took > 2*time.Second {
				t.Errorf("took %v", took)
			}
		})
	}
}

// slow limits what leaves a namespace by eth0, with a long queue in front.
func (s *space) slow(bytesPerSecond uint64) {
	s.t.Helper()
	s.do(func() error {
		eth0, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		err = netlink.QdiscAdd(&netlink.Tbf{
			QdiscAttrs: netlink.QdiscAttrs{LinkIndex: eth0.Attrs().Index, Handle: netlink.MakeHandle(1, 0), Parent: netlink.HANDLE_ROOT},
			Rate:       bytesPerSecond,
			Buffer:     netlink.Xmittime(bytesPerSecond, 100_000),
			Limit:      1 << 30,
		})
		if err != nil {
			nstest.Missing(s.t, "the queueing discipline tbf: "+err.Error())
		}
		return nil
	})
}

// A full send buffer makes Send wait, and nothing is lost.
func TestFullSendBuffer(t *testing.T) {
	for _, mode := range sameModes {
		t.Run(mode.name, func(t *testing.T) {
			const rate = 100_000_000
			a, b := newSpace(t), newSpace(t)
			join(a, b, "eth0", "192.0.2.1/24", "192.0.2.2/24", 1500)
			a.slow(rate)
			s, to := a.listen("192.0.2.1:8285", mode.Options), b.listen("192.0.2.2:8285", mode.Options)
			greet(t, s, to)
			pkts := packets(to.Addr(), times(132*200, 1400)...) // 37 MB
			want := from(s, pkts)                               // before Send writes to them
			result := make(chan error, 1)
			start := time.Now()
			var took time.Duration
			go func() {
				err := s.Send(pkts)
				took = time.Since(start)
				result <- err
			}()
			wantRecv(t, to, 132, want)
			if err := <-result; err != nil {
				t.Fatal(err)
			}
			for i, p := range pkts {
				if p.Err != 0 {
					t.Fatalf("packet %d: %v", i, p.Err)
				}
			}
			// At least what does not fit the buffer had to leave before.
			if least := time.Second * (37_000_000 - 2*sendBuffer - 200_000) / rate; took < least {
				t.Errorf("Send took %v, which is too short for a full buffer: want %v", took, least)
			}
		})
	}
}

// Close ends a Send that waits for room in the buffer.
func TestCloseWhileSending(t *testing.T) {
	for _, mode := range sameModes {
		t.Run(mode.name, func(t *testing.T) {
			a, b := newSpace(t), newSpace(t)
			join(a, b, "eth0", "192.0.2.1/24", "192.0.2.2/24", 1500)
			a.slow(1000)
			s, to := a.listen("192.0.2.1:8285", mode.Options), b.listen("192.0.2.2:8285", mode.Options)
			result := make(chan error, 1)
			go func() {
				pkts := packets(to.Addr(), times(132, 1400)...)
				for {
					if err := s.Send(pkts); err != nil {
						result <- err
						return
					}
				}
			}()
			// It waits once it makes no progress any more.
			last := uint64(0)
			await(t, "a full buffer", func() bool {
				time.Sleep(50 * time.Millisecond)
				now := s.Stats().Sends
				stands := now > 0 && now == last
				last = now
				return stands
			})
			start := time.Now()
			if err := s.Close(); err != nil {
				t.Error(err)
			}
			if err := <-result; !errors.Is(err, os.ErrClosed) {
				t.Errorf("blocked Send: %v", err)
			}
			if took := time.Since(start); took > 5*time.Second {
				t.Errorf("took %v", took)
			}
		})
	}
}

// The interface goes away under the socket, and comes back.
func TestInterfaceDown(t *testing.T) {
	a, b := newSpace(t), newSpace(t)
	join(a, b, "eth0", "192.0.2.1/24", "192.0.2.2/24", 1500)
	s, to := a.listen("192.0.2.1:8285", Options{Offload: true}), b.listen("192.0.2.2:8285", Options{Offload: true})
	set := func(f func(netlink.Link) error) {
		a.do(func() error {
			eth0, err := netlink.LinkByName("eth0")
			if err != nil {
				return err
			}
			return f(eth0)
		})
	}
	pkts := packets(to.Addr(), times(10, 100)...)
	set(netlink.LinkSetDown)
	mustSend(t, s, pkts, unix.ENETUNREACH)
	set(netlink.LinkSetUp)
	wantGroups(t, s, to, true, 100)
}
