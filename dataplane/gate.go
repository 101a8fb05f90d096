package dataplane

import (
	"sync"
	"time"
)

const (
	// More junk than junkMost packets within junkTime is a flood: to receive and
	// drop so much takes 10 % of a processor.
	junkMost = 5000
	junkTime = 100 * time.Millisecond

	// gateTime is for how long a gate closes. Then it takes another flood.
	gateTime = time.Second
)

// A gate keeps a flood of junk out of the socket. It closes only where peers are known by their addresses,
// because those that are not have to share what is let through with the junk.
type gate struct {
	queue queue
	peers *Table

	junk  int
	since time.Time // of the first of it

	mu    sync.Mutex // guards until, and the restriction
	until time.Time  // it is closed; the zero value before the first time, and after end
}

// look takes note of the junk in a batch. known says that peers are known by
// their addresses.
func (g *gate) look(now time.Time, junk int, known bool) {
	if now.Sub(g.since) > junkTime {
		g.since, g.junk = now, 0
	}
	if g.junk += junk; g.junk > junkMost && known {
		g.since, g.junk = time.Time{}, 0
		g.close(now)
	}
}

// close closes the gate unless it is closed. What was in the socket before comes
// through still. A kernel that refuses is not asked again for a while.
func (g *gate) close(now time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if now.Before(g.until) {
		return
	}
	g.until = now.Add(gateTime)
	if g.queue.Restrict(g.peers.Peers()) == nil {
		// Not by look: nothing might come in.
		time.AfterFunc(gateTime, g.open)
	}
}

// open opens the gate if it is time to.
func (g *gate) open() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.until.IsZero() && !time.Now().Before(g.until) {
		_ = g.queue.Restrict(nil) // fails only where the socket is closed
	}
}

// end opens the gate for good.
func (g *gate) end() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.until.IsZero() {
		g.until = time.Time{}
		_ = g.queue.Restrict(nil)
	}
}
