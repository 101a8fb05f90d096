package load

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"tweed/test/lab"
)

// connectTimeout bounds the making of one connection.
const connectTimeout = 5 * time.Second

// sockets are the descriptors that a run closes in its end.
type sockets []int

func (s *sockets) close() {
	for _, fd := range *s {
		unix.Close(fd)
	}
	*s = nil
}

// open makes a socket of the given kind, such as SOCK_DGRAM, in the namespace,
// bound to a free port of addr.
func (s *sockets) open(ns lab.NS, kind int, addr netip.Addr) (fd int, at netip.AddrPort, err error) {
	err = ns.Do(func() error {
		fd, err = unix.Socket(unix.AF_INET, kind|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return os.NewSyscallError("socket", err)
		}
		*s = append(*s, fd)
		return os.NewSyscallError("bind", unix.Bind(fd, sockaddr(netip.AddrPortFrom(addr, 0))))
	})
	if err != nil {
		return -1, at, fmt.Errorf("open a socket on %s in %s: %w", addr, ns, err)
	}
	own, err := unix.Getsockname(fd)
	if err != nil {
		return -1, at, os.NewSyscallError("getsockname", err)
	}
	return fd, netip.AddrPortFrom(addr, uint16(own.(*unix.SockaddrInet4).Port)), nil
}

func sockaddr(a netip.AddrPort) *unix.SockaddrInet4 {
	return &unix.SockaddrInet4{Addr: a.Addr().As4(), Port: int(a.Port())}
}

// errNoAnswer is the error of a handshake that lasts for connectTimeout.
var errNoAnswer = fmt.Errorf("no answer within %s", connectTimeout)

// await waits, at most until the deadline, for one of the events of poll(2).
func await(ctx context.Context, fd int, events int16, deadline time.Time) error {
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		if time.Now().After(deadline) {
			return errNoAnswer
		}
		fds := []unix.PollFd{{Fd: int32(fd), Events: events}}
		n, err := unix.Poll(fds, int(tick.Milliseconds()))
		if err != nil && !errors.Is(err, unix.EINTR) {
			return os.NewSyscallError("poll", err)
		}
		if n > 0 {
			return nil
		}
	}
}

// ready calls f with the index of each descriptor that is ready for the events
// of epoll(7), again and again until the window has closed.
func (c *crew) ready(fds []int, events uint32, f func(i int) error) error {
	ep, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return os.NewSyscallError("epoll_create1", err)
	}
	defer unix.Close(ep)
	for i, fd := range fds {
		e := unix.EpollEvent{Events: events, Fd: int32(i)} // the kernel hands back what is in Fd
		if err := unix.EpollCtl(ep, unix.EPOLL_CTL_ADD, fd, &e); err != nil {
			return os.NewSyscallError("epoll_ctl", err)
		}
	}
	list := make([]unix.EpollEvent, len(fds))
	for c.sending() {
		n, err := unix.EpollWait(ep, list, int(tick.Milliseconds()))
		if err != nil && !errors.Is(err, unix.EINTR) {
			return os.NewSyscallError("epoll_wait", err)
		}
		for i := range max(n, 0) {
			if err := f(int(list[i].Fd)); err != nil {
				return err
			}
		}
	}
	return nil
}

// send is send(2) that never waits, without the scheduler noticing.
func send(fd int, p []byte) (int, unix.Errno) {
	n, _, errno := unix.RawSyscall6(unix.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(&p[0])), uintptr(len(p)),
		unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, 0, 0)
	return int(n), errno
}

// recv is recv(2) that never waits, without the scheduler noticing.
func recv(fd int, p []byte) (int, unix.Errno) {
	n, _, errno := unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(fd), uintptr(unsafe.Pointer(&p[0])), uintptr(len(p)),
		unix.MSG_DONTWAIT, 0, 0)
	return int(n), errno
}

// again says that a call may succeed later.
func again(errno unix.Errno) bool { return errno == unix.EAGAIN || errno == unix.EINTR }
