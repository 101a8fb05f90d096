package main

import (
	"fmt"
	"log/slog"
	"sync"
	"time"
)

// These bound what the loops do between two signs of life. A false alarm would
// kill a daemon that works, so each is what the parts promise to keep, and
// grace more for what promises nothing: a disk that syncs slowly, a machine
// under heavy load, thousands of peers.
const (
	grace = 2 * time.Minute

	syncEvery  = 10 * time.Second // subnet.Manager.Run applies the peers at least so often
	ensureTime = 20 * time.Second // firewall.Ensure takes no longer, and the looks before and after no time
	watchTime  = time.Hour        // subnet.Manager.Run lists again so often, and watches no longer
)

// liveness tells a daemon whose loops turn from one that hangs. Each says before
// each piece of its work how long that may take; one that is not heard of for
// longer is stuck. It watches:
//
//	store     each request to etcd, and each watch
//	set-up    opening the backend; the device, the first firewall rules and
//	          subnet.env for a lease
//	peers     applying them, every 10 s whatever becomes of etcd
//	firewall  checking the rules, every -iptables-resync seconds and after changes
//
// and main's own loop, which does the asking. What is waited for legitimately,
// such as an etcd that is down, is no reason to be stuck: every such wait ends
// and begins again. It does not see inside the udp backend, whose loops have
// nothing to say while no packet comes; one that ends, ends the daemon. It is
// safe for concurrent use.
type liveness struct {
	mu    sync.Mutex
	loops map[*loop]bool
}

// A loop is something that goes on, or should.
type loop struct {
	all    *liveness
	name   string
	bound  time.Duration // guarded by all.mu, as all below; 0 while there is nothing to do
	silent time.Duration // since it was last heard of
	told   bool          // the log knows that it is stuck
}

func newLiveness() *liveness { return &liveness{loops: map[*loop]bool{}} }

// loop returns a new loop that is not watched yet.
func (l *liveness) loop(name string) *loop {
	p := &loop{all: l, name: name}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.loops[p] = true
	return p
}

// within says that the loop lives, and will be heard of again before d is over.
func (p *loop) within(d time.Duration) {
	p.all.mu.Lock()
	defer p.all.mu.Unlock()
	p.bound, p.silent, p.told = d, 0, false
}

// end says that there will be no more to hear.
func (p *loop) end() {
	p.all.mu.Lock()
	defer p.all.mu.Unlock()
	delete(p.all.loops, p)
}

// pass adds the time that has gone by and returns what is stuck, a text for
// each loop. It logs each once.
//
// Time is counted in these steps, by the caller, which bounds each: when a whole
// machine stands still, or this process gets no processor, no loop can run
// either, and none is to blame.
func (l *liveness) pass(step time.Duration, log *slog.Logger) (stuck []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for p := range l.loops {
		p.silent += step
		if p.bound == 0 || p.silent <= p.bound {
			continue
		}
		stuck = append(stuck, fmt.Sprintf("%s: not heard of for %s, at most %s are right", p.name, p.silent.Round(time.Second), p.bound.Round(time.Second)))
		if !p.told {
			p.told = true
			log.Error("a loop is stuck, no longer telling the watchdog of systemd that all is well",
				"loop", p.name, "since", time.Now().Add(-p.silent).Format(time.DateTime), "silent", p.silent.Round(time.Second), "bound", p.bound.Round(time.Second))
		}
	}
	return stuck
}
