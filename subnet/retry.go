package subnet

import (
	"context"
	"math/rand/v2"
	"time"
)

// backoff is the one retry policy: waits that double from min to max, each
// shortened at random by up to a half so that nodes which failed together do
// not come back together.
type backoff struct {
	min, max time.Duration
	next     time.Duration
}

// delay returns how long to wait before the next try.
func (b *backoff) delay() time.Duration {
	d := min(max(b.next, b.min), b.max)
	b.next = 2 * d
	return d - rand.N(d/2+1)
}

// reset starts over at min, after a success.
func (b *backoff) reset() { b.next = 0 }

// pause waits for d and reports whether ctx is still alive.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
