package rtnl

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// subject is a Subject whose repairs are made up.
type subject struct {
	mu      sync.Mutex // the other program holds it while it looks or changes something
	repairs []time.Time
	repair  func() ([]Repair, error)
}

func (s *subject) Concerns(Notice) string { return "" }

func (s *subject) Repair(context.Context) ([]Repair, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.repairs = append(s.repairs, time.Now())
	if s.repair == nil {
		return nil, nil
	}
	return s.repair()
}

// hold runs a holder in a bubble of its own, in which f is another program.
func hold(t *testing.T, s *subject, f func(keys chan<- string, lost chan<- struct{})) (log string) {
	var b bytes.Buffer
	synctest.Test(t, func(t *testing.T) {
		h := newHolder(s, slog.New(slog.NewTextHandler(&b, nil)))
		ctx, cancel := context.WithCancel(t.Context())
		keys, lost, ended := make(chan string, 64), make(chan struct{}, 1), make(chan error)
		go func() { ended <- h.run(ctx, keys, lost) }()
		s.mu.Lock()
		f(keys, lost)
		s.mu.Unlock()
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return b.String()
}

// sleep lets time pass for everybody but the caller, which has the lock.
func (s *subject) sleep(d time.Duration) {
	s.mu.Unlock()
	time.Sleep(d)
	synctest.Wait()
	s.mu.Lock()
}

// since returns how many repairs there were from one time on, and when the first
// of them was.
func (s *subject) since(from time.Time) (n int, first time.Duration) {
	for _, at := range s.repairs {
		if at.After(from) {
			if n == 0 {
				first = at.Sub(from)
			}
			n++
		}
	}
	return n, first
}

func TestHoldWithoutNews(t *testing.T) {
	s := &subject{}
	log := hold(t, s, func(chan<- string, chan<- struct{}) { s.sleep(time.Minute + time.Second) })
	if len(s.repairs) != 7 || log != "" { // one at the start
		t.Errorf("%d comparisons in a minute, want 7; log %q", len(s.repairs), log)
	}
}

// TestHoldLargeTables has a comparison that takes 0.1 s: it must not cost more
// than a thousandth of a processor.
func TestHoldLargeTables(t *testing.T) {
	s := &subject{repair: func() ([]Repair, error) { time.Sleep(100 * time.Millisecond); return nil, nil }}
	hold(t, s, func(chan<- string, chan<- struct{}) { s.sleep(1000 * time.Second) })
	if n := len(s.repairs); n < 9 || n > 11 {
		t.Errorf("%d comparisons in 1000 s, want 10", n)
	}
}

func TestHoldNotice(t *testing.T) {
	for name, send := range map[string]func(chan<- string, chan<- struct{}){
		"one":  func(keys chan<- string, _ chan<- struct{}) { keys <- "route" },
		"lost": func(_ chan<- string, lost chan<- struct{}) { lost <- struct{}{} },
		"many": func(keys chan<- string, _ chan<- struct{}) {
			for range 64 {
				keys <- "route"
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := &subject{}
			hold(t, s, func(keys chan<- string, lost chan<- struct{}) {
				s.sleep(5 * time.Second)
				from := time.Now()
				send(keys, lost)
				s.sleep(time.Second)
				if n, first := s.since(from); n != 1 || first > 50*time.Millisecond {
					t.Errorf("%d repairs, the first after %s, want 1 at once", n, first)
				}
			})
		})
	}
}

// TestHoldFight has another program change something back at once, each time,
// for five minutes.
func TestHoldFight(t *testing.T) {
	const ours, other = "route 10.5.3.0/24", "neighbour 10.5.4.0"
	var keys chan<- string
	fighting := true
	broken := ""
	s := &subject{}
	s.repair = func() (found []Repair, err error) {
		if fighting {
			found = append(found, Repair("add "+ours))
			keys <- ours
		}
		if broken != "" {
			found = append(found, Repair("add "+broken))
			broken = ""
		}
		return found, nil
	}
	log := hold(t, s, func(k chan<- string, _ chan<- struct{}) {
		keys = k
		s.sleep(10 * time.Second)
		if n := len(s.repairs); n < freeRepairs || n > 10 {
			t.Errorf("%d repairs in the first 10 s", n)
		}
		s.sleep(290 * time.Second)
		// The comparisons of every ten seconds go on.
		if n := len(s.repairs); n > 50 {
			t.Errorf("%d repairs in five minutes", n)
		}

		// What is not fought over does not suffer.
		from := time.Now()
		broken = other
		keys <- other
		s.sleep(time.Second)
		if n, first := s.since(from); n == 0 || first > 50*time.Millisecond {
			t.Errorf("another object waits: %d repairs, the first after %s", n, first)
		}

		// Peace.
		fighting = false
		s.sleep(peace + 20*time.Second)
		from = time.Now()
		broken = ours
		keys <- ours
		s.sleep(time.Second)
		if n, first := s.since(from); n == 0 || first > 50*time.Millisecond {
			t.Errorf("after the fight: %d repairs, the first after %s", n, first)
		}
	})
	if n := strings.Count(log, "another program keeps changing this back"); n != 1 || !strings.Contains(log, `object="`+ours+`"`) {
		t.Errorf("%d lines about the fight, want one:\n%s", n, log)
	}
	if n := strings.Count(log, "\n"); n != 1+freeRepairs+4 { // at the start, the free ones, the last and its fight, the other object, and again
		t.Errorf("%d lines:\n%s", n, log)
	}
}

func TestHoldFailure(t *testing.T) {
	down := errors.New("there is no eth0")
	s := &subject{repair: func() ([]Repair, error) { return nil, down }}
	hold(t, s, func(keys chan<- string, _ chan<- struct{}) {
		s.sleep(60 * time.Second)
		if n := len(s.repairs); n < 8 || n > 10 { // after 0, 1, 3, 7, 15, 25 ... s
			t.Errorf("%d tries in a minute", n)
		}
		s.repair = nil
		from := time.Now()
		keys <- "link eth0"
		s.sleep(15 * time.Second)
		if n, first := s.since(from); n != 2 || first > 50*time.Millisecond {
			t.Errorf("%d repairs, the first after %s", n, first)
		}
	})
}

// TestHoldTells counts what is too much for one line.
func TestHoldTells(t *testing.T) {
	var b bytes.Buffer
	h := newHolder(nil, slog.New(slog.NewTextHandler(&b, nil)))
	var all []Repair
	for _, c := range "abcdefgh" {
		all = append(all, Repair("add "+string(c)))
	}
	h.after(all, nil, time.Now(), 0)
	if log := b.String(); strings.Count(log, "\n") != 1 || !strings.Contains(log, "[add a add b add c add d add e]") || !strings.Contains(log, "more=3") {
		t.Errorf("log %q", log)
	}
}
