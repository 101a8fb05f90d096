package subnet

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// keeper is the state of one Run. One goroutine owns it.
type keeper struct {
	*Manager
	own     Lease
	due     time.Time     // own.Expires when the next renewal was planned
	damage  bool          // our record does not say what we want it to
	relist  chan struct{} // of one place
	writing bool          // a result will come by written
	written chan written  // of one place
	sync    SyncFunc
}

func (k *keeper) run(ctx context.Context, news *mailbox) error {
	ctx, cancel := context.WithCancel(ctx)
	defer func() {
		cancel()
		if k.writing {
			<-k.written
		}
	}()
	waits := renewalWaits()
	syncWait := backoff{min: time.Second, max: repairEvery}
	renew := time.NewTimer(k.untilRenewal())
	repair := time.NewTimer(repairEvery)
	recheck := time.NewTimer(endless)
	defer renew.Stop()
	defer repair.Stop()
	defer recheck.Stop()
	if d := time.Until(k.lenient); d > 0 {
		recheck.Reset(d)
	}

	k.table.setOwn(k.own)
	k.settle()
	first := true // no sync yet
	if k.listed {
		repair.Reset(0)
	}
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-renew.C:
			if !k.writing {
				k.write(ctx)
			}
			continue
		case <-recheck.C:
			signal(k.relist)
			continue
		case w := <-k.written:
			k.writing = false
			d, err := k.finish(ctx, w, waits)
			if err != nil {
				return err
			}
			renew.Reset(d)
			continue
		case <-news.ready:
			rev := k.own.Revision
			changed, err := k.apply(news.take())
			if err != nil {
				return err
			}
			// Time that the machine slept through shows in the record only.
			if !k.writing && (k.own.Revision != rev || k.due.Sub(k.own.Expires) > clockSlack) {
				renew.Reset(k.untilRenewal())
			}
			if !changed && !(first && k.listed) {
				continue
			}
		case <-repair.C:
		}
		d := repairEvery
		if k.listed {
			first = false
			if err := k.sync(ctx, k.table.peers.sorted); err != nil {
				d = syncWait.delay()
			} else {
				syncWait.reset()
			}
		}
		repair.Reset(d)
	}
}

// apply takes over news, and reports whether the peers have changed. It fails only
// with ErrLeaseLost.
func (k *keeper) apply(u update) (changed bool, err error) {
	if u.snap != nil {
		if err := k.applySnapshot(*u.snap); err != nil {
			return false, err
		}
	}
	for _, e := range u.events {
		if err := k.applyEvent(e); err != nil {
			return false, err
		}
	}
	return k.settle(), nil
}

// settle decides on the records that were taken over.
func (k *keeper) settle() (changed bool) {
	if k.Protected != nil {
		k.table.setProtected(k.Protected())
	}
	changed = k.table.settle()
	k.bad.Store(int64(len(k.unreadable)))
	k.refused.Store(int64(len(k.table.refused)))
	return changed
}

func (k *keeper) applySnapshot(snap Snapshot) error {
	k.saw(snap.Revision)
	if err := k.findOwn(snap); err != nil {
		return err
	}
	k.noteBad(snap.Bad)
	clear(k.unreadable)
	keep := make(map[netip.Prefix]bool, len(snap.Bad))
	for _, b := range snap.Bad {
		k.unreadable[b.Key] = true
		keep[b.Subnet] = true // what became unreadable is not gone: go on with what it was
	}
	if time.Until(k.lenient) > 0 {
		for _, l := range k.table.peers.sorted {
			keep[l.Subnet] = true
		}
	}
	k.table.replace(snap.Leases, keep)
	k.listed = true
	return nil
}

func (k *keeper) applyEvent(e Event) error {
	k.seen = e.Revision
	switch e.Kind {
	case Put:
		delete(k.unreadable, Key(e.Lease.Subnet))
		if e.Lease.Subnet != k.own.Subnet {
			k.table.put(e.Lease)
		} else if e.Revision > k.own.Revision { // else our own write
			return k.adopt(e.Lease)
		}
	case Removed:
		delete(k.unreadable, Key(e.Subnet))
		if e.Subnet != k.own.Subnet {
			k.table.remove(e.Subnet)
		} else if e.Revision > k.own.Revision {
			return k.gone(fmt.Sprintf("the record of %s was removed", e.Subnet))
		}
	case Bad:
		k.noteBad([]BadRecord{e.Bad})
		k.unreadable[e.Bad.Key] = true
		if e.Bad.Subnet == k.own.Subnet && e.Revision > k.own.Revision {
			k.overwrite(e.Revision)
		}
	}
	return nil
}

// findOwn judges our record in a snapshot, which is the truth even where its
// revisions are lower than ours: etcd may have been restored from a backup.
func (k *keeper) findOwn(snap Snapshot) error {
	if i := slices.IndexFunc(snap.Leases, func(l Lease) bool { return l.Subnet == k.own.Subnet }); i >= 0 {
		return k.adopt(snap.Leases[i])
	}
	for _, b := range snap.Bad {
		if b.Subnet == k.own.Subnet {
			k.overwrite(b.Revision)
			return nil
		}
	}
	return k.gone(fmt.Sprintf("there is no record of %s", k.own.Subnet))
}

// gone notes that our record is missing.
func (k *keeper) gone(why string) error {
	k.missing = true
	return fmt.Errorf("%w: %s", ErrLeaseLost, why)
}

// adopt takes over what the store holds under our key, if it is still ours.
func (k *keeper) adopt(l Lease) error {
	right := l.Attrs.Equal(k.own.Attrs)
	former := !right && k.wroteBefore(l)
	if !former && l.Attrs.PublicIP != k.own.Attrs.PublicIP {
		return fmt.Errorf("%w: %s now belongs to %s", ErrLeaseLost, l.Subnet, l.Attrs.PublicIP)
	}
	k.hold(l.Revision, l.Expires)
	k.damage = !right && !former
	switch {
	case right:
		k.moved = false
	case former:
		k.moved = true
	default:
		k.log.Warn("someone changed our lease record, writing it again", "subnet", l.Subnet, "rev", l.Revision)
	}
	return nil
}

// overwrite makes the next renewal replace an unreadable record under our key.
func (k *keeper) overwrite(rev int64) {
	k.hold(rev, k.own.Expires)
	k.damage = true
	k.log.Warn("our lease record is unreadable, writing it again", "subnet", k.own.Subnet, "rev", rev)
}

// hold notes which record is ours.
func (k *keeper) hold(rev int64, expires time.Time) {
	k.own.Revision, k.own.Expires = rev, expires
	k.identity.own = k.own
}
