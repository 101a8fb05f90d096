// Package udp is the backend that carries packets in userspace: from a TUN
// interface into UDP datagrams and back, in the wire format of flannel's udp
// backend, which is also what a network config without Backend means.
package udp

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"runtime"
	"sync"

	"golang.org/x/sync/errgroup"

	"tweed/backend"
	"tweed/dataplane"
	"tweed/dataplane/rtnl"
	"tweed/dataplane/tun"
	"tweed/dataplane/udpsock"
	"tweed/subnet"
)

const (
	tunName    = "flannel%d" // flannel0, unless another daemon of this host has it
	txQueueLen = 500         // packets; the kernel's own value for a TUN

	overhead = 20 + 8     // bytes of the outer IPv4 and UDP headers
	minMTU   = 68         // of IPv4 (RFC 791, 3.2), and what a TUN accepts
	maxMTU   = 65535 - 28 // what one datagram holds

	loops = 2 // to and from peers, each on a thread of its own
)

// Backend carries the packets of one network. Its TUN interface, with address
// and route, outlives it: the next daemon takes it over, so that a restart
// loses only what arrives between the two.
type Backend struct {
	options
	underlay backend.Underlay
	network  netip.Prefix
	log      *slog.Logger

	sock    *udpsock.Socket
	tun     *tun.Device
	nl      *rtnl.Handle
	monitor *rtnl.Monitor

	mu      sync.Mutex   // guards what follows, up to the datapath
	own     netip.Prefix // leased subnet, the zero value before Up
	peers   backend.Peers
	tables  *rtnl.Tables
	links   rtnl.Links
	watched bool // Run hears of changes
	sure    bool // the TUN is as it was when last looked at

	routes    dataplane.Table
	guard     dataplane.Guard
	toPeers   dataplane.Forwarder
	fromPeers dataplane.Forwarder
}

var _ backend.Backend = (*Backend)(nil)

// Open opens the socket and the TUN interface, in the network namespace of the
// calling thread. Both are had before a lease is asked for, so that a port in
// use or a missing /dev/net/tun leaves nothing behind in the store.
func Open(_ context.Context, u backend.Underlay, cfg subnet.Config, log *slog.Logger) (_ *Backend, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("udp: %w", err)
		}
	}()
	o, err := parseOptions(cfg)
	if err != nil {
		return nil, err
	}
	if u.MTU < minMTU+overhead {
		return nil, fmt.Errorf("mtu %d of %s: want %d or more", u.MTU, u.Name, minMTU+overhead)
	}
	b := &Backend{options: o, underlay: u, network: cfg.Network, log: log, peers: backend.Peers{Type: backend.AnyType, Underlay: u, Log: log}}
	defer func() {
		if err != nil {
			err = errors.Join(err, b.Close())
		}
	}()
	if b.nl, err = rtnl.Open(); err != nil {
		return nil, err
	}
	b.tables = b.nl.Tables()
	if b.monitor, err = rtnl.OpenMonitor(rtnl.OfLinks, rtnl.OfAddresses, rtnl.OfRoutes); err != nil {
		return nil, err
	}
	// The socket comes first: who has it owns the TUN of that port as well.
	if b.sock, err = udpsock.Listen(netip.AddrPortFrom(u.Addr, o.port), udpsock.Options{Offload: o.offload}); err != nil {
		return nil, err
	}
	if b.tun, err = openTUN(b.nl, cfg.Network, o, log); err != nil {
		return nil, err
	}
	b.guard.Peers, b.guard.Check, b.guard.Network = &b.routes, o.check, cfg.Network
	b.toPeers.In, b.toPeers.Out, b.toPeers.Routes = b.tun, b.sock, &b.routes
	b.fromPeers.In, b.fromPeers.Out, b.fromPeers.Guard = b.sock, b.tun, &b.guard
	log.Info("opened udp backend", "link", b.tun.Name(), "mtu", b.MTU(), "offload", b.offloadText(), "sourceCheck", o.check)
	return b, nil
}

// Attrs implements backend.Backend. As with flannel, no BackendType is
// published.
func (b *Backend) Attrs() subnet.Attrs { return subnet.Attrs{PublicIP: b.underlay.PublicIP} }

// MTU is that of the underlay less the outer headers.
func (b *Backend) MTU() int { return min(b.underlay.MTU-overhead, maxMTU) }

// Up gives the TUN interface the first address of the leased subnet and the
// route to the whole network, and lets it outlive the daemon.
func (b *Backend) Up(_ context.Context, l subnet.Lease) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.own, b.sure = l.Subnet, false
	b.guard.SetOwn(l.Subnet)
	b.fromPeers.SetAddr(l.Subnet.Addr())
	if _, err := b.repair(); err != nil {
		return err
	}
	return b.tun.SetPersistent(true)
}

// Sync sends to all peers, whatever their BackendType, as flannel does. Unless
// Run hears of changes, it also looks at the TUN interface.
func (b *Backend) Sync(_ context.Context, peers []subnet.Lease) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	routes := make([]dataplane.Route, 0, len(peers))
	b.peers.Usable(peers, func(l *subnet.Lease) error {
		routes = append(routes, dataplane.Route{Subnet: l.Subnet, Peer: netip.AddrPortFrom(l.Attrs.PublicIP, b.port)})
		return nil
	})
	b.routes.Replace(routes)
	if b.watched && b.sure {
		return nil
	}
	_, err := b.repair()
	return err
}

// Run carries packets, and puts right what others change of the TUN interface,
// until ctx ends. If the interface is deleted meanwhile it returns an error that
// names it, and is backend.ErrGone.
func (b *Backend) Run(ctx context.Context) error {
	// The loops keep the scheduler's processors for themselves most of the
	// time; the rest of the daemon must not have to wait for one.
	runtime.GOMAXPROCS(runtime.GOMAXPROCS(0) + loops)
	defer func() { runtime.GOMAXPROCS(runtime.GOMAXPROCS(0) - loops) }()

	g, ctx := errgroup.WithContext(ctx)
	carry := func(f *dataplane.Forwarder, from, to string) {
		g.Go(func() error {
			err := f.Run(ctx)
			switch {
			case errors.Is(err, tun.ErrGone):
				return fmt.Errorf("udp: from %s to %s: %w: %w", from, to, backend.ErrGone, err)
			case err != nil:
				return fmt.Errorf("udp: from %s to %s: %w", from, to, err)
			}
			return nil
		})
	}
	b.setWatched(true)
	defer b.setWatched(false)
	g.Go(func() error {
		if err := b.monitor.Hold(ctx, held{b}, b.log); err != nil {
			return fmt.Errorf("udp: %w", err)
		}
		return nil
	})
	carry(&b.toPeers, b.tun.Name(), "peers")
	carry(&b.fromPeers, "peers", b.tun.Name())
	return g.Wait()
}

// Close frees the port and the TUN interface, which vanishes only if Up has
// never been called for it.
func (b *Backend) Close() error {
	var errs []error
	b.mu.Lock()
	b.own = netip.Prefix{} // nothing is to be held any more, should Run not have ended yet
	if b.nl != nil {
		b.nl.Close()
	}
	b.mu.Unlock()
	if b.monitor != nil {
		errs = append(errs, b.monitor.Close())
	}
	if b.tun != nil {
		errs = append(errs, b.tun.Close())
	}
	if b.sock != nil {
		errs = append(errs, b.sock.Close())
	}
	return errors.Join(errs...)
}
