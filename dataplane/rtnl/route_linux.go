package rtnl

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

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

// ReplaceRoutes makes want the whole of our routes, as Scope defines them. A
// destination that stays never lacks a route meanwhile.
//
// A route to a wanted destination that is not ours is replaced, as flannel
// v0.10 does, with one exception: the kernel's own route of a connected
// network stays, and that destination fails, because otherwise packets to
// local pods would leave the node. Nothing else is touched: neither other
// destinations, nor other tables, nor blackholes, nor equal destinations under
// a metric (ours, without metric, precede them anyway).
func (h *Handle) ReplaceRoutes(s Scope, want []Route) error {
	p, err := h.PlanRoutes(s, want)
	if err != nil {
		return err
	}
	return Apply(p)
}

// PlanRoutes finds the changes that ReplaceRoutes would make.
func (h *Handle) PlanRoutes(s Scope, want []Route) (*Plan, error) {
	have, err := dump("IPv4 routes", func() ([]netlink.Route, error) {
		return h.nl.RouteList(nil, netlink.FAMILY_V4) // of the main table
	})
	if err != nil {
		return nil, err
	}
	p := &Plan{}
	wanted := make(map[netip.Prefix]Route, len(want))
	for _, r := range want {
		switch other, dup := wanted[r.Dst]; {
		case dup && other != r:
			p.set = append(p.set, fail("add route %s: already wanted %s", h.describe(r), h.describe(other)))
		case r.Dst != r.Dst.Masked() || !within(s.Within, r.Dst):
			p.set = append(p.set, fail("add route %s: the destination is not a subnet of %s", h.describe(r), s.Within))
		default:
			wanted[r.Dst] = r
		}
	}

	// The kernel keeps several routes to one destination in the order in which
	// it lists them, and uses the first.
	seen := make(map[netip.Prefix]bool, len(wanted))
	var first []func() error
	for _, k := range have {
		dst := fromIPNet(k.Dst)
		r, isWanted := wanted[dst]
		isWanted = isWanted && k.Tos == 0 && k.Priority == 0
		switch {
		case isWanted && !seen[dst]:
			seen[dst] = true
			if matches(k, r) {
				continue
			}
			if k.Protocol == unix.RTPROT_KERNEL {
				p.set = append(p.set, fail("add route %s: the network is connected to %s", h.describe(r), h.linkName(k.LinkIndex)))
				continue
			}
			p.set = append(p.set, h.replaceRoute("replace", r))
		case !s.owns(k, dst):
		case isWanted:
			// It would make the kernel refuse the replacement of the first.
			first = append(first, h.deleteRoute(k))
		default:
			p.prune = append(p.prune, h.deleteRoute(k))
		}
	}
	for _, r := range want {
		if !seen[r.Dst] && wanted[r.Dst] == r {
			seen[r.Dst] = true
			p.set = append(p.set, h.replaceRoute("add", r))
		}
	}
	p.set = append(first, p.set...)
	return p, nil
}

// owns reports whether the kernel's route k to dst is ours.
func (s Scope) owns(k netlink.Route, dst netip.Prefix) bool {
	if !within(s.Within, dst) || k.Type != unix.RTN_UNICAST {
		return false
	}
	return k.Protocol == Protocol || s.Link != 0 && k.LinkIndex == s.Link && k.Protocol != unix.RTPROT_KERNEL
}

// matches reports whether the kernel's route k is r, made by us. Flags that
// tell of the link's state are no difference; a multipath route has no link.
func matches(k netlink.Route, r Route) bool {
	return k.Protocol == Protocol && k.Type == unix.RTN_UNICAST && k.Scope == netlink.SCOPE_UNIVERSE &&
		fromIP(k.Gw) == r.Via && k.LinkIndex == r.Link && (k.Flags&unix.RTNH_F_ONLINK != 0) == r.OnLink &&
		k.Src == nil && k.Via == nil && k.Encap == nil
}

func (h *Handle) replaceRoute(verb string, r Route) func() error {
	return func() error {
		k := netlink.Route{
			Dst:       toIPNet(r.Dst),
			Gw:        toIP(r.Via),
			LinkIndex: r.Link,
			Table:     unix.RT_TABLE_MAIN,
			Type:      unix.RTN_UNICAST,
			Scope:     netlink.SCOPE_UNIVERSE,
			Protocol:  Protocol,
		}
		if r.OnLink {
			k.Flags = unix.RTNH_F_ONLINK
		}
		if err := h.nl.RouteReplace(&k); err != nil {
			return fmt.Errorf("%s route %s: %w", verb, h.describe(r), err)
		}
		return nil
	}
}

func (h *Handle) deleteRoute(k netlink.Route) func() error {
	return func() error {
		// Flags are left out: the kernel reports in them what it found, such
		// as a link without carrier.
		err := h.nl.RouteDel(&netlink.Route{
			Dst: k.Dst, Gw: k.Gw, LinkIndex: k.LinkIndex, Table: k.Table, Type: k.Type, Scope: k.Scope,
			Protocol: k.Protocol, Priority: k.Priority, Tos: k.Tos, Src: k.Src, MultiPath: k.MultiPath,
		})
		if err != nil && !errors.Is(err, unix.ESRCH) { // gone already
			return fmt.Errorf("delete route %s: %w", h.describe(Route{Dst: fromIPNet(k.Dst), Via: fromIP(k.Gw), Link: k.LinkIndex}), err)
		}
		return nil
	}
}

// describe writes r as ip-route(8) does.
func (h *Handle) describe(r Route) string {
	var b strings.Builder
	b.WriteString(r.Dst.String())
	if r.Via.IsValid() {
		b.WriteString(" via " + r.Via.String())
	}
	if r.Link != 0 {
		b.WriteString(" dev " + h.linkName(r.Link))
	}
	if r.OnLink {
		b.WriteString(" onlink")
	}
	return b.String()
}

// A Path is how the kernel would send a packet.
type Path struct {
	Link int        // interface index
	Via  netip.Addr // the gateway; the zero value if the destination is on the link
	Src  netip.Addr // the source address that the kernel would choose
}

// Direct reports whether no router is in between.
func (p Path) Direct() bool { return !p.Via.IsValid() }

// ErrNoPath: the kernel would not send a packet to the destination over any
// one link: it has no route, a route that rejects, or the address is its own.
var ErrNoPath = errors.New("no route over a link")

// Lookup asks the kernel for its way to dst, policy routing included
// (`ip route get`): ErrNoPath.
func (h *Handle) Lookup(dst netip.Addr) (Path, error) {
	routes, err := h.nl.RouteGet(toIP(dst))
	switch {
	case errors.Is(err, unix.ENETUNREACH), errors.Is(err, unix.EHOSTUNREACH), errors.Is(err, unix.EACCES), errors.Is(err, unix.EINVAL):
		return Path{}, fmt.Errorf("look up route to %s: %w: %w", dst, ErrNoPath, err)
	case err != nil:
		return Path{}, fmt.Errorf("look up route to %s: %w", dst, err)
	case len(routes) != 1 || routes[0].Type != unix.RTN_UNICAST:
		return Path{}, fmt.Errorf("look up route to %s: %w", dst, ErrNoPath)
	}
	return Path{Link: routes[0].LinkIndex, Via: fromIP(routes[0].Gw), Src: fromIP(routes[0].Src)}, nil
}
