package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// handover is how long flanneld waits for the one before it to go: a
	// supervisor may start the next daemon while the last still shuts down.
	handover     = 2 * time.Second
	handoverTick = 50 * time.Millisecond

	maxSocketName = 107 // bytes of an abstract name (unix(7))
)

// A claim keeps a second daemon from what two would undo for each other: the
// routes and devices of one network, and the content of one subnet file. It is
// an abstract socket (unix(7)) for each: there is one of a name in each network
// namespace, as there is of devices and routes, and the kernel frees it at any
// death of its holder.
type claim struct {
	log       *slog.Logger
	wait      time.Duration // for a holder to go
	listeners []*net.UnixListener
	closed    chan struct{}
	serving   sync.WaitGroup
}

// claimHost claims the network and the subnet file, for each of which it waits so
// long. The error says which process has it. Any user of the host may bind these names, so where the holder is
// neither this user nor root, and where there can be no socket at all, it warns
// and leaves that claim out.
func claimHost(ctx context.Context, network netip.Prefix, subnetFile string, wait time.Duration, log *slog.Logger) (*claim, error) {
	c := &claim{log: log, wait: wait, closed: make(chan struct{})}
	err := c.take(ctx, "network "+network.String(), "carries network "+network.String(),
		"stop it first, or have this one read the config of another network with -etcd-prefix")
	if err == nil {
		err = c.take(ctx, "subnet-file "+fileIdentity(subnetFile), "writes the subnet file "+subnetFile,
			"stop it first, or choose another file with -subnet-file")
	}
	if err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// take adds one name. What its holder does, and what helps, is for the error.
func (c *claim) take(ctx context.Context, name, does, help string) error {
	l, err := claimName(ctx, "flanneld "+name, c.wait)
	var held *heldError
	switch {
	case err == nil:
		c.listeners = append(c.listeners, l)
		c.serving.Go(func() { c.serve(l) })
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.As(err, &held) && held.trusted():
		return fmt.Errorf("another flanneld (%s) %s on this host already: %s", held.pidText(), does, help)
	default:
		c.log.Warn("cannot make sure that no other flanneld of this host "+does, "err", err)
	}
	return nil
}

// Close gives the claim up.
func (c *claim) Close() {
	close(c.closed)
	for _, l := range c.listeners {
		l.Close()
	}
	c.serving.Wait()
}

// serve drops those who asked who we are: the kernel tells them without us, but
// keeps only so many who were not accepted.
func (c *claim) serve(l *net.UnixListener) {
	for {
		conn, err := l.Accept()
		switch {
		case err == nil:
			conn.Close()
		case errors.Is(err, net.ErrClosed):
			return
		default: // such as no descriptor left
			select {
			case <-c.closed:
			case <-time.After(time.Second):
			}
		}
	}
}

// A heldError says who has a name.
type heldError struct {
	cred    unix.Ucred
	unknown error // why cred is not known, or nil
}

func (e *heldError) Error() string {
	if e.unknown != nil {
		return fmt.Sprintf("the name is taken, by whom is not known: %v", e.unknown)
	}
	return fmt.Sprintf("the name is taken by user %d, %s", e.cred.Uid, e.pidText())
}

func (e *heldError) pidText() string {
	if e.cred.Pid == 0 {
		return "in a pid namespace that cannot be seen from here"
	}
	return fmt.Sprintf("pid %d", e.cred.Pid)
}

// trusted reports whether the holder is a flanneld rather than some user who
// wants to keep one from working.
func (e *heldError) trusted() bool {
	return e.unknown == nil && (e.cred.Uid == 0 || int(e.cred.Uid) == os.Geteuid())
}

// claimName listens at an abstract name. While another has it, it waits for it
// to go, then returns a heldError.
func claimName(ctx context.Context, name string, wait time.Duration) (*net.UnixListener, error) {
	if len(name) > maxSocketName {
		name = fmt.Sprintf("flanneld %x", sha256.Sum256([]byte(name)))
	}
	addr := &net.UnixAddr{Name: "@" + name, Net: "unix"}
	for end := time.Now().Add(wait); ; {
		l, err := net.ListenUnix("unix", addr)
		if !errors.Is(err, syscall.EADDRINUSE) {
			return l, err
		}
		if time.Now().After(end) {
			return nil, holder(addr)
		}
		if !tick(ctx, handoverTick) {
			return nil, ctx.Err()
		}
	}
}

// holder asks the kernel who listens at addr.
func holder(addr *net.UnixAddr) *heldError {
	conn, err := net.DialUnix("unix", nil, addr)
	if err != nil {
		return &heldError{unknown: err}
	}
	defer conn.Close()
	raw, err := conn.SyscallConn()
	if err != nil {
		return &heldError{unknown: err}
	}
	var cred *unix.Ucred
	if cerr := raw.Control(func(fd uintptr) {
		cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err == nil {
		err = cerr
	}
	if err != nil {
		return &heldError{unknown: err}
	}
	return &heldError{cred: *cred}
}

// fileIdentity returns what a file has in common with itself under any path, and
// in any mount namespace: two services of systemd each see their own. Its folder
// has to be there for that, and is made as it would be for the file; where it
// cannot be, the path has to do.
func fileIdentity(path string) string {
	abs, err := filepath.Abs(path)
	if err != nil {
		return path
	}
	dir, base := filepath.Split(abs)
	os.MkdirAll(dir, 0o755) // as seen by what follows
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return abs
	}
	return fmt.Sprintf("%d:%d/%s", st.Dev, st.Ino, base)
}
