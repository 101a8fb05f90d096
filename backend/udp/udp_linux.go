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

	"golang.org/x/sync/errgroup"

	"tweed/backend"
	"tweed/dataplane"
	"tweed/dataplane/rtnl"
	"tweed/dataplane/tun"
	"tweed/dataplane/udpsock"
	"tweed/subnet"
)

const (
	defaultPort = 8285
	tunName     = "flannel%d" // flannel0, unless another daemon of this host has it
	txQueueLen  = 500         // packets; the kernel's own value for a TUN

	overhead = 20 + 8     // bytes of the outer IPv4 and UDP headers
	minMTU   = 68         // of IPv4 (RFC 791, 3.2), and what a TUN accepts
	maxMTU   = 65535 - 28 // what one datagram holds
)

// Backend carries the packets of one network. Its TUN interface, with address
// and route, lives from Open to Close.
type Backend struct {
	underlay backend.Underlay
	network  netip.Prefix
	port     uint16
	own      netip.Prefix // leased subnet, the zero value before Up
	peers    backend.Peers

	sock *udpsock.Socket
	tun  *tun.Device
	nl   *rtnl.Handle

	routes    dataplane.Table
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
	port, err := portOf(cfg)
	if err != nil {
		return nil, err
	}
	if u.MTU < minMTU+overhead {
		return nil, fmt.Errorf("mtu %d of %s: want %d or more", u.MTU, u.Name, minMTU+overhead)
	}
	b := &Backend{underlay: u, network: cfg.Network, port: port, peers: backend.Peers{Type: backend.AnyType, Underlay: u, Log: log}}
	defer func() {
		if err != nil {
			err = errors.Join(err, b.Close())
		}
	}()
	if b.sock, err = udpsock.Listen(netip.AddrPortFrom(u.Addr, port)); err != nil {
		return nil, err
	}
	if b.tun, err = tun.Open(tunName); err != nil {
		return nil, err
	}
	if b.nl, err = rtnl.Open(); err != nil {
		return nil, err
	}
	b.toPeers.In, b.toPeers.Out, b.toPeers.Routes = b.tun, b.sock, &b.routes
	b.fromPeers.In, b.fromPeers.Out = b.sock, b.tun
	log.Info("opened udp backend", "link", b.tun.Name(), "mtu", b.MTU())
	return b, nil
}

// portOf returns the port of the Backend object. All nodes share it.
func portOf(cfg subnet.Config) (uint16, error) {
	c := struct{ Port int }{defaultPort}
	if err := cfg.DecodeBackend(&c); err != nil {
		return 0, err
	}
	if c.Port < 1 || c.Port > 65535 {
		return 0, fmt.Errorf("in Backend: Port %d: want a UDP port from 1 to 65535", c.Port)
	}
	return uint16(c.Port), nil
}

// Attrs implements backend.Backend. As with flannel, no BackendType is
// published.
func (b *Backend) Attrs() subnet.Attrs { return subnet.Attrs{PublicIP: b.underlay.PublicIP} }

// MTU is that of the underlay less the outer headers.
func (b *Backend) MTU() int { return min(b.underlay.MTU-overhead, maxMTU) }

// Up gives the TUN interface the first address of the leased subnet and the
// route to the whole network.
func (b *Backend) Up(_ context.Context, l subnet.Lease) error {
	b.own = l.Subnet
	return b.ensureLink()
}

// ensureLink brings the TUN interface to the state that the lease asks for.
//
// The address is a /32 beside an explicit route. With the network's own prefix
// length, as flannel v0.10 has it, the first address of the network would be
// its broadcast address.
func (b *Backend) ensureLink() error {
	if err := b.nl.EnsureLink(b.tun.Index(), b.MTU(), txQueueLen); err != nil {
		return err
	}
	if err := b.nl.EnsureAddr(b.tun.Index(), b.own.Addr(), b.network); err != nil {
		return err
	}
	return b.nl.ReplaceRoutes(rtnl.Scope{Within: b.network}, []rtnl.Route{{Dst: b.network, Link: b.tun.Index()}})
}

// Sync sends to all peers, whatever their BackendType, as flannel does, and
// repairs the TUN interface.
func (b *Backend) Sync(_ context.Context, peers []subnet.Lease) error {
	var routes []dataplane.Route
	for _, l := range b.peers.Usable(peers, func(subnet.Lease) error { return nil }) {
		routes = append(routes, dataplane.Route{Subnet: l.Subnet, Peer: netip.AddrPortFrom(l.Attrs.PublicIP, b.port)})
	}
	b.routes.Replace(routes)
	return b.ensureLink()
}

// Run carries packets until ctx ends. If the TUN interface is deleted
// meanwhile it returns an error that names it.
func (b *Backend) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	carry := func(f *dataplane.Forwarder, from, to string) {
		g.Go(func() error {
			if err := f.Run(ctx); err != nil {
				return fmt.Errorf("udp: from %s to %s: %w", from, to, err)
			}
			return nil
		})
	}
	carry(&b.toPeers, b.tun.Name(), "peers")
	carry(&b.fromPeers, "peers", b.tun.Name())
	return g.Wait()
}

// Stats returns the counters of both directions. It may be called at any time.
func (b *Backend) Stats() (toPeers, fromPeers dataplane.Stats) {
	return b.toPeers.Stats(), b.fromPeers.Stats()
}

// Close frees the port and deletes the TUN interface, with its address and
// route.
func (b *Backend) Close() error {
	var errs []error
	if b.nl != nil {
		b.nl.Close()
	}
	if b.tun != nil {
		errs = append(errs, b.tun.Close())
	}
	if b.sock != nil {
		errs = append(errs, b.sock.Close())
	}
	return errors.Join(errs...)
}
