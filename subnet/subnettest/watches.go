package subnettest

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"sync"
	"time"

	"tweed/subnet"
)

func testWatchFollows(s *suite) {
	f := s.watch(s.list().Revision)

	l := s.create(1)
	e := f.next()
	s.checkPut(e, l)

	l.Attrs = attrsN(2)
	l, err := s.Store.Update(s.ctx, l, subnet.TTL)
	if err != nil {
		s.Fatal(err)
	}
	s.checkPut(f.next(), l)

	if l, err = s.Store.Update(s.ctx, l, 0); err != nil {
		s.Fatal(err)
	}
	s.checkPut(f.next(), l)

	// Another node's unconditional write.
	s.SetRaw("10.5.1.0-24", `{"PublicIP":"192.0.2.77"}`, time.Hour)
	e = f.next()
	if e.Kind != subnet.Put || e.Lease.Attrs.PublicIP.String() != "192.0.2.77" || e.Lease.Reserved() || e.Revision <= l.Revision {
		s.Errorf("event of a foreign write: %+v", e)
	}
	s.lives(e.Lease, time.Hour)

	s.Remove("10.5.1.0-24")
	s.checkRemoved(f.next(), e.Revision)

	l = s.create(1)
	s.checkPut(f.next(), l)
	if err := s.Store.Delete(s.ctx, l); err != nil {
		s.Fatal(err)
	}
	s.checkRemoved(f.next(), l.Revision)
	f.stop()
}

// testWatchConfig: changes of the network config come in order with those of the
// records, whatever is in it.
func testWatchConfig(s *suite) {
	after := s.list().Revision
	f := s.watch(after)
	for i, value := range []string{`{"Network":"10.5.0.0/16"}`, "not JSON", ""} {
		s.SetConfig(value)
		e := f.next()
		if e.Revision <= after || !reflect.DeepEqual(e, subnet.Event{Kind: subnet.Configured, Revision: e.Revision}) {
			s.Errorf("event %+v, want only that the config changed after revision %d", e, after)
		}
		l := s.create(i + 1)
		s.checkPut(f.next(), l)
		after = l.Revision
	}
	f.stop()

	// It is told later too, to a watch that was not there.
	s.SetConfig("{}")
	f = s.watch(after)
	if e := f.next(); e.Kind != subnet.Configured || e.Revision <= after {
		s.Errorf("event %+v, want that the config changed after revision %d", e, after)
	}
	f.stop()
}

func (s *suite) checkPut(e subnet.Event, want subnet.Lease) {
	s.Helper()
	if e.Kind != subnet.Put || e.Revision != want.Revision {
		s.Errorf("event %+v, want the put of %+v", e, want)
	}
	s.same(e.Lease, want)
}

// checkRemoved wants the removal of subnet 1 after the given revision.
func (s *suite) checkRemoved(e subnet.Event, after int64) {
	s.Helper()
	if e.Kind != subnet.Removed || e.Subnet != subnetN(1) || e.Revision <= after {
		s.Errorf("event %+v, want the removal of %s after revision %d", e, subnetN(1), after)
	}
}

// testWatchBadRecords: they are told, and what comes after them too.
func testWatchBadRecords(s *suite) {
	f := s.watch(s.list().Revision)
	for i, b := range badRecords {
		s.SetRaw(b.key, b.value, 0)
		e := f.next()
		if e.Kind != subnet.Bad || e.Bad.Key != b.key || e.Revision != e.Bad.Revision {
			s.Errorf("event %+v, want the bad record %s", e, b.key)
		}
		s.checkBad(e.Bad)
		l := s.create(i + 1)
		s.checkPut(f.next(), l)
	}
	f.stop()

	// Removing them is a removal where the key is a subnet, and nothing otherwise.
	f = s.watch(s.list().Revision)
	want := 0
	for _, b := range badRecords {
		s.Remove(b.key)
		if b.subnet == "" {
			continue
		}
		want++
		if e := f.next(); e.Kind != subnet.Removed || e.Subnet.String() != b.subnet {
			s.Errorf("event %+v, want the removal of %s", e, b.subnet)
		}
	}
	l := s.create(200)
	s.checkPut(f.next(), l)
	f.stop()
}

// testWatchResumes stops and resumes a watch while records change all the time:
// every change must be seen exactly once and in order.
func testWatchResumes(s *suite) {
	const changes = 60
	after := s.list().Revision
	var writer sync.WaitGroup
	defer writer.Wait()
	writer.Go(func() {
		for i := range changes {
			s.SetRaw("10.5.1.0-24", fmt.Sprintf(`{"PublicIP":"192.0.2.%d"}`, i+1), 0)
		}
	})
	errEnough := errors.New("enough")
	seen := 0
	for round := 1; seen < changes; round++ {
		left := round // each watch a little longer
		err := s.Store.Watch(s.ctx, after, func(events []subnet.Event) error {
			for _, e := range events {
				seen++
				if want := fmt.Sprintf("192.0.2.%d", seen); e.Kind != subnet.Put || e.Lease.Attrs.PublicIP.String() != want {
					s.Fatalf("event %+v, want the put of %s", e, want)
				}
				if e.Revision <= after || e.Revision != e.Lease.Revision {
					s.Fatalf("event %+v after revision %d", e, after)
				}
				after = e.Revision
				if left--; left == 0 || seen == changes {
					return errEnough
				}
			}
			return nil
		})
		if !errors.Is(err, errEnough) {
			s.Fatalf("watch: %v", err)
		}
	}
}

func testWatchExpiry(s *suite) {
	l, err := s.Store.Create(s.ctx, subnetN(1), attrsN(1), s.TTL)
	if err != nil {
		s.Fatal(err)
	}
	s.lives(l, s.TTL)
	f := s.watch(l.Revision)
	e := f.next()
	s.checkRemoved(e, l.Revision)
	if early := time.Until(l.Expires); early > s.TTL/2 {
		s.Errorf("expired %v before its time", early)
	}
	if snap := s.list(); len(snap.Leases) != 0 || snap.Revision < e.Revision {
		s.Errorf("after expiry: %+v", snap)
	}
	_, err = s.Store.Update(s.ctx, l, subnet.TTL)
	s.wantErr(err, subnet.ErrNotFound)
	s.create(1)
}

func testWatchStops(s *suite) {
	l := s.create(1)
	f := s.watch(l.Revision)
	f.stop()

	ctx, cancel := context.WithTimeout(s.ctx, 50*time.Millisecond)
	defer cancel()
	err := s.Store.Watch(ctx, l.Revision, func([]subnet.Event) error { return nil })
	s.wantErr(err, context.DeadlineExceeded)

	// What fn returns comes out as it is, and fn is not called again.
	mine := errors.New("mine")
	s.Remove("10.5.1.0-24")
	s.create(2)
	calls := 0
	err = s.Store.Watch(s.ctx, l.Revision, func([]subnet.Event) error { calls++; return mine })
	if err != mine || calls != 1 {
		s.Errorf("watch returned %v after %d calls, want %v after 1", err, calls, mine)
	}
}

func testWatchCompacted(s *suite) {
	old := s.list().Revision
	l := s.create(1)
	s.Compact()
	noEvent := func([]subnet.Event) error { return nil }
	s.wantErr(s.Store.Watch(s.ctx, old, noEvent), subnet.ErrCompacted)

	// A new list is a good start again.
	f := s.watch(s.list().Revision)
	if err := s.Store.Delete(s.ctx, l); err != nil {
		s.Fatal(err)
	}
	s.checkRemoved(f.next(), l.Revision)

	// All records at once cannot be told as events.
	s.create(2)
	f.next()
	s.RemoveAll()
	s.wantErr(f.end(), subnet.ErrCompacted)
	snap := s.list()
	if len(snap.Leases) != 0 {
		s.Errorf("leases %+v after all were removed", snap.Leases)
	}
	f = s.watch(snap.Revision)
	l = s.create(3)
	s.checkPut(f.next(), l)
	f.stop()
}
