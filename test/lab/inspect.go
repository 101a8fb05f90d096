package lab

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// A Route is an IPv4 route of the main table.
type Route struct {
	Dst      netip.Prefix // 0.0.0.0/0 for a default route
	Via      netip.Addr   // the zero value if none
	Src      netip.Addr   // the zero value if none
	Dev      string       // empty for a blackhole and its like
	Type     int          // RTN_UNICAST = 1, RTN_BLACKHOLE = 6 (rtnetlink(7))
	Protocol int          // RTPROT_KERNEL = 2, RTPROT_BOOT = 3
	Scope    int          // RT_SCOPE_UNIVERSE = 0, RT_SCOPE_LINK = 253
	Metric   int
	Onlink   bool
}

// String is close to what `ip route` shows.
func (r Route) String() string {
	var b strings.Builder
	if r.Type == unix.RTN_BLACKHOLE {
		b.WriteString("blackhole ")
	}
	b.WriteString(r.Dst.String())
	if r.Via.IsValid() {
		fmt.Fprintf(&b, " via %s", r.Via)
	}
	if r.Dev != "" {
		fmt.Fprintf(&b, " dev %s", r.Dev)
	}
	if r.Scope == unix.RT_SCOPE_LINK {
		b.WriteString(" scope link")
	}
	if r.Src.IsValid() {
		fmt.Fprintf(&b, " src %s", r.Src)
	}
	if r.Metric != 0 {
		fmt.Fprintf(&b, " metric %d", r.Metric)
	}
	if r.Onlink {
		b.WriteString(" onlink")
	}
	return b.String()
}

// Routes lists the IPv4 routes of the main table by destination.
func (n NS) Routes() ([]Route, error) {
	var list []Route
	err := n.Netlink(func(h *netlink.Handle) error {
		links, err := linkNames(h)
		if err != nil {
			return err
		}
		routes, err := h.RouteList(nil, unix.AF_INET)
		if err != nil {
			return fmt.Errorf("list routes: %w", err)
		}
		for _, r := range routes {
			list = append(list, Route{
				Dst:      prefixOf(r),
				Via:      addrOf(r.Gw),
				Src:      addrOf(r.Src),
				Dev:      links[r.LinkIndex],
				Type:     r.Type,
				Protocol: int(r.Protocol),
				Scope:    int(r.Scope),
				Metric:   r.Priority,
				Onlink:   r.Flags&unix.RTNH_F_ONLINK != 0,
			})
		}
		return nil
	})
	slices.SortStableFunc(list, func(a, b Route) int { return a.Dst.Compare(b.Dst) })
	return list, err
}

// A Neighbour is an entry of the ARP table or of a forwarding database.
type Neighbour struct {
	Addr      netip.Addr // of the neighbour; in an FDB, the tunnel end behind which MAC is
	MAC       string     // "0e:5f:00:00:00:01"
	Dev       string
	Permanent bool
}

// Neighbours lists the IPv4 neighbours on a link.
func (n NS) Neighbours(dev string) ([]Neighbour, error) { return n.neighbours(dev, unix.AF_INET) }

// FDB lists the forwarding database of a vxlan link.
func (n NS) FDB(dev string) ([]Neighbour, error) { return n.neighbours(dev, unix.AF_BRIDGE) }

func (n NS) neighbours(dev string, family int) ([]Neighbour, error) {
	var list []Neighbour
	err := n.Netlink(func(h *netlink.Handle) error {
		l, err := h.LinkByName(dev)
		if err != nil {
			return fmt.Errorf("find link %s: %w", dev, err)
		}
		entries, err := h.NeighList(l.Attrs().Index, family)
		if err != nil {
			return fmt.Errorf("list neighbours on %s: %w", dev, err)
		}
		for _, e := range entries {
			list = append(list, Neighbour{
				Addr:      addrOf(e.IP),
				MAC:       e.HardwareAddr.String(),
				Dev:       dev,
				Permanent: e.State&unix.NUD_PERMANENT != 0,
			})
		}
		return nil
	})
	slices.SortFunc(list, func(a, b Neighbour) int {
		if c := a.Addr.Compare(b.Addr); c != 0 {
			return c
		}
		return strings.Compare(a.MAC, b.MAC)
	})
	return list, err
}

// Link returns the link of that name: netlink.LinkNotFoundError.
func (n NS) Link(name string) (link netlink.Link, err error) {
	err = n.Netlink(func(h *netlink.Handle) (err error) {
		link, err = h.LinkByName(name)
		return err
	})
	return link, err
}

func linkNames(h *netlink.Handle) (map[int]string, error) {
	links, err := h.LinkList()
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	names := make(map[int]string, len(links))
	for _, l := range links {
		names[l.Attrs().Index] = l.Attrs().Name
	}
	return names, nil
}

func prefixOf(r netlink.Route) netip.Prefix {
	if r.Dst == nil {
		return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	}
	bits, _ := r.Dst.Mask.Size()
	return netip.PrefixFrom(addrOf(r.Dst.IP), bits)
}

func addrOf(ip []byte) netip.Addr {
	a, _ := netip.AddrFromSlice(ip)
	return a.Unmap()
}
