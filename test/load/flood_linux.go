package load

import (
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"tweed/test/lab"
)

// FloodOptions of a flood.
type FloodOptions struct {
	From     lab.NS
	FromAddr netip.Addr // of From
	To       netip.AddrPort
	// Payloads are sent in turn, 0 to MaxSize bytes each.
	Payloads [][]byte
	// Raw payloads start with an IPv4 header of their own (raw(7), IP_HDRINCL),
	// so that their source may be any. FromAddr and the port of To say nothing
	// then.
	Raw bool
}

// A Flood is a thread that sends as fast as it goes.
type Flood struct {
	socks sockets
	b     *batch
	fd    int
	start time.Time
	stop  atomic.Bool
	ended chan struct{}
	sent  int64
	procs int
}

// floodProcs is how many processors Go may use at least while a flood lasts:
// one for its thread, the rest for a run beside it.
const floodProcs = 8

// StartFlood starts a flood. It lasts until Stop.
func StartFlood(o FloodOptions) (*Flood, error) {
	f := &Flood{ended: make(chan struct{})}
	if err := f.open(o); err != nil {
		f.socks.close()
		return nil, fmt.Errorf("flood from %s to %s: %w", o.FromAddr, o.To, err)
	}
	f.procs = runtime.GOMAXPROCS(max(runtime.GOMAXPROCS(0), floodProcs))
	f.start = time.Now()
	go f.run()
	return f, nil
}

func (f *Flood) open(o FloodOptions) (err error) {
	size := 1
	for _, p := range o.Payloads {
		size = max(size, len(p))
	}
	if len(o.Payloads) == 0 || size > MaxSize || !o.To.Addr().Is4() {
		return fmt.Errorf("%d payloads of up to %d bytes: want at least one, of up to %d, to an IPv4 address", len(o.Payloads), size, MaxSize)
	}
	if o.Raw {
		err = o.From.Do(func() error {
			f.fd, err = unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
			return os.NewSyscallError("socket", err)
		})
		if err == nil {
			f.socks = append(f.socks, f.fd)
		}
	} else {
		f.fd, _, err = f.socks.open(o.From, unix.SOCK_DGRAM, o.FromAddr)
	}
	if err != nil {
		return err
	}
	if err := unix.Connect(f.fd, sockaddr(o.To)); err != nil {
		return os.NewSyscallError("connect", err)
	}
	f.b = newBatch(batchLen, size)
	for i := range f.b.msgs {
		f.b.iovs[i].SetLen(copy(f.b.slot(i), o.Payloads[i%len(o.Payloads)]))
	}
	return nil
}

func (f *Flood) run() {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer close(f.ended)
	for !f.stop.Load() {
		n, errno := f.b.send(f.fd, batchLen)
		f.sent += int64(n)
		switch errno {
		case 0, unix.EINTR, unix.ECONNREFUSED: // the last about an earlier one
		case unix.EAGAIN:
			fds := []unix.PollFd{{Fd: int32(f.fd), Events: unix.POLLOUT}}
			unix.Poll(fds, int(tick.Milliseconds()))
		default: // ENOBUFS, or nobody is there
			pause(time.Millisecond)
		}
	}
}

// Stop ends the flood and returns how many datagrams per second the kernel of
// the sender took. It must be called once.
func (f *Flood) Stop() (perSecond float64) {
	f.stop.Store(true)
	<-f.ended
	lasted := time.Since(f.start)
	f.socks.close()
	runtime.GOMAXPROCS(f.procs)
	return float64(f.sent) / lasted.Seconds()
}
