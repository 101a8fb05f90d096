// Package load makes traffic between two network namespaces, measures what
// arrived, and what CPU time the whole machine spent on it. `tweed bench` uses
// it; no program has to be installed.
//
//	From                                      To
//	+-----------------+                       +-------------------+
//	| sender thread   |                       | receiver thread   |   TCP, UDP
//	| client thread   | --- what is tested ---| echo thread       |   Latency
//	+-----------------+                       +-------------------+
//	     FromAddr                                  ToAddr
//
// A worker is a goroutine locked to its thread that loops on system calls, past
// the network poller of Go, and allocates nothing in the loop. The sockets are
// made inside the namespaces; the threads never enter them.
//
// A run starts its workers, lets the traffic settle during the warm-up, and
// counts during the window:
//
//	   warm-up          window            drain (UDP)
//	|-----------|---------------------|--------------- - -
//	         counters, CPU         counters, CPU
//
// Everything ends in time: a run takes its window, at most five seconds for each
// connection that it makes, and at most five for the drain.
// When it returns, its workers have ended and its sockets are closed. The
// generators share the machine with what they measure, so that their own cost
// is part of every Usage. Runs at the same time disturb each other, and GOMAXPROCS
// may be larger while one lasts.
package load

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"tweed/test/lab"
)

// A Path is where traffic runs: from one namespace to an address of another.
type Path struct {
	From, To lab.NS
	// FromAddr, of From, is the source, and the destination of traffic back.
	// ToAddr is of To. Both are IPv4.
	FromAddr, ToAddr netip.Addr
}

// String names both ends, as errors do.
func (p Path) String() string {
	return fmt.Sprintf("%s (%s) to %s (%s)", p.FromAddr, p.From, p.ToAddr, p.To)
}

func (p Path) check() error {
	if !p.FromAddr.Is4() || !p.ToAddr.Is4() {
		return errors.New("want an IPv4 address at both ends")
	}
	return nil
}

func (p Path) reverse() Path {
	return Path{From: p.To, To: p.From, FromAddr: p.ToAddr, ToAddr: p.FromAddr}
}

// A Window says when to measure: traffic runs for Warmup, which is not counted,
// and then for Length, which is.
type Window struct{ Warmup, Length time.Duration }

func (w Window) check() error {
	if w.Warmup < 0 || w.Length <= 0 {
		return fmt.Errorf("window of %s after %s: want a length above 0, and no negative warm-up", w.Length, w.Warmup)
	}
	return nil
}

// wrap names the run that an error is about, but leaves the end of the context
// as it is.
func wrap(ctx context.Context, protocol string, p Path, err error) error {
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return ctx.Err() // the rest follows from it
	}
	return fmt.Errorf("%s load from %s: %w", protocol, p, err)
}
