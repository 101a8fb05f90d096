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
	cost       time.Duration // of a check
	lookCost   time.Duration

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
	f.look = func(firewall.Rules) (uint64, error) {
		time.Sleep(f.lookCost)
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

// rulesBack is how long a change may be there before the rules are put right.
const rulesBack = rulesLook + rulesRest + 50*time.Millisecond

func TestRulesComeBackAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeFirewall(t)
		f.cost = 20 * time.Millisecond
		f.work(t, time.Minute)
		// The first check sets the rules, the second sees that as a change.
		if f.checks != 13 || f.looks < 130 || f.repairs != 1 {
			t.Errorf("in a quiet minute %d checks, want 13, %d looks, want about 150, and %d repairs, want 1", f.checks, f.looks, f.repairs)
		}
		for i := range 4 {
			f.spoil()
			f.work(t, rulesBack)
			if f.gone {
				t.Errorf("damage %d is not repaired within %v", i, rulesBack)
			}
			f.work(t, 600*time.Millisecond) // what was repaired is looked at again meanwhile
		}
		f.work(t, 2*rulesPeace)
		f.spoil()
		f.work(t, rulesBack)
		if n := strings.Count(f.log.String(), "Set the firewall rules"); f.gone || n != 6 || strings.Contains(f.log.String(), "another program") {
			t.Errorf("gone is %v, the log has\n%s", f.gone, &f.log)
		}
	})
}

// TestRulesWaitForScripts: a script that goes on changing rules is waited for, but
// not for ever.
func TestRulesWaitForScripts(t *testing.T) {
	for script, want := range map[time.Duration]time.Duration{500 * time.Millisecond: 900 * time.Millisecond, time.Minute: time.Second} {
		synctest.Test(t, func(t *testing.T) {
			f := newFakeFirewall(t)
			f.work(t, 12*time.Second)
			f.spoil()
			began, repaired := time.Now(), time.Duration(0)
			for range 30 {
				f.work(t, 100*time.Millisecond)
				if !f.gone && repaired == 0 {
					repaired = time.Since(began)
				}
				if time.Since(began) < script {
					f.generation++
				}
			}
			if repaired < min(script, rulesSettle) || repaired > want {
				t.Errorf("a script of %s: repaired after %s, want at most %s", script, repaired, want)
			}
		})
	}
}

// TestRulesOfOthers: programs that change their own rules all the time do not
// make the keeper work all the time, whatever a check costs.
func TestRulesOfOthers(t *testing.T) {
	for _, cost := range []time.Duration{3 * time.Millisecond, 30 * time.Millisecond, 200 * time.Millisecond, time.Second} {
		synctest.Test(t, func(t *testing.T) {
			f := newFakeFirewall(t)
			f.cost, f.lookCost = cost, cost/10
			f.work(t, time.Minute)
			checks, looks := f.checks, f.looks
			const minutes = 10
			for range minutes * 600 {
				f.generation++
				f.work(t, 100*time.Millisecond)
			}
			busy := time.Duration(f.checks-checks)*cost + time.Duration(f.looks-looks)*cost/10
			asFlannel := f.checks-checks <= minutes*12
			if share := busy.Seconds() / (60 * minutes); share > 0.046 && !asFlannel || f.checks-checks < minutes {
				t.Errorf("%d checks of %s and %d looks in %d minutes: %.1f %% of a processor", f.checks-checks, cost, f.looks-looks, minutes, 100*share)
			}
		})
	}
}

// TestRulesOfManyServices: where a look is slow there are fewer.
func TestRulesOfManyServices(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeFirewall(t)
		f.cost, f.lookCost = 150*time.Millisecond, 15*time.Millisecond
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
		if n := strings.Count(f.log.String(), "\n"); n != 7 || strings.Count(f.log.String(), "another program keeps") != 1 {
			t.Errorf("%d lines in the log, want 7:\n%s", n, &f.log)
		}
		f.gone = false
		f.work(t, 2*rulesPeace)
		f.log.Reset()
		f.spoil()
		f.work(t, rulesBack)
		if f.gone || strings.Count(f.log.String(), "Set the firewall rules") != 1 {
			t.Errorf("after the fight: gone is %v, the log has\n%s", f.gone, &f.log)
		}
	})
}

// TestRulesAreFoughtOverSeldom: where flannel would look each hour only, a fight is
// told from an accident all the same.
func TestRulesAreFoughtOverSeldom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeFirewall(t)
		f.resync = time.Hour
		for range 12000 {
			f.spoil()
			f.work(t, 100*time.Millisecond)
		}
		if f.repairs < 20 || f.repairs > 32 || strings.Count(f.log.String(), "another program keeps") != 1 {
			t.Errorf("%d repairs in 20 minutes, want one a minute in the end:\n%s", f.repairs, &f.log)
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
		f.work(t, rulesBack)
		f.broken = nil
		f.work(t, rulesBack)
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

// TestRulesAgain: the same damage is seen again where the generation only tells
// what there is, as of the legacy tables, also while it is checked.
func TestRulesAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeFirewall(t)
		f.resync = time.Hour
		look := f.look
		f.look = func(r firewall.Rules) (uint64, error) {
			look(r)
			if f.gone {
				return 7, nil
			}
			return 8, nil
		}
		f.work(t, 10*time.Second)
		for range 4 {
			f.gone = true
			for f.gone {
				f.work(t, 10*time.Millisecond)
			}
			f.work(t, 50*time.Millisecond)
		}
		if f.repairs != 5 {
			t.Errorf("%d repairs, want 5", f.repairs)
		}
		f.gone = true
		f.work(t, 2*time.Second)
		if f.gone {
			t.Error("not repaired again")
		}
	})
}

// TestRulesOnAFailedLook: one look that fails, of all the one before a check, does
// not make the keeper blind.
func TestRulesOnAFailedLook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeFirewall(t)
		f.resync = time.Hour
		f.work(t, 10*time.Second)
		f.spoil()
		f.work(t, rulesBack)
		f.blind = errors.New("the table is being replaced")
		f.due = time.Now()
		f.work(t, 10*time.Millisecond)
		f.blind = nil
		f.spoil()
		f.work(t, rulesBack)
		if f.gone || strings.Contains(f.log.String(), "doesn't tell") {
			t.Errorf("gone is %v, the log has\n%s", f.gone, &f.log)
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
		f.broken, f.blind = nil, fmt.Errorf("blind: %w", firewall.ErrUnsupported)
		f.work(t, 10*time.Second)
		f.looks = 0
		f.spoil()
		f.work(t, 5*time.Second)
		if f.gone || f.looks != 2 {
			t.Errorf("what no look could see after 5 s: gone is %v; %d looks, want 2", f.gone, f.looks)
		}
		if n := strings.Count(f.log.String(), "the kernel doesn't tell"); n != 1 {
			t.Errorf("the log tells of that %d times, want once:\n%s", n, &f.log)
		}
	})
}
