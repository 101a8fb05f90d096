package backend

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// listNICs returns all interfaces of the namespace, in the kernel's order.
func listNICs() ([]nic, error) {
	links, err := dump(netlink.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	addrs, err := dump(func() ([]netlink.Addr, error) { return netlink.AddrList(nil, netlink.FAMILY_V4) })
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	byLink := make(map[int][]netip.Prefix)
	for _, a := range addrs {
		if ip, ok := toAddr(a.IP); ok {
			bits, _ := a.Mask.Size()
			byLink[a.LinkIndex] = append(byLink[a.LinkIndex], netip.PrefixFrom(ip, bits))
		}
	}
	nics := make([]nic, 0, len(links))
	for _, l := range links {
		a := l.Attrs()
		nics = append(nics, nic{
			name: a.Name, index: a.Index, mtu: a.MTU, addrs: byLink[a.Index],
			up: a.Flags&net.FlagUp != 0, carrier: a.RawFlags&unix.IFF_LOWER_UP != 0,
		})
	}
	return nics, nil
}

// dump repeats a listing that the kernel says was changed while it was read
// (NLM_F_DUMP_INTR). On a host that never rests, the last one must do.
func dump[T any](list func() ([]T, error)) (all []T, err error) {
	for range 5 {
		if all, err = list(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			return all, err
		}
	}
	return all, nil
}

// byDefaultRoute takes the default route of the main table with the lowest
// metric, and the first hop of it where it has several. Routes for one type of
// service are not looked at. An interface without an address of its own
// (unnumbered) gets the route's source address.
func byDefaultRoute(nics []nic) (choice, error) {
	routes, err := dump(func() ([]netlink.Route, error) {
		filter := netlink.Route{Table: unix.RT_TABLE_MAIN, Type: unix.RTN_UNICAST}
		return netlink.RouteListFiltered(netlink.FAMILY_V4, &filter, netlink.RT_FILTER_TABLE|netlink.RT_FILTER_TYPE|netlink.RT_FILTER_TOS|netlink.RT_FILTER_DST)
	})
	if err != nil {
		return choice{}, fmt.Errorf("list routes: %w", err)
	}
	var best *netlink.Route
	for i := range routes {
		// Metrics are 32-bit without sign, whatever the size of an int.
		if best == nil || uint32(routes[i].Priority) < uint32(best.Priority) {
			best = &routes[i]
		}
	}
	if best == nil {
		return choice{}, errors.New("the main routing table has no IPv4 default route")
	}
	index := best.LinkIndex
	if index == 0 && len(best.MultiPath) > 0 {
		index = best.MultiPath[0].LinkIndex
	}
	n, err := byIndex(nics, index)
	if err != nil {
		return choice{}, err
	}
	if src, ok := toAddr(best.Src); ok && !n.preferred().IsValid() {
		return choice{n, src}, nil
	}
	return choice{nic: n}, nil
}

// byRoute asks the kernel how it would send to dst, and takes the interface
// and the source address of its answer.
func byRoute(nics []nic, dst netip.Addr) (choice, error) {
	routes, err := netlink.RouteGet(dst.AsSlice())
	if err != nil {
		return choice{}, fmt.Errorf("look up route: %w", err)
	}
	if len(routes) == 0 {
		return choice{}, errors.New("no route")
	}
	r := routes[0]
	if r.Type != unix.RTN_UNICAST {
		return choice{}, errors.New("not another host's address: want one that is reached through the wanted interface")
	}
	n, err := byIndex(nics, r.LinkIndex)
	if err != nil {
		return choice{}, err
	}
	src, _ := toAddr(r.Src)
	return choice{n, src}, nil
}

func toAddr(ip net.IP) (netip.Addr, bool) {
	a, ok := netip.AddrFromSlice(ip)
	return a.Unmap(), ok
}
