package subnettest

import (
	"context"
	"encoding/json"
	"errors"
	"net/netip"
	"testing"
	"time"

	"tweed/subnet"
)

// Fixture is an empty Store and what an operator, or another node, can do to it
// behind its back. A function that cannot do so calls t.Error.
type Fixture struct {
	Store     subnet.Store
	SetConfig func(value string)                         // "" removes it
	SetRaw    func(key, value string, ttl time.Duration) // 0 means that it does not expire
	Remove    func(key string)
	RemoveAll func()        // the lease records' directory with all that is in it
	Compact   func()        // forget all history up to now
	TTL       time.Duration // the shortest life of a record that the Store can keep to
}

// patience bounds what should happen at once, but may be slow on a busy machine.
const patience = 20 * time.Second

// Conformance tests that a Store keeps the promises of subnet.Store. open must
// return an independent Fixture each time, and clean up by t.Cleanup.
func Conformance(t *testing.T, open func(t *testing.T) Fixture) {
	for _, tt := range []struct {
		name string
		test func(*suite)
	}{
		{"Config", testConfig},
		{"ListEmpty", testListEmpty},
		{"CreateAndList", testCreateAndList},
		{"CreateRefuses", testCreateRefuses},
		{"CreateRace", testCreateRace},
		{"UpdateAndConflict", testUpdateAndConflict},
		{"UpdateRace", testUpdateRace},
		{"Reservation", testReservation},
		{"Delete", testDelete},
		{"BadRecordsInList", testBadRecordsInList},
		{"OverwriteBadRecord", testOverwriteBadRecord},
		{"WatchFollows", testWatchFollows},
		{"WatchConfig", testWatchConfig},
		{"WatchBadRecords", testWatchBadRecords},
		{"WatchResumes", testWatchResumes},
		{"WatchExpiry", testWatchExpiry},
		{"WatchStops", testWatchStops},
		{"WatchCompacted", testWatchCompacted},
		{"ContextEnds", testContextEnds},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(context.Background(), 3*patience)
			defer cancel()
			tt.test(&suite{T: t, Fixture: open(t), ctx: ctx})
		})
	}
}

// suite is one test of Conformance with a Fixture of its own.
type suite struct {
	*testing.T
	Fixture
	ctx context.Context
}

// subnetN returns 10.5.n.0/24.
func subnetN(n int) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 5, byte(n), 0}), 24)
}

// attrsN are those of node n, with everything set.
func attrsN(n int) subnet.Attrs {
	return subnet.Attrs{
		PublicIP:    netip.AddrFrom4([4]byte{192, 0, 2, byte(n)}),
		BackendType: "vxlan",
		BackendData: json.RawMessage(`{"VtepMAC":"0e:00:00:00:00:01"}`),
	}
}

func (s *suite) create(n int) subnet.Lease {
	s.Helper()
	l, err := s.Store.Create(s.ctx, subnetN(n), attrsN(n), subnet.TTL)
	if err != nil {
		s.Fatalf("create: %v", err)
	}
	return l
}

func (s *suite) list() subnet.Snapshot {
	s.Helper()
	snap, err := s.Store.List(s.ctx)
	if err != nil {
		s.Fatalf("list: %v", err)
	}
	return snap
}

func (s *suite) only(snap subnet.Snapshot) subnet.Lease {
	s.Helper()
	if len(snap.Leases) != 1 || len(snap.Bad) != 0 {
		s.Fatalf("snapshot %+v, want one lease and nothing bad", snap)
	}
	return snap.Leases[0]
}

// same fails the test unless the leases are equal, with expiries that differ by
// no more than what a busy machine and rounding to seconds may add.
func (s *suite) same(got, want subnet.Lease) {
	s.Helper()
	late := got.Expires.Sub(want.Expires).Abs() > patience
	if got.Subnet != want.Subnet || !got.Attrs.Equal(want.Attrs) || got.Revision != want.Revision ||
		got.Reserved() != want.Reserved() || late {
		s.Errorf("lease %+v, want %+v", got, want)
	}
}

// lives fails the test unless l expires in ttl from now.
func (s *suite) lives(l subnet.Lease, ttl time.Duration) {
	s.Helper()
	if left := time.Until(l.Expires); left > ttl+time.Second || left < ttl-patience {
		s.Errorf("lease of %s expires in %v, want %v", l.Subnet, left, ttl)
	}
}

func (s *suite) wantErr(err, want error) {
	s.Helper()
	if !errors.Is(err, want) {
		s.Errorf("error %v, want %v", err, want)
	}
}

// follower collects what a Watch reports.
type follower struct {
	s      *suite
	events chan subnet.Event
	err    chan error
	cancel context.CancelFunc
}

func (s *suite) watch(after int64) *follower {
	ctx, cancel := context.WithCancel(s.ctx)
	f := &follower{s: s, events: make(chan subnet.Event, 1000), err: make(chan error, 1), cancel: cancel}
	go func() {
		f.err <- s.Store.Watch(ctx, after, func(events []subnet.Event) error {
			for _, e := range events {
				f.events <- e
			}
			return nil
		})
	}()
	s.Cleanup(cancel)
	return f
}

func (f *follower) next() subnet.Event {
	f.s.Helper()
	select {
	case e := <-f.events:
		return e
	case err := <-f.err:
		f.s.Fatalf("watch ended: %v", err)
	case <-time.After(patience):
		f.s.Fatal("no event")
	}
	return subnet.Event{}
}

// end returns the error that Watch ends with.
func (f *follower) end() error {
	f.s.Helper()
	select {
	case err := <-f.err:
		return err
	case <-time.After(patience):
		f.s.Fatal("watch does not end")
		return nil
	}
}

// stop ends the watch, and fails the test if it had more to tell.
func (f *follower) stop() {
	f.s.Helper()
	f.cancel()
	f.s.wantErr(f.end(), context.Canceled)
	select {
	case e := <-f.events:
		f.s.Errorf("surplus event %+v", e)
	default:
	}
}
