package load

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// drain is how long nothing must arrive after the window for everything
	// to be held arrived or lost.
	drain = 200 * time.Millisecond

	// maxDrain bounds the draining.
	maxDrain = 5 * time.Second
)

// UDPOptions of a UDP load.
type UDPOptions struct {
	Window
	Size int // UDP payload in bytes, MinSize to MaxSize
	// Rate is in packets per second; 0 is as fast as it goes. A sender that
	// falls behind by more than 10 ms does not catch up.
	Rate int
	// GSO sends up to 64 packets as one with UDP_SEGMENT (udp(7)). A packet
	// must fit into the MTU.
	GSO bool
	// Connected sends on a connected socket, which looks up no route per
	// packet, and hears of ICMP errors.
	Connected bool
}

// UDPResult of a UDP load, in packets that were sent in the window, whenever
// they arrived. Rates are its packets over Wall.
type UDPResult struct {
	Sent       int64 // taken by the kernel of the sender; it may still have dropped them
	Delivered  int64 // received once or more, unharmed
	Reordered  int64 // of Delivered: after one that was sent later (RFC 4737)
	Duplicated int64 // further copies of a packet (RFC 5560)
	Corrupt    int64 // not one of ours, cut or changed, in the whole run
	Usage
}

// Lost is how many packets did not arrive, or only as corrupt ones.
func (r UDPResult) Lost() int64 { return r.Sent - r.Delivered }

// UDP sends packets of one size one way. The sender has the send buffer that
// the system gives (net.core.wmem_default) and waits when it is full, as most
// programs do. The receiver has a receive buffer of 16 MiB.
//
// After the window the sender stops, and the receiver goes on until nothing
// has arrived for 200 ms.
func UDP(ctx context.Context, p Path, o UDPOptions) (UDPResult, error) {
	r, err := runUDP(ctx, p, o)
	return r, wrap(ctx, "udp", p, err)
}

func runUDP(ctx context.Context, p Path, o UDPOptions) (UDPResult, error) {
	if err := errors.Join(p.check(), o.Window.check(), checkSize(o.Size)); err != nil {
		return UDPResult{}, err
	}
	if o.Rate < 0 || o.Rate > maxRate {
		return UDPResult{}, fmt.Errorf("rate of %d packets per second: want 1 to %d, or 0 for no limit", o.Rate, maxRate)
	}
	var socks sockets
	defer socks.close()
	rcv, to, err := socks.open(p.To, unix.SOCK_DGRAM, p.ToAddr)
	if err != nil {
		return UDPResult{}, err
	}
	snd, _, err := socks.open(p.From, unix.SOCK_DGRAM, p.FromAddr)
	if err != nil {
		return UDPResult{}, err
	}
	if err := prepareReceiver(rcv); err != nil {
		return UDPResult{}, err
	}
	k, body := newKey(), pattern(o.Size)
	s, err := newSender(snd, sockaddr(to), o, k, body)
	if err != nil {
		return UDPResult{}, err
	}
	t := &tally{key: k, pattern: body}

	c := newCrew()
	var stopped atomic.Bool // the sender
	c.add(func() error { return receive(c, rcv, t, &stopped) })
	c.add(func() error {
		defer stopped.Store(true)
		return s.run(c)
	})
	u, err := c.run(ctx, o.Window, func() {})
	if err != nil {
		return UDPResult{}, err
	}
	r := UDPResult{
		Sent: s.sent, Delivered: t.delivered, Reordered: t.reordered, Duplicated: t.duplicated, Corrupt: t.corrupt,
		Usage: u,
	}
	if r.Delivered == 0 {
		err := fmt.Errorf("port %d: of %d packets sent in the %s of the window, not one arrived unharmed (%d corrupt)", to.Port(), r.Sent, o.Length, r.Corrupt)
		if s.lastErr != 0 {
			err = fmt.Errorf("%w; the last send that was refused: %w", err, s.lastErr)
		}
		return r, err
	}
	return r, nil
}

// receive counts what arrives until the sender has stopped and nothing comes
// any more.
func receive(c *crew, fd int, t *tally, stopped *atomic.Bool) error {
	b := newBatch(batchLen, len(t.pattern)+MinSize)
	var quiet time.Duration
	var end time.Time
	for !c.aborted() && quiet < drain {
		last := stopped.Load()
		n, errno := b.recv(fd)
		for i := range n {
			t.add(b.received(i))
		}
		switch {
		case errno != 0 && !again(errno):
			return os.NewSyscallError("recvmmsg", errno)
		case !last:
			continue
		case errno == unix.EAGAIN: // a whole tick
			quiet += tick
		case errno == 0:
			quiet = 0
		}
		if end.IsZero() {
			end = time.Now().Add(maxDrain)
		} else if time.Now().After(end) {
			return fmt.Errorf("packets still arrive %s after the last one was sent", maxDrain)
		}
	}
	return nil
}

// A sender is the sending end of a UDP load.
type sender struct {
	fd   int
	b    *batch
	key  key
	pace pace
	gso  bool
	most int // packets per call

	next    uint64 // number of the next packet
	sent    int64  // packets sent in the window
	lastErr unix.Errno
}

func newSender(fd int, to *unix.SockaddrInet4, o UDPOptions, k key, body []byte) (*sender, error) {
	s := &sender{fd: fd, b: newBatch(batchLen, o.Size), key: k, pace: pace{rate: o.Rate}, gso: o.GSO, most: batchLen}
	for i := range s.b.msgs {
		copy(s.b.slot(i)[MinSize:], body)
	}
	if o.GSO {
		s.most = min(s.most, MaxSize/o.Size)
		if err := unix.SetsockoptInt(fd, unix.SOL_UDP, unix.UDP_SEGMENT, o.Size); err != nil {
			return nil, os.NewSyscallError("setsockopt UDP_SEGMENT", err)
		}
	}
	if !o.Connected {
		s.b.address(to)
		return s, nil
	}
	return s, os.NewSyscallError("connect", unix.Connect(fd, to))
}

// run sends until the window has closed, whatever the kernel says to it.
func (s *sender) run(c *crew) error {
	for c.sending() {
		n := min(s.pace.due(time.Now()), s.most)
		if n == 0 {
			s.pace.sleep()
			continue
		}
		inside := c.phase.Load() == inWindow
		taken, errno := s.send(n, inside)
		s.next += uint64(taken)
		s.pace.spend(taken)
		if inside {
			s.sent += int64(taken)
		}
		if errno != 0 {
			s.recover(errno)
		}
	}
	return nil
}

func (s *sender) send(n int, inside bool) (int, unix.Errno) {
	for i := range n {
		s.key.put(s.b.slot(i), s.next+uint64(i), inside)
	}
	if !s.gso {
		return s.b.send(s.fd, n)
	}
	s.b.iovs[0].SetLen(n * s.b.size) // the slots are one after the other
	messages, errno := s.b.send(s.fd, 1)
	return messages * n, errno
}

// recover waits before the same packets are tried again.
func (s *sender) recover(errno unix.Errno) {
	switch errno {
	case unix.EINTR:
	case unix.EAGAIN:
		fds := []unix.PollFd{{Fd: int32(s.fd), Events: unix.POLLOUT}}
		unix.Poll(fds, int(tick.Milliseconds())) // whatever it says, the next send says it again
	case unix.ECONNREFUSED: // about an earlier packet
		s.lastErr = errno
	default: // ENOBUFS, an unreachable destination, a firewall
		s.lastErr = errno
		pause(time.Millisecond)
	}
}
