package backend

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"regexp"
	"strings"
)

// A Selector says how to choose the interface that faces the peers. The first
// of its ways that finds a usable interface wins: Ifaces in their order, then
// Regexes in theirs, then CanReach. The zero Selector takes the interface of
// the default route.
type Selector struct {
	Ifaces   []string // names or IPv4 addresses; such an address becomes Underlay.Addr
	Regexes  []string // matched against each interface's preferred address, then against the names
	CanReach string   // an IPv4 address; the kernel's route to it tells interface and source address
	PublicIP string   // an IPv4 address to publish instead of the interface's own
}

// Select looks at the interfaces, addresses and routes of the calling thread's
// network namespace. What was asked for and is not there is logged at info
// level, and the next way is tried; when none is left, the error says what was
// asked, what there is, and which flag helps.
//
// An interface is usable if it has an IPv4 address and an MTU. Its preferred
// address is the first that is neither loopback nor link-local, in the
// kernel's order, else the first link-local one. An interface that is down is
// taken with a warning, because it may come up later.
func (s Selector) Select(log *slog.Logger) (Underlay, error) {
	public, err := s.publicIP()
	if err != nil {
		return Underlay{}, err
	}
	ways, err := s.ways()
	if err != nil {
		return Underlay{}, err
	}
	nics, err := listNICs()
	if err != nil {
		return Underlay{}, fmt.Errorf("choose interface: %w", err)
	}
	chosen, err := firstUsable(ways, nics, log)
	if err != nil {
		return Underlay{}, err
	}

	log.Info(fmt.Sprintf("Using interface with name %s and address %s", chosen.nic.name, chosen.addr))
	if !chosen.nic.up {
		log.Warn("interface is down: no peer can be reached until it is up", "link", chosen.nic.name)
	}
	if chosen.addr.IsLoopback() {
		log.Warn("interface address is a loopback address: no other host can reach it", "link", chosen.nic.name, "addr", chosen.addr)
	}
	if public.IsValid() {
		log.Info(fmt.Sprintf("Using %s as external address", public))
	} else {
		public = chosen.addr
		log.Info(fmt.Sprintf("Defaulting external address to interface address (%s)", public))
	}
	return Underlay{Name: chosen.nic.name, MTU: chosen.nic.mtu, Addr: chosen.addr, Net: chosen.nic.netOf(chosen.addr), PublicIP: public}, nil
}

// A way is one of the ways to choose, as the operator asked for it.
type way struct {
	asked string // such as "-iface=eth1"
	find  func([]nic) (choice, error)
}

// choice is an interface and its address. The address may be left unset for
// the preferred one.
type choice struct {
	nic  nic
	addr netip.Addr
}

// ways lists the ways to try, in order. All options are checked before the
// first is tried, so that a typing error does not wait for a changed network.
func (s Selector) ways() ([]way, error) {
	var ways []way
	for _, want := range s.Ifaces {
		ways = append(ways, way{"-iface=" + want, func(nics []nic) (choice, error) { return byNameOrAddr(nics, want) }})
	}
	for _, expr := range s.Regexes {
		re, err := regexp.Compile(expr)
		if err != nil {
			return nil, fmt.Errorf("-iface-regex %q: %w: want a regular expression such as '^eth[0-9]$'", expr, err)
		}
		ways = append(ways, way{"-iface-regex=" + expr, func(nics []nic) (choice, error) { return byRegex(nics, re) }})
	}
	if s.CanReach != "" {
		dst, err := parseIPv4(s.CanReach)
		if err != nil {
			return nil, fmt.Errorf("-iface-can-reach %q: %w of another host", s.CanReach, err)
		}
		ways = append(ways, way{"-iface-can-reach=" + s.CanReach, func(nics []nic) (choice, error) { return byRoute(nics, dst) }})
	}
	if len(ways) == 0 {
		ways = append(ways, way{"the interface of the default route", byDefaultRoute})
	}
	return ways, nil
}

// firstUsable returns what the first successful way finds. A miss that is the
// only way is not logged, as it becomes the error.
func firstUsable(ways []way, nics []nic, log *slog.Logger) (choice, error) {
	var misses []string
	for _, w := range ways {
		c, err := w.choose(nics)
		if err == nil {
			return c, nil
		}
		misses = append(misses, fmt.Sprintf("%s: %v", w.asked, err))
		if len(ways) > 1 {
			log.Info(fmt.Sprintf("Could not find valid interface matching %s: %v", w.asked, err))
		}
	}
	return choice{}, fmt.Errorf("no interface to use: %s; this host has %s; name one with -iface=NAME or -iface=ADDRESS",
		strings.Join(misses, "; "), inventory(nics))
}

func (w way) choose(nics []nic) (choice, error) {
	c, err := w.find(nics)
	if err != nil {
		return choice{}, err
	}
	if !c.addr.IsValid() {
		if c.addr = c.nic.preferred(); !c.addr.IsValid() {
			return choice{}, fmt.Errorf("%s has no usable IPv4 address", c.nic.name)
		}
	}
	if c.nic.mtu == 0 {
		return choice{}, fmt.Errorf("%s has MTU 0", c.nic.name)
	}
	return c, nil
}

// publicIP returns the zero Addr if none was asked for.
func (s Selector) publicIP() (netip.Addr, error) {
	if s.PublicIP == "" {
		return netip.Addr{}, nil
	}
	ip, err := parseIPv4(s.PublicIP)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("-public-ip %q: %w that peers can send to, such as 192.0.2.1", s.PublicIP, err)
	}
	return ip, nil
}

// parseIPv4 accepts what can be one host's IPv4 address.
func parseIPv4(text string) (netip.Addr, error) {
	ip, err := netip.ParseAddr(text)
	ip = ip.Unmap()
	switch {
	case err != nil:
		return netip.Addr{}, errors.New("not an IP address: want the IPv4 address")
	case !ip.Is4():
		return netip.Addr{}, errors.New("IPv6 is not supported: want the IPv4 address")
	case ip.IsUnspecified() || ip.IsMulticast() || ip == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return netip.Addr{}, errors.New("not the address of one host: want the IPv4 address")
	}
	return ip, nil
}
