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
	"sync"

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
	nl      *rtnl.Handle
	monitor *rtnl.Monitor
	log     *slog.Logger
	under   backend.Underlay
	net     netip.Prefix // the overlay network
	direct  bool         // route to neighbours on the underlay without encapsulation
	dev     rtnl.VXLAN   // as wanted, with the MAC that we publish

	mu     sync.Mutex // guards what follows
	peers  backend.Peers
	told   map[netip.Prefix]string // the subnets that contradict newer ones, and how
	own    netip.Prefix            // our subnet, once Up
	wanted []peer                  // of the last Sync, in order of their subnets
	uses   map[rtnl.MAC]macUse     // by wanted; nil if they are not all of the leases
	synced bool                    // there was one

	index, lower int  // of the device and of the interface below
	watched      bool // Run hears of changes
	sure         bool // device and underlay are as they were when last looked at
	tables       *rtnl.Tables
	links        rtnl.Links
	paths        map[netip.Addr]int // with direct: the links over which peers are reached, 0 for encapsulated
}

// Open makes the device flannel.<VNI>, or takes over a compatible one, and
// sets it up, because the lease publishes its MAC address. That is the one of
// last, what this node has published before, so that peers that have not heard
// of a reboot still reach us. Where nothing is known of before, a device that is
// there keeps its MAC, and that of a new one depends on nothing but the public
// IP and the VNI.
//
// The outer source is the address of the interface, never the public IP: where
// they differ, some NAT translates.
func Open(ctx context.Context, u backend.Underlay, cfg subnet.Config, last subnet.Attrs, log *slog.Logger) (*Backend, error) {
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
		peers:  backend.Peers{Type: Type, Underlay: u, Log: log},
		tables: nl.Tables(),
	}
	if err := b.open(last); err != nil {
		b.Close()
		return nil, fmt.Errorf("vxlan: %w", err)
	}
	return b, nil
}

func (b *Backend) open(last subnet.Attrs) (err error) {
	if b.monitor, err = rtnl.OpenMonitor(rtnl.OfLinks, rtnl.OfAddresses, rtnl.OfRoutes, rtnl.OfNeighbours); err != nil {
		return err
	}
	var published rtnl.MAC
	if last.BackendType == Type {
		published, _ = parseVTEP(last.BackendData)
	}
	if published != (rtnl.MAC{}) {
		b.dev.MAC = published
	}
	dev, err := b.ensureDevice()
	if err != nil {
		return err
	}
	if len(dev.Differs) > 0 {
		b.log.Warn("device was not as configured, made it anew", "link", b.dev.Name, "differs", dev.Differs)
	}
	if published == (rtnl.MAC{}) {
		b.dev.MAC = dev.Link.MAC
	}
	return nil
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
	b.mu.Lock()
	defer b.mu.Unlock()
	b.own, b.sure = l.Subnet, false
	if _, _, err := b.ensure(); err != nil {
		return fmt.Errorf("vxlan: %w", err)
	}
	return nil
}

// Sync makes the device's entries and our routes those of the peers. Peers that
// want another backend, or whose data is unreadable, are left out with a
// warning. While Run hears of changes, only what the peers have changed is looked
// at; else everything.
func (b *Backend) Sync(ctx context.Context, peers []subnet.Lease) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.patch(peers) {
		return nil
	}
	b.wanted, b.synced = b.usable(peers), true
	b.count(len(peers))
	if b.watched && b.sure {
		e, err := b.entries()
		if err == nil {
			err = b.tables.Set(e)
		}
		if err == nil {
			return nil
		}
	}
	_, repairs, err := b.ensure()
	for _, r := range repairs {
		b.log.Warn("put the device right", "link", b.dev.Name, "change", r)
	}
	if err == nil {
		_, err = b.compare()
	}
	if err != nil {
		return fmt.Errorf("vxlan: %w", err)
	}
	return nil
}

// repair looks at everything, puts it right, and returns what was wrong.
func (b *Backend) repair() ([]rtnl.Repair, error) {
	created, repairs, err := b.ensure()
	if err != nil || !b.synced {
		return repairs, err
	}
	found, err := b.compare()
	if !created { // of a new device all that is nothing new
		repairs = append(repairs, found...)
	}
	return repairs, err
}

// compare brings the kernel's tables to what they should be, and returns what
// was not so.
func (b *Backend) compare() ([]rtnl.Repair, error) {
	clear(b.paths)
	e, direct := b.entries()
	repairs, err := b.tables.Compare(e)
	if err = errors.Join(direct, err); err == nil {
		b.sure = true
	}
	return repairs, err
}

// entries returns what the kernel's tables should have for the wanted peers.
// The error is of those that are encapsulated because it is not known whether
// they have to be.
func (b *Backend) entries() (rtnl.Entries, error) {
	e := b.entriesOf(nil)
	n := len(b.wanted)
	e.Neighbours, e.FDB, e.Routes = make([]rtnl.Neighbour, 0, n), make([]rtnl.FDBEntry, 0, n), make([]rtnl.Route, 0, n)
	var errs []error
	for _, p := range b.wanted {
		link, err := b.directLink(p.PublicIP)
		if err != nil {
			errs = append(errs, err)
		}
		if link != 0 {
			e.Routes = append(e.Routes, rtnl.Route{Dst: p.Subnet, Via: p.PublicIP, Link: link})
			continue
		}
		b.encapsulate(&e, p)
	}
	return e, errors.Join(errs...)
}

// entriesOf returns those of peers that are all encapsulated.
func (b *Backend) entriesOf(peers []peer) rtnl.Entries {
	e := rtnl.Entries{Scope: rtnl.Scope{Within: b.net, Link: b.index}}
	for _, p := range peers {
		b.encapsulate(&e, p)
	}
	return e
}

func (b *Backend) encapsulate(e *rtnl.Entries, p peer) {
	base := p.Subnet.Addr()
	e.Neighbours = append(e.Neighbours, rtnl.Neighbour{IP: base, MAC: p.MAC})
	e.FDB = append(e.FDB, rtnl.FDBEntry{MAC: p.MAC, Dst: p.PublicIP})
	e.Routes = append(e.Routes, rtnl.Route{Dst: p.Subnet, Via: base, Link: b.index, OnLink: true})
}

// directLink returns the interface over which a peer is reached without a
// router, or 0 where it has to be encapsulated.
func (b *Backend) directLink(public netip.Addr) (int, error) {
	if !b.direct {
		return 0, nil
	}
	if link, known := b.paths[public]; known {
		return link, nil
	}
	link := 0
	path, err := b.nl.Lookup(public)
	switch {
	case errors.Is(err, rtnl.ErrNoPath):
	case err != nil:
		return 0, err
	case path.Direct() && path.Link != b.index:
		link = path.Link
	}
	if b.paths == nil {
		b.paths = make(map[netip.Addr]int)
	}
	b.paths[public] = link
	return link, nil
}

// Run puts right what others change of the device, its entries and our routes,
// until ctx ends. The packets are carried by the kernel.
func (b *Backend) Run(ctx context.Context) error {
	b.setWatched(true)
	defer b.setWatched(false)
	if err := b.monitor.Hold(ctx, held{b}, b.log); err != nil {
		return fmt.Errorf("vxlan: %w", err)
	}
	return nil
}

// Close leaves the device and all its entries to carry packets on.
func (b *Backend) Close() error {
	if b.monitor != nil {
		b.monitor.Close()
	}
	b.nl.Close()
	return nil
}
