package rtnl

import (
	"errors"
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
// destinations inside the prefix, and returns what was not so: packets to them
// vanish where no other route is left. Only blackholes with our Protocol are
// removed.
func (h *Handle) ReplaceBlackholes(inside netip.Prefix, want ...netip.Prefix) ([]Repair, error) {
	var have []netip.Prefix
	// The kernel lists no others than those asked for, if it is not too old.
	ours := []byte{unix.AF_INET, 0, 0, 0, unix.RT_TABLE_MAIN, Protocol, 0, unix.RTN_BLACKHOLE, 0, 0, 0, 0}
	err := h.dumpRaw("blackhole routes", unix.RTM_GETROUTE, ours, nil, func() { have = nil }, func(body []byte) {
		k, ok := parseRoute(body)
		if ok && k.typ == unix.RTN_BLACKHOLE && k.protocol == Protocol && k.table == unix.RT_TABLE_MAIN &&
			k.priority == blackholeMetric && within(inside, k.dst.prefix()) {
			have = append(have, k.dst.prefix())
		}
	})
	if err != nil {
		return nil, err
	}
	var done []Repair
	var errs []error
	change := func(verb string, f func(*netlink.Route) error, dst netip.Prefix) {
		r := netlink.Route{
			Dst: toIPNet(dst), Type: unix.RTN_BLACKHOLE, Table: unix.RT_TABLE_MAIN, Protocol: Protocol, Priority: blackholeMetric,
		}
		what := "route blackhole " + dst.String()
		if err := f(&r); err != nil {
			errs = append(errs, fmt.Errorf("%s %s: %w", verb, what, err))
			return
		}
		done = append(done, Repair(verb+" "+what))
	}
	for _, dst := range have {
		if !slices.Contains(want, dst) {
			change("delete", h.nl.RouteDel, dst)
		}
	}
	for _, dst := range want {
		if !slices.Contains(have, dst) {
			change("add", h.nl.RouteReplace, dst)
		}
	}
	return done, errors.Join(errs...)
}
