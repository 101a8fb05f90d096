package rtnl

import (
	"fmt"
	"math"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// blackholeMetric is so high that every other route to the same destination,
// such as that of docker0, comes first.
const blackholeMetric = math.MaxInt32

// ReplaceBlackholes makes want the whole of our blackhole routes to
// destinations inside the prefix: packets to them vanish where no other route
// is left. Only blackholes with our Protocol are removed.
func (h *Handle) ReplaceBlackholes(inside netip.Prefix, want ...netip.Prefix) error {
	filter := netlink.Route{Type: unix.RTN_BLACKHOLE, Protocol: Protocol, Table: unix.RT_TABLE_MAIN}
	have, err := dump("blackhole routes", func() ([]netlink.Route, error) {
		return h.nl.RouteListFiltered(netlink.FAMILY_V4, &filter,
			netlink.RT_FILTER_TYPE|netlink.RT_FILTER_PROTOCOL|netlink.RT_FILTER_TABLE)
	})
	if err != nil {
		return err
	}
	p := &Plan{}
	var present []netip.Prefix
	for _, k := range have {
		dst := fromIPNet(k.Dst)
		if !within(inside, dst) || k.Priority != blackholeMetric {
			continue
		}
		present = append(present, dst)
		if !slices.Contains(want, dst) {
			p.prune = append(p.prune, func() error { return blackhole("delete", h.nl.RouteDel, dst) })
		}
	}
	for _, dst := range want {
		if !slices.Contains(present, dst) {
			p.set = append(p.set, func() error { return blackhole("add", h.nl.RouteReplace, dst) })
		}
	}
	return Apply(p)
}

func blackhole(verb string, change func(*netlink.Route) error, dst netip.Prefix) error {
	r := netlink.Route{
		Dst: toIPNet(dst), Type: unix.RTN_BLACKHOLE, Table: unix.RT_TABLE_MAIN, Protocol: Protocol, Priority: blackholeMetric,
	}
	if err := change(&r); err != nil {
		return fmt.Errorf("%s route blackhole %s: %w", verb, dst, err)
	}
	return nil
}
