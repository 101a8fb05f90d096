package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"tweed/backend"
	"tweed/backend/alloc"
	"tweed/backend/hostgw"
	"tweed/backend/udp"
	"tweed/backend/vxlan"
	"tweed/cmd/flanneld/flags"
	"tweed/dataplane/firewall"
	"tweed/dataplane/rtnl"
	"tweed/subnet"
	"tweed/subnet/etcdv2"
)

// The conditions that readiness knows, in the order in which they come true.
const (
	condConfig   = "network config"
	condLease    = "lease"
	condBackend  = "backend"
	condFirewall = "firewall"
	condEnvFile  = "subnet file"
	condPeers    = "peers"
)

// A node is one run of flanneld:
//
//	interface -> store -> config -> backend -> lease -> device up -> subnet.env -> peers
type node struct {
	opts   flags.Options
	log    *slog.Logger
	ready  *readiness
	vitals vitals
	alive  *liveness
	fw     *firewall.Firewall
}

func newNode(opts flags.Options, log *slog.Logger) *node {
	return &node{
		opts: opts, log: log,
		ready: newReadiness(condConfig, condLease, condBackend, condFirewall, condEnvFile, condPeers),
		alive: newLiveness(),
		fw:    firewall.Open(log),
	}
}

// openBackend returns the Open of the backend that the network config names.
func openBackend(ctx context.Context, u backend.Underlay, cfg subnet.Config, log *slog.Logger) (backend.Backend, error) {
	known := map[string]func() (backend.Backend, error){
		"vxlan":   func() (backend.Backend, error) { return vxlan.Open(ctx, u, cfg, log) },
		"udp":     func() (backend.Backend, error) { return udp.Open(ctx, u, cfg, log) },
		"host-gw": func() (backend.Backend, error) { return hostgw.Open(ctx, u, cfg, log) },
		"alloc":   func() (backend.Backend, error) { return alloc.Open(ctx, u, cfg, log) },
	}
	open, ok := known[cfg.BackendType]
	if !ok {
		return nil, fmt.Errorf("unknown backend type %q in the network config: want Backend.Type to be one of %s",
			cfg.BackendType, strings.Join(slices.Sorted(maps.Keys(known)), ", "))
	}
	if cfg.BackendType != alloc.Type {
		if err := checkPrivileges(); err != nil {
			return nil, fmt.Errorf("backend %s: %w", cfg.BackendType, err)
		}
	}
	be, err := open()
	if err == nil && cfg.BackendType != udp.Type && cfg.BackendType != alloc.Type {
		if err := udp.RemoveStale(cfg.Network, log); err != nil {
			log.Warn("Couldn't remove the tun interface of an earlier run", "err", err)
		}
	}
	return be, err
}

// run works until ctx ends, or until something fails that waiting cannot mend.
func (n *node) run(ctx context.Context) error {
	underlay, err := n.opts.Iface.Select(n.log)
	if err != nil {
		return err
	}
	etcd := n.opts.Etcd
	etcd.Log = n.log
	store, err := etcdv2.Open(etcd)
	if err != nil {
		return err
	}
	defer store.Close()
	n.vitals.stored(store)
	prev := n.previousSubnets()

	g, ctx := errgroup.WithContext(ctx)
	health, err := listenHealth(n.opts.HealthzIP, n.opts.HealthzPort, healthHandler(n.ready, metricsHandler(n.snapshot)))
	if err != nil {
		return err
	}
	if health != nil {
		g.Go(func() error { return health.run(ctx) })
	}
	g.Go(func() error { return n.network(ctx, &watchedStore{store, n.alive, store.CallTime()}, underlay, prev) })
	return g.Wait()
}

// previousSubnets returns what earlier runs remembered: subnet.env first, as
// flannel has it, then our own state file.
func (n *node) previousSubnets() []netip.Prefix {
	var prev []netip.Prefix
	sn, err := subnet.ReadEnvSubnet(n.opts.SubnetFile)
	if err != nil {
		n.log.Warn("ignoring the previous subnet file", "err", err)
	} else if sn.IsValid() {
		prev = append(prev, sn)
	}
	state, err := subnet.ReadState(n.statePath())
	if err != nil {
		n.log.Warn("ignoring the previous state file", "err", err)
	} else if state.Subnet.IsValid() && !slices.Contains(prev, state.Subnet) {
		prev = append(prev, state.Subnet)
	}
	text := "None"
	if len(prev) > 0 {
		text = prev[0].String()
	}
	n.log.Info("Created subnet manager: Etcd Local Manager with Previous Subnet: " + text)
	return prev
}

func (n *node) statePath() string { return subnet.StatePath(n.opts.StateDir, n.opts.SubnetFile) }

// network brings this node into the overlay network and keeps it there.
func (n *node) network(ctx context.Context, store *watchedStore, u backend.Underlay, prev []netip.Prefix) error {
	cfg, err := subnet.WaitConfig(ctx, store, path.Join("/", n.opts.Etcd.Prefix, "config"), func(why error) {
		n.ready.set(condConfig, why)
		n.log.Error(fmt.Sprintf("Couldn't fetch network config: %v (trying again every second)", why))
	})
	if err != nil {
		return unlessDone(ctx, err)
	}
	n.log.Info("Found network config - Backend type: " + cfg.BackendType)
	n.ready.set(condConfig, nil)

	setUp := n.alive.loop("set-up")
	setUp.within(grace)
	be, err := openBackend(ctx, u, cfg, n.log)
	setUp.end()
	if err != nil {
		return unlessDone(ctx, err)
	}
	n.vitals.opened(cfg.BackendType, be)
	m := subnet.NewManager(store, cfg, n.opts.RenewMargin, n.log)
	m.Trouble = func(why error) { n.ready.set(condLease, why) }
	n.ready.count(badRecords, m.BadRecords)
	lease, err := m.Acquire(ctx, be.Attrs(), prev...)
	if err != nil {
		return errors.Join(unlessDone(ctx, err), be.Close())
	}

	file := envFile{node: n}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return be.Run(ctx) })
	g.Go(func() error {
		for {
			err := n.hold(ctx, cfg, be, m, lease, &file, store.callTime)
			if !errors.Is(err, subnet.ErrLeaseLost) {
				return err
			}
			if lease, err = n.reacquire(ctx, m, be.Attrs(), lease, err); err != nil {
				return unlessDone(ctx, err)
			}
		}
	})
	err = g.Wait()
	return errors.Join(err, be.Close())
}

var errMoving = errors.New("moving to another subnet")

// reacquire replaces a lost lease, by the same subnet if it is still free.
func (n *node) reacquire(ctx context.Context, m *subnet.Manager, a subnet.Attrs, lost subnet.Lease, why error) (subnet.Lease, error) {
	n.log.Warn("Lease has been revoked. Acquiring it again", "err", why)
	n.vitals.lost()
	n.ready.set(condLease, why)
	l, err := m.Acquire(ctx, a, lost.Subnet)
	if err == nil && l.Subnet != lost.Subnet {
		n.ready.set(condBackend, errMoving)
		n.ready.set(condPeers, errMoving)
		n.log.Error("the subnet of this node has changed: run mk-docker-opts again, as a restart of flanneld by its unit does, then restart docker and the containers",
			"subnet", l.Subnet, "was", lost.Subnet)
	}
	return l, err
}

// hold configures this node for the lease and works until it is lost or ctx
// ends.
func (n *node) hold(ctx context.Context, cfg subnet.Config, be backend.Backend, m *subnet.Manager, l subnet.Lease, file *envFile, callTime time.Duration) error {
	n.ready.set(condLease, nil)
	n.vitals.leased(l)
	setUp := n.alive.loop("set-up")
	defer setUp.end()
	setUp.within(ensureTime + grace)
	if err := be.Up(ctx, l); err != nil {
		return unlessDone(ctx, err)
	}
	n.ready.set(condBackend, nil)

	rules := firewall.Rules{Network: cfg.Network, Subnet: l.Subnet, Masquerade: n.opts.IPMasq, Forward: n.opts.ForwardRules}
	n.ensureFirewall(ctx, rules)
	env := subnet.Env{Network: cfg.Network, Subnet: l.Subnet, MTU: be.MTU(), IPMasq: n.opts.IPMasq}
	file.write(env)
	setUp.end()

	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		loop := n.alive.loop("firewall")
		defer loop.end()
		for {
			loop.within(n.opts.IPTablesResync + ensureTime + grace)
			if !tick(ctx, n.opts.IPTablesResync) {
				return nil
			}
			n.ensureFirewall(ctx, rules)
		}
	})
	g.Go(func() error {
		n.log.Info("Running backend.")
		loop := n.alive.loop("peers")
		defer loop.end()
		return m.Run(ctx, l, n.applier(be, env, file, loop, callTime))
	})
	return g.Wait()
}

// applier returns what brings the kernel to what the peers need. The loop is
// watched from the first call on: before, there may be no list of them yet.
func (n *node) applier(be backend.Backend, env subnet.Env, file *envFile, loop *loop, callTime time.Duration) subnet.SyncFunc {
	return func(ctx context.Context, peers []subnet.Lease) error {
		loop.within(grace)
		// A renewal may come in between, with two requests.
		defer loop.within(syncEvery + 2*callTime + grace)
		file.write(env)
		n.vitals.told(len(peers))
		err := errors.Join(be.Sync(ctx, peers), n.setBlackhole(env.Network, env.Subnet))
		n.ready.set(condPeers, err)
		if err != nil && ctx.Err() == nil {
			n.log.Error("Couldn't bring the kernel to what the peers need, trying again", "err", err)
		}
		return err
	}
}

func (n *node) ensureFirewall(ctx context.Context, r firewall.Rules) {
	changed, err := n.fw.Ensure(ctx, r)
	if ctx.Err() != nil {
		return
	}
	n.ready.set(condFirewall, err)
	if err != nil {
		n.log.Error("Couldn't set the firewall rules, trying again", "err", err)
	} else if changed {
		n.log.Info("Set the firewall rules", "mode", n.fw.Mode())
	}
}

// setBlackhole adds the blackhole route of our own subnet, or removes that of
// an earlier run.
func (n *node) setBlackhole(network, own netip.Prefix) error {
	h, err := rtnl.Open()
	if err != nil {
		return err
	}
	defer h.Close()
	if !n.opts.BlackholeRoute {
		return h.ReplaceBlackholes(network)
	}
	return h.ReplaceBlackholes(network, own)
}

// envFile writes subnet.env and the state file once for each subnet, and tries
// again at every call until that has worked. Later the file is left alone,
// whatever becomes of it: mk-docker-opts may well have put docker's options
// there, which hold as long as the subnet does, even if its lease was lost.
type envFile struct {
	*node
	told netip.Prefix // the subnet that was written; the zero value if the last try failed

	notified sync.Once // READY=1
}

func (f *envFile) write(env subnet.Env) {
	if f.told == env.Subnet {
		return
	}
	state := subnet.State{Network: env.Network, Subnet: env.Subnet}
	if err := state.WriteFile(f.statePath()); err != nil {
		f.log.Warn("Couldn't remember the subnet for the next start, only the subnet file has it", "err", err)
	}
	err := env.WriteFile(f.opts.SubnetFile)
	f.ready.set(condEnvFile, err)
	if err != nil {
		f.log.Error("Couldn't write the subnet file, trying again", "err", err)
		f.told = netip.Prefix{}
		return
	}
	f.told = env.Subnet
	f.log.Info("Wrote subnet file to " + f.opts.SubnetFile)
	f.notified.Do(func() { notifyReady(f.log) })
}

// unlessDone returns err, or nil once ctx has ended: to be interrupted then is
// no error.
func unlessDone(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// tick waits for d and reports whether ctx is still alive.
func tick(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}
