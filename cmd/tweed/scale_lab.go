package main

import (
	"context"
	"fmt"
	"net/netip"
	"path/filepath"

	"github.com/vishvananda/netlink"

	"tweed/subnet"
	"tweed/test/embedetcd"
	"tweed/test/lab"
)

// scaleUnderlay has room for a thousand hosts. Its first address is that of
// the switch, and of etcd.
var scaleUnderlay = netip.MustParsePrefix("20.0.0.0/20")

const (
	fleetPrefix = "/scale"
	crowdPrefix = "/crowd"
)

// build starts a lab whose etcd counts.
func (s *scaling) build(ctx context.Context) (err error) {
	if s.lab, err = newLab(ctx, lab.Options{
		Flanneld: s.opts.flanneld,
		Segments: []netip.Prefix{scaleUnderlay},
		NoEtcd:   true,
	}); err != nil {
		return err
	}
	s.counter = newEtcdCounter()
	if err := s.startEtcd(ctx); err != nil {
		return err
	}
	s.fleet = &fleet{etcd: func() *embedetcd.Server { return s.lab.Etcd }, prefix: fleetPrefix}
	return s.lab.Etcd.Set(ctx, fleetPrefix+"/config", fleetConfig, 0)
}

// startEtcd starts the etcd, or starts it again with what it held.
func (s *scaling) startEtcd(ctx context.Context) error {
	at := netip.AddrPortFrom(scaleUnderlay.Addr().Next(), 2379)
	return s.lab.Switch().Do(func() (err error) {
		s.lab.Etcd, err = embedetcd.Start(ctx, embedetcd.Options{
			Dir:    filepath.Join(s.lab.Dir(), "etcd"),
			Listen: at.String(),
			NoSync: true,
			Log:    filepath.Join(s.lab.Dir(), "etcd.log"),
			Wrap:   s.counter.wrap,
		})
		return err
	})
}

// stopEtcd cuts all connections, and refuses new ones.
func (s *scaling) stopEtcd() error {
	etcd := s.lab.Etcd
	s.lab.Etcd = nil // closing the lab must not stop it again
	return etcd.Close()
}

// A measured is a flanneld that is measured, on a host of its own.
type measured struct {
	host   *lab.Host
	daemon *lab.Process
}

// newHost adds a host that nothing has run on.
func (s *scaling) newHost(ctx context.Context) (*lab.Host, error) {
	s.hosts++
	return s.lab.AddHost(ctx, fmt.Sprintf("n%d", s.hosts))
}

// retire stops the daemon and removes its lease and its device, with all
// routes and entries, so that they weigh on nothing measured later.
func (s *scaling) retire(ctx context.Context, m measured) error {
	if err := m.daemon.Stop(); err != nil {
		return err
	}
	env, err := m.host.SubnetEnv()
	if err != nil {
		return err
	}
	if err := s.lab.Etcd.Delete(ctx, fleetPrefix+"/subnets/"+subnet.Key(env.Subnet)); err != nil {
		return err
	}
	return m.host.NS.Netlink(func(h *netlink.Handle) error {
		l, err := h.LinkByName(fleetDevice)
		if err == nil {
			err = h.LinkDel(l)
		}
		if err != nil {
			return fmt.Errorf("remove %s of host %s: %w", fleetDevice, m.host.Name, err)
		}
		return nil
	})
}
