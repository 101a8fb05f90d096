package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// pause is how long a daemon must have been at rest before the next sample.
const pause = 20 * time.Millisecond

// enough is after how long no further sample is begun: a daemon that is much
// too slow has shown it by then.
const enough = time.Minute

// changeSteps measure how fast news arrive in the kernel.
func (s *scaling) changeSteps(m *measured, r *scaleResult) []step {
	o := s.opts.scale
	peers := len(s.fleet.gens)
	r.Changes = &changesResult{Peers: peers, Changed: o.changes}
	return []step{
		{fmt.Sprintf("%s: one more, %d times", count(peers, "lease"), o.samples), otherTime, func(ctx context.Context) error {
			return s.oneMore(ctx, *m, r.Changes)
		}},
		{fmt.Sprintf("%s: %d of them change at once", count(peers, "lease"), o.changes), otherTime, func(ctx context.Context) error {
			return s.manyChange(ctx, *m, r.Changes)
		}},
	}
}

// oneMore adds a node and removes it again, once for each sample, and takes the
// time from before the write until the route has come or gone.
func (s *scaling) oneMore(ctx context.Context, m measured, result *changesResult) error {
	routes, stop, err := watchRoutes(m.host.NS)
	if err != nil {
		return err
	}
	defer stop()
	var added, removed, written, cpu []float64
	node, start := len(s.fleet.gens), time.Now()
	for i := 0; i < s.opts.scale.samples && time.Since(start) < enough; i++ {
		before, err := awaitQuiet(ctx, m.daemon.PID, pause)
		if err != nil {
			return err
		}
		began := time.Now()
		if err := s.fleet.grow(ctx, node+1); err != nil {
			return err
		}
		written = append(written, millis(time.Since(began)))
		at, err := m.awaitRoute(ctx, routes, s.fleet.subnet(node), false)
		if err != nil {
			return err
		}
		added = append(added, millis(at.Sub(began)))

		after, err := awaitQuiet(ctx, m.daemon.PID, pause)
		if err != nil {
			return err
		}
		cpu = append(cpu, millis(after-before))
		s.fleet.gens = s.fleet.gens[:node]
		began = time.Now()
		if err := s.lab.Etcd.Delete(ctx, s.fleet.key(node)); err != nil {
			return err
		}
		if at, err = m.awaitRoute(ctx, routes, s.fleet.subnet(node), true); err != nil {
			return err
		}
		removed = append(removed, millis(at.Sub(began)))
	}
	result.Added, result.Removed = newPercentiles(added), newPercentiles(removed)
	result.Written, result.CPU = newPercentiles(written), newPercentiles(cpu)
	return m.settled(ctx, s.fleet)
}

// awaitRoute returns when the kernel told of the route.
func (m measured) awaitRoute(ctx context.Context, events <-chan entryEvent, dst netip.Prefix, gone bool) (time.Time, error) {
	for {
		e, err := m.next(ctx, events)
		if err != nil {
			return time.Time{}, fmt.Errorf("route to %s: %w", dst, err)
		}
		if e.dst == dst && e.gone == gone {
			return e.at, nil
		}
	}
}

func (m measured) next(ctx context.Context, events <-chan entryEvent) (entryEvent, error) {
	select {
	case e, ok := <-events:
		if !ok {
			return e, errors.New("the kernel tells no more")
		}
		return e, nil
	case <-ctx.Done():
		return entryEvent{}, m.daemon.Errorf("%w", ctx.Err())
	}
}

// manyChange replaces many nodes at once, as if they had been set up anew with
// another address, and takes the time until the kernel has the MAC and the
// tunnel end of each.
func (s *scaling) manyChange(ctx context.Context, m measured, result *changesResult) error {
	var first, last, writing []float64
	before, start := s.counter.counts(), time.Now()
	for i := 0; i < s.opts.rounds && time.Since(start) < enough; i++ {
		if _, err := awaitQuiet(ctx, m.daemon.PID, 10*pause); err != nil {
			return err
		}
		began, written, at, err := s.changeAll(ctx, m)
		if err != nil {
			return err
		}
		first = append(first, millis(at.Sub(began)))
		last = append(last, millis(max(0, at.Sub(written))))
		writing = append(writing, millis(written.Sub(began)))
	}
	result.SinceFirst, result.SinceLast, result.Writing = newStats(first), newStats(last), newStats(writing)
	asked := s.counter.counts().minus(before)
	result.EventBytes = float64(asked.PollBytes) / float64(max(1, asked.Polls))
	return nil
}

func (s *scaling) changeAll(ctx context.Context, m measured) (began, written, done time.Time, err error) {
	events, stop, err := watchNeighbours(m.host.NS)
	if err != nil {
		return
	}
	defer stop()
	n := s.opts.scale.changes
	if began, written, err = s.fleet.replace(ctx, n); err != nil {
		return
	}
	type entry struct {
		addr netip.Addr
		mac  string
		fdb  bool
	}
	missing := make(map[entry]bool, 2*n)
	for node := range n {
		mac := s.fleet.mac(node).String()
		missing[entry{s.fleet.subnet(node).Addr(), mac, false}] = true
		missing[entry{s.fleet.public(node), mac, true}] = true
	}
	for len(missing) > 0 {
		e, err := m.next(ctx, events)
		if err != nil {
			return began, written, done, fmt.Errorf("%d of %d entries: %w", 2*n-len(missing), 2*n, err)
		}
		if !e.gone {
			delete(missing, entry{e.addr, e.mac, e.fdb})
			done = e.at
		}
	}
	return began, written, done, m.settled(ctx, s.fleet)
}

// settled waits until the kernel has exactly the fleet.
func (m measured) settled(ctx context.Context, f *fleet) error {
	for {
		if _, err := awaitQuiet(ctx, m.daemon.PID, pause); err != nil {
			return err
		}
		missing := f.inForce(m.host.NS)
		if missing == nil {
			return nil
		}
		if ctx.Err() != nil {
			return m.daemon.Errorf("%w: %w", missing, ctx.Err())
		}
	}
}

// percentiles of samples in milliseconds.
type percentiles struct {
	Samples int     `json:"samples"`
	P50     float64 `json:"p50"`
	P99     float64 `json:"p99"`
	Max     float64 `json:"max"`
}

// newPercentiles takes the nearest rank: of fewer than 100 samples, the p99 is
// the highest.
func newPercentiles(samples []float64) percentiles {
	if len(samples) == 0 {
		return percentiles{}
	}
	sorted := slices.Sorted(slices.Values(samples))
	rank := func(percent int) float64 { return sorted[(percent*len(sorted)+99)/100-1] }
	return percentiles{Samples: len(sorted), P50: rank(50), P99: rank(99), Max: rank(100)}
}

func millis(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
