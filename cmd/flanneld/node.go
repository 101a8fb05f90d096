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
	"time"

	"golang.org/x/sync/errgroup"

	"tweed/backend"
	"tweed/backend/alloc"
	"tweed/backend/hostgw"
	"tweed/backend/udp"
	"tweed/backend/vxlan"
	"tweed/cmd/flanneld/flags"
	"tweed/dataplane/firewall"
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

// openBackend opens the backend that the network config names. last is what this
// node has published before, the zero value if that is not known.
func openBackend(ctx context.Context, u backend.Underlay, cfg subnet.Config, last subnet.Attrs, log *slog.Logger) (backend.Backend, error) {
	known := map[string]func() (backend.Backend, error){
		"vxlan":   func() (backend.Backend, error) { return vxlan.Open(ctx, u, cfg, last, log) },
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
	before := n.remember()

	g, ctx := errgroup.WithContext(ctx)
	health, err := listenHealth(n.opts.HealthzIP, n.opts.HealthzPort, healthHandler(n.ready, metricsHandler(n.snapshot)))
	if err != nil {
		return err
	}
	if health != nil {
		g.Go(func() error { return health.run(ctx) })
	}
	g.Go(func() error { return n.network(ctx, &watchedStore{store, n.alive, store.CallTime()}, underlay, before) })
	return g.Wait()
}

// A memory is what earlier runs have left.
type memory struct {
	subnets []netip.Prefix // leased, the likeliest first
	attrs   subnet.Attrs   // published; the zero value if unknown
}

// remember asks subnet.env first, as flannel has it, and then our own state
// file.
func (n *node) remember() (before memory) {
	sn, err := subnet.ReadEnvSubnet(n.opts.SubnetFile)
	if err != nil {
		n.log.Warn("ignoring the previous subnet file", "err", err)
	} else if sn.IsValid() {
		before.subnets = append(before.subnets, sn)
	}
	state, err := subnet.ReadState(n.statePath())
	if err != nil {
		n.log.Warn("ignoring the previous state file", "err", err)
	} else if state.Subnet.IsValid() && !slices.Contains(before.subnets, state.Subnet) {
		before.subnets = append(before.subnets, state.Subnet)
	}
	before.attrs = state.Attrs
	text := "None"
	if len(before.subnets) > 0 {
		text = before.subnets[0].String()
	}
	n.log.Info("Created subnet manager: Etcd Local Manager with Previous Subnet: " + text)
	return before
}

func (n *node) statePath() string { return subnet.StatePath(n.opts.StateDir, n.opts.SubnetFile) }

// network brings this node into the overlay network and keeps it there.
func (n *node) network(ctx context.Context, store *watchedStore, u backend.Underlay, before memory) error {
	cfg, err := subnet.WaitConfig(ctx, store, path.Join("/", n.opts.Etcd.Prefix, "config"), func(why error) {
		n.ready.set(condConfig, why)
		n.log.Error(fmt.Sprintf("Couldn't fetch network config: %v (trying again every second)", why))
	})
	if err != nil {
		return unlessDone(ctx, err)
	}
	n.log.Info("Found network config - Backend type: " + cfg.BackendType)
	n.ready.set(condConfig, nil)
	only, err := claimHost(ctx, cfg.Network, n.opts.SubnetFile, handover, n.log)
	if err != nil {
		return unlessDone(ctx, err)
	}
	defer only.Close()

	m := subnet.NewManager(store, cfg, n.opts.RenewMargin, n.log)
	m.Trouble = func(why error) { n.ready.set(condLease, why) }
	m.ExitOnConfigChange = n.opts.ExitOnConfigChange
	n.ready.count(badRecords, m.BadRecords)
	n.ready.count(refusedLeases, m.Refused)
	n.ready.count(configDiffers, func() int64 { return int64(oneIf(m.ConfigDiffers())) })
	s := &membership{node: n, cfg: cfg, store: store, m: m, under: u, before: before, file: envFile{node: n}}
	m.Protected = s.protected
	return s.run(ctx)
}

// errUp: the backend's device could not be configured for the lease.
var errUp = errors.New("set up the backend")

// So often is that tried, with such pauses, before it counts.
const (
	upTries = 5
	upPause = 100 * time.Millisecond
)

// hold configures this node for the lease and works until it is lost or ctx
// ends.
func (n *node) hold(ctx context.Context, cfg subnet.Config, be backend.Backend, m *subnet.Manager, l subnet.Lease, file *envFile, callTime time.Duration) error {
	n.ready.set(condLease, nil)
	n.vitals.leased(l)
	setUp := n.alive.loop("set-up")
	defer setUp.end()
	setUp.within(ensureTime + grace)
	for try := 1; ; try++ {
		err := be.Up(ctx, l)
		if err == nil {
			break
		}
		// What sees a new device may meddle with it at the same moment.
		if try == upTries || !tick(ctx, upPause) {
			return unlessDone(ctx, fmt.Errorf("%w: %w", errUp, err))
		}
	}
	n.ready.set(condBackend, nil)

	rules := firewall.Rules{Network: cfg.Network, Subnet: l.Subnet, Masquerade: n.opts.IPMasq, Forward: n.opts.ForwardRules}
	env := subnet.Env{Network: cfg.Network, Subnet: l.Subnet, MTU: be.MTU(), IPMasq: n.opts.IPMasq}
	setUp.end()

	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		loop := n.alive.loop("firewall")
		defer loop.end()
		// Docker may start once there is the subnet file, so the rules come first.
		// The peers, of which there may be many, do not wait for either.
		told, written, fileDue := false, false, time.Now()
		for keeper := n.newRulesKeeper(rules); ; {
			loop.within(n.opts.IPTablesResync + ensureTime + grace)
			pause := keeper.step(ctx)
			if ctx.Err() == nil && !written && time.Until(fileDue) <= 0 {
				written = file.write(env, l.Attrs)
				fileDue = time.Now().Add(envFileRetry)
			}
			if !written {
				pause = min(pause, time.Until(fileDue))
			}
			if !told {
				n.log.Info("Running backend.") // flannel's last line, behind that of the file
				told = true
			}
			if !tick(ctx, pause) {
				return nil
			}
		}
	})
	g.Go(func() error { return n.holdBlackhole(ctx, cfg.Network, l.Subnet) })
	g.Go(func() error {
		loop := n.alive.loop("peers")
		defer loop.end()
		return m.Run(ctx, l, n.applier(be, loop, callTime))
	})
	return g.Wait()
}

// applier returns what brings the kernel to what the peers need. The loop is
// watched from the first call on: before, there may be no list of them yet.
func (n *node) applier(be backend.Backend, loop *loop, callTime time.Duration) subnet.SyncFunc {
	return func(ctx context.Context, peers []subnet.Lease) error {
		loop.within(grace)
		// A renewal may come in between, with two requests.
		defer loop.within(syncEvery + 2*callTime + grace)
		n.vitals.told(len(peers))
		err := be.Sync(ctx, peers)
		n.ready.set(condPeers, err)
		if err != nil && ctx.Err() == nil {
			n.log.Error("Couldn't bring the kernel to what the peers need, trying again", "err", err)
		}
		return err
	}
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
		return ctx.Err() == nil
	}
}
