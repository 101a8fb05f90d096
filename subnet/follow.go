package subnet

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"
)

// follow sends what the store holds, and then its changes, until ctx ends. It
// lists again when told to by relist, and signals config whenever the network
// config has changed or may have.
func (m *Manager) follow(ctx context.Context, news *mailbox, relist <-chan struct{}, config chan<- struct{}) error {
	failed := backoff{min: time.Second, max: storeRetry}
	forgot := backoff{min: 20 * time.Millisecond, max: 30 * time.Second}
	for ctx.Err() == nil {
		snap, err := m.store.List(ctx)
		if err != nil {
			if ctx.Err() == nil {
				m.log.Error("Couldn't list the leases, trying again", "err", err)
			}
			pause(ctx, failed.delay())
			continue
		}
		failed.reset()
		news.snapshot(snap)
		signal(config)
		began := time.Now()
		every := ListEvery(len(snap.Leases) + len(snap.Bad))
		m.watch(ctx, snap.Revision, every-rand.N(every/3), news, relist, config)
		if time.Since(began) > time.Second {
			forgot.reset()
		} else { // what was just listed is out of date already
			pause(ctx, forgot.delay())
		}
	}
	return ctx.Err()
}

// storeRetry is the longest pause between two tries to reach the store: so much
// later than the store the node is back at the longest.
const storeRetry = 10 * time.Second

// ListEvery is how often a Manager lists a store with so many records, at the
// least often; each time it is up to a third sooner, so that nodes which started
// together drift apart. All nodes do that, so what it asks of the store grows with
// the square of their number.
func ListEvery(records int) time.Duration {
	return min(relistEvery*time.Duration(1+records/relistFor), relistMax)
}

// watch sends the changes after rev. It returns when it is time to list again.
func (m *Manager) watch(ctx context.Context, rev int64, every time.Duration, news *mailbox, relist <-chan struct{}, config chan<- struct{}) {
	ctx, cancel := context.WithTimeout(ctx, every)
	asked := make(chan struct{})
	go func() {
		defer close(asked)
		select {
		case <-relist:
			cancel()
		case <-ctx.Done():
		}
	}()
	defer func() { cancel(); <-asked }()

	wait := backoff{min: time.Second, max: storeRetry}
	for ctx.Err() == nil {
		began := time.Now()
		err := m.store.Watch(ctx, rev, func(events []Event) error {
			wait.reset()
			if err := news.events(ctx, events); err != nil {
				return err
			}
			rev = events[len(events)-1].Revision
			for _, e := range events {
				if e.Kind == Configured {
					signal(config)
				}
			}
			return nil
		})
		if errors.Is(err, ErrCompacted) {
			m.log.Debug("the watch fell behind, listing again", "rev", rev)
			return
		}
		if ctx.Err() == nil {
			m.log.Error("Couldn't watch the leases, trying again", "err", err)
		}
		// A proxy may end each of them after a while: no news are to wait for that.
		pause(ctx, wait.delay()-time.Since(began))
	}
}
