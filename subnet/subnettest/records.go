package subnettest

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"sync"
	"time"

	"tweed/subnet"
)

func testConfig(s *suite) {
	_, err := s.Store.Config(s.ctx)
	s.wantErr(err, subnet.ErrNoConfig)

	for _, want := range []string{`{"Network":"10.5.0.0/16"}`, "not JSON: \" é\n%&=+"} {
		s.SetConfig(want)
		if got, err := s.Store.Config(s.ctx); err != nil || string(got) != want {
			s.Errorf("config %q, %v, want %q", got, err, want)
		}
	}
	s.SetConfig("")
	_, err = s.Store.Config(s.ctx)
	s.wantErr(err, subnet.ErrNoConfig)
}

func testListEmpty(s *suite) {
	snap := s.list()
	if len(snap.Leases) != 0 || len(snap.Bad) != 0 || snap.Revision <= 0 {
		s.Fatalf("empty store: %+v", snap)
	}
	f := s.watch(snap.Revision)
	l := s.create(1)
	if e := f.next(); e.Kind != subnet.Put || e.Revision != l.Revision {
		s.Errorf("first event %+v, want the put of %+v", e, l)
	}
}

func testCreateAndList(s *suite) {
	before := s.list().Revision
	l := s.create(1)
	if l.Subnet != subnetN(1) || !l.Attrs.Equal(attrsN(1)) || l.Reserved() || l.Revision <= before {
		s.Errorf("created %+v after revision %d", l, before)
	}
	s.lives(l, subnet.TTL)
	snap := s.list()
	s.same(s.only(snap), l)
	if snap.Revision < l.Revision {
		s.Errorf("list at revision %d, after a create at %d", snap.Revision, l.Revision)
	}

	// The least that a record can hold, and a subnet of another length.
	small := subnet.Attrs{PublicIP: netip.MustParseAddr("192.0.2.9")}
	sn := netip.MustParsePrefix("10.6.1.128/27")
	if _, err := s.Store.Create(s.ctx, sn, small, subnet.TTL); err != nil {
		s.Fatal(err)
	}
	snap = s.list()
	if i := find(snap, sn); i < 0 || len(snap.Leases) != 2 || !snap.Leases[i].Attrs.Equal(small) {
		s.Errorf("list %+v, want %s with %+v", snap.Leases, sn, small)
	}
}

func find(snap subnet.Snapshot, sn netip.Prefix) int {
	for i, l := range snap.Leases {
		if l.Subnet == sn {
			return i
		}
	}
	return -1
}

func testCreateRefuses(s *suite) {
	l := s.create(1)
	_, err := s.Store.Create(s.ctx, subnetN(1), attrsN(2), subnet.TTL)
	s.wantErr(err, subnet.ErrExists)
	if err != nil && !strings.Contains(err.Error(), "10.5.1.0-24") {
		s.Errorf("error %q does not name the record", err)
	}
	s.same(s.only(s.list()), l)

	s.SetRaw("10.5.2.0-24", "garbage", 0)
	_, err = s.Store.Create(s.ctx, subnetN(2), attrsN(2), subnet.TTL)
	s.wantErr(err, subnet.ErrExists)

	// What could not be read back is not written.
	revision := s.list().Revision
	for _, bad := range []struct {
		sn netip.Prefix
		a  subnet.Attrs
	}{
		{netip.Prefix{}, attrsN(3)},
		{netip.MustParsePrefix("10.5.3.1/24"), attrsN(3)},
		{netip.MustParsePrefix("10.5.3.1/32"), attrsN(3)},
		{netip.MustParsePrefix("fd00::/64"), attrsN(3)},
		{subnetN(3), subnet.Attrs{}},
		{subnetN(3), subnet.Attrs{PublicIP: netip.MustParseAddr("fd00::1")}},
		{subnetN(3), subnet.Attrs{PublicIP: netip.MustParseAddr("192.0.2.3"), BackendData: []byte("{")}},
	} {
		if l, err := s.Store.Create(s.ctx, bad.sn, bad.a, subnet.TTL); err == nil {
			s.Errorf("created %+v", l)
		}
	}
	if now := s.list().Revision; now != revision {
		s.Errorf("revision rose from %d to %d", revision, now)
	}
}

func testCreateRace(s *suite) {
	const nodes = 8
	var mu sync.Mutex
	var won []subnet.Lease
	inParallel(nodes, func(n int) {
		l, err := s.Store.Create(s.ctx, subnetN(1), attrsN(n), subnet.TTL)
		mu.Lock()
		defer mu.Unlock()
		if err == nil {
			won = append(won, l)
			return
		}
		s.wantErr(err, subnet.ErrExists)
	})
	if len(won) != 1 {
		s.Fatalf("%d of %d nodes created the same record", len(won), nodes)
	}
	s.same(s.only(s.list()), won[0])
}

func inParallel(n int, fn func(int)) {
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { fn(i) })
	}
	wg.Wait()
}

func testUpdateAndConflict(s *suite) {
	first := s.create(1)
	want := first
	want.Attrs = attrsN(9)
	second, err := s.Store.Update(s.ctx, want, subnet.TTL/2)
	if err != nil {
		s.Fatal(err)
	}
	if second.Revision <= first.Revision || !second.Attrs.Equal(attrsN(9)) || second.Subnet != first.Subnet {
		s.Errorf("updated %+v to %+v", first, second)
	}
	s.lives(second, subnet.TTL/2)
	s.same(s.only(s.list()), second)

	_, err = s.Store.Update(s.ctx, first, subnet.TTL)
	s.wantErr(err, subnet.ErrConflict)
	s.wantErr(s.Store.Delete(s.ctx, first), subnet.ErrConflict)
	s.same(s.only(s.list()), second)

	// The same content written by someone else is another record, too.
	s.SetRaw("10.5.1.0-24", `{"PublicIP":"192.0.2.9"}`, 0)
	_, err = s.Store.Update(s.ctx, second, subnet.TTL)
	s.wantErr(err, subnet.ErrConflict)

	gone := first
	gone.Subnet = subnetN(2)
	_, err = s.Store.Update(s.ctx, gone, subnet.TTL)
	s.wantErr(err, subnet.ErrNotFound)
	s.Remove("10.5.1.0-24")
	_, err = s.Store.Update(s.ctx, second, subnet.TTL)
	s.wantErr(err, subnet.ErrNotFound)
	if snap := s.list(); len(snap.Leases) != 0 {
		s.Errorf("a failed update wrote %+v", snap.Leases)
	}
}

func testUpdateRace(s *suite) {
	l := s.create(1)
	const nodes = 8
	var mu sync.Mutex
	won := 0
	inParallel(nodes, func(n int) {
		mine := l
		mine.Attrs = attrsN(n)
		_, err := s.Store.Update(s.ctx, mine, subnet.TTL)
		mu.Lock()
		defer mu.Unlock()
		if err == nil {
			won++
			return
		}
		s.wantErr(err, subnet.ErrConflict)
	})
	if won != 1 {
		s.Errorf("%d of %d nodes updated the same revision", won, nodes)
	}
}

func testReservation(s *suite) {
	s.SetRaw("10.5.1.0-24", `{"PublicIP":"192.0.2.1"}`, 0)
	l := s.only(s.list())
	if !l.Reserved() {
		s.Fatalf("%+v is no reservation", l)
	}
	l.Attrs = attrsN(1)
	l, err := s.Store.Update(s.ctx, l, 0)
	if err != nil {
		s.Fatal(err)
	}
	if !l.Reserved() {
		s.Errorf("updated to %+v, want a reservation", l)
	}
	s.same(s.only(s.list()), l)

	// From reservation to lease and back, by ttl alone.
	for _, ttl := range []time.Duration{subnet.TTL, 0} {
		if l, err = s.Store.Update(s.ctx, l, ttl); err != nil {
			s.Fatal(err)
		}
		if l.Reserved() != (ttl == 0) {
			s.Errorf("updated with ttl %v to %+v", ttl, l)
		}
		s.same(s.only(s.list()), l)
	}
	created, err := s.Store.Create(s.ctx, subnetN(2), attrsN(2), 0)
	if err != nil || !created.Reserved() {
		s.Errorf("created with ttl 0: %+v, %v", created, err)
	}
}

func testDelete(s *suite) {
	l := s.create(1)
	if err := s.Store.Delete(s.ctx, l); err != nil {
		s.Fatal(err)
	}
	if snap := s.list(); len(snap.Leases) != 0 || snap.Revision <= l.Revision {
		s.Errorf("after delete: %+v", snap)
	}
	s.wantErr(s.Store.Delete(s.ctx, l), subnet.ErrNotFound)
	again := s.create(1)
	s.wantErr(s.Store.Delete(s.ctx, l), subnet.ErrConflict)
	s.same(s.only(s.list()), again)
}

// badRecords maps keys under the lease directory to values that are no leases,
// and to the subnet that the key stands for, if any.
var badRecords = []struct{ key, value, subnet string }{
	{"10.5.100.0-24", ``, "10.5.100.0/24"},
	{"10.5.101.0-24", `{"PublicIP":"192.0.2.1"`, "10.5.101.0/24"},
	{"10.5.102.0-24", `[]`, "10.5.102.0/24"},
	{"10.5.103.0-24", `{}`, "10.5.103.0/24"},
	{"10.5.104.0-24", `{"PublicIP":null}`, "10.5.104.0/24"},
	{"10.5.105.0-24", `{"PublicIP":7}`, "10.5.105.0/24"},
	{"10.5.106.0-24", `{"PublicIP":"fd00::1"}`, "10.5.106.0/24"},
	{"10.5.107.0-24", `{"PublicIP":"192.0.2"}`, "10.5.107.0/24"},
	{"10.5.108.0-24", `{"PublicIP":"192.0.2.1","BackendType":7}`, "10.5.108.0/24"},
	{"config", `{"PublicIP":"192.0.2.1"}`, ""},
	{"10.5.109.0", `{"PublicIP":"192.0.2.1"}`, ""},
	{"10.5.110.0-33", `{"PublicIP":"192.0.2.1"}`, ""},
	{"10.5.111.7-24", `{"PublicIP":"192.0.2.1"}`, ""},
	{"10.5.300.0-24", `{"PublicIP":"192.0.2.1"}`, ""},
	{"fd00::-64", `{"PublicIP":"192.0.2.1"}`, ""},
}

func testBadRecordsInList(s *suite) {
	l := s.create(1)
	for _, b := range badRecords {
		s.SetRaw(b.key, b.value, 0)
	}
	snap := s.list()
	if len(snap.Leases) != 1 || len(snap.Bad) != len(badRecords) {
		s.Fatalf("%d leases and %d bad records, want 1 and %d", len(snap.Leases), len(snap.Bad), len(badRecords))
	}
	s.same(snap.Leases[0], l)
	for _, bad := range snap.Bad {
		s.checkBad(bad)
	}
}

func (s *suite) checkBad(got subnet.BadRecord) {
	s.Helper()
	for _, want := range badRecords {
		if want.key != got.Key {
			continue
		}
		if got.Subnet.IsValid() != (want.subnet != "") || got.Subnet.IsValid() && got.Subnet.String() != want.subnet {
			s.Errorf("bad record %s: subnet %s, want %q", got.Key, got.Subnet, want.subnet)
		}
		if got.Revision <= 0 {
			s.Errorf("bad record %s: revision %d", got.Key, got.Revision)
		}
		if got.Err == nil || !strings.Contains(got.Err.Error(), want.key) {
			s.Errorf("bad record %s: error %v does not name it", got.Key, got.Err)
		}
		return
	}
	s.Errorf("bad record with the key %q, which nobody wrote", got.Key)
}

// testOverwriteBadRecord: whoever knows a bad record's revision may replace it.
func testOverwriteBadRecord(s *suite) {
	s.SetRaw("10.5.1.0-24", "garbage", 0)
	snap := s.list()
	if len(snap.Bad) != 1 {
		s.Fatalf("snapshot %+v, want one bad record", snap)
	}
	l := subnet.Lease{Subnet: subnetN(1), Attrs: attrsN(1), Revision: snap.Bad[0].Revision}
	stale := l
	stale.Revision--
	_, err := s.Store.Update(s.ctx, stale, subnet.TTL)
	s.wantErr(err, subnet.ErrConflict)
	if l, err = s.Store.Update(s.ctx, l, subnet.TTL); err != nil {
		s.Fatal(err)
	}
	s.same(s.only(s.list()), l)
}

func testContextEnds(s *suite) {
	l := s.create(1)
	ended, cancel := context.WithCancel(s.ctx)
	cancel()
	began := time.Now()
	_, errConfig := s.Store.Config(ended)
	_, errList := s.Store.List(ended)
	_, errCreate := s.Store.Create(ended, subnetN(2), attrsN(2), subnet.TTL)
	_, errUpdate := s.Store.Update(ended, l, subnet.TTL)
	errDelete := s.Store.Delete(ended, l)
	errWatch := s.Store.Watch(ended, l.Revision, func([]subnet.Event) error { return errors.New("called") })
	for op, err := range map[string]error{
		"config": errConfig, "list": errList, "create": errCreate,
		"update": errUpdate, "delete": errDelete, "watch": errWatch,
	} {
		if !errors.Is(err, context.Canceled) {
			s.Errorf("%s with an ended context: %v", op, err)
		}
	}
	if took := time.Since(began); took > patience {
		s.Errorf("ended contexts took %v", took)
	}
	s.same(s.only(s.list()), l)
}
