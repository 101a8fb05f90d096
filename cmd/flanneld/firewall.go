package main

import (
	"context"
	"errors"
	"time"

	"tweed/dataplane/firewall"
)

const (
	// rulesLook is how often the kernel is asked whether anything has changed in
	// its firewall.
	rulesLook = 250 * time.Millisecond
	// lookShare and checkShare are how many times longer than a look, and a check
	// that it led to for nothing, the pause behind is at least: thousands of rules
	// make them slow, and other programs may change theirs all the time.
	lookShare, checkShare = 100, 30
	// freeRepairs, with the setting at the start, are made at once. After that
	// another program is fighting for the rules, until there was peace for so long.
	freeRepairs = 4
	rulesPeace  = time.Minute
)

// A rulesKeeper holds the kernel to the firewall rules: it checks them soon after
// something has changed in the firewall, and each resync, as flannel does.
type rulesKeeper struct {
	*node
	rules  firewall.Rules
	resync time.Duration
	ensure func(context.Context, firewall.Rules) ([]firewall.Change, error) // n.fw.Ensure
	look   func(context.Context, firewall.Rules) (uint64, error)            // n.fw.Generation

	due        time.Time // of a check that nothing has asked for
	lookDue    time.Time // of the next look, unless blind
	blind      bool      // until the next check
	generation uint64    // before the last check
	repairs    int       // without peace between them
	repaired   time.Time // the last of them
	told       bool      // that they are fought over
}

func (n *node) newRulesKeeper(r firewall.Rules) *rulesKeeper {
	return &rulesKeeper{node: n, rules: r, resync: n.opts.IPTablesResync, ensure: n.fw.Ensure, look: n.fw.Generation}
}

// step checks the rules if it is time to, and returns how long to wait for the
// next step.
func (k *rulesKeeper) step(ctx context.Context) time.Duration {
	switch {
	case time.Until(k.due) <= 0:
		k.check(ctx, 0)
	case k.changed(ctx):
		k.check(ctx, checkShare)
	}
	next := k.due
	if !k.blind && k.lookDue.Before(next) {
		next = k.lookDue
	}
	return time.Until(next)
}

// changed looks whether anything has changed since the last check.
func (k *rulesKeeper) changed(ctx context.Context) bool {
	if k.blind || time.Until(k.lookDue) > 0 {
		return false
	}
	began := time.Now()
	g, err := k.look(ctx, k.rules)
	now := time.Now()
	k.lookDue = now.Add(max(rulesLook, lookShare*now.Sub(began)))
	return err == nil && g != k.generation
}

// check has the rules put right, and sets when to look and to check again. Where
// it finds nothing it leaves the next look for share times what it took.
func (k *rulesKeeper) check(ctx context.Context, share time.Duration) {
	generation, lookErr := k.look(ctx, k.rules)
	began := time.Now()
	changes, err := k.ensure(ctx, k.rules)
	if ctx.Err() != nil {
		return
	}
	now := time.Now()
	k.due = now.Add(k.resync)
	k.ready.set(condFirewall, err)
	k.blind, k.generation = lookErr != nil, generation
	pause := share * now.Sub(began)
	switch {
	case errors.Is(err, firewall.ErrInterfered):
		pause = k.backOff(now)
	case err != nil:
		k.blind = true // nothing would be new
	case len(changes) > 0:
		pause = k.backOff(now)
		k.tell(changes)
	}
	if err != nil {
		k.log.Error("Couldn't set the firewall rules, trying again", "err", err)
	}
	k.lookDue = now.Add(max(rulesLook, pause))
}

// backOff takes note of a change of the rules, and returns how long to leave them
// alone if somebody undoes that every time.
func (k *rulesKeeper) backOff(now time.Time) time.Duration {
	if now.Sub(k.repaired) > rulesPeace+k.resync {
		k.repairs, k.told = 0, false
	}
	k.repairs++
	k.repaired = now
	over := k.repairs - freeRepairs
	if over < 1 {
		return 0
	}
	return min(time.Second<<min(over-1, 10), k.resync)
}

// tell logs what was changed, until it is known to be fought over.
func (k *rulesKeeper) tell(changes []firewall.Change) {
	if k.told {
		return
	}
	k.log.Info("Set the firewall rules", "mode", k.fw.Mode(), "changes", changes)
	if k.told = k.repairs > freeRepairs; k.told {
		k.log.Warn("another program keeps changing the firewall rules back, putting them right less often and without a word from now on",
			"times", k.repairs, "every", k.resync)
	}
}
