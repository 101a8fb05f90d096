package rtnl

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// monitorBuffer has room for a burst of some ten thousand notices, in bytes.
const monitorBuffer = 16 << 20

// What a Monitor listens to (rtnetlink(7)).
const (
	OfLinks      Group = unix.RTNLGRP_LINK
	OfAddresses  Group = unix.RTNLGRP_IPV4_IFADDR
	OfRoutes     Group = unix.RTNLGRP_IPV4_ROUTE
	OfNeighbours Group = unix.RTNLGRP_NEIGH // and forwarding databases
)

// A Group is a kind of changes.
type Group int

// A Monitor hears of every change of some kinds in one network namespace.
type Monitor struct {
	file   *os.File
	raw    syscall.RawConn
	groups []Group
}

// OpenMonitor opens the socket to listen in the current network namespace.
func OpenMonitor(groups ...Group) (*Monitor, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open netlink socket to listen: %w", err)
	}
	f := os.NewFile(uintptr(fd), "netlink")
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, monitorBuffer) != nil {
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, monitorBuffer)
	}
	err = unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
	raw, rawErr := f.SyscallConn()
	if err = errors.Join(err, rawErr); err != nil {
		f.Close()
		return nil, fmt.Errorf("set up netlink socket to listen: %w", err)
	}
	return &Monitor{f, raw, groups}, nil
}

// Close ends the listening.
func (m *Monitor) Close() error { return m.file.Close() }

// join begins to listen. Until then nothing is queued, so that what a daemon
// sets up at its start costs no notices.
func (m *Monitor) join() error {
	var errs []error
	err := m.raw.Control(func(fd uintptr) {
		for _, g := range m.groups {
			errs = append(errs, unix.SetsockoptInt(int(fd), unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, int(g)))
		}
	})
	if err := errors.Join(append(errs, err)...); err != nil {
		return fmt.Errorf("listen to changes of the kernel's tables: %w", err)
	}
	return nil
}

// Listen begins to listen, and calls each with every notice until ctx ends, when
// it returns nil. Where the kernel had to drop some, there is one Notice that
// says so.
func (m *Monitor) Listen(ctx context.Context, each func(Notice)) error {
	if err := m.join(); err != nil {
		return err
	}
	return m.run(ctx, each)
}

func (m *Monitor) run(ctx context.Context, each func(Notice)) error {
	defer context.AfterFunc(ctx, func() { m.file.SetReadDeadline(time.Unix(1, 0)) })()
	buf := make([]byte, 64<<10)
	for {
		var n int
		var from unix.Sockaddr
		var err error
		waited := m.raw.Read(func(fd uintptr) bool {
			n, from, err = unix.Recvfrom(int(fd), buf, unix.MSG_DONTWAIT)
			return !errors.Is(err, unix.EAGAIN)
		})
		switch {
		case ctx.Err() != nil:
			return nil
		case waited != nil:
			return fmt.Errorf("listen to changes of the kernel's tables: %w", waited)
		case errors.Is(err, unix.ENOBUFS):
			each(Notice{})
			continue
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return fmt.Errorf("listen to changes of the kernel's tables: %w", err)
		}
		if a, ok := from.(*unix.SockaddrNetlink); !ok || a.Pid != 0 {
			continue // not of the kernel
		}
		for h, body := range messages(buf[:n]) {
			each(Notice{typ: h.typ, body: body})
		}
	}
}

// A Notice says that something in the kernel has changed, by whomever. It is
// only good during the call that gets it.
type Notice struct {
	typ  uint16 // 0 if notices were lost
	body []byte
}

// Lost reports whether the notice stands for others that were lost, so that
// anything may have changed.
func (n Notice) Lost() bool { return n.typ == 0 }

// Addr returns the IPv4 address that the notice is about, and the index of the
// interface that was given it or lost it.
func (n Notice) Addr() (addr netip.Prefix, link int, ok bool) {
	if n.typ != unix.RTM_NEWADDR && n.typ != unix.RTM_DELADDR || len(n.body) < unix.SizeofIfAddrmsg || n.body[0] != unix.AF_INET {
		return addr, 0, false
	}
	for typ, v := range attributes(n.body[unix.SizeofIfAddrmsg:]) {
		if typ == unix.IFA_LOCAL && len(v) == 4 {
			addr = netip.PrefixFrom(netip.AddrFrom4(ip4(v)), int(n.body[1]))
		}
	}
	return addr, int(int32(native.Uint32(n.body[4:]))), true
}

// Route reports whether the notice is about an IPv4 route of the main table to
// a destination that scope leaves to others.
func (n Notice) Route(scope Scope) bool {
	if n.typ != unix.RTM_NEWROUTE && n.typ != unix.RTM_DELROUTE {
		return false
	}
	k, ok := parseRoute(n.body)
	return ok && k.table == unix.RT_TABLE_MAIN && !within(scope.Within, k.dst.prefix())
}

// Blackhole returns the destination of the blackhole route that the notice is
// about.
func (n Notice) Blackhole() (dst netip.Prefix, ok bool) {
	if n.typ != unix.RTM_NEWROUTE && n.typ != unix.RTM_DELROUTE {
		return dst, false
	}
	k, ok := parseRoute(n.body)
	return k.dst.prefix(), ok && k.typ == unix.RTN_BLACKHOLE
}

// Differs returns the key of the object that the notice says is not as it was
// last brought to, and "" if it is, or is none of ours. Only a notice of what
// others did can differ: what Tables itself has done is as wanted.
func (t *Tables) Differs(n Notice) (key string) {
	if t.want == nil {
		return ""
	}
	switch n.typ {
	case unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
		k, ok := parseRoute(n.body)
		if !ok || k.table != unix.RT_TABLE_MAIN || !t.routeDiffers(k, n.typ == unix.RTM_DELROUTE) {
			return ""
		}
	case unix.RTM_NEWNEIGH, unix.RTM_DELNEIGH:
		k, ok := parseNeigh(n.body)
		if !ok || k.link != t.want.scope.Link || k.link == 0 || !t.neighDiffers(k, n.typ == unix.RTM_DELNEIGH) {
			return ""
		}
	default:
		return ""
	}
	t.sure = false
	return bodyKey(n.typ, n.body)
}

func (t *Tables) routeDiffers(k kernelRoute, gone bool) bool {
	to, wanted := t.want.routes[k.dst]
	switch {
	case wanted && k.tos == 0 && k.priority == 0:
		// Beside ours there may be others to the same destination: the kernel
		// uses the first, and only a look at all of them tells which that is.
		return gone == k.is(to)
	default:
		return !gone && t.want.scope.owns(k)
	}
}

func (t *Tables) neighDiffers(k kernelNeigh, gone bool) bool {
	if k.family == unix.AF_BRIDGE {
		if k.flags&unix.NTF_SELF == 0 {
			return false
		}
		dst, wanted := t.want.fdb[k.mac]
		if !wanted {
			return !gone && k.permanent()
		}
		return gone == (k.hasIP && k.ip == dst && !k.more) || !gone && !k.permanent()
	}
	mac, wanted := t.want.neighbours[k.ip]
	switch {
	case !k.hasIP:
		return false
	case !wanted:
		return !gone && k.permanent()
	}
	// A permanent entry that is deleted is told of as failed, without a MAC.
	return gone || !k.permanent() || k.mac != mac
}
