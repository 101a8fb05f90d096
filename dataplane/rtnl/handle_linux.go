// Package rtnl brings links, addresses, routes, neighbours and forwarding
// database entries of one network namespace to a desired state: it dumps what
// the kernel has (rtnetlink(7)), compares, and changes only what differs.
// Applying the same state twice therefore changes nothing, and a restarted
// daemon takes over what it finds.
package rtnl

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Protocol is the routing protocol number of the routes that this package
// makes, by which it knows them again. The kernel does not care; neither
// linux/rtnetlink.h nor iproute2's rt_protos gives it to anybody else. Naming
// it in /etc/iproute2/rt_protos makes `ip route` show the name.
const Protocol = 84

// requestTimeout bounds one netlink request. The kernel answers in
// microseconds, but its lock may be held for seconds while many namespaces die.
const requestTimeout = 30 * time.Second

// dumpTries bounds how often a dump is repeated because the table changed
// while it was read (NLM_F_DUMP_INTR).
const dumpTries = 10

// A Handle talks to the network namespace that the calling thread was in when
// it was opened, and stays there, whatever thread uses it. It is safe for
// concurrent use, but two goroutines that ensure the same objects undo each
// other's work.
type Handle struct {
	nl  *netlink.Handle // for what there is little of
	raw *socket         // for neighbours, forwarding database and routes
}

// Open connects to the current network namespace.
func Open() (*Handle, error) {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open netlink socket: %w", err)
	}
	if err := h.SetSocketTimeout(requestTimeout); err != nil {
		h.Close()
		return nil, fmt.Errorf("set timeout of netlink socket: %w", err)
	}
	raw, err := openSocket()
	if err != nil {
		h.Close()
		return nil, err
	}
	return &Handle{nl: h, raw: raw}, nil
}

// Close frees the netlink sockets. Nothing in the kernel's tables changes.
func (h *Handle) Close() {
	h.nl.Close()
	h.raw.close()
}

// dump repeats list until the kernel's table held still for once.
func dump[T any](what string, list func() ([]T, error)) ([]T, error) {
	var err error
	for range dumpTries {
		var all []T
		if all, err = list(); err == nil {
			return all, nil
		}
		if !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	return nil, fmt.Errorf("list %s: %w", what, err)
}

// within reports whether p lies inside n, or is n.
func within(n, p netip.Prefix) bool {
	return n.Contains(p.Addr()) && p.Bits() >= n.Bits()
}

func toIPNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: toIP(p.Addr()), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

func fromIPNet(n *net.IPNet) netip.Prefix {
	if n == nil {
		return netip.Prefix{}
	}
	ones, _ := n.Mask.Size()
	return netip.PrefixFrom(fromIP(n.IP), ones)
}

// toIP returns nil for the zero Addr.
func toIP(a netip.Addr) net.IP { return a.AsSlice() }

func fromIP(ip net.IP) netip.Addr {
	a, _ := netip.AddrFromSlice(ip)
	return a.Unmap()
}
