package subnet

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// keeper is the state of one Run. One goroutine owns it.
type keeper struct {
	*Manager
	own        Lease
	due        time.Time // own.Expires when the next renewal was planned
	damage     bool      // our record does not say what we want it to
	peers      map[netip.Prefix]Lease
	listed     bool            // whether peers is complete
	unreadable map[string]bool // keys of records
	sync       SyncFunc
}

func (k *keeper) run(ctx context.Context, news <-chan update) error {
	renewWait := backoff{min: 5 * time.Second, max: time.Minute}
	syncWait := backoff{min: time.Second, max: repairEvery}
	renew := time.NewTimer(k.untilRenewal())
	repair := time.NewTimer(repairEvery)
	defer renew.Stop()
	defer repair.Stop()

	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-renew.C:
			err := k.renew(ctx)
			switch {
			case err == nil:
				renewWait.reset()
				renew.Reset(k.untilRenewal())
			case errors.Is(err, ErrLeaseLost):
				return err
			default:
				d := renewWait.delay()
				if ctx.Err() == nil {
					k.log.Error(fmt.Sprintf("Error renewing lease (trying again in %s): %v", d.Round(time.Second), err))
				}
				renew.Reset(d)
			}
			continue
		case u := <-news:
			rev := k.own.Revision
			if err := k.apply(u); err != nil {
				return err
			}
			// Time that the machine slept through shows in the record only.
			if k.own.Revision != rev || k.due.Sub(k.own.Expires) > clockSlack {
				renew.Reset(k.untilRenewal())
			}
		case <-repair.C:
		}
		d := repairEvery
		if k.listed {
			if err := k.sync(ctx, k.list()); err != nil {
				d = syncWait.delay()
			} else {
				syncWait.reset()
			}
		}
		repair.Reset(d)
	}
}

// untilRenewal returns the time to the next renewal and logs it.
func (k *keeper) untilRenewal() time.Duration {
	var d time.Duration
	switch {
	case k.damage:
		// Two daemons that claim one record must not fight at full speed.
		d = repairRecordAfter
	case k.own.Reserved():
		d = endless - k.margin + 1 // to the nanosecond what flannel logs, by an overflow
	default:
		d = max(0, time.Until(k.own.Expires)-k.margin)
	}
	k.due = k.own.Expires
	k.log.Info(fmt.Sprintf("Waiting for %s to renew lease", d))
	return d
}

// renew writes our record anew, if it is still the one that we know.
func (k *keeper) renew(ctx context.Context) error {
	l, err := k.store.Update(ctx, k.own, ttlFor(k.own))
	switch {
	case errors.Is(err, ErrNotFound):
		return fmt.Errorf("%w: the record of %s is gone", ErrLeaseLost, k.own.Subnet)
	case errors.Is(err, ErrConflict):
		// Someone wrote it, or our own last try arrived after all.
		snap, lerr := k.store.List(ctx)
		if lerr != nil {
			return lerr
		}
		if lost := k.findOwn(snap); lost != nil {
			return lost
		}
		return err
	case err != nil:
		return err
	}
	k.own, k.damage = l, false
	if !l.Reserved() {
		k.log.Info(fmt.Sprintf("Lease renewed, new expiration: %s", l.Expires.UTC().Round(0)))
	}
	return nil
}

// apply takes over news. It fails only with ErrLeaseLost.
func (k *keeper) apply(u update) error {
	defer func() { k.bad.Store(int64(len(k.unreadable))) }()
	if u.snap != nil {
		return k.applySnapshot(*u.snap)
	}
	for _, e := range u.events {
		if err := k.applyEvent(e); err != nil {
			return err
		}
	}
	return nil
}

func (k *keeper) applySnapshot(snap Snapshot) error {
	if err := k.findOwn(snap); err != nil {
		return err
	}
	k.noteBad(snap.Bad)
	clear(k.unreadable)
	for _, b := range snap.Bad {
		k.unreadable[b.Key] = true
	}
	peers := make(map[netip.Prefix]Lease, len(snap.Leases))
	for _, l := range snap.Leases {
		if k.isPeer(l) {
			peers[l.Subnet] = l
		}
	}
	for _, b := range snap.Bad {
		// What became unreadable is not gone: go on with what it was.
		if l, ok := k.peers[b.Subnet]; ok {
			peers[b.Subnet] = l
		}
	}
	k.peers, k.listed = peers, true
	return nil
}

func (k *keeper) applyEvent(e Event) error {
	switch e.Kind {
	case Put:
		delete(k.unreadable, Key(e.Lease.Subnet))
		if e.Lease.Subnet == k.own.Subnet {
			if e.Revision <= k.own.Revision {
				return nil // our own write
			}
			return k.adopt(e.Lease)
		}
		if k.isPeer(e.Lease) {
			k.peers[e.Lease.Subnet] = e.Lease
		} else {
			delete(k.peers, e.Lease.Subnet)
		}
	case Removed:
		delete(k.unreadable, Key(e.Subnet))
		if e.Subnet == k.own.Subnet && e.Revision > k.own.Revision {
			return fmt.Errorf("%w: the record of %s was removed", ErrLeaseLost, e.Subnet)
		}
		delete(k.peers, e.Subnet)
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
	for _, l := range snap.Leases {
		if l.Subnet == k.own.Subnet {
			return k.adopt(l)
		}
	}
	for _, b := range snap.Bad {
		if b.Subnet == k.own.Subnet {
			k.overwrite(b.Revision)
			return nil
		}
	}
	return fmt.Errorf("%w: there is no record of %s", ErrLeaseLost, k.own.Subnet)
}

// adopt takes over what the store holds under our key, if it is still ours.
func (k *keeper) adopt(l Lease) error {
	if l.Attrs.PublicIP != k.own.Attrs.PublicIP {
		return fmt.Errorf("%w: %s now belongs to %s", ErrLeaseLost, l.Subnet, l.Attrs.PublicIP)
	}
	k.own.Revision, k.own.Expires = l.Revision, l.Expires
	if k.damage = !l.Attrs.Equal(k.own.Attrs); k.damage {
		k.log.Warn("someone changed our lease record, writing it again", "subnet", l.Subnet, "rev", l.Revision)
	}
	return nil
}

// overwrite makes the next renewal replace an unreadable record under our key.
func (k *keeper) overwrite(rev int64) {
	k.own.Revision, k.damage = rev, true
	k.log.Warn("our lease record is unreadable, writing it again", "subnet", k.own.Subnet, "rev", rev)
}

// isPeer reports whether packets should go to l, and logs why not.
func (k *keeper) isPeer(l Lease) bool {
	switch {
	case l.Subnet == k.own.Subnet:
		return false
	case l.Attrs.PublicIP == k.own.Attrs.PublicIP:
		k.log.Warn("ignoring another lease with our own public IP", "subnet", l.Subnet, "peer", l.Attrs.PublicIP)
		return false
	case !k.cfg.Network.Contains(l.Subnet.Addr()) || l.Subnet.Bits() < k.cfg.Network.Bits():
		k.log.Warn("ignoring a lease outside of the network", "subnet", l.Subnet, "peer", l.Attrs.PublicIP, "network", k.cfg.Network)
		return false
	case l.Subnet.Overlaps(k.own.Subnet):
		k.log.Error("ignoring a lease that overlaps ours", "subnet", l.Subnet, "peer", l.Attrs.PublicIP, "own", k.own.Subnet)
		return false
	}
	return true
}

func (k *keeper) list() []Lease {
	peers := make([]Lease, 0, len(k.peers))
	for _, l := range k.peers {
		peers = append(peers, l)
	}
	slices.SortFunc(peers, func(a, b Lease) int { return a.Subnet.Compare(b.Subnet) })
	return peers
}
