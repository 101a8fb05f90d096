package etcdv2

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/etcd/client/v2"

	"tweed/subnet"
)

// Watch implements subnet.Store. It asks one endpoint for the next change, and
// goes to the next endpoint whenever nothing came for a while: a member cut off
// from its cluster would be silent for ever.
func (s *Store) Watch(ctx context.Context, after int64, fn func([]subnet.Event) error) error {
	dir := s.leaseDir()
	if after <= 0 {
		return fmt.Errorf("watch %s after revision %d: %w", dir, after, subnet.ErrCompacted)
	}
	at := int(s.pinned.Load())
	var faults []error // of the last polls, one per endpoint
	for {
		ep := s.endpoints[at%len(s.endpoints)]
		began := time.Now()
		r, index, err := s.poll(ctx, ep, after)
		switch {
		case err == nil:
			faults = nil
			after = int64(r.Node.ModifiedIndex)
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
		case isRefusal(err):
			return err
		case errors.Is(err, subnet.ErrCompacted):
			return fmt.Errorf("watch %s after revision %d at %s: %w", dir, after, ep.url, err)
		case errors.Is(err, errNoAnswer) && index >= after:
			faults = nil
			after = index // all up to there has been looked through
		case errors.Is(err, errNoAnswer) && index > 0:
			return fmt.Errorf("watch %s after revision %d: %s is only at %d, restored from a backup or cut off: %w",
				dir, after, ep.url, index, subnet.ErrCompacted)
		default:
			if index > 0 && time.Since(began) > s.opts.RequestTimeout {
				faults = nil // it had worked for a while
			}
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

// poll waits for the first change after a revision, but no longer than a poll
// may take: then the error is errNoAnswer. The index is that of the endpoint
// when it began to wait, or 0 if it never answered.
func (s *Store) poll(ctx context.Context, ep endpoint, after int64) (r reply, index int64, err error) {
	x := &exchange{base: s.transports.current(), answered: s.outage.answered}
	if id := s.cluster.Load(); id != nil {
		x.cluster = *id
	}
	resp, err := s.attempt(ctx, x, ep, s.opts.PollTimeout, call{
		send: func(ctx context.Context, keys client.KeysAPI) (*client.Response, error) {
			return keys.Watcher(s.leaseDir(), &client.WatcherOptions{AfterIndex: uint64(after), Recursive: true}).Next(ctx)
		}})
	var code client.Error
	if errors.As(err, &code) {
		switch code.Code {
		case client.ErrorCodeEventIndexCleared, client.ErrorCodeWatcherCleared:
			err = fmt.Errorf("%s: %w", code.Cause, subnet.ErrCompacted)
		default:
			err = &refusal{call: call{verb: "watch", key: s.leaseDir()}, endpoint: ep, code: code}
		}
	}
	// A TTL counts from the change, which for a live one is now.
	return reply{resp, time.Now()}, x.index, err
}

func isRefusal(err error) bool {
	var r *refusal
	return errors.As(err, &r)
}
