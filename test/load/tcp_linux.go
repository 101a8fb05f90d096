package load

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"tweed/test/lab"
)

const (
	// DefaultBlock is what TCP reads and writes at once, in bytes. The larger it
	// is, the more the kernel's own paths gain: less of the work is in the
	// system calls of the ends.
	DefaultBlock = 64 << 10

	minBlock = 1 << 10
	maxBlock = 1 << 20

	maxStreams = 256
)

// TCPOptions of a TCP load.
type TCPOptions struct {
	Window
	Streams int  // 1 to 256 from From to To
	Both    bool // the same number back at the same time, connected from To
	Block   int  // bytes that are written and read at once, 1 KiB to 1 MiB; 0 is DefaultBlock
}

// TCPResult of a TCP load. Rates are its bytes over Wall.
type TCPResult struct {
	Bytes, BytesBack int64   // received by the applications in the window: From to To, and To to From
	PerStream        []int64 // bytes in the window per stream, forward first
	Retransmits      int64   // segments, of all senders in the whole run (tcpi_total_retrans of TCP_INFO)
	Usage
}

// A stream is one connection, used in one direction.
type stream struct {
	send, recv int          // descriptors of both ends
	port       uint16       // of the receiver
	got        atomic.Int64 // bytes received so far
}

// TCP sends as much as goes through by each stream. The content is not checked.
//
// The system's congestion control and automatic buffer sizes (tcp_wmem,
// tcp_rmem) rule: setting larger buffers would turn the tuning off.
func TCP(ctx context.Context, p Path, o TCPOptions) (TCPResult, error) {
	r, err := runTCP(ctx, p, o)
	return r, wrap(ctx, "tcp", p, err)
}

func runTCP(ctx context.Context, p Path, o TCPOptions) (TCPResult, error) {
	if err := errors.Join(p.check(), o.Window.check()); err != nil {
		return TCPResult{}, err
	}
	if o.Streams < 1 || o.Streams > maxStreams {
		return TCPResult{}, fmt.Errorf("%d streams: want 1 to %d", o.Streams, maxStreams)
	}
	if o.Block == 0 {
		o.Block = DefaultBlock
	}
	if o.Block < minBlock || o.Block > maxBlock {
		return TCPResult{}, fmt.Errorf("blocks of %d bytes: want %d to %d", o.Block, minBlock, maxBlock)
	}
	var socks sockets
	defer socks.close()
	streams, err := dial(ctx, &socks, p, o.Streams)
	if err != nil {
		return TCPResult{}, err
	}
	var back []*stream
	if o.Both {
		if back, err = dial(ctx, &socks, p.reverse(), o.Streams); err != nil {
			return TCPResult{}, fmt.Errorf("back: %w", err)
		}
	}
	c := newCrew()
	c.carry(streams, o.Block)
	if o.Both {
		c.carry(back, o.Block)
	}
	streams = append(streams, back...)
	var edges [][]int64
	u, err := c.run(ctx, o.Window, func() { edges = append(edges, counts(streams)) })
	if err != nil {
		return TCPResult{}, err
	}
	r := TCPResult{PerStream: edges[1], Usage: u}
	for i, s := range streams {
		r.PerStream[i] -= edges[0][i]
		if i < o.Streams {
			r.Bytes += r.PerStream[i]
		} else {
			r.BytesBack += r.PerStream[i]
		}
		info, err := unix.GetsockoptTCPInfo(s.send, unix.IPPROTO_TCP, unix.TCP_INFO)
		if err != nil {
			return TCPResult{}, os.NewSyscallError("getsockopt TCP_INFO", err)
		}
		r.Retransmits += int64(info.Total_retrans)
	}
	if r.Bytes == 0 {
		return r, fmt.Errorf("port %d: connected, but not one byte arrived in the %s of the window", streams[0].port, o.Length)
	}
	if o.Both && r.BytesBack == 0 {
		return r, fmt.Errorf("back to port %d: connected, but not one byte arrived in the %s of the window", streams[o.Streams].port, o.Length)
	}
	return r, nil
}

func counts(streams []*stream) []int64 {
	n := make([]int64, len(streams))
	for i, s := range streams {
		n[i] = s.got.Load()
	}
	return n
}

// dial connects streams of the path one after the other, so that it knows
// which accepted connection is the other end of which.
func dial(ctx context.Context, socks *sockets, p Path, n int) ([]*stream, error) {
	l, at, err := socks.open(p.To, unix.SOCK_STREAM|unix.SOCK_NONBLOCK, p.ToAddr)
	if err != nil {
		return nil, err
	}
	if err := unix.Listen(l, n); err != nil {
		return nil, os.NewSyscallError("listen", err)
	}
	var streams []*stream
	for range n {
		s, err := connect(ctx, socks, p, l, at)
		if err != nil {
			return nil, fmt.Errorf("connect to port %d: %w", at.Port(), err)
		}
		streams = append(streams, s)
	}
	return streams, nil
}

func connect(ctx context.Context, socks *sockets, p Path, listener int, to netip.AddrPort) (*stream, error) {
	deadline := time.Now().Add(connectTimeout)
	snd, _, err := socks.open(p.From, unix.SOCK_STREAM|unix.SOCK_NONBLOCK, p.FromAddr)
	if err != nil {
		return nil, err
	}
	if err := unix.Connect(snd, sockaddr(to)); err != nil && !errors.Is(err, unix.EINPROGRESS) {
		return nil, err
	}
	if err := await(ctx, snd, unix.POLLOUT, deadline); err != nil {
		return nil, err
	}
	if errno, err := unix.GetsockoptInt(snd, unix.SOL_SOCKET, unix.SO_ERROR); err != nil {
		return nil, os.NewSyscallError("getsockopt SO_ERROR", err)
	} else if errno != 0 {
		return nil, unix.Errno(errno)
	}
	if err := await(ctx, listener, unix.POLLIN, deadline); err != nil {
		return nil, fmt.Errorf("accept: %w", err)
	}
	rcv, _, err := unix.Accept4(listener, unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK)
	if err != nil {
		return nil, os.NewSyscallError("accept4", err)
	}
	*socks = append(*socks, rcv)
	for _, fd := range []int{snd, rcv} {
		// Closing resets: what is queued would go on to flow after the run.
		if err := unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}); err != nil {
			return nil, os.NewSyscallError("setsockopt SO_LINGER", err)
		}
	}
	return &stream{send: snd, recv: rcv, port: to.Port()}, nil
}

// carry adds the two workers of streams of one direction, which write and read
// blocks of so many bytes.
func (c *crew) carry(streams []*stream, block int) {
	var senders, receivers []int
	for _, s := range streams {
		senders = append(senders, s.send)
		receivers = append(receivers, s.recv)
	}
	c.add(func() error {
		buf := make([]byte, block)
		rand.Read(buf) // untouched memory would be one page of zeros, always in the cache
		return c.ready(senders, unix.EPOLLOUT, func(i int) error {
			if _, errno := send(senders[i], buf); errno != 0 && !again(errno) {
				return fmt.Errorf("send to port %d: %w", streams[i].port, errno)
			}
			return nil
		})
	})
	c.add(func() error {
		buf := make([]byte, block)
		return c.ready(receivers, unix.EPOLLIN, func(i int) error {
			n, errno := recv(receivers[i], buf)
			switch {
			case again(errno):
			case errno != 0:
				return fmt.Errorf("receive on port %d: %w", streams[i].port, errno)
			case n == 0:
				return fmt.Errorf("receive on port %d: the connection was closed", streams[i].port)
			default:
				streams[i].got.Add(int64(n))
			}
			return nil
		})
	})
}

// CongestionControl reads which congestion control the TCP of a namespace uses
// (net.ipv4.tcp_congestion_control).
func CongestionControl(ns lab.NS) (string, error) {
	var name string
	err := ns.Do(func() error {
		text, err := os.ReadFile("/proc/sys/net/ipv4/tcp_congestion_control")
		name = strings.TrimSpace(string(text))
		return err
	})
	if err != nil {
		return "", fmt.Errorf("congestion control of %s: %w", ns, err)
	}
	return name, nil
}
