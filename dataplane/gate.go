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

	// gateTime is for how long a gate stays closed without a flood.
	gateTime = 2 * junkTime

	// refusalTime is how long a kernel that refuses is not asked again.
	refusalTime = time.Second
)

// A gate keeps a flood of junk out of the socket, and closes for no longer than
// the flood lasts: what is let through while it is closed tells of that.
//
// It closes only where peers are known by their addresses, because those that are
// not have to share what is let through with the junk.
type gate struct {
	queue queue
	peers *Table

	junk  int       // since then, with what was turned away
	since time.Time // begin of a junkTime; what comes before does not count

	mu      sync.Mutex // guards what follows, and the restriction
	until   time.Time  // it is closed
	closed  bool
	applied *ranges // the peers of the restriction
}

// look takes note of the junk in a batch, and returns until when the gate is
// closed, the zero value if it is open. known says that peers are known by their
// addresses.
func (g *gate) look(now time.Time, junk int, known bool) time.Time {
	switch age := now.Sub(g.since); {
	case age < 0:
		junk = 0
	case age > junkTime:
		g.since, g.junk = now, 0
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		g.junk += SampleOf * junk
		if g.junk > junkMost/2 {
			g.until = now.Add(gateTime)
		}
		if g.peers.ranges.Load() != g.applied {
			_ = g.restrict() // or the old peers stay for a while
		}
		return g.until
	}
	if g.junk += junk; g.junk <= junkMost || !known {
		return time.Time{}
	}
	if g.restrict() != nil {
		// Kernels before 3.16 do not know such a filter.
		g.since, g.junk = now.Add(refusalTime), 0
		return time.Time{}
	}
	// What is in the socket already came in whole.
	g.since, g.junk = now.Add(junkTime), 0
	g.until, g.closed = now.Add(gateTime), true
	g.await(gateTime)
	return g.until
}

// restrict has the kernel know the peers.
func (g *gate) restrict() error {
	g.applied = g.peers.ranges.Load()
	return g.queue.Restrict(g.peers.Peers())
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
		g.closed = false
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
