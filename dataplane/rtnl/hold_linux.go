package rtnl

import (
	"context"
	"log/slog"
	"time"

	"golang.org/x/sync/errgroup"
)

const (
	// settle is how long a burst of notices may go on before it is answered.
	settle = 20 * time.Millisecond
	// comparePeriod is the shortest time between two comparisons that nothing
	// has asked for. They find what no notice told of, such as routes that went
	// with the last address of their link.
	comparePeriod = 10 * time.Second
	// compareShare is how many times longer than a comparison the pause after it
	// is at least, so that they cost no more than a thousandth of a processor.
	compareShare = 1000
	maxPeriod    = 2 * time.Minute
	// retryMin and retryMax bound the pause after a repair that failed.
	retryMin, retryMax = time.Second, 10 * time.Second
)

// A Subject is what Hold holds. Its methods are safe for concurrent use.
type Subject interface {
	// Concerns returns a name for the object that the notice says is not as it
	// should be, and "" if the notice is no reason to look. What happens to
	// Surroundings is nobody's attack. It is quick.
	Concerns(n Notice) (key string)
	// Repair looks at everything, puts right what is not as it should be, and
	// returns what that was.
	Repair(ctx context.Context) ([]Repair, error)
}

// Surroundings is the key of what the subject depends on, and does not hold.
const Surroundings = "surroundings"

// Hold keeps the kernel as the subject wants it: it has it repaired soon after a
// notice that concerns it, and every ten seconds or, where that would cost more
// than a thousandth of a processor, less often. It blocks until ctx ends and
// then returns nil.
//
// Where somebody else keeps changing the same object, Hold changes it back less
// and less often, up to once a minute, and the log is told once. Other objects
// do not wait for that, unless somebody changes more than 64 each time.
func (m *Monitor) Hold(ctx context.Context, s Subject, log *slog.Logger) error {
	if err := m.join(); err != nil {
		return err
	}
	keys := make(chan string, 64)
	lost := make(chan struct{}, 1) // more keys than keys has room for
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		return m.run(ctx, func(n Notice) {
			key := s.Concerns(n)
			if key == "" {
				return
			}
			select {
			case keys <- key:
			default:
				select {
				case lost <- struct{}{}:
				default:
				}
			}
		})
	})
	g.Go(func() error {
		h := newHolder(s, log)
		return h.run(ctx, keys, lost)
	})
	return g.Wait()
}

// holder is the state of one Hold.
type holder struct {
	s      Subject
	log    *slog.Logger
	heard  map[string]bool // the keys of notices since the last repair
	fights map[string]*fight
	failed time.Duration // the pause after the last failure; 0 after a success
}

func newHolder(s Subject, log *slog.Logger) *holder {
	return &holder{s: s, log: log, heard: map[string]bool{}, fights: map[string]*fight{}}
}

func (h *holder) run(ctx context.Context, keys <-chan string, lost <-chan struct{}) error {
	due := time.Now() // what changed before the notices began
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case key := <-keys:
			due = earlier(due, h.wait(key, time.Now()))
		case <-lost:
			due = earlier(due, h.wait(many, time.Now()))
		case <-timer.C:
			began := time.Now()
			repairs, err := h.s.Repair(ctx)
			if ctx.Err() != nil {
				return nil
			}
			end := time.Now()
			due = end.Add(h.after(repairs, err, end, end.Sub(began)))
		}
		timer.Reset(time.Until(due))
	}
}

// wait returns when to answer a notice about the object key.
func (h *holder) wait(key string, now time.Time) time.Time {
	h.heard[key] = true
	at := now.Add(settle)
	for _, k := range [...]string{key, many} {
		if f := h.fights[k]; f != nil && f.until.After(at) {
			at = f.until
		}
	}
	return at
}

// after takes note of a repair that took so long, and returns how long to wait
// for the next if nothing happens.
func (h *holder) after(repairs []Repair, err error, now time.Time, took time.Duration) time.Duration {
	if len(h.heard) > maxHeard {
		clear(h.heard)
		h.heard[many] = true
	}
	h.tell(repairs)
	if len(repairs) > 0 {
		delete(h.heard, Surroundings)
		for key := range h.heard {
			h.fought(key, now)
		}
	}
	clear(h.heard)
	for key, f := range h.fights {
		if now.Sub(f.last) > peace {
			delete(h.fights, key)
		}
	}
	if err != nil {
		h.failed = min(max(2*h.failed, retryMin), retryMax)
		h.log.Error("Couldn't put the kernel right, trying again", "err", err)
		return h.failed
	}
	h.failed = 0
	return min(max(comparePeriod, compareShare*took), maxPeriod)
}

// tell logs what was repaired, in one line, unless all of it is fought over.
func (h *holder) tell(repairs []Repair) {
	known := len(h.heard) > 0
	for key := range h.heard {
		known = known && h.fights[key] != nil && h.fights[key].told
	}
	const most = 5
	switch n := len(repairs); {
	case n == 0 || known:
	case n > most:
		h.log.Warn("put right what was changed in the kernel", "changes", repairs[:most], "more", n-most)
	default:
		h.log.Warn("put right what was changed in the kernel", "changes", repairs)
	}
}

// A fight is about an object that somebody else changes again and again.
type fight struct {
	times int       // that it was put right
	last  time.Time // the last of them
	until time.Time // notices about it have to wait so long
	told  bool
}

const (
	freeRepairs = 3                // within peace of each other, at once
	maxHeard    = 64               // objects of one repair that are told apart
	many        = "many entries"   // is the object where there are more
	maxFight    = time.Minute      // between two repairs of one object
	peace       = 90 * time.Second // without a repair ends a fight; longer than maxFight
)

func (h *holder) fought(key string, now time.Time) {
	f := h.fights[key]
	if f == nil {
		f = &fight{}
		h.fights[key] = f
	}
	f.times++
	f.last = now
	over := f.times - freeRepairs
	if over <= 0 {
		return
	}
	f.until = now.Add(min(time.Second<<min(over-1, 10), maxFight))
	if !f.told {
		f.told = true
		h.log.Warn("another program keeps changing this back, putting it right less often from now on", "object", key, "times", f.times)
	}
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}
