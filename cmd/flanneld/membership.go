package main

import (
	"context"
	"errors"
	"net/netip"
	"time"

	"golang.org/x/sync/errgroup"

	"tweed/backend"
	"tweed/subnet"
)

// A membership is this node's part in the network. It outlives the backend, which
// is opened anew when the underlay has changed, or when somebody has deleted its
// device: the lease stays, and says where this node is to be found by then.
type membership struct {
	*node
	cfg    subnet.Config
	store  *watchedStore
	m      *subnet.Manager
	before memory
	file   envFile

	under backend.Underlay
	lease subnet.Lease // the zero value before the first
	was   bool         // a backend has worked before the one in use
}

// reopenWait is the pause before a backend is opened again that has ended soon
// each time.
const reopenWait = time.Second

func (s *membership) run(ctx context.Context) error {
	for soon := 0; ; {
		began := time.Now()
		err := s.serve(ctx)
		s.was = s.was || s.lease.Subnet.IsValid() && !errors.Is(err, errUp)
		var moved *movedError
		switch {
		case ctx.Err() != nil:
			return err
		case errors.As(err, &moved):
			s.under = moved.to
			s.store.reconnect() // connections from an address that is gone stay silent
		case errors.Is(err, backend.ErrGone):
			s.log.Warn("opening the backend again", "err", err)
		case errors.Is(err, errReopen), s.was && errors.Is(err, errUp):
			s.ready.set(condBackend, err)
			s.log.Error("Couldn't open the backend again, trying on", "err", err)
		default:
			return err
		}
		if soon++; time.Since(began) > reopenWait {
			soon = 0
		}
		if soon > 1 && !tick(ctx, reopenWait) {
			return nil
		}
	}
}

// errReopen: the backend could be opened once, but not again.
var errReopen = errors.New("open the backend again")

// serve works with one backend until it has to be opened again, ctx ends, or
// something fails that waiting cannot mend.
func (s *membership) serve(ctx context.Context) error {
	setUp := s.alive.loop("set-up")
	setUp.within(grace)
	be, err := openBackend(ctx, s.under, s.cfg, s.last(), s.log)
	setUp.end()
	again := s.lease.Subnet.IsValid()
	switch {
	case ctx.Err() != nil && err != nil:
		return nil
	case err != nil && again:
		// The underlay may change into something of more use.
		if next, _, ferr := s.opts.Iface.Follow(s.under); ferr == nil {
			s.under = next
		}
		return errors.Join(errReopen, err)
	case err != nil:
		return err
	}
	s.vitals.opened(s.cfg.BackendType, be)
	if !again {
		if s.lease, err = s.m.Acquire(ctx, be.Attrs(), s.before.subnets...); err != nil {
			return errors.Join(unlessDone(ctx, err), be.Close())
		}
	}
	s.lease.Attrs = be.Attrs() // Manager.Run publishes them

	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return be.Run(ctx) })
	g.Go(func() error { return s.followUnderlay(ctx) })
	g.Go(func() error { return s.holdLease(ctx, be) })
	err = g.Wait()
	return errors.Join(err, be.Close())
}

// holdLease works with one backend until ctx ends. A lease that is lost is taken
// again; it stays known while that lasts, because the next backend goes on with it.
func (s *membership) holdLease(ctx context.Context, be backend.Backend) error {
	for {
		err := s.hold(ctx, s.cfg, be, s.m, s.lease, &s.file, s.store.callTime)
		if !errors.Is(err, subnet.ErrLeaseLost) {
			return err
		}
		l, err := s.reacquire(ctx, be.Attrs(), err)
		if err != nil {
			return unlessDone(ctx, err)
		}
		s.lease = l
	}
}

// last is what this node has published last.
func (s *membership) last() subnet.Attrs {
	if s.lease.Subnet.IsValid() {
		return s.lease.Attrs
	}
	return s.before.attrs
}

var errMoving = errors.New("moving to another subnet")

// reacquire replaces a lost lease, by the same subnet if it is still free.
func (s *membership) reacquire(ctx context.Context, a subnet.Attrs, why error) (subnet.Lease, error) {
	lost := s.lease.Subnet
	s.log.Warn("Lease has been revoked. Acquiring it again", "err", why)
	s.vitals.lost()
	s.ready.set(condLease, why)
	l, err := s.m.Acquire(ctx, a, lost)
	if err == nil && l.Subnet != lost {
		s.ready.set(condBackend, errMoving)
		s.ready.set(condPeers, errMoving)
		s.log.Error("the subnet of this node has changed: run mk-docker-opts again, as a restart of flanneld by its unit does, then restart docker and the containers",
			"subnet", l.Subnet, "was", lost)
	}
	return l, err
}

// protected names the addresses that no lease may cover: packets to them would
// go into the overlay, which needs them to go anywhere.
func (s *membership) protected() []subnet.Protected {
	host := func(a netip.Addr, what string) subnet.Protected {
		return subnet.Protected{Prefix: netip.PrefixFrom(a, a.BitLen()), What: what}
	}
	all := []subnet.Protected{
		host(s.under.Addr, "the address of "+s.under.Name),
		host(s.under.PublicIP, "the public IP of this node"),
	}
	// A network that reaches over the hosts must leave room for them. A segment
	// that reaches over the network says nothing.
	if n := s.under.Net; n.IsValid() && s.cfg.Network.Contains(n.Addr()) && n.Bits() >= s.cfg.Network.Bits() {
		all = append(all, subnet.Protected{Prefix: n, What: "the network of " + s.under.Name})
	}
	for _, a := range s.store.addresses() {
		if a.Is4() {
			all = append(all, host(a, "the address of etcd"))
		}
	}
	return all
}
