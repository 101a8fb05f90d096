package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"tweed/dataplane/firewall"
)

// A fakeFirewall stands for the kernel: what a step costs there, and what others
// do to it, takes no less than it says.
type fakeFirewall struct {
	*rulesKeeper
	log        bytes.Buffer
	generation uint64
	gone       bool // the rules
	broken     error
	blind      error
	cost       time.Duration

	checks, looks, repairs int
}

func newFakeFirewall(t *testing.T) *fakeFirewall {
	f := &fakeFirewall{gone: true}
	f.rulesKeeper = newNode(testOptions(t), slog.New(slog.NewTextHandler(&f.log, nil))).newRulesKeeper(firewall.Rules{})
	f.ensure = func(context.Context, firewall.Rules) (done []firewall.Change, err error) {
		time.Sleep(f.cost)
		f.checks++
		if f.broken != nil {
			f.generation += 2 // something was written and taken back
			return nil, f.broken
		}
		if !f.gone {
			return nil, nil
		}
		f.repairs++
		f.gone = false
		f.generation++
		return []firewall.Change{{Table: "filter", Chain: "FORWARD", Added: 2}}, nil
	}
	f.look = func(context.Context, firewall.Rules) (uint64, error) {
		time.Sleep(f.cost / 10)
		f.looks++
		return f.generation, f.blind
	}
	return f
}

// work goes on for d.
func (f *fakeFirewall) work(t *testing.T, d time.Duration) {
	for end := time.Now().Add(d); ; {
		pause := f.step(t.Context())
		if left := time.Until(end); pause > left {
			time.Sleep(left)
			return
		}
		time.Sleep(pause)
	}
}

func (f *fakeFirewall) spoil() {
	f.gone = true
	f.generation++
}

func TestRulesComeBackAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeFirewall(t)
		f.cost = 5 * time.Millisecond
		f.work(t, time.Minute)
		// The first one sets the rules, the second sees that as a change.
		if f.checks != 13 || f.looks < 200 || f.repairs != 1 {
			t.Errorf("in a quiet minute %d checks, want 13, %d looks, want about 240, and %d repairs, want 1", f.checks, f.looks, f.repairs)
		}
		for i := range 3 {
			f.spoil()
			f.work(t, rulesLook+10*time.Millisecond)
			if f.gone {
				t.Errorf("damage %d is not repaired within %v", i, rulesLook)
			}
			f.work(t, rulesPeace)
		}
		if n := strings.Count(f.log.String(), "Set the firewall rules"); n != 4 || strings.Contains(f.log.String(), "another program") {
			t.Errorf("the log has\n%s", &f.log)
		}
	})
}

// TestRulesOfOthers: programs that change their own rules all the time do not
// make the keeper work all the time.
func TestRulesOfOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeFirewall(t)
		f.cost = 30 * time.Millisecond
		f.work(t, 10*time.Second)
		checks := f.checks
		for range 600 {
			f.generation++
			f.work(t, 100*time.Millisecond)
		}
		if n := f.checks - checks; n < 60 || n > 68 {
			t.Errorf("%d checks of 30 ms in a minute, want about one each 0.9 s", n)
		}
	})
}

// TestRulesOfManyServices: where a look is slow there are fewer.
func TestRulesOfManyServices(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeFirewall(t)
		f.cost = 150 * time.Millisecond
		f.work(t, time.Minute)
		if f.looks < 40 || f.looks > 65 {
			t.Errorf("%d looks of 15 ms in a minute, want about one each 1.5 s, and one for each check", f.looks)
		}
	})
}

// TestRulesAreFoughtOver: another program that keeps removing the rules is
// answered as often as flannel does, and the log tells of it once.
func TestRulesAreFoughtOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeFirewall(t)
		for range 6000 {
			f.spoil()
			f.work(t, 100*time.Millisecond)
		}
		if f.repairs < 115 || f.repairs > 130 {
			t.Errorf("%d repairs in ten minutes, want one each 5 s", f.repairs)
		}
		if n := strings.Count(f.log.String(), "\n"); n != 6 || strings.Count(f.log.String(), "another program keeps") != 1 {
			t.Errorf("%d lines in the log, want 6:\n%s", n, &f.log)
		}
		f.gone = false
		f.work(t, 2*rulesPeace)
		f.log.Reset()
		f.spoil()
		f.work(t, rulesLook+10*time.Millisecond)
		if f.gone || strings.Count(f.log.String(), "Set the firewall rules") != 1 {
			t.Errorf("after the fight: gone is %v, the log has\n%s", f.gone, &f.log)
		}
	})
}

// TestRulesInterfered: a change that another program undoes while it is made is
// tried again at once.
func TestRulesInterfered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeFirewall(t)
		f.work(t, 10*time.Second)
		f.spoil()
		f.broken = fmt.Errorf("set: %w", firewall.ErrInterfered)
		f.work(t, rulesLook+time.Millisecond)
		f.broken = nil
		f.work(t, rulesLook+time.Millisecond)
		if f.gone {
			t.Errorf("not repaired at once:\n%s", &f.log)
		}

		f.broken = fmt.Errorf("set: %w", firewall.ErrInterfered)
		checks := f.checks
		for range 600 {
			f.spoil()
			f.work(t, 100*time.Millisecond)
		}
		if n := f.checks - checks; n > 20 {
			t.Errorf("%d checks in a minute of interference, want about one each 5 s", n)
		}
	})
}

// TestRulesWithoutLooks: where looks or checks fail there is flannel's pace.
func TestRulesWithoutLooks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeFirewall(t)
		f.broken = errors.New("broken")
		f.work(t, 59*time.Second)
		if f.checks != 12 || f.looks != 12 {
			t.Errorf("%d checks that fail and %d looks in a minute, want 12 of both", f.checks, f.looks)
		}
		f.broken, f.blind = nil, errors.New("blind")
		f.work(t, 10*time.Second)
		f.looks = 0
		f.spoil()
		f.work(t, 5*time.Second)
		if f.gone || f.looks != 1 {
			t.Errorf("what no look could see after 5 s: gone is %v; %d looks, want 1", f.gone, f.looks)
		}
	})
}
