package main

import (
	"context"
	"errors"
	"time"

	"tweed/dataplane/firewall"
)

const (
	// rulesLook is how often the kernel is asked whether anything has changed in
	// its firewall. To wake up for that costs more than to ask.
	rulesLook = 400 * time.Millisecond
	// After a change the rules are checked when nothing has changed for rulesRest,
	// because they are not to be put into the middle of what a script is doing, but
	// no later than rulesSettle after it was seen.
	rulesRest   = 100 * time.Millisecond
	rulesSettle = 500 * time.Millisecond

	// After a look there is a pause of at least lookShare times what it took, so
	// that looks cost 1 % of a processor where the tables are large. After a check
	// that others' changes led to there is one of checkShare times what it took:
	// they may go on all the time. The next check comes after resync all the same.
	lookShare, checkShare = 100, 30

	// freeRepairs are made at once, the setting at the start among them. If there
	// is no peace then, another program fights for the rules, and is answered after
	// 1, 2, 4 ... seconds, up to maxRepairPause or what flannel would take.
	freeRepairs    = 5
	rulesPeace     = 90 * time.Second
	maxRepairPause = time.Minute
)

// A rulesKeeper holds the kernel to the firewall rules: it checks them soon after
// something has changed in the firewall, and each resync, as flannel does.
type rulesKeeper struct {
	*node
	rules  firewall.Rules
	resync time.Duration
	ensure func(context.Context, firewall.Rules) ([]firewall.Change, error) // n.fw.Ensure
	look   func(firewall.Rules) (uint64, error)                             // n.fw.Generation

	due     time.Time // of a check that nothing has asked for
	lookDue time.Time // of the next look, unless blind
	blind   bool      // until the next check

	checked uint64    // generation before the last check
	sure    bool      // and after it
	seen    uint64    // generation at the last look
	news    time.Time // when a change was seen first; the zero value if none was

	repairs  int       // without peace between them
	repaired time.Time // the last of them
	told     bool      // that they are fought over
	blamed   bool      // the kernel that tells no generation
}

func (n *node) newRulesKeeper(r firewall.Rules) *rulesKeeper {
	return &rulesKeeper{node: n, rules: r, resync: n.opts.IPTablesResync, ensure: n.fw.Ensure, look: n.fw.Generation}
}

// step checks the rules if it is time to, and returns how long to wait for the
// next step.
func (k *rulesKeeper) step(ctx context.Context) time.Duration {
	if time.Until(k.due) <= 0 || k.changed() {
		k.check(ctx)
	}
	next := k.due
	if !k.blind && k.lookDue.Before(next) {
		next = k.lookDue
	}
	return time.Until(next)
}

// changed looks whether anything has changed since the last check, and is at rest
// again.
func (k *rulesKeeper) changed() bool {
	if k.blind || time.Until(k.lookDue) > 0 {
		return false
	}
	began := time.Now()
	g, err := k.look(k.rules)
	now := time.Now()
	pause := lookShare * now.Sub(began)
	k.lookDue = now.Add(max(rulesLook, pause))
	if err != nil {
		return false
	}
	before := k.seen
	k.seen = g
	if k.sure && g == k.checked {
		return false
	}
	k.lookDue = now.Add(max(rulesRest, pause))
	if k.news.IsZero() {
		k.news = now
	}
	return g == before || now.Sub(k.news) >= rulesSettle
}

// check has the rules put right, and sets when to look and to check again.
func (k *rulesKeeper) check(ctx context.Context) {
	began := time.Now()
	g, lookErr := k.look(k.rules)
	changes, err := k.ensure(ctx, k.rules)
	if ctx.Err() != nil {
		return
	}
	if lookErr != nil && err == nil {
		g, lookErr = k.look(k.rules) // the first Ensure learns how
	}
	now := time.Now()
	written := errors.Is(err, firewall.ErrInterfered) || err == nil && len(changes) > 0
	pause := time.Duration(0)
	switch {
	case written:
		pause = k.backOff(now)
	case k.sure && g != k.checked:
		pause = checkShare * now.Sub(began)
	}
	k.blind = hopeless(lookErr) || err != nil && !written
	// The legacy tables may become again what they were before a repair.
	k.checked, k.sure = g, lookErr == nil && !written
	k.seen, k.news = g, time.Time{}
	k.lookDue = now.Add(max(rulesLook, pause))
	k.due = now.Add(k.resync)
	k.ready.set(condFirewall, err)
	k.tell(changes, err, lookErr)
}

// hopeless reports whether a look fails because of what does not pass.
func hopeless(err error) bool {
	return errors.Is(err, firewall.ErrUnsupported) || errors.Is(err, firewall.ErrPermission)
}

// backOff takes note of a change of the rules, and returns how long to leave them
// alone if somebody undoes that every time.
func (k *rulesKeeper) backOff(now time.Time) time.Duration {
	if now.Sub(k.repaired) > rulesPeace {
		k.repairs, k.told = 0, false
	}
	k.repairs++
	k.repaired = now
	over := k.repairs - freeRepairs
	if over < 1 {
		return 0
	}
	return min(time.Second<<min(over-1, 10), k.resync, maxRepairPause)
}

// tell logs what became of a check. Changes that are known to be fought over are
// passed over.
func (k *rulesKeeper) tell(changes []firewall.Change, err, lookErr error) {
	if err != nil {
		attrs := []any{"err", err}
		if len(changes) > 0 {
			attrs = append(attrs, "changes", changes)
		}
		k.log.Error("Couldn't set the firewall rules, trying again", attrs...)
		return
	}
	if len(changes) > 0 && !k.told {
		k.log.Info("Set the firewall rules", "mode", k.fw.Mode(), "changes", changes)
		if k.told = k.repairs > freeRepairs; k.told {
			k.log.Warn("another program keeps changing the firewall rules back, putting them right less often and without a word from now on", "times", k.repairs)
		}
	}
	if hopeless(lookErr) && !k.blamed {
		k.blamed = true
		k.log.Warn("the kernel doesn't tell whether the firewall has changed, the rules are only checked now and then", "every", k.resync, "err", lookErr)
	}
}
