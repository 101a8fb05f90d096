package rtnl

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// Entries are the neighbours, forwarding database entries and routes of one
// overlay network: all that there should be.
type Entries struct {
	Scope      Scope       // Scope.Link has the Neighbours and the FDB
	Neighbours []Neighbour // permanent; of several for one IP the first is made and the others fail
	FDB        []FDBEntry  // permanent; of several for one MAC the first is made and the others fail
	Routes     []Route     // of several to one destination the first is made and the others fail
}

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

// A Route is a unicast IPv4 route in the main table, without metric, source or
// TOS.
type Route struct {
	Dst    netip.Prefix // masked
	Via    netip.Addr   // the gateway; the zero value if Dst is on the link itself
	Link   int          // interface index
	OnLink bool         // Via counts as reachable on Link whatever the addresses say
}

// A Scope says which routes are ours to replace and to remove.
type Scope struct {
	// Within bounds the destinations: inside it, all routes with our Protocol
	// are ours. It is the overlay network.
	Within netip.Prefix
	// Link, if not 0, is a device of our own: all routes on it to a destination
	// inside Within are ours, whoever made them, except those that the kernel
	// makes by itself for an address. This takes over from other daemons, which
	// leave routes with protocol "boot".
	Link int
}

// owns reports whether the kernel's route k is ours.
func (s Scope) owns(k kernelRoute) bool {
	if !within(s.Within, k.dst.prefix()) || k.typ != rtnUnicast {
		return false
	}
	return k.protocol == Protocol || s.Link != 0 && int(k.to.link) == s.Link && k.protocol != rtprotKernel
}

// desired is Entries for looking up. What contradicts something before it is
// left out and is one of the faults.
type desired struct {
	scope      Scope
	neighbours map[ip4]MAC
	fdb        map[MAC]ip4
	routes     map[prefix4]target

	neighbourFaults, fdbFaults, routeFaults []error
}

func (h *Handle) desire(e Entries) *desired {
	d := &desired{
		scope:      e.Scope,
		neighbours: make(map[ip4]MAC, len(e.Neighbours)),
		fdb:        make(map[MAC]ip4, len(e.FDB)),
		routes:     make(map[prefix4]target, len(e.Routes)),
	}
	for _, n := range e.Neighbours {
		if !n.IP.Is4() {
			d.neighbourFaults = append(d.neighbourFaults, fmt.Errorf("add neighbour %s: want an IPv4 address", n.IP))
		} else if mac, ok := d.neighbours[n.IP.As4()]; !ok {
			d.neighbours[n.IP.As4()] = n.MAC
		} else if mac != n.MAC {
			d.neighbourFaults = append(d.neighbourFaults, fmt.Errorf("add neighbour %s dev %s lladdr %s: another MAC address is wanted too", n.IP, h.linkName(e.Scope.Link), n.MAC))
		}
	}
	for _, f := range e.FDB {
		if !f.Dst.Is4() {
			d.fdbFaults = append(d.fdbFaults, fmt.Errorf("add fdb entry %s dst %s: want an IPv4 address", f.MAC, f.Dst))
		} else if dst, ok := d.fdb[f.MAC]; !ok {
			d.fdb[f.MAC] = f.Dst.As4()
		} else if dst != f.Dst.As4() {
			d.fdbFaults = append(d.fdbFaults, fmt.Errorf("add fdb entry %s dev %s dst %s: another destination is wanted too", f.MAC, h.linkName(e.Scope.Link), f.Dst))
		}
	}
	for _, r := range e.Routes {
		dst, to, ok := compact(r)
		switch other, dup := d.routes[dst]; {
		case !ok || r.Dst != r.Dst.Masked() || !within(e.Scope.Within, r.Dst):
			d.routeFaults = append(d.routeFaults, fmt.Errorf("add route %s: the destination is not a subnet of %s", r.Dst, e.Scope.Within))
		case !dup:
			d.routes[dst] = to
		case other != to:
			d.routeFaults = append(d.routeFaults, fmt.Errorf("add route %s: already wanted %s", h.describeRoute(dst, to), h.describeRoute(dst, other)))
		}
	}
	return d
}

// fewRoutes is up to how many routes look as flannel's do, all of scope
// universe.
const fewRoutes = 1024

// scopeOf returns the scope of a wanted route.
//
// The kernel finds the gateway of a new route in a hash table, by protocol,
// scope, source, metric and link, but not by the gateway itself
// (fib_info_hash_bucket in net/ipv4/fib_semantics.c). So each route over one link
// is compared with all that are there: 10 000 take 1.7 s, and 50 000 would take
// a minute. Where there are many, they get different scopes from universe to
// site, which mean the same for a route with a gateway (ip-route(8)): each
// fills its own bucket, and 10 000 take 0.05 s.
func (d *desired) scopeOf(dst prefix4) uint8 {
	if len(d.routes) <= fewRoutes {
		return unix.RT_SCOPE_UNIVERSE
	}
	// Subnets of one network differ in neighbouring bits.
	return uint8((binary.BigEndian.Uint32(dst.ip[:]) >> (32 - dst.bits)) % unix.RT_SCOPE_SITE)
}

// compact returns the route in the form of the tables; ok is false if it is not
// one of IPv4.
func compact(r Route) (dst prefix4, to target, ok bool) {
	if !r.Dst.IsValid() || !r.Dst.Addr().Is4() || r.Via.IsValid() && !r.Via.Is4() {
		return prefix4{}, target{}, false
	}
	dst = prefix4{r.Dst.Addr().As4(), uint8(r.Dst.Bits())}
	to = target{link: int32(r.Link), onLink: r.OnLink}
	if r.Via.IsValid() {
		to.via, to.hasVia = r.Via.As4(), true
	}
	return dst, to, true
}
