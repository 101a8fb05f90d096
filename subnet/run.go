package subnet

import (
	"context"
	"errors"
	"math"
	"net/netip"
	"time"

	"golang.org/x/sync/errgroup"
)

// A SyncFunc makes this node carry packets to exactly these peers: the complete
// set, in order of their subnets, without ourselves. Every subnet lies inside
// the network and does not overlap ours, whatever the store says.
type SyncFunc func(ctx context.Context, peers []Lease) error

const (
	// repairEvery is how often the peers are applied again without any news,
	// so that what someone removed from the kernel comes back.
	repairEvery = 10 * time.Second
	// relistEvery is how often the watch is checked against a full list.
	relistEvery = 5 * time.Minute
	// repairRecordAfter is how soon our own record is put right.
	repairRecordAfter = 3 * time.Second
	// clockSlack is by how much two answers of the store may differ about when
	// our lease expires: whole seconds, and the time that a request took.
	clockSlack = 30 * time.Second
	// endless is the time left of a reservation.
	endless = time.Duration(math.MaxInt64)
)

// Run keeps the lease own and tells sync of the peers: first when it has listed
// them, then at every change, and every 10 s to repair. It blocks until ctx ends
// (returning nil) or the lease is gone (ErrLeaseLost). Trouble with the store
// or with sync is logged and retried; peers are never dropped because of it.
func (m *Manager) Run(ctx context.Context, own Lease, sync SyncFunc) error {
	g, gctx := errgroup.WithContext(ctx)
	news := make(chan update)
	g.Go(func() error { return m.follow(gctx, news) })
	g.Go(func() error {
		k := keeper{Manager: m, own: own, peers: map[netip.Prefix]Lease{}, unreadable: map[string]bool{}, sync: sync}
		return k.run(gctx, news)
	})
	err := g.Wait()
	if ctx.Err() != nil && !errors.Is(err, ErrLeaseLost) {
		return nil
	}
	return err
}

// An update is news of the store: a snapshot, or events since the last update.
type update struct {
	snap   *Snapshot
	events []Event
}

// follow sends what the store holds, and then its changes, until ctx ends.
func (m *Manager) follow(ctx context.Context, news chan<- update) error {
	send := func(u update) error {
		select {
		case news <- u:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	wait := backoff{min: time.Second, max: 30 * time.Second}
	for ctx.Err() == nil {
		snap, err := m.store.List(ctx)
		if err != nil {
			if ctx.Err() == nil {
				m.log.Error("Couldn't list the leases, trying again", "err", err)
			}
			pause(ctx, wait.delay())
			continue
		}
		if err := send(update{snap: &snap}); err != nil {
			return err
		}
		began := time.Now()
		m.watch(ctx, snap.Revision, send)
		if time.Since(began) > wait.min {
			wait.reset()
		} else { // what was just listed is forgotten already
			pause(ctx, wait.delay())
		}
	}
	return ctx.Err()
}

// watch sends the changes after rev. It returns when it is time to list again.
func (m *Manager) watch(ctx context.Context, rev int64, send func(update) error) {
	ctx, cancel := context.WithTimeout(ctx, relistEvery)
	defer cancel()
	wait := backoff{min: time.Second, max: 30 * time.Second}
	for ctx.Err() == nil {
		err := m.store.Watch(ctx, rev, func(events []Event) error {
			wait.reset()
			if err := send(update{events: events}); err != nil {
				return err
			}
			rev = events[len(events)-1].Revision
			return nil
		})
		if errors.Is(err, ErrCompacted) {
			m.log.Debug("the watch fell behind, listing again", "rev", rev)
			return
		}
		if ctx.Err() == nil {
			m.log.Error("Couldn't watch the leases, trying again", "err", err)
		}
		pause(ctx, wait.delay())
	}
}
