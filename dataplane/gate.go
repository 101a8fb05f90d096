package dataplane

import (
	"sync"
	"time"
)

const (
	// SampleOf is of how many datagrams a restricted socket lets one in that would
	// be turned away: of a flood of junk about what strangers may have in a crowd.
	SampleOf = 32

	// More junk than junkMost packets within junkTime is a flood: to receive and
	// drop so much takes 10 % of a processor. Half of that keeps it one.
	junkMost = 5000
	junkTime = 100 * time.Millisecond

	// gateTime is for how long a gate stays closed at first, holdTime for how long
	// after the last sign of the flood.
	gateTime = 2 * junkTime
	holdTime = junkTime + junkTime/5

	// refusalTime is how long a kernel that refuses is not asked again.
	refusalTime = time.Second
)

// A gate keeps a flood of junk out of the socket, and closes for no longer than
// the flood lasts: what is let through while it is closed, and dropped, tells of
// that. So one of packets that are only dropped in a crowd opens it now and then.
//
// It closes only where peers are known by their addresses, because those that are
// not have to share what is let through with the junk.
type gate struct {
	queue queue
	peers *Table

	junk  int       // since then, with what was turned away
	since time.Time // begin of a junkTime

	mu      sync.Mutex // guards what follows, and the restriction
	until   time.Time  // it is closed
	closed  bool
	applied *ranges   // the peers of the restriction
	refused time.Time // the kernel did
}

// look takes note of the junk in a batch, and returns until when the gate is
// closed, the zero value if it is open. known says that peers are known by their
// addresses.
func (g *gate) look(now time.Time, junk int, known bool) time.Time {
	if now.Sub(g.since) > junkTime {
		g.since, g.junk = now, 0
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.closed {
		g.junk += junk
		if g.junk > junkMost && known && g.restrict(now) {
			g.since, g.junk = now, 0
			g.until, g.closed = now.Add(gateTime), true
			g.await(gateTime)
		}
		return g.until
	}
	g.junk += SampleOf * junk
	if g.junk > junkMost/2 {
		g.until = later(g.until, now.Add(holdTime))
	}
	if g.peers.ranges.Load() != g.applied {
		g.restrict(now)
	}
	return g.until
}

// restrict has the kernel know the peers, and reports whether it does. One that
// refuses is not asked again for a while: before 3.16 it knows no such filter.
func (g *gate) restrict(now time.Time) bool {
	if now.Sub(g.refused) < refusalTime {
		return false
	}
	peers, to := g.peers.ranges.Load(), g.peers.Peers()
	if len(to) == 0 || g.queue.Restrict(to) != nil {
		g.refused = now
		return false
	}
	g.applied = peers
	return true
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// await has the gate opened by a timer: when nothing comes in nobody looks.
func (g *gate) await(d time.Duration) { time.AfterFunc(d, g.open) }

// open opens the gate if it is time to.
func (g *gate) open() {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch left := time.Until(g.until); {
	case !g.closed:
	case left > 0:
		g.await(left)
	default:
		g.until, g.closed = time.Time{}, false
		_ = g.queue.Restrict(nil) // fails only where the socket is closed
	}
}

// end opens the gate at once.
func (g *gate) end() {
	g.mu.Lock()
	g.until = time.Time{}
	g.mu.Unlock()
	g.open()
}
