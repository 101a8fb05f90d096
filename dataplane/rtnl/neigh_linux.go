package rtnl

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// A Neighbour is a permanent entry of a link's ARP table.
type Neighbour struct {
	IP  netip.Addr // IPv4
	MAC MAC
}

// An FDBEntry is a permanent entry of a VXLAN device's forwarding database:
// frames for MAC are encapsulated and sent to Dst.
type FDBEntry struct {
	MAC MAC
	Dst netip.Addr // IPv4
}

// PlanNeighbours finds the changes that make want the whole of the link's
// permanent IPv4 neighbours. Entries that the kernel resolved by itself are left
// alone, or overwritten if wanted. Of several wanted entries for one IP the
// first is made and the others fail.
func (h *Handle) PlanNeighbours(link int, want []Neighbour) (*Plan, error) {
	entries, err := h.permanent("neighbours", link, unix.AF_INET)
	if err != nil {
		return nil, err
	}
	var have, wanted []pair[netip.Addr, MAC]
	for _, n := range entries {
		have = append(have, pair[netip.Addr, MAC]{fromIP(n.IP), macOf(n.HardwareAddr)})
	}
	for _, n := range want {
		wanted = append(wanted, pair[netip.Addr, MAC]{n.IP, n.MAC})
	}
	set, remove, conflicts := diff(have, wanted)

	at := func(n pair[netip.Addr, MAC]) entry {
		return entry{h: h, link: link, family: unix.AF_INET, ip: n.key, mac: n.val}
	}
	p := &Plan{}
	for _, n := range set {
		p.set = append(p.set, at(n).set)
	}
	for _, n := range conflicts {
		p.set = append(p.set, fail("add %s: another MAC address is wanted too", at(n)))
	}
	for _, n := range remove {
		p.prune = append(p.prune, at(n).remove)
	}
	return p, nil
}

// PlanFDB finds the changes that make want the whole of the permanent entries in
// the forwarding database of a VXLAN device. Learned entries are left alone, or
// overwritten if wanted. Of several wanted entries for one MAC the first is made
// and the others fail.
func (h *Handle) PlanFDB(link int, want []FDBEntry) (*Plan, error) {
	entries, err := h.permanent("forwarding database", link, unix.AF_BRIDGE)
	if err != nil {
		return nil, err
	}
	var have, wanted []pair[MAC, netip.Addr]
	for _, n := range entries {
		have = append(have, pair[MAC, netip.Addr]{macOf(n.HardwareAddr), fromIP(n.IP)})
	}
	for _, e := range want {
		wanted = append(wanted, pair[MAC, netip.Addr]{e.MAC, e.Dst})
	}
	set, remove, conflicts := diff(have, wanted)

	at := func(e pair[MAC, netip.Addr]) entry {
		return entry{h: h, link: link, family: unix.AF_BRIDGE, ip: e.val, mac: e.key}
	}
	p := &Plan{}
	for _, e := range set {
		p.set = append(p.set, at(e).set)
	}
	for _, e := range conflicts {
		p.set = append(p.set, fail("add %s: another destination is wanted too", at(e)))
	}
	for _, e := range remove {
		p.prune = append(p.prune, at(e).remove)
	}
	return p, nil
}

// permanent lists the permanent entries of one link. Both tables share one
// netlink message (linux/neighbour.h), told apart by the address family.
func (h *Handle) permanent(what string, link, family int) ([]netlink.Neigh, error) {
	entries, err := dump(what, func() ([]netlink.Neigh, error) { return h.nl.NeighList(link, family) })
	if err != nil {
		return nil, err
	}
	var ours []netlink.Neigh
	for _, n := range entries {
		// A device enslaved to a bridge is in that bridge's database, too
		// (with NTF_MASTER): that is not ours.
		if n.State&unix.NUD_PERMANENT != 0 && n.Flags&netlink.NTF_PROXY == 0 && (family != unix.AF_BRIDGE || n.Flags&netlink.NTF_SELF != 0) {
			ours = append(ours, n)
		}
	}
	return ours, nil
}

// entry is an entry of either table.
type entry struct {
	h            *Handle
	link, family int
	ip           netip.Addr
	mac          MAC
}

func (e entry) set() error {
	if err := e.h.nl.NeighSet(e.message()); err != nil {
		return fmt.Errorf("add %s: %w", e, err)
	}
	return nil
}

func (e entry) remove() error {
	err := e.h.nl.NeighDel(e.message())
	if err != nil && !errors.Is(err, unix.ENOENT) { // gone already
		return fmt.Errorf("delete %s: %w", e, err)
	}
	return nil
}

func (e entry) message() *netlink.Neigh {
	n := &netlink.Neigh{LinkIndex: e.link, Family: e.family, State: unix.NUD_PERMANENT, IP: toIP(e.ip), HardwareAddr: e.mac[:]}
	if e.family == unix.AF_BRIDGE {
		n.Flags = netlink.NTF_SELF
		if !e.ip.IsValid() { // the kernel lists entries with a nexthop group so
			n.IP = toIP(netip.IPv4Unspecified())
		}
	}
	return n
}

// String writes the entry as ip-neighbour(8) and bridge(8) do.
func (e entry) String() string {
	if e.family == unix.AF_BRIDGE {
		return fmt.Sprintf("fdb entry %s dev %s dst %s", e.mac, e.h.linkName(e.link), e.ip)
	}
	return fmt.Sprintf("neighbour %s dev %s lladdr %s", e.ip, e.h.linkName(e.link), e.mac)
}
