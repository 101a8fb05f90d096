package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"tweed/test/lab"
)

const (
	fillTime  = 2 * time.Minute // to write leases
	startTime = 2 * time.Minute // of one daemon
	otherTime = 5 * time.Minute // of any other measurement, without its rest
)

// measureSize starts daemons with so many leases in etcd, and where the size
// is that of scaleOptions.peers, goes on to measure with the last one.
func (s *scaling) measureSize(ctx context.Context, size int, r *scaleResult) error {
	text := fmt.Sprintf("writing %s into etcd", count(size, "lease"))
	err := runSteps(ctx, s.progress, "", []step{
		{text, fillTime, func(ctx context.Context) error { return s.fleet.grow(ctx, size) }},
	})
	if err != nil {
		return err
	}
	r.Starts = append(r.Starts, startResult{Leases: size})
	result := &r.Starts[len(r.Starts)-1]
	for round := range s.opts.rounds {
		var m measured
		text := fmt.Sprintf("%s: starting flanneld, round %d of %d", count(size, "lease"), round+1, s.opts.rounds)
		steps := []step{{text, startTime, func(ctx context.Context) (err error) {
			m, err = s.start(ctx, result)
			return err
		}}}
		if round == s.opts.rounds-1 && size == s.opts.scale.peers() {
			steps = append(steps, s.changeSteps(&m, r)...)
			steps = append(steps, s.restSteps(&m, r)...)
		}
		steps = append(steps, step{"removing what flanneld made", startTime, func(ctx context.Context) error { return s.retire(ctx, m) }})
		if err := runSteps(ctx, s.progress, "", steps); err != nil {
			return err
		}
	}
	return nil
}

// start measures one start, from before the fork to the moment when all is in
// force. The daemon sets routes after what they lead to, so when their number
// is reached, everything is compared; should something be missing then, the
// start ends only when nothing is any more.
func (s *scaling) start(ctx context.Context, result *startResult) (m measured, err error) {
	if m.host, err = s.newHost(ctx); err != nil {
		return m, err
	}
	routes, err := routesOf(m.host.NS)
	if err != nil {
		return m, err
	}
	routes += len(s.fleet.gens) + 1 // the address of the device is one, too
	before := s.counter.counts()
	began := time.Now()
	if m.daemon, err = m.host.StartFlanneld(ctx, "-etcd-prefix="+fleetPrefix); err != nil {
		return m, err
	}
	if err := m.awaitRoutes(ctx, routes); err != nil {
		return m, m.daemon.Errorf("%w", err)
	}
	for early := 0; ; early++ {
		sample := startSample{took: time.Since(began), early: early}
		if sample.cpu, err = processCPU(m.daemon.PID); err != nil {
			return m, m.daemon.Errorf("%w", err)
		}
		if sample.peak, err = readProc(fmt.Sprintf("/proc/%d/status", m.daemon.PID), peakMemory); err != nil {
			return m, m.daemon.Errorf("%w", err)
		}
		sample.asked = s.counter.counts().minus(before)
		missing := s.fleet.inForce(m.host.NS)
		if missing == nil {
			result.add(sample)
			return m, m.daemon.WaitReady(ctx) // so that subnet.env is there
		}
		if !sleep(ctx, time.Millisecond) {
			return m, m.daemon.Errorf("not all is in force: %w: %w", missing, ctx.Err())
		}
	}
}

// awaitRoutes waits until the kernel has so many routes. Asking takes it some
// microseconds for a hundred routes, and keeps nobody from changing them; the
// daemon is given ten times as long as that in between.
func (m measured) awaitRoutes(ctx context.Context, want int) error {
	for {
		began := time.Now()
		n, err := readProc(fmt.Sprintf("/proc/%d/net/fib_triestat", m.daemon.PID), countPrefixes)
		if err != nil { // what /proc has of a process goes with it
			if state, alive := m.daemon.Wait(ctx); alive == nil {
				return fmt.Errorf("ended before all routes were there: %s", state)
			}
			return err
		}
		if n >= want {
			return nil
		}
		if !sleep(ctx, max(2*time.Millisecond, 10*time.Since(began))) {
			return fmt.Errorf("%d of %d routes: %w", n, want, ctx.Err())
		}
	}
}

// routesOf counts the routes of a namespace, those to its own addresses
// included.
func routesOf(ns lab.NS) (n int, err error) {
	err = ns.Do(func() (err error) {
		n, err = readProc("/proc/thread-self/net/fib_triestat", countPrefixes)
		return err
	})
	return n, err
}

// countPrefixes finds the number of prefixes of the main table in what
// fib_triestat_seq_show of net/ipv4/fib_trie.c writes. As long as there are no
// rules, that is the local table too.
func countPrefixes(r io.Reader) (int, error) {
	s := bufio.NewScanner(r)
	for s.Scan() {
		if value, ok := strings.CutPrefix(strings.TrimSpace(s.Text()), "Prefixes:"); ok {
			return strconv.Atoi(strings.TrimSpace(value))
		}
	}
	if err := s.Err(); err != nil {
		return 0, err
	}
	return 0, errors.New("no line Prefixes")
}
