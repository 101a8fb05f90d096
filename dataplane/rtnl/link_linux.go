package rtnl

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// ErrNoLink: there is no network interface of that name or index.
var ErrNoLink = errors.New("no such network interface")

// A Link is a network interface as the kernel has it.
type Link struct {
	Index      int
	Name       string
	Kind       string // such as "vxlan" or "bridge"; "device" for hardware
	MTU        int    // bytes
	TxQueueLen int    // packets
	Up         bool   // administratively
	MAC        MAC    // zero where there is none, as on a TUN device
}

// LinkByName finds an interface: ErrNoLink.
func (h *Handle) LinkByName(name string) (Link, error) {
	l, err := h.nl.LinkByName(name)
	if err != nil {
		return Link{}, linkError(fmt.Sprintf("find link %s", name), err)
	}
	return linkOf(l), nil
}

// LinkByIndex finds an interface: ErrNoLink.
func (h *Handle) LinkByIndex(index int) (Link, error) {
	l, err := h.nl.LinkByIndex(index)
	if err != nil {
		return Link{}, linkError(fmt.Sprintf("find link number %d", index), err)
	}
	return linkOf(l), nil
}

// EnsureLink gives the interface its MTU in bytes and the length of its
// transmit queue in packets, sets it up, and returns what was not so:
// ErrNoLink.
func (h *Handle) EnsureLink(index, mtu, txQueueLen int) ([]Repair, error) {
	l, err := h.LinkByIndex(index)
	if err != nil {
		return nil, err
	}
	k := byIndex(index)
	var done []Repair
	set := func(what string, err error) error {
		if err != nil {
			return linkError(what, err)
		}
		done = append(done, Repair(what))
		return nil
	}
	if l.MTU != mtu {
		if err := set(fmt.Sprintf("set mtu of %s to %d", l.Name, mtu), h.nl.LinkSetMTU(k, mtu)); err != nil {
			return done, err
		}
	}
	if l.TxQueueLen != txQueueLen {
		if err := set(fmt.Sprintf("set txqueuelen of %s to %d", l.Name, txQueueLen), h.nl.LinkSetTxQLen(k, txQueueLen)); err != nil {
			return done, err
		}
	}
	if !l.Up {
		if err := set(fmt.Sprintf("set %s up", l.Name), h.nl.LinkSetUp(k)); err != nil {
			return done, err
		}
	}
	return done, nil
}

// LinkKey is what a Subject calls an interface.
func LinkKey(name string) string { return "link " + name }

// SetMAC gives the interface its Ethernet address, and returns what was not so:
// ErrNoLink.
func (h *Handle) SetMAC(index int, mac MAC) ([]Repair, error) {
	l, err := h.LinkByIndex(index)
	if err != nil || l.MAC == mac {
		return nil, err
	}
	what := fmt.Sprintf("set address of %s to %s", l.Name, mac)
	if err := h.nl.LinkSetHardwareAddr(byIndex(index), net.HardwareAddr(mac[:])); err != nil {
		return nil, linkError(what, err)
	}
	return []Repair{Repair(what + ", it was " + l.MAC.String())}, nil
}

// EnsureAddr gives the interface the address addr/32 of global scope, removes
// its other IPv4 addresses inside the network within, those of earlier leases,
// and returns what was not so. Addresses outside it, which other programs gave,
// are left alone.
func (h *Handle) EnsureAddr(link int, addr netip.Addr, within netip.Prefix) ([]Repair, error) {
	addrs, err := dump("IPv4 addresses", func() ([]netlink.Addr, error) {
		return h.nl.AddrList(byIndex(link), netlink.FAMILY_V4)
	})
	if err != nil {
		return nil, err
	}
	var done []Repair
	set := func(what string, p netip.Prefix, err error) error {
		what = fmt.Sprintf(what, p, h.linkName(link))
		if err != nil {
			return linkError(what, err)
		}
		done = append(done, Repair(what))
		return nil
	}
	del := func(a netlink.Addr) error {
		err := h.nl.AddrDel(byIndex(link), &a)
		if errors.Is(err, unix.EADDRNOTAVAIL) {
			return nil // gone already
		}
		return set("delete address %s of %s", fromIPNet(a.IPNet), err)
	}
	want := netip.PrefixFrom(addr, 32)
	has := false
	var stale []netlink.Addr
	for _, a := range addrs {
		switch have := fromIPNet(a.IPNet); {
		case have == want && a.Peer == nil && a.Scope == unix.RT_SCOPE_UNIVERSE:
			has = true
		case have == want && a.Peer == nil:
			// The kernel has no two scopes of one address, and changes none.
			if err := del(a); err != nil {
				return done, err
			}
		case within.Contains(have.Addr()):
			stale = append(stale, a)
		}
	}
	// Our own comes first: with its last address a link loses all its routes.
	if !has {
		if err := set("add address %s to %s", want, h.nl.AddrAdd(byIndex(link), &netlink.Addr{IPNet: toIPNet(want)})); err != nil {
			return done, err
		}
	}
	var errs []error
	for _, a := range stale {
		errs = append(errs, del(a))
	}
	return done, errors.Join(errs...)
}

// linkName is for messages.
func (h *Handle) linkName(index int) string {
	l, err := h.nl.LinkByIndex(index)
	if err != nil {
		return fmt.Sprintf("link number %d", index)
	}
	return l.Attrs().Name
}

// byIndex is a link for requests that read nothing but the index.
func byIndex(index int) netlink.Link {
	return &netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: index}}
}

func linkOf(l netlink.Link) Link {
	a := l.Attrs()
	return Link{
		Index:      a.Index,
		Name:       a.Name,
		Kind:       l.Type(),
		MTU:        a.MTU,
		TxQueueLen: a.TxQLen,
		Up:         a.Flags&net.FlagUp != 0,
		MAC:        macOf(a.HardwareAddr),
	}
}

func linkError(what string, err error) error {
	if isMissing(err) {
		err = ErrNoLink
	}
	return fmt.Errorf("%s: %w", what, err)
}

func isMissing(err error) bool {
	var missing netlink.LinkNotFoundError
	return errors.As(err, &missing) || errors.Is(err, unix.ENODEV)
}
