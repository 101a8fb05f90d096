package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// netnsDir is where `ip netns` looks for names (ip-netns(8)).
const netnsDir = "/run/netns"

// NS is the name, under /run/netns, of a network namespace. It holds nothing
// open: once the lab has closed, its methods return an error that is
// os.ErrNotExist.
type NS string

// newNS makes a namespace, with its loopback up.
func newNS(name string) (NS, error) {
	n := NS(name)
	if err := os.MkdirAll(netnsDir, 0o755); err != nil {
		return "", fmt.Errorf("namespace %s: %w", n, err)
	}
	if err := bindNewNS(n.Path()); err != nil {
		return "", fmt.Errorf("namespace %s: %w", n, err)
	}
	if err := n.Netlink(func(h *netlink.Handle) error { return setUp(h, "lo") }); err != nil {
		return "", errors.Join(fmt.Errorf("namespace %s: %w", n, err), n.remove())
	}
	return n, nil
}

// bindNewNS makes a namespace and mounts it at path.
func bindNewNS(path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL, 0o444)
	if err != nil {
		return err
	}
	f.Close()
	unshare := func() error { return os.NewSyscallError("unshare", unix.Unshare(unix.CLONE_NEWNET)) }
	err = inside(unshare, func() error {
		if err := unix.Mount("/proc/thread-self/ns/net", path, "none", unix.MS_BIND, ""); err != nil {
			return &os.PathError{Op: "bind mount", Path: path, Err: err}
		}
		return nil
	})
	if err != nil {
		os.Remove(path)
	}
	return err
}

// remove takes the name away; a second call does nothing. The namespace itself
// ends when no process and no socket is left in it.
func (n NS) remove() error {
	// EINVAL: a file that never became a mount point.
	if err := unix.Unmount(n.Path(), unix.MNT_DETACH); err != nil && err != unix.EINVAL && err != unix.ENOENT {
		return &os.PathError{Op: "unmount", Path: n.Path(), Err: err}
	}
	if err := os.Remove(n.Path()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// Path is the file that stands for the namespace, as nsenter --net= takes it.
func (n NS) Path() string { return filepath.Join(netnsDir, string(n)) }

func (n NS) open() (*os.File, error) { return os.Open(n.Path()) }

// Do runs f on a thread that is inside the namespace. What f starts with go is
// not inside, but sockets and handles that f opens belong to the namespace
// wherever they are used later.
func (n NS) Do(f func() error) error { return inside(n.enter, f) }

// enter moves the calling, locked thread into the namespace.
func (n NS) enter() error {
	target, err := n.open()
	if err != nil {
		return fmt.Errorf("enter namespace: %w", err)
	}
	defer target.Close()
	if err := unix.Setns(int(target.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter namespace %s: %w", n, err)
	}
	return nil
}

// inside runs f on a thread that move has taken to another namespace. The
// thread is given back to the scheduler only after it has returned to where it
// was; otherwise it ends with its goroutine.
func inside(move, f func() error) error {
	errc := make(chan error, 1)
	go func() {
		// Should f end the goroutine, as t.FailNow does, the caller still
		// gets an answer.
		err := errors.New("the function ended its goroutine")
		defer func() { errc <- err }()
		runtime.LockOSThread()
		restore, moveErr := excursion(move)
		if moveErr != nil {
			runtime.UnlockOSThread()
			err = moveErr
			return
		}
		ferr := f()
		if restore() == nil {
			runtime.UnlockOSThread()
		}
		err = ferr
	}()
	return <-errc
}

// excursion calls move, which takes the calling, locked thread to another
// namespace or fails without effect. restore takes it back.
func excursion(move func() error) (restore func() error, err error) {
	old, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return nil, err
	}
	if err := move(); err != nil {
		old.Close()
		return nil, err
	}
	return func() error {
		defer old.Close()
		return unix.Setns(int(old.Fd()), unix.CLONE_NEWNET)
	}, nil
}

// Netlink calls f with a route netlink handle of the namespace, valid until f
// returns.
func (n NS) Netlink(f func(*netlink.Handle) error) error {
	return n.Do(func() error {
		h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return fmt.Errorf("open netlink: %w", err)
		}
		defer h.Close()
		return f(h)
	})
}

// Sysctl sets a variable below /proc/sys/net, such as "ipv4/ip_forward".
func (n NS) Sysctl(name, value string) error {
	return n.Do(func() error {
		return os.WriteFile(filepath.Join("/proc/sys/net", name), []byte(value), 0)
	})
}

// DialTCP connects from inside the namespace. The context bounds the dial only.
func (n NS) DialTCP(ctx context.Context, dst netip.AddrPort) (*net.TCPConn, error) {
	c, err := n.DialContext(ctx, "tcp4", dst.String())
	if err != nil {
		return nil, err
	}
	return c.(*net.TCPConn), nil
}

// DialContext has the form that http.Transport wants. The address must be
// literal: names are not looked up inside the namespace.
func (n NS) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	var c net.Conn
	err := n.Do(func() (err error) {
		// A literal address leaves nothing to resolve or to race, so that
		// the socket is made by this very goroutine.
		var d net.Dialer
		c, err = d.DialContext(ctx, network, addr)
		return err
	})
	return c, err
}

// Listen opens a listening TCP socket inside the namespace; port 0 picks one.
func (n NS) Listen(ctx context.Context, at netip.AddrPort) (*net.TCPListener, error) {
	var l net.Listener
	err := n.Do(func() (err error) {
		var c net.ListenConfig
		l, err = c.Listen(ctx, "tcp4", at.String())
		return err
	})
	if err != nil {
		return nil, err
	}
	return l.(*net.TCPListener), nil
}

// ListenPacket opens a UDP socket inside the namespace; port 0 picks one.
func (n NS) ListenPacket(ctx context.Context, at netip.AddrPort) (*net.UDPConn, error) {
	var p net.PacketConn
	err := n.Do(func() (err error) {
		var c net.ListenConfig
		p, err = c.ListenPacket(ctx, "udp4", at.String())
		return err
	})
	if err != nil {
		return nil, err
	}
	return p.(*net.UDPConn), nil
}
