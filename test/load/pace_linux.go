package load

import (
	"time"

	"golang.org/x/sys/unix"
)

const (
	// maxRate is one packet per nanosecond.
	maxRate = 1_000_000_000

	// maxDebt is how far a paced sender may fall behind and still catch up.
	maxDebt = 10 * time.Millisecond
)

// A pace says when how many packets are due. A rate of 0 has no limit.
type pace struct {
	rate  int // packets per second
	start time.Time
	next  float64 // when the next packet is due, in nanoseconds after start
}

// due says how many packets should be sent now, at most batchLen.
func (p *pace) due(now time.Time) int {
	if p.rate == 0 {
		return batchLen
	}
	if p.start.IsZero() {
		p.start = now
	}
	at := float64(now.Sub(p.start))
	p.next = max(p.next, at-float64(maxDebt))
	if at < p.next {
		return 0
	}
	return int(min((at-p.next)*float64(p.rate)/1e9+1, batchLen))
}

// spend notes that n packets were sent.
func (p *pace) spend(n int) {
	if p.rate > 0 {
		p.next += float64(n) * 1e9 / float64(p.rate)
	}
}

// sleep waits until a packet is due, but not longer than a tick.
func (p *pace) sleep() {
	pause(min(time.Until(p.start.Add(time.Duration(p.next))), tick))
}

// pause sleeps on this thread: the timers of Go belong to its scheduler.
func pause(d time.Duration) {
	if d > 0 {
		ts := unix.NsecToTimespec(d.Nanoseconds())
		unix.Nanosleep(&ts, nil) // woken early, the caller just looks again
	}
}
