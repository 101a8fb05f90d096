package main

import (
	"context"
	"fmt"
	"time"
)

// etcdHistory is how many events etcd remembers (v2store.newEventHistory): a
// watch that wants to go on from before is told that they are cleared, code
// 401, and the daemon has to list again.
const etcdHistory = 1000

// calm is for how long a daemon must have used next to no CPU to be at rest.
const calm = 300 * time.Millisecond

// restSteps measure what a daemon costs when nothing changes.
func (s *scaling) restSteps(m *measured, r *scaleResult) []step {
	rest := s.opts.scale.rest
	peers := len(s.fleet.gens)
	r.Rest = &restResult{Peers: peers, Seconds: rest.Seconds()}
	text := count(peers, "lease")
	return []step{
		{text + ": listing again, without news", otherTime, func(ctx context.Context) error {
			return s.relist(ctx, *m, r.Rest)
		}},
		{fmt.Sprintf("%s: %s at rest", text, rest), otherTime + rest, func(ctx context.Context) (err error) {
			r.Rest.Idle, err = s.watch(ctx, *m)
			return err
		}},
		{fmt.Sprintf("%s: %s without etcd", text, rest), otherTime + rest, func(ctx context.Context) error {
			return s.disconnected(ctx, *m, r.Rest)
		}},
	}
}

// relist makes the daemon list again, and takes the CPU time that it uses until
// it is at rest. Nothing about its leases changes: the bench writes elsewhere in
// etcd until the past that the daemon has seen is forgotten, and ends its long
// poll. What it asks next is answered by code 401.
func (s *scaling) relist(ctx context.Context, m measured, result *restResult) error {
	var used []float64
	before := s.counter.counts()
	for range s.opts.rounds {
		err := inParallel(ctx, fleetWriters, etcdHistory+100, func(ctx context.Context, i int) error {
			return s.lab.Etcd.Set(ctx, fmt.Sprintf("/noise/%d", i), "", 0)
		})
		if err != nil {
			return err
		}
		cpu, err := awaitQuiet(ctx, m.daemon.PID, calm)
		if err != nil {
			return err
		}
		lists := s.counter.counts().Lists
		s.counter.endPolls()
		if err := s.counter.await(ctx, func(c etcdCounts) bool { return c.Lists > lists }); err != nil {
			return m.daemon.Errorf("it does not list again: %w", err)
		}
		after, err := awaitQuiet(ctx, m.daemon.PID, calm)
		if err != nil {
			return err
		}
		if n := s.counter.counts().Lists - lists; n != 1 {
			return m.daemon.Errorf("it has listed %d times, want once", n)
		}
		used = append(used, millis(after-cpu))
	}
	asked := s.counter.counts().minus(before)
	result.Relist = newStats(used)
	result.ListBytes = asked.ListBytes / int64(asked.Lists)
	result.EtcdListSeconds = asked.ListTime.Seconds() / float64(asked.Lists)
	return m.settled(ctx, s.fleet)
}

// watch watches the daemon for a while.
func (s *scaling) watch(ctx context.Context, m measured) (*idleResult, error) {
	cpu, err := processCPU(m.daemon.PID)
	if err != nil {
		return nil, m.daemon.Errorf("%w", err)
	}
	asked, began := s.counter.counts(), time.Now()
	if !sleep(ctx, s.opts.scale.rest) {
		return nil, ctx.Err()
	}
	took := time.Since(began)
	after, err := processCPU(m.daemon.PID)
	if err != nil {
		return nil, m.daemon.Errorf("%w", err)
	}
	return &idleResult{
		CPUPercent: 100 * float64(after-cpu) / float64(took),
		Requests:   s.counter.counts().minus(asked).requests(),
	}, nil
}

// disconnected stops etcd, so that all connections are refused, which is when a
// daemon could try the most. Afterwards etcd is back.
func (s *scaling) disconnected(ctx context.Context, m measured, result *restResult) error {
	if err := s.stopEtcd(); err != nil {
		return err
	}
	var err error
	if result.Disconnected, err = s.watch(ctx, m); err != nil {
		return err
	}
	if err := s.fleet.inForce(m.host.NS); err != nil {
		return m.daemon.Errorf("without etcd: %w", err)
	}
	return s.startEtcd(ctx)
}
