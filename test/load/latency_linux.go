package load

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// answerTimeout is when a request counts as lost.
const answerTimeout = 200 * time.Millisecond

// LatencyOptions of a latency measurement.
type LatencyOptions struct {
	Window
	Size int // UDP payload of request and answer in bytes, MinSize to MaxSize
}

// LatencyResult of a latency measurement: of the requests that were sent in the
// window.
type LatencyResult struct {
	Samples []time.Duration // from request to answer, sorted
	Lost    int64           // requests without an answer in 200 ms, or refused by the kernel or the network
	Usage
}

// Percentile is the smallest sample that at least p percent of the samples do
// not exceed (nearest rank); p is 0 to 100. Without samples it is 0.
func (r LatencyResult) Percentile(p float64) time.Duration {
	if len(r.Samples) == 0 {
		return 0
	}
	rank := int(math.Ceil(p * float64(len(r.Samples)) / 100))
	return r.Samples[min(max(rank, 1), len(r.Samples))-1]
}

// Latency sends one UDP request at a time from From; a thread in To sends each
// back as it is. The next request leaves when the answer has come, or after
// 200 ms. Both threads sleep while they wait, as most programs do.
func Latency(ctx context.Context, p Path, o LatencyOptions) (LatencyResult, error) {
	r, err := runLatency(ctx, p, o)
	return r, wrap(ctx, "udp latency", p, err)
}

func runLatency(ctx context.Context, p Path, o LatencyOptions) (LatencyResult, error) {
	if err := errors.Join(p.check(), o.Window.check(), checkSize(o.Size)); err != nil {
		return LatencyResult{}, err
	}
	var socks sockets
	defer socks.close()
	server, at, err := socks.open(p.To, unix.SOCK_DGRAM, p.ToAddr)
	if err != nil {
		return LatencyResult{}, err
	}
	fd, _, err := socks.open(p.From, unix.SOCK_DGRAM, p.FromAddr)
	if err != nil {
		return LatencyResult{}, err
	}
	if err := errors.Join(prepareReceiver(server), prepareReceiver(fd)); err != nil {
		return LatencyResult{}, err
	}
	if err := unix.Connect(fd, sockaddr(at)); err != nil {
		return LatencyResult{}, os.NewSyscallError("connect", err)
	}
	cl := newClient(fd, o)
	c := newCrew()
	var stopped atomic.Bool // the client
	c.add(func() error { return echo(c, server, o.Size, &stopped) })
	c.add(func() error {
		defer stopped.Store(true)
		return cl.run(c)
	})
	u, err := c.run(ctx, o.Window, func() {})
	if err != nil {
		return LatencyResult{}, err
	}
	slices.Sort(cl.samples)
	r := LatencyResult{Samples: cl.samples, Lost: cl.lost, Usage: u}
	if len(r.Samples) == 0 {
		err := fmt.Errorf("port %d: of %d requests in the %s of the window, not one was answered", at.Port(), r.Lost, o.Length)
		if cl.lastErr != 0 {
			err = fmt.Errorf("%w; the last error: %w", err, cl.lastErr)
		}
		return r, err
	}
	return r, nil
}

// echo sends everything back to where it came from.
func echo(c *crew, fd, size int, stopped *atomic.Bool) error {
	b := newBatch(1, size)
	for !c.aborted() && !stopped.Load() {
		b.name(0)
		b.iovs[0].SetLen(size)
		_, errno := b.recv(fd)
		switch {
		case again(errno):
			continue
		case errno != 0:
			return os.NewSyscallError("recvmmsg", errno)
		}
		b.iovs[0].SetLen(int(b.msgs[0].len))
		b.send(fd, 1) // should it not be sent, the client counts it as lost
	}
	return nil
}

// A client asks and waits.
type client struct {
	fd      int
	key     key
	out, in *batch

	next    uint64 // number of the next request
	samples []time.Duration
	lost    int64
	lastErr unix.Errno
}

func newClient(fd int, o LatencyOptions) *client {
	// Nothing answers in less than 5 µs; the list grows if something does.
	room := min(o.Length/(5*time.Microsecond), 1<<20)
	c := &client{fd: fd, key: newKey(), out: newBatch(1, o.Size), in: newBatch(1, o.Size)}
	c.samples = make([]time.Duration, 0, room+1)
	copy(c.out.buf[MinSize:], pattern(o.Size))
	return c
}

func (cl *client) run(c *crew) error {
	for c.sending() {
		inside := c.phase.Load() == inWindow
		cl.key.put(cl.out.buf, cl.next, inside)
		cl.next++
		start := time.Now()
		_, errno := cl.out.send(cl.fd, 1)
		ok := false
		if errno == 0 {
			ok, errno = cl.answer(c, start)
		}
		took := time.Since(start)
		if errno != 0 {
			cl.lastErr = errno
			pause(time.Millisecond)
		}
		switch {
		case !inside || c.aborted():
		case ok:
			cl.samples = append(cl.samples, took)
		default:
			cl.lost++
		}
	}
	return nil
}

// answer waits for the answer to the newest request.
func (cl *client) answer(c *crew, start time.Time) (ok bool, _ unix.Errno) {
	for time.Since(start) < answerTimeout && !c.aborted() {
		_, errno := cl.in.recv(cl.fd)
		if again(errno) {
			continue
		}
		if errno != 0 {
			return false, errno
		}
		if payload, _ := cl.in.received(0); string(payload) == string(cl.out.buf) {
			return true, 0
		}
	}
	return false, 0
}
