package subnet

import (
	"context"
	"errors"
	"math"
	"time"

	"golang.org/x/sync/errgroup"
)

// A SyncFunc makes this node carry packets to exactly these peers: the complete
// set, in order of their subnets, without ourselves. Every subnet lies inside
// the network and overlaps no other nor ours, whatever the store says. peers must
// not be changed, nor kept after the call.
type SyncFunc func(ctx context.Context, peers []Lease) error

const (
	// repairEvery is how often the peers are applied again without any news,
	// so that what someone removed from the kernel comes back.
	repairEvery = 10 * time.Second
	// relistEvery is how often the watch is checked against a full list of up to
	// relistFor records; larger ones come less often, down to every relistMax.
	relistEvery = 5 * time.Minute
	relistFor   = 5000
	relistMax   = time.Hour
	// repairRecordAfter is how soon our own record is put right.
	repairRecordAfter = 3 * time.Second
	// comeBack is how long peers may be missing in a list after our own record
	// was: what took it, such as an outage of days, a directory that was deleted
	// or an etcd that was set up anew, took theirs, too, and they are making them
	// again. Longer than storeRetry.
	comeBack = 30 * time.Second
	// clockSlack is by how much two answers of the store may differ about when
	// our lease expires: whole seconds, and the time that a request took.
	clockSlack = 30 * time.Second
	// endless is the time left of a reservation.
	endless = time.Duration(math.MaxInt64)
)

// Run keeps the lease own and tells sync of the peers: at every change, and every
// 10 s to repair. The first call comes when they have been listed, or at once if
// they are known from an earlier Run. It blocks until ctx ends (returning nil), the
// lease is gone (ErrLeaseLost), or ErrConfigChanged if that is asked for. Trouble
// with the store or with sync is logged and retried; peers are never dropped
// because of it.
//
// Run may be called again with other Attrs for the same lease, when the address of
// this node has changed: its record is then written anew. It is not safe for
// concurrent use, nor is it together with Acquire.
func (m *Manager) Run(ctx context.Context, own Lease, sync SyncFunc) error {
	g, gctx := errgroup.WithContext(ctx)
	news, relist, config := newMailbox(), make(chan struct{}, 1), make(chan struct{}, 1)
	g.Go(func() error { return m.follow(gctx, news, relist, config) })
	g.Go(func() error { return m.followConfig(gctx, config) })
	g.Go(func() error {
		k := keeper{Manager: m, own: m.resume(own), relist: relist, written: make(chan written, 1), sync: sync}
		return k.run(gctx, news)
	})
	err := g.Wait()
	if ctx.Err() != nil && !errors.Is(err, ErrLeaseLost) {
		return nil
	}
	return err
}
