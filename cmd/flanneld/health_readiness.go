package main

import (
	"sync"
	"time"
)

// readiness collects what must be true before this node can carry packets. It
// is safe for concurrent use.
type readiness struct {
	mu         sync.Mutex
	conditions []condition // guarded by mu; in the order in which they come true
	counts     map[string]func() int64
}

// A condition is one thing that must be true.
type condition struct {
	Name   string    `json:"name"`
	OK     bool      `json:"ok"`
	Reason string    `json:"reason"` // why it is not true; empty if it is
	Since  time.Time `json:"since"`  // when it last became true or untrue
}

// stillToCome is the reason of what was not tried yet.
const stillToCome = "still to come"

// newReadiness returns one that waits for all the named conditions.
func newReadiness(names ...string) *readiness {
	r := &readiness{counts: map[string]func() int64{}}
	now := time.Now()
	for _, name := range names {
		r.conditions = append(r.conditions, condition{Name: name, Reason: stillToCome, Since: now})
	}
	return r
}

// set says that the condition is true, or why it is not. A name that
// newReadiness was not given becomes one condition more.
func (r *readiness) set(name string, err error) {
	now := time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.find(name)
	if c == nil {
		r.conditions = append(r.conditions, condition{Name: name, Since: now})
		c = &r.conditions[len(r.conditions)-1]
	}
	if ok := err == nil; c.OK != ok {
		c.OK, c.Since = ok, now
	}
	c.Reason = ""
	if err != nil {
		c.Reason = err.Error()
	}
}

// count adds a number, of things that are no reason to be unready, to what is
// told as JSON.
func (r *readiness) count(name string, now func() int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.counts[name] = now
}

// numbers returns the present values of what count was given.
func (r *readiness) numbers() map[string]int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := make(map[string]int64, len(r.counts))
	for name, f := range r.counts {
		now[name] = f()
	}
	return now
}

func (r *readiness) find(name string) *condition {
	for i := range r.conditions {
		if r.conditions[i].Name == name {
			return &r.conditions[i]
		}
	}
	return nil
}

// state returns a copy of all conditions, and whether they are all true.
func (r *readiness) state() (ready bool, all []condition) {
	r.mu.Lock()
	defer r.mu.Unlock()
	ready = true
	for _, c := range r.conditions {
		ready = ready && c.OK
	}
	return ready, append([]condition(nil), r.conditions...)
}
