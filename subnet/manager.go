package subnet

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"sync/atomic"
	"time"

	"tweed/ipam"
)

// ErrLeaseLost is returned by Manager.Run when this node no longer owns its
// subnet: the record was deleted, has expired, or belongs to another node.
var ErrLeaseLost = errors.New("lease lost")

// A Manager acquires this node's lease, keeps it, and follows the peers'.
type Manager struct {
	// Trouble, if not nil, is told each time why Acquire has to try again.
	Trouble func(why error)
	// Protected, if not nil, returns which addresses no peer may have in its
	// subnet. Run asks it whenever records have changed.
	Protected func() []Protected
	// ExitOnConfigChange makes Run end with ErrConfigChanged once the store holds
	// a valid network config that is not the one this node works with.
	ExitOnConfigChange bool

	store  Store
	cfg    Config
	margin time.Duration
	log    *slog.Logger

	bad     atomic.Int64 // unreadable records in the store
	refused atomic.Int64 // readable ones that are not served
	differs atomic.Bool  // the config in the store from cfg

	// Between Runs nothing of this is forgotten.
	identity
	acquired   time.Time // when Acquire last succeeded
	missing    bool      // the last Run has ended because our record was gone
	lenient    time.Time // until when a peer may be missing in a list
	table      *table
	listed     bool            // whether table is complete
	unreadable map[string]bool // keys of records
	configTold string          // what was last said of the config in the store
}

// NewManager returns a Manager for the network cfg. It renews a lease when
// margin is left of its life.
func NewManager(store Store, cfg Config, margin time.Duration, log *slog.Logger) *Manager {
	return &Manager{store: store, cfg: cfg, margin: margin, log: log,
		table: newTable(cfg, log), unreadable: map[string]bool{}}
}

// BadRecords returns how many unreadable records the store holds, all of which
// are skipped. It may be called at any time.
func (m *Manager) BadRecords() int64 { return m.bad.Load() }

// Refused returns how many readable records of other nodes are not served, because
// they would lead packets astray. It may be called at any time.
func (m *Manager) Refused() int64 { return m.refused.Load() }

// ConfigDiffers reports whether the network config in the store is gone, invalid,
// or another than the one this node works with. It may be called at any time.
func (m *Manager) ConfigDiffers() bool { return m.differs.Load() }

// Acquire leases a subnet, in this order: the one that a record with our
// public IP already holds, or the one we had under a former public IP, then those
// of prev that are still free, then any free one. It never overwrites another
// node's record. Lost races and an
// unreachable store are retried until ctx ends; ipam.ErrExhausted is returned.
// It is not safe for concurrent use.
func (m *Manager) Acquire(ctx context.Context, a Attrs, prev ...netip.Prefix) (Lease, error) {
	// Nodes that take each other's records away must not fight at full speed.
	if time.Since(m.acquired) < repairEvery {
		pause(ctx, repairRecordAfter)
	}
	m.become(a)
	wait := backoff{min: 100 * time.Millisecond, max: 10 * time.Second}
	for {
		l, err := m.tryAcquire(ctx, a, prev)
		switch {
		case err == nil:
			m.acquired = time.Now()
			m.own, m.moved = l, false
			if m.missing {
				m.missing, m.lenient = false, m.acquired.Add(comeBack)
			}
			return l, nil
		case ctx.Err() != nil:
			return Lease{}, ctx.Err()
		case errors.Is(err, ipam.ErrExhausted):
			return Lease{}, fmt.Errorf("no free /%d from %s to %s in %s: %w",
				m.cfg.SubnetLen, m.cfg.SubnetMin, m.cfg.SubnetMax, m.cfg.Network, err)
		case errors.Is(err, ErrExists), errors.Is(err, ErrConflict), errors.Is(err, ErrNotFound):
			m.log.Info("another node was faster, choosing a subnet again", "err", err)
		default:
			m.log.Error("Couldn't acquire a lease, trying again", "err", err)
		}
		if m.Trouble != nil {
			m.Trouble(err)
		}
		if !pause(ctx, wait.delay()) {
			return Lease{}, ctx.Err()
		}
	}
}

func (m *Manager) tryAcquire(ctx context.Context, a Attrs, prev []netip.Prefix) (Lease, error) {
	snap, err := m.store.List(ctx)
	if err != nil {
		return Lease{}, err
	}
	m.noteBad(snap.Bad)
	m.bad.Store(int64(len(snap.Bad)))

	m.saw(snap.Revision)
	if l, ok := m.chooseOwn(snap.Leases, a.PublicIP, prev); ok {
		m.log.Info(fmt.Sprintf("Found lease (%s) for current IP (%s), reusing", l.Subnet, a.PublicIP))
		l.Attrs = a
		return m.store.Update(ctx, l, ttlFor(l))
	}

	used := make([]netip.Prefix, 0, len(snap.Leases)+len(snap.Bad))
	for _, l := range snap.Leases {
		if l.Attrs.PublicIP == a.PublicIP && !l.Reserved() {
			m.log.Info(fmt.Sprintf("Found lease (%s) for current IP (%s) but not compatible with the network config, deleting", l.Subnet, a.PublicIP))
			if err := m.store.Delete(ctx, l); err != nil {
				return Lease{}, err
			}
			continue
		}
		if l.Attrs.PublicIP == a.PublicIP {
			m.log.Error("the reservation for our public IP does not fit the network config, leaving it alone",
				"subnet", l.Subnet, "want", fmt.Sprintf("a /%d from %s to %s", m.cfg.SubnetLen, m.cfg.SubnetMin, m.cfg.SubnetMax))
		}
		used = append(used, l.Subnet)
	}
	for _, b := range snap.Bad {
		if b.Subnet.IsValid() {
			used = append(used, b.Subnet) // Create would find the key taken
		}
	}

	sn, ok := m.choosePrevious(prev, used)
	if !ok {
		m.log.Info(fmt.Sprintf("Picking subnet in range %s ... %s", m.cfg.SubnetMin, m.cfg.SubnetMax))
		if sn, err = m.cfg.Pick(used, rand.IntN); err != nil {
			return Lease{}, err
		}
	}
	l, err := m.store.Create(ctx, sn, a, TTL)
	if err != nil {
		return Lease{}, err
	}
	m.log.Info(fmt.Sprintf("Allocated lease (%s) to current node (%s) ", sn, a.PublicIP))
	return l, nil
}

// chooseOwn finds the lease to keep among ours that fit the config: a reservation
// first, because an operator made it, then the subnet that we had, then whichever
// comes first.
func (m *Manager) chooseOwn(leases []Lease, ip netip.Addr, prev []netip.Prefix) (own Lease, ok bool) {
	rank := func(l Lease) int {
		if l.Reserved() {
			return 0
		}
		for i, p := range prev {
			if l.Subnet == p {
				return 1 + i
			}
		}
		return 1 + len(prev)
	}
	for _, l := range leases {
		ours := l.Attrs.PublicIP == ip || m.wroteBefore(l)
		if ours && m.cfg.Contains(l.Subnet) && (!ok || rank(l) < rank(own)) {
			own, ok = l, true
		}
	}
	return own, ok
}

// choosePrevious returns the first of prev that fits the config and is free.
func (m *Manager) choosePrevious(prev, used []netip.Prefix) (netip.Prefix, bool) {
next:
	for _, sn := range prev {
		if !sn.IsValid() {
			continue
		}
		if !m.cfg.Contains(sn) {
			m.log.Error("the previous subnet does not fit the network config, ignoring it", "subnet", sn)
			continue
		}
		for _, u := range used {
			if u.Overlaps(sn) {
				m.log.Warn("the previous subnet is taken by another node, leaving it to that one", "subnet", sn, "taken", u)
				continue next
			}
		}
		return sn, true
	}
	return netip.Prefix{}, false
}

// ttlFor keeps a reservation a reservation.
func ttlFor(l Lease) time.Duration {
	if l.Reserved() {
		return 0
	}
	return TTL
}

func (m *Manager) noteBad(bad []BadRecord) {
	for _, b := range bad {
		m.log.Warn("skipping a bad record", "key", b.Key, "err", b.Err)
	}
}
