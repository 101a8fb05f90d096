package subnet

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// written is what became of a write of our record.
type written struct {
	sent, got Lease
	err       error
}

// waitsOf are how long to wait after failed writes.
type waitsOf struct{ renewal, move backoff }

func renewalWaits() *waitsOf {
	return &waitsOf{
		renewal: backoff{min: 5 * time.Second, max: time.Minute},
		move:    backoff{min: 500 * time.Millisecond, max: 30 * time.Second}, // nobody reaches us
	}
}

// untilRenewal returns the time to the next renewal and logs it.
func (k *keeper) untilRenewal() time.Duration {
	var d time.Duration
	switch {
	case k.moved:
		d = 0
	case k.damage:
		// Two daemons that claim one record must not fight at full speed.
		d = repairRecordAfter
	case k.own.Reserved():
		d = endless - k.margin + 1 // to the nanosecond what flannel logs, by an overflow
	default:
		d = max(0, time.Until(k.own.Expires)-k.margin)
	}
	k.due = k.own.Expires
	k.log.Info(fmt.Sprintf("Waiting for %s to renew lease", d))
	return d
}

// write begins to write our record anew, if it is still the one that we know. The
// peers do not wait for a store that is slow.
func (k *keeper) write(ctx context.Context) {
	k.writing = true
	own := k.own
	go func() {
		l, err := k.store.Update(ctx, own, ttlFor(own))
		k.written <- written{own, l, err}
	}()
}

// finish takes over the result of a write, and returns the time to the next one.
// It fails only with ErrLeaseLost.
func (k *keeper) finish(ctx context.Context, w written, waits *waitsOf) (time.Duration, error) {
	met := k.own.Revision != w.sent.Revision // a later write, maybe this one
	switch {
	case w.err == nil:
		if !met || w.got.Revision > k.own.Revision {
			k.hold(w.got.Revision, w.got.Expires)
			k.damage, k.moved = false, false
		}
		*waits = *renewalWaits()
		if !w.got.Reserved() {
			k.log.Info(fmt.Sprintf("Lease renewed, new expiration: %s", w.got.Expires.UTC().Round(0)))
		}
		d := k.untilRenewal()
		if !k.moved {
			d = max(d, repairRecordAfter) // whatever TTL the store answers with
		}
		return d, nil
	case errors.Is(w.err, ErrNotFound):
		return 0, k.gone(fmt.Sprintf("the record of %s is gone", k.own.Subnet))
	case errors.Is(w.err, ErrConflict):
		// Someone wrote it, or our own last try arrived after all.
		signal(k.relist)
	}
	wait := &waits.renewal
	if k.moved {
		wait = &waits.move
	}
	d := wait.delay()
	if ctx.Err() == nil {
		k.log.Error(fmt.Sprintf("Error renewing lease (trying again in %s): %v", d.Round(time.Second), w.err))
	}
	return d, nil
}
