package rtnl

import (
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"
)

const (
	rtnUnicast   = unix.RTN_UNICAST
	rtprotKernel = unix.RTPROT_KERNEL
)

// compare looks at the kernel's tables and returns the changes that are needed
// for them to hold what is desired: neighbours, forwarding database, routes.
func (h *Handle) compare(d *desired) ([]*plan, error) {
	var plans []*plan
	if d.scope.Link != 0 {
		n, err := h.compareNeighbours(d)
		if err != nil {
			return nil, err
		}
		f, err := h.compareFDB(d)
		if err != nil {
			return nil, err
		}
		plans = append(plans, n, f)
	}
	r, err := h.compareRoutes(d)
	if err != nil {
		return nil, err
	}
	return append(plans, r), nil
}

// compareNeighbours leaves entries alone that the kernel resolved by itself, or
// overwrites them where another is wanted.
func (h *Handle) compareNeighbours(d *desired) (*plan, error) {
	p := &plan{faults: d.neighbourFaults}
	var right map[ip4]bool // those that are as they should be
	err := h.dumpPermanent("neighbours", unix.AF_INET, d.scope.Link, func() {
		*p = plan{faults: d.neighbourFaults}
		right = make(map[ip4]bool, len(d.neighbours))
	}, func(k kernelNeigh, body []byte) {
		mac, wanted := d.neighbours[k.ip]
		switch {
		case !k.hasIP:
		case !wanted:
			p.prune.strike(unix.RTM_DELNEIGH, body)
		case mac == k.mac:
			right[k.ip] = true
		}
	})
	if err != nil {
		return nil, err
	}
	missing(d.neighbours, right, func(ip ip4, mac MAC) { p.set.neigh(add, unix.AF_INET, d.scope.Link, ip, mac) })
	return p, nil
}

// compareFDB leaves learned entries alone, or overwrites them where another is
// wanted. The database may have several destinations for one MAC: setting it
// overwrites the first of them.
func (h *Handle) compareFDB(d *desired) (*plan, error) {
	type stray struct {
		mac  MAC
		body []byte
	}
	var right map[MAC]bool
	var strays []stray
	err := h.dumpPermanent("forwarding database", unix.AF_BRIDGE, d.scope.Link, func() {
		right, strays = make(map[MAC]bool, len(d.fdb)), nil
	}, func(k kernelNeigh, body []byte) {
		if dst, wanted := d.fdb[k.mac]; wanted && k.hasIP && dst == k.ip && !k.more {
			right[k.mac] = true
		} else {
			strays = append(strays, stray{k.mac, slices.Clone(body)})
		}
	})
	if err != nil {
		return nil, err
	}
	p := &plan{faults: d.fdbFaults}
	overwritten := make(map[MAC]bool)
	for _, s := range strays {
		if _, wanted := d.fdb[s.mac]; wanted && !right[s.mac] && !overwritten[s.mac] {
			overwritten[s.mac] = true
			continue
		}
		p.prune.strike(unix.RTM_DELNEIGH, s.body)
	}
	missing(d.fdb, right, func(mac MAC, dst ip4) { p.set.neigh(add, unix.AF_BRIDGE, d.scope.Link, dst, mac) })
	return p, nil
}

// dumpPermanent calls each with the permanent entries of a link. Both tables
// share one message, told apart by the address family. It calls begin first, and
// again when it has to start anew.
func (h *Handle) dumpPermanent(what string, family uint8, link int, begin func(), each func(k kernelNeigh, body []byte)) error {
	fixed := ndmsg(family, 0, 0, 0)
	return h.dumpRaw(what, unix.RTM_GETNEIGH, fixed[:], func(r *requests) {
		r.attr32(ndaIfIndex, uint32(link))
	}, begin, func(body []byte) {
		if k, ok := parseNeigh(body); ok && k.family == family && k.link == link && k.permanent() {
			each(k, body)
		}
	})
}

// compareRoutes leaves routes alone that are not ours, as Scope defines them,
// unless they are in the way of one that is wanted.
func (h *Handle) compareRoutes(d *desired) (*plan, error) {
	var p *plan
	// The kernel keeps several routes to one destination in the order in which
	// it lists them, and uses the first.
	var seen map[prefix4]bool
	main := []byte{unix.AF_INET, 0, 0, 0, unix.RT_TABLE_MAIN, 0, 0, 0, 0, 0, 0, 0}
	err := h.dumpRaw("IPv4 routes", unix.RTM_GETROUTE, main, nil, func() {
		p, seen = &plan{faults: slices.Clone(d.routeFaults)}, make(map[prefix4]bool, len(d.routes))
	}, func(body []byte) {
		k, ok := parseRoute(body)
		if !ok || k.table != unix.RT_TABLE_MAIN {
			return
		}
		to, wanted := d.routes[k.dst]
		wanted = wanted && k.tos == 0 && k.priority == 0
		switch {
		case wanted && !seen[k.dst]:
			seen[k.dst] = true
			switch {
			case k.is(to):
			case k.protocol == rtprotKernel:
				p.faults = append(p.faults, fmt.Errorf("add route %s: the network is connected to %s", h.describeRoute(k.dst, to), h.linkName(int(k.to.link))))
			default:
				p.set.route(replace, k.dst, to, d.scopeOf(k.dst))
			}
		case !d.scope.owns(k):
		case wanted:
			// It would make the kernel refuse the replacement of the first.
			p.first.strike(unix.RTM_DELROUTE, body)
		default:
			p.prune.strike(unix.RTM_DELROUTE, body)
		}
	})
	if err != nil {
		return nil, err
	}
	missing(d.routes, seen, func(dst prefix4, to target) { p.set.route(add, dst, to, d.scopeOf(dst)) })
	return p, nil
}

// is reports whether the kernel's route k is one of ours that leads to the
// target. Flags that tell of the link's state are no difference, nor are the
// scopes of scopeOf; a route with several gateways has no link.
func (k kernelRoute) is(to target) bool {
	return k.protocol == Protocol && k.typ == rtnUnicast && k.scope <= unix.RT_SCOPE_SITE && !k.more && k.to == to
}

// dumpRaw repeats a dump until the table held still for once. It calls begin
// before each try.
func (h *Handle) dumpRaw(what string, typ uint16, fixed []byte, attrs func(*requests), begin func(), each func(body []byte)) error {
	var err error
	for range dumpTries {
		begin()
		if err = h.raw.dump(typ, fixed, attrs, each); !errors.Is(err, errDumpInterrupted) {
			break
		}
	}
	if err == nil || errors.Is(err, unix.ENOENT) { // no such table: there are no routes yet
		return nil
	}
	return fmt.Errorf("list %s: %w", what, err)
}
