package rtnl

import (
	"fmt"

	"github.com/vishvananda/netlink"
)

// LinksByAlias returns the interfaces whose alias (`ip link set dev NAME alias
// ALIAS`) matches: by it a daemon knows what an earlier run left.
func (h *Handle) LinksByAlias(match func(alias string) bool) ([]Link, error) {
	all, err := dump("links", h.nl.LinkList)
	if err != nil {
		return nil, err
	}
	var found []Link
	for _, l := range all {
		if match(l.Attrs().Alias) {
			found = append(found, linkOf(l))
		}
	}
	return found, nil
}

// EnsureAlias gives the interface its alias, of at most 255 bytes: ErrNoLink.
func (h *Handle) EnsureAlias(index int, alias string) error {
	l, err := h.nl.LinkByIndex(index)
	if err != nil {
		return linkError(fmt.Sprintf("find link number %d", index), err)
	}
	if l.Attrs().Alias == alias {
		return nil
	}
	if err := h.nl.LinkSetAlias(l, alias); err != nil {
		return linkError(fmt.Sprintf("set alias of %s to %q", l.Attrs().Name, alias), err)
	}
	return nil
}

// EnsureNoQueue takes the queueing discipline of the interface away, so that
// packets go to the driver at once (tc(8), noqueue): ErrNoLink.
func (h *Handle) EnsureNoQueue(index int) error {
	const noqueue = "noqueue"
	k := byIndex(index)
	disciplines, err := dump("queueing disciplines", func() ([]netlink.Qdisc, error) { return h.nl.QdiscList(k) })
	if err != nil {
		return err
	}
	for _, q := range disciplines {
		if q.Attrs().Parent == netlink.HANDLE_ROOT && q.Type() == noqueue {
			return nil
		}
	}
	err = h.nl.QdiscReplace(&netlink.GenericQdisc{
		QdiscAttrs: netlink.QdiscAttrs{LinkIndex: index, Parent: netlink.HANDLE_ROOT},
		QdiscType:  noqueue,
	})
	if err != nil {
		return linkError(fmt.Sprintf("set queueing discipline of %s to %s", h.linkName(index), noqueue), err)
	}
	return nil
}
