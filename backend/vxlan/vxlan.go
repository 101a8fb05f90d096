// Package vxlan carries packets by a VXLAN device of the kernel, without
// learning or multicast: for each peer the device has a neighbour, a
// forwarding database entry and a route, all permanent.
//
//	pod 10.5.1.2 ──▶ route     10.5.3.0/24 via 10.5.3.0 dev flannel.1 onlink
//	                 neighbour 10.5.3.0 lladdr 0e:…  (the peer's VtepMAC)
//	                 fdb       0e:… dst 192.0.2.3    (its PublicIP)
//	             ──▶ UDP to 192.0.2.3:8472
//
// The kernel needs nothing from us while it carries packets, so what is set up
// stays when the daemon ends, and a restart drops no packet.
package vxlan

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"

	"tweed/backend"
	"tweed/dataplane/rtnl"
	"tweed/subnet"
)

// Type is the backend's name in the network config and in leases.
const Type = "vxlan"

// minMTU is the least that an IPv4 link must carry (RFC 791).
const minMTU = 68

var _ backend.Backend = (*Backend)(nil)

// Backend is one VXLAN device. Make it with Open.
type Backend struct {
	nl     *rtnl.Handle
	log    *slog.Logger
	under  backend.Underlay
	net    netip.Prefix // the overlay network
	direct bool         // route to neighbours on the underlay without encapsulation
	dev    rtnl.VXLAN   // as wanted, with the MAC that we publish
	peers  backend.Peers
	own    netip.Prefix // our subnet, once Up
}

// Open makes the device flannel.<VNI>, or takes over a compatible one, and
// sets it up, because the lease publishes its MAC address. The MAC of a new
// device depends on nothing but the public IP and the VNI, so that peers that
// have not heard of a reboot still reach us.
//
// The outer source is the address of the interface, never the public IP: where
// they differ, some NAT translates.
func Open(ctx context.Context, u backend.Underlay, cfg subnet.Config, log *slog.Logger) (*Backend, error) {
	o, err := parseOptions(cfg)
	if err != nil {
		return nil, fmt.Errorf("vxlan: %w", err)
	}
	if u.MTU < minMTU+rtnl.VXLANOverhead {
		return nil, fmt.Errorf("vxlan: mtu %d of %s: want %d or more", u.MTU, u.Name, minMTU+rtnl.VXLANOverhead)
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	nl, err := rtnl.Open()
	if err != nil {
		return nil, fmt.Errorf("vxlan: %w", err)
	}
	b := &Backend{
		nl:     nl,
		log:    log,
		under:  u,
		net:    cfg.Network,
		direct: o.DirectRouting,
		dev: rtnl.VXLAN{
			Name:  deviceName(o.VNI),
			VNI:   o.VNI,
			Local: u.Addr,
			Port:  o.Port,
			GBP:   o.GBP,
			MTU:   u.MTU - rtnl.VXLANOverhead,
			MAC:   deriveMAC(u.PublicIP, o.VNI),
		},
		peers: backend.Peers{Type: Type, Underlay: u, Log: log},
	}
	l, _, err := b.ensureDevice()
	if err != nil {
		nl.Close()
		return nil, fmt.Errorf("vxlan: %w", err)
	}
	b.dev.MAC = l.MAC
	return b, nil
}

// deriveMAC returns a locally administered station address (IEEE 802, section
// 8.4).
func deriveMAC(public netip.Addr, vni int) rtnl.MAC {
	seed := public.As4()
	sum := sha256.Sum256(binary.BigEndian.AppendUint32(seed[:], uint32(vni)))
	m := rtnl.MAC(sum[:6])
	m[0] = m[0]&^0x01 | 0x02
	return m
}

// Attrs publishes the device's MAC: {"VtepMAC":"0e:12:34:56:78:9a"}.
func (b *Backend) Attrs() subnet.Attrs {
	return subnet.Attrs{
		PublicIP:    b.under.PublicIP,
		BackendType: Type,
		BackendData: json.RawMessage(`{"VtepMAC":"` + b.dev.MAC.String() + `"}`),
	}
}

// MTU is that of the interface at the time of Open, less the encapsulation.
// If the interface's MTU shrinks later, the device follows it down, and back
// up to this value, never higher; pods then learn of it by path MTU discovery.
func (b *Backend) MTU() int { return b.dev.MTU }

// Up gives the device the first address of the lease as a /32, so that packets
// of this host itself have a source that peers can answer to. An address of an
// earlier lease goes.
func (b *Backend) Up(ctx context.Context, l subnet.Lease) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	b.own = l.Subnet
	if _, err := b.ensure(); err != nil {
		return fmt.Errorf("vxlan: %w", err)
	}
	return nil
}

// Sync makes the device again if it is gone, and its entries and our routes
// those of the peers. Peers that want another backend, or whose data is
// unreadable, are left out with a warning.
func (b *Backend) Sync(ctx context.Context, peers []subnet.Lease) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	dev, err := b.ensure()
	if err != nil {
		return fmt.Errorf("vxlan: %w", err)
	}
	var (
		errs       []error
		neighbours []rtnl.Neighbour
		fdb        []rtnl.FDBEntry
		routes     []rtnl.Route
	)
	for _, p := range b.usable(peers) {
		link, err := b.directLink(p.PublicIP, dev)
		if err != nil {
			errs = append(errs, err) // encapsulated, the peer is reached all the same
		}
		if link != 0 {
			routes = append(routes, rtnl.Route{Dst: p.Subnet, Via: p.PublicIP, Link: link})
			continue
		}
		base := p.Subnet.Addr()
		neighbours = append(neighbours, rtnl.Neighbour{IP: base, MAC: p.MAC})
		fdb = append(fdb, rtnl.FDBEntry{MAC: p.MAC, Dst: p.PublicIP})
		routes = append(routes, rtnl.Route{Dst: p.Subnet, Via: base, Link: dev, OnLink: true})
	}
	if err := errors.Join(append(errs, b.apply(dev, neighbours, fdb, routes))...); err != nil {
		return fmt.Errorf("vxlan: %w", err)
	}
	return nil
}

// apply adds neighbours, FDB entries and routes in this order and removes
// stale ones in the opposite order: a route never leads to a peer that the
// device does not know.
func (b *Backend) apply(dev int, neighbours []rtnl.Neighbour, fdb []rtnl.FDBEntry, routes []rtnl.Route) error {
	n, err := b.nl.PlanNeighbours(dev, neighbours)
	if err != nil {
		return err
	}
	f, err := b.nl.PlanFDB(dev, fdb)
	if err != nil {
		return err
	}
	r, err := b.nl.PlanRoutes(rtnl.Scope{Within: b.net, Link: dev}, routes)
	if err != nil {
		return err
	}
	return rtnl.Apply(n, f, r)
}

// directLink returns the interface over which a peer is reached without a
// router, or 0 where it has to be encapsulated.
func (b *Backend) directLink(public netip.Addr, dev int) (int, error) {
	if !b.direct {
		return 0, nil
	}
	path, err := b.nl.Lookup(public)
	switch {
	case errors.Is(err, rtnl.ErrNoPath):
		return 0, nil
	case err != nil:
		return 0, err
	case !path.Direct() || path.Link == dev:
		return 0, nil
	}
	return path.Link, nil
}

// Run waits for ctx to end: the kernel does the work.
func (b *Backend) Run(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

// Close leaves the device and all its entries to carry packets on.
func (b *Backend) Close() error {
	b.nl.Close()
	return nil
}
