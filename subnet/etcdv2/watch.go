package etcdv2

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/etcd/client/v2"

	"tweed/subnet"
)

// brief is how long a poll takes at most that something in between cuts off at
// once. One that lasted longer has waited, and is as good as one that ended
// quietly: another may follow without making haste.
const brief = 500 * time.Millisecond

// lagging is how long a member may be behind what another has told, before what
// it is behind counts as another past, or as cut off.
const lagging = 2 * time.Second

// Watch implements subnet.Store. It asks one endpoint for the next change, and
// goes to the next endpoint whenever nothing came for a while: a member cut off
// from its cluster would be silent for ever. So a watch at rest makes its way
// round all members, and back to one that failed.
func (s *Store) Watch(ctx context.Context, after int64, fn func([]subnet.Event) error) error {
	dir := s.watchDir()
	if after <= 0 {
		return fmt.Errorf("watch %s after revision %d: %w", dir, after, subnet.ErrCompacted)
	}
	at := int(s.pinned.Load())
	var faults []error // of the last polls, one per endpoint
	for {
		ep := s.endpoints[at%len(s.endpoints)]
		began := time.Now()
		r, index, err := s.poll(ctx, ep, dir, after)
		if index > 0 && dir != s.watchDir() && !s.narrow.Swap(true) {
			s.opts.Log.Info("etcd lets us watch only the leases: changes of the network config are seen when the leases are listed",
				"endpoint", ep.url, "refused", s.watchDir(), "watching", dir)
		}
		switch {
		case err == nil:
			faults = nil
			after = int64(r.Node.ModifiedIndex)
			if behind := index - after; behind > s.tooFar() {
				return fmt.Errorf("watch %s at %s: %d changes behind: %w", dir, ep.url, behind, subnet.ErrCompacted)
			}
			e, ok, err := s.event(r)
			if err != nil {
				return fmt.Errorf("watch %s at %s: %w", dir, ep.url, err)
			}
			if ok {
				if err := fn([]subnet.Event{e}); err != nil {
					return err
				}
			}
			continue
		case ctx.Err() != nil:
			return ctx.Err()
		case isUnauthorized(err) && dir != s.leaseDir():
			dir = s.leaseDir() // a user of flannel needs no right to more than that and the config
			continue
		case isRefusal(err):
			return err
		case errors.Is(err, subnet.ErrCompacted):
			return fmt.Errorf("watch %s after revision %d at %s: %w", dir, after, ep.url, err)
		}
		quiet := errors.Is(err, errNoAnswer) || time.Since(began) > brief
		switch {
		case quiet && index >= after:
			faults = nil
			after = index // all up to there has been looked through
		case quiet && index > 0:
			return fmt.Errorf("watch %s after revision %d: %s is only at %d, restored from a backup or cut off: %w",
				dir, after, ep.url, index, subnet.ErrCompacted)
		default:
			faults = append(faults, fmt.Errorf("%s: %w", ep.url, s.explain(err)))
			if len(faults) >= len(s.endpoints) {
				err := fmt.Errorf("watch %s: %w", dir, join(faults))
				s.outage.failed(err)
				return err
			}
		}
		at++
	}
}

// watchDir is the directory that one poll has to watch for leases and config.
// Where that would be all that is in etcd, it is the leases only.
func (s *Store) watchDir() string {
	if s.prefix == "" {
		return s.leaseDir()
	}
	return s.prefix
}

// tooFar is how many changes a watch may be behind before it is quicker to list
// again. A poll tells one change and costs as much as 40 records of a list
// (BenchmarkEtcd: 170 us and 4.2 us, with etcd's part). Changes may be of other
// keys, too, which a poll passes over, so a hundred are always gone through. etcd
// remembers 1000 changes.
func (s *Store) tooFar() int64 {
	return max(100, s.records.Load()/40)
}

// poll waits for the first change in dir after a revision, but no longer than a
// poll may take: then the error is errNoAnswer. The index is that of the endpoint
// when it began to wait, or 0 if it never answered.
func (s *Store) poll(ctx context.Context, ep endpoint, dir string, after int64) (r reply, index int64, err error) {
	ctx, giveUp := context.WithCancelCause(ctx)
	defer giveUp(nil)
	x := &exchange{base: s.transports.current(), answered: s.outage.answered}
	x.indexed = func(index int64) {
		if index < after {
			time.AfterFunc(lagging, func() { giveUp(errNoAnswer) })
		}
	}
	if id := s.cluster.Load(); id != nil {
		x.cluster = *id
	}
	resp, err := s.attempt(ctx, x, ep, s.opts.PollTimeout, time.Now().Add(s.opts.PollTimeout), call{
		send: func(ctx context.Context, keys client.KeysAPI) (*client.Response, error) {
			return keys.Watcher(dir, &client.WatcherOptions{AfterIndex: uint64(after), Recursive: true}).Next(ctx)
		}})
	if errors.Is(context.Cause(ctx), errNoAnswer) && err != nil {
		err = errNoAnswer
	}
	if errors.Is(err, errNewCluster) {
		err = fmt.Errorf("%w: %w", err, subnet.ErrCompacted)
	}
	var code client.Error
	if errors.As(err, &code) {
		switch code.Code {
		case client.ErrorCodeEventIndexCleared, client.ErrorCodeWatcherCleared:
			err = fmt.Errorf("%s: %w", code.Cause, subnet.ErrCompacted)
		default:
			err = &refusal{call: call{verb: "watch", key: dir}, endpoint: ep, code: code}
		}
	}
	// A TTL counts from the change, which for a live one is now.
	return reply{resp, time.Now()}, x.index, err
}

func isRefusal(err error) bool {
	var r *refusal
	return errors.As(err, &r)
}

func isUnauthorized(err error) bool {
	var r *refusal
	return errors.As(err, &r) && r.code.Code == client.ErrorCodeUnauthorized
}
