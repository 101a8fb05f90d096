// Package hostgw carries packets without encapsulation: for each peer there is
// a route to its subnet with the peer itself as the gateway. All nodes must
// share one Ethernet segment.
package hostgw

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"

	"tweed/backend"
	"tweed/dataplane/rtnl"
	"tweed/subnet"
)

// Type is the backend's name in the network config and in leases.
const Type = "host-gw"

var _ backend.Backend = (*Backend)(nil)

// Backend is a set of routes on one interface. Make it with Open.
type Backend struct {
	nl      *rtnl.Handle
	monitor *rtnl.Monitor
	log     *slog.Logger
	under   backend.Underlay
	net     netip.Prefix // the overlay network

	mu      sync.Mutex // guards what follows
	peers   backend.Peers
	wanted  []rtnl.Route // of the last Sync, but for the interface
	synced  bool         // there was one
	index   int          // of the interface
	watched bool         // Run hears of changes
	sure    bool         // the interface is as it was when last looked at
	tables  *rtnl.Tables
	links   rtnl.Links
}

// Open checks that peers can use the address they learn as a gateway: it must
// be that of the interface.
func Open(ctx context.Context, u backend.Underlay, cfg subnet.Config, log *slog.Logger) (*Backend, error) {
	if err := CheckUnderlay(u); err != nil {
		return nil, err
	}
	if _, err := NewProfile(cfg); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	nl, err := rtnl.Open()
	if err != nil {
		return nil, fmt.Errorf("host-gw: %w", err)
	}
	monitor, err := rtnl.OpenMonitor(rtnl.OfLinks, rtnl.OfAddresses, rtnl.OfRoutes)
	if err != nil {
		nl.Close()
		return nil, fmt.Errorf("host-gw: %w", err)
	}
	return &Backend{
		nl:      nl,
		monitor: monitor,
		log:     log,
		under:   u,
		net:     cfg.Network,
		peers:   backend.Peers{Type: Type, Underlay: u, Log: log},
		tables:  nl.Tables(),
	}, nil
}

// CheckUnderlay returns an error unless peers can use what they learn of u.
func CheckUnderlay(u backend.Underlay) error {
	if u.PublicIP == u.Addr {
		return nil
	}
	return fmt.Errorf("host-gw: public IP %s is not the address %s of %s, but peers need a gateway on their own link: leave out -public-ip, or choose the interface that has this address with -iface", u.PublicIP, u.Addr, u.Name)
}

// NewProfile returns what the backend will take of a host, which is nothing.
// There are no options, but a Backend that is not an object is a mistake.
func NewProfile(cfg subnet.Config) (backend.Profile, error) {
	p := backend.Profile{Type: Type, Published: Type}
	if err := cfg.DecodeBackend(&struct{}{}); err != nil {
		return p, fmt.Errorf("host-gw: %w", err)
	}
	return p, nil
}

// Attrs needs no data: the public IP is the gateway.
func (b *Backend) Attrs() subnet.Attrs {
	return subnet.Attrs{PublicIP: b.under.PublicIP, BackendType: Type}
}

// MTU is that of the interface at the time of Open.
func (b *Backend) MTU() int { return b.under.MTU }

// Up has nothing to do: docker0 brings the route to our own subnet.
func (b *Backend) Up(ctx context.Context, l subnet.Lease) error { return ctx.Err() }

// Sync makes our routes those of the peers. A peer that is not on the link
// fails, because the kernel refuses it as a gateway; the others are served. While
// Run hears of changes, only what the peers have changed is looked at; else all
// routes.
func (b *Backend) Sync(ctx context.Context, peers []subnet.Lease) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.wanted, b.synced = make([]rtnl.Route, 0, len(peers)), true
	b.peers.Usable(peers, func(l *subnet.Lease) error {
		b.wanted = append(b.wanted, rtnl.Route{Dst: l.Subnet, Via: l.Attrs.PublicIP})
		return nil
	})
	if b.watched && b.sure && b.tables.Set(b.entries()) == nil {
		return nil
	}
	if _, err := b.repair(); err != nil {
		return fmt.Errorf("host-gw: %w", err)
	}
	return nil
}

// repair looks at all routes, puts them right, and returns what was wrong.
func (b *Backend) repair() ([]rtnl.Repair, error) {
	// By name: the interface may have come back under another index.
	nic, err := b.nl.LinkByName(b.under.Name)
	if err != nil {
		return nil, err
	}
	b.index = nic.Index
	repairs, err := b.tables.Compare(b.entries())
	b.sure = err == nil
	return repairs, err
}

func (b *Backend) entries() rtnl.Entries {
	for i := range b.wanted {
		b.wanted[i].Link = b.index
	}
	return rtnl.Entries{Scope: rtnl.Scope{Within: b.net}, Routes: b.wanted}
}

// Run puts right what others change of our routes, until ctx ends. The packets
// are carried by the kernel.
func (b *Backend) Run(ctx context.Context) error {
	b.setWatched(true)
	defer b.setWatched(false)
	if err := b.monitor.Hold(ctx, held{b}, b.log); err != nil {
		return fmt.Errorf("host-gw: %w", err)
	}
	return nil
}

// Close leaves the routes to carry packets on.
func (b *Backend) Close() error {
	b.nl.Close()
	return b.monitor.Close()
}
