package lab

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"

	"github.com/vishvananda/netlink"
)

// A Host is a namespace with eth0 on the underlay.
type Host struct {
	Name string
	NS   NS
	Addr netip.Addr // of eth0

	lab *Lab

	// Guarded by lab.mu.
	bridges  map[netip.Prefix]string // per subnet
	pods     map[netip.Prefix]int    // per subnet, how many there ever were
	podCount int
	started  map[string]int // per process name
}

// HostOptions say how a host differs from the usual one.
type HostOptions struct {
	// Segment is the index in Options.Segments that eth0 is connected to.
	Segment int
	// Addr is the address of eth0; default the next free one.
	Addr netip.Addr
	// Outside makes a host that is no node: without forwarding and without a
	// default route, it can answer only what comes from its own segment.
	Outside bool
}

var hostName = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,11}$`)

// AddHost adds a node to the first segment: forwarding is on, the default
// route leads to the switch.
func (l *Lab) AddHost(ctx context.Context, name string) (*Host, error) {
	return l.AddHostWith(ctx, name, HostOptions{})
}

// AddHostWith adds a host. The name is 1 to 12 of a-z, 0-9 and "-", and not
// taken yet.
func (l *Lab) AddHostWith(ctx context.Context, name string, o HostOptions) (_ *Host, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("host %s: %w", name, err)
		}
	}()
	if !hostName.MatchString(name) {
		return nil, fmt.Errorf("name %q: want 1 to 12 of a-z, 0-9 and -", name)
	}
	if o.Segment < 0 || o.Segment >= len(l.opts.Segments) {
		return nil, fmt.Errorf("segment %d: want 0 to %d", o.Segment, len(l.opts.Segments)-1)
	}
	ns, err := l.newNS(ctx, name)
	if err != nil {
		return nil, err
	}
	h := &Host{
		Name:    name,
		NS:      ns,
		lab:     l,
		bridges: make(map[netip.Prefix]string),
		pods:    make(map[netip.Prefix]int),
		started: make(map[string]int),
	}
	if h.Addr, err = l.takeAddr(o.Segment, o.Addr); err != nil {
		return nil, err
	}
	if err := os.Mkdir(h.Path(), 0o755); err != nil {
		return nil, err
	}
	gateway := l.gateway(o.Segment)
	eth0 := plug{
		bridge: bridgeName(o.Segment),
		port:   portName(name),
		mtu:    underlayMTU,
		addr:   netip.PrefixFrom(h.Addr, gateway.Bits()),
	}
	forward := "0"
	if !o.Outside {
		eth0.via, forward = gateway.Addr(), "1"
	}
	if err := plugIn(ctx, l.sw, ns, eth0); err != nil {
		return nil, err
	}
	if err := ns.Sysctl("ipv4/ip_forward", forward); err != nil {
		return nil, err
	}
	return h, nil
}

// takeAddr reserves want, or else the next free address of the segment.
func (l *Lab) takeAddr(segment int, want netip.Addr) (netip.Addr, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.opts.Segments[segment]
	first := l.gateway(segment).Addr().Next()
	usable := func(a netip.Addr) bool { // neither network, switch nor broadcast
		return s.Contains(a) && s.Contains(a.Next()) && !a.Less(first)
	}
	if want.IsValid() {
		if !usable(want) || l.used[want] {
			return netip.Addr{}, fmt.Errorf("address %s: taken, or not a host address of %s", want, s)
		}
		l.used[want] = true
		return want, nil
	}
	for a := first; usable(a); a = a.Next() {
		if !l.used[a] {
			l.used[a] = true
			return a, nil
		}
	}
	return netip.Addr{}, fmt.Errorf("no address left in underlay %s", s)
}

// Path names a file in the directory of the host.
func (h *Host) Path(elem ...string) string {
	return filepath.Join(append([]string{h.lab.dir, h.Name}, elem...)...)
}

// Unplug cuts the host off the underlay: eth0 loses its carrier. What runs on
// it goes on.
func (h *Host) Unplug() error { return h.setCable((*netlink.Handle).LinkSetDown) }

// Plug undoes Unplug, and waits until packets can pass.
func (h *Host) Plug(ctx context.Context) error {
	if err := h.setCable((*netlink.Handle).LinkSetUp); err != nil {
		return err
	}
	return awaitUp(ctx, h.lab.sw, portName(h.Name))
}

func (h *Host) setCable(set func(*netlink.Handle, netlink.Link) error) error {
	return h.lab.sw.Netlink(func(nl *netlink.Handle) error {
		port, err := nl.LinkByName(portName(h.Name))
		if err != nil {
			return fmt.Errorf("find switch port of host %s: %w", h.Name, err)
		}
		return set(nl, port)
	})
}

// portName is the switch's end of a host's cable.
func portName(host string) string { return "p-" + host }
