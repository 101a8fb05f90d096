package load

import (
	"context"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// tick is how often a worker that waits looks whether it should end.
const tick = 50 * time.Millisecond

// The phases of a run, in their order.
const (
	warmUp int32 = iota
	inWindow
	over    // the window has closed: send no more
	aborted // cancelled, or a worker has failed: end at once
)

// A crew is the workers of one run.
type crew struct {
	phase  atomic.Int32
	jobs   []func() error
	failed chan error // holds the first error of a worker
}

func newCrew() *crew { return &crew{failed: make(chan error, 1)} }

// add gives the crew a worker. job must return soon after the phase is
// aborted, and an error of it ends the run.
func (c *crew) add(job func() error) { c.jobs = append(c.jobs, job) }

// start runs each job on a thread of its own.
func (c *crew) start() (wait func()) {
	var wg sync.WaitGroup
	for _, job := range c.jobs {
		wg.Go(func() {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			if err := job(); err != nil {
				select {
				case c.failed <- err:
				default:
				}
			}
		})
	}
	return wg.Wait
}

// sending says that the window has not closed yet.
func (c *crew) sending() bool { return c.phase.Load() < over }

func (c *crew) aborted() bool { return c.phase.Load() == aborted }

// run leads the workers through the phases and waits until they have ended.
// At both edges of the window it calls edge and takes the usage.
//
// While they run, Go may use a processor for each of them and one for the
// caller: with four workers on the default of a machine with two CPUs, Go hands
// two processors around instead of letting the kernel schedule, and half of
// the throughput is gone.
func (c *crew) run(ctx context.Context, w Window, edge func()) (Usage, error) {
	if procs, want := runtime.GOMAXPROCS(0), len(c.jobs)+1; procs < want {
		runtime.GOMAXPROCS(want)
		defer runtime.GOMAXPROCS(procs)
	}
	defer context.AfterFunc(ctx, func() { c.phase.Store(aborted) })()
	wait := c.start()
	u, err := c.measure(ctx, w, edge)
	if err != nil {
		c.phase.Store(aborted)
	}
	wait()
	if err == nil {
		select {
		case err = <-c.failed:
		default:
			err = ctx.Err()
		}
	}
	return u, err
}

func (c *crew) measure(ctx context.Context, w Window, edge func()) (Usage, error) {
	if err := c.wait(ctx, w.Warmup); err != nil {
		return Usage{}, err
	}
	c.phase.CompareAndSwap(warmUp, inWindow)
	edge()
	before, err := readStat()
	if err != nil {
		return Usage{}, err
	}
	if err := c.wait(ctx, w.Length); err != nil {
		return Usage{}, err
	}
	c.phase.CompareAndSwap(inWindow, over)
	edge()
	after, err := readStat()
	if err != nil {
		return Usage{}, err
	}
	return after.since(before), nil
}

func (c *crew) wait(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case err := <-c.failed:
		return err
	case <-t.C:
		return nil
	}
}
