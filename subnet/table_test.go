package subnet

import (
	"bytes"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

// testTable has the plan of /24 in 10.0.0.0/12, which the underlay 10.2.0.0/16 is
// inside of, and 10.0.1.0/24 is ours.
func testTable(t testing.TB) *table {
	cfg, err := ParseConfig([]byte(`{"Network":"10.0.0.0/12","SubnetMin":"10.0.1.0","SubnetMax":"10.7.255.0"}`))
	if err != nil {
		t.Fatal(err)
	}
	tb := newTable(cfg, slog.New(slog.DiscardHandler))
	tb.setProtected([]Protected{{netip.MustParsePrefix("10.3.0.9/32"), "etcd"}})
	tb.setOwn(lease("10.0.1.0/24", "10.2.0.1", 1))
	tb.settle()
	return tb
}

func lease(sn, ip string, rev int64) Lease {
	return Lease{Subnet: netip.MustParsePrefix(sn), Attrs: Attrs{PublicIP: netip.MustParseAddr(ip)}, Revision: rev}
}

// naive decides which of the records are served, by the rules alone. before are the
// peers so far.
func naive(t *table, before []Lease, records map[netip.Prefix]Lease) map[netip.Prefix]bool {
	var fits, misfits []Lease
	for _, l := range records {
		if l.Subnet == t.own.Subnet || t.alone(l) != "" {
			continue
		}
		if t.cfg.Contains(l.Subnet) {
			fits = append(fits, l)
		} else {
			misfits = append(misfits, l)
		}
	}
	served := map[netip.Prefix]bool{}
	refused := map[netip.Prefix]bool{}
	inside := func(l Lease) (Lease, bool) { // whose subnet has the public IP of l
		for _, o := range fits {
			if o.Subnet.Contains(l.Attrs.PublicIP) {
				return o, true
			}
		}
		return Lease{}, false
	}
	for len(served)+len(refused) < len(fits) {
		before := len(served) + len(refused)
		for _, l := range fits {
			switch o, ok := inside(l); {
			case served[l.Subnet] || refused[l.Subnet]:
			case !ok || refused[o.Subnet]:
				served[l.Subnet] = true
			case served[o.Subnet]:
				refused[l.Subnet] = true
			}
		}
		if len(served)+len(refused) > before {
			continue
		}
		// Only circles, and what leads to them, are left.
		var circle []netip.Prefix
		for _, l := range fits {
			at, left := l, len(fits)
			for ; left > 0 && !served[l.Subnet] && !refused[l.Subnet]; left-- {
				if at, _ = inside(at); at.Subnet == l.Subnet {
					circle = append(circle, l.Subnet)
					break
				}
			}
		}
		for _, sn := range circle {
			refused[sn] = true
		}
	}
	slices.SortFunc(misfits, func(a, b Lease) int { return int(a.Revision - b.Revision) })
	peer := func(l Lease) bool {
		return slices.ContainsFunc(before, func(p Lease) bool { return p.Subnet == l.Subnet && p.Attrs.PublicIP == l.Attrs.PublicIP })
	}
	newcomer := func(l Lease) bool { return !peer(l) }
	for _, l := range slices.Concat(slices.DeleteFunc(slices.Clone(misfits), newcomer), slices.DeleteFunc(slices.Clone(misfits), peer)) {
		if !slices.ContainsFunc(slices.Concat(fits, misfits), func(o Lease) bool {
			return served[o.Subnet] && (o.Subnet.Overlaps(l.Subnet) || o.Subnet.Contains(l.Attrs.PublicIP) || l.Subnet.Contains(o.Attrs.PublicIP))
		}) {
			served[l.Subnet] = true
		}
	}
	return served
}

// world is a set of records that changes at random, kept to few addresses so that
// they often have to do with each other.
type world struct {
	*rand.Rand
	records map[netip.Prefix]Lease
	rev     int64
}

func (w *world) subnet() netip.Prefix {
	a := netip.AddrFrom4([4]byte{10, byte(w.IntN(10)), byte(w.IntN(3)), 0})
	if w.IntN(20) == 0 {
		a = netip.AddrFrom4([4]byte{byte(w.IntN(256)), 0, 0, 0})
	}
	bits := 24
	if w.IntN(4) == 0 {
		bits = 1 + w.IntN(30)
	}
	return netip.PrefixFrom(a, bits).Masked()
}

func (w *world) ip() netip.Addr {
	switch w.IntN(12) {
	case 0:
		return netip.AddrFrom4([4]byte{127, 0, 0, 1})
	case 1:
		return netip.AddrFrom4([4]byte{192, 0, 2, byte(w.IntN(3))})
	}
	return netip.AddrFrom4([4]byte{10, byte(w.IntN(8)), byte(w.IntN(3)), byte(1 + w.IntN(2))})
}

func (w *world) lease() Lease {
	w.rev++
	l := Lease{Subnet: w.subnet(), Attrs: Attrs{PublicIP: w.ip()}, Revision: w.rev}
	if old, ok := w.records[l.Subnet]; ok && w.IntN(2) == 0 {
		l.Attrs = old.Attrs // a renewal
	}
	return l
}

// step changes records and tells the table, by events or as a whole.
func (w *world) step(t *table) {
	events := 1
	if w.IntN(3) == 0 {
		events = 1 + w.IntN(6)
	}
	whole := w.IntN(6) == 0
	for range events {
		if w.IntN(3) == 0 {
			sn := w.subnet()
			for _, l := range w.records {
				sn = l.Subnet // any
				break
			}
			delete(w.records, sn)
			if !whole {
				t.remove(sn)
			}
			continue
		}
		l := w.lease()
		w.records[l.Subnet] = l
		if !whole {
			t.put(l)
		}
	}
	if whole {
		var all []Lease
		for _, l := range w.records {
			all = append(all, l)
		}
		t.replace(all, nil)
	}
}

func checkTable(t *testing.T, tb *table, before []Lease, w *world) {
	t.Helper()
	want := naive(tb, before, w.records)
	got := map[netip.Prefix]bool{}
	for i, l := range tb.peers.sorted {
		got[l.Subnet] = true
		if i > 0 && tb.peers.sorted[i-1].Subnet.Compare(l.Subnet) >= 0 {
			t.Fatalf("out of order: %v", tb.peers.sorted)
		}
		if r := w.records[l.Subnet]; !r.Attrs.Equal(l.Attrs) || r.Revision != l.Revision {
			t.Fatalf("serves %+v, the record is %+v", l, r)
		}
		if l.Subnet.Overlaps(netip.MustParsePrefix("10.3.0.9/32")) || l.Subnet.Overlaps(tb.own.Subnet) || l.Subnet.Contains(tb.own.Attrs.PublicIP) {
			t.Fatalf("serves %v", l.Subnet)
		}
		for _, o := range tb.peers.sorted {
			if o.Subnet.Contains(l.Attrs.PublicIP) || o.Subnet != l.Subnet && o.Subnet.Overlaps(l.Subnet) {
				t.Fatalf("serves %v at %v and %v at %v", l.Subnet, l.Attrs.PublicIP, o.Subnet, o.Attrs.PublicIP)
			}
		}
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Fatalf("of %v\nserves %v,\nwant   %v", w.records, got, want)
	}
	others := 0
	for sn := range w.records {
		if sn != tb.own.Subnet {
			others++
		}
	}
	if len(tb.refused) != others-len(got) {
		t.Fatalf("%d refused, want %d", len(tb.refused), others-len(got))
	}
}

// hostileMisfit: a record of another length never takes another peer away.
func hostileMisfit(t *testing.T, tb *table, w *world) {
	t.Helper()
	before := slices.Clone(tb.peers.sorted)
	l := w.lease()
	l.Subnet = netip.PrefixFrom(l.Subnet.Addr(), []int{8 + w.IntN(16), 25 + w.IntN(6)}[w.IntN(2)]).Masked()
	w.records[l.Subnet] = l
	tb.put(l)
	tb.settle()
	checkTable(t, tb, before, w)
	for _, p := range before {
		if _, ok := tb.peers.get(p.Subnet); !ok && p.Subnet != l.Subnet {
			t.Fatalf("%v at %v took %v at %v away", l.Subnet, l.Attrs.PublicIP, p.Subnet, p.Attrs.PublicIP)
		}
	}
}

// renewal: a peer stays one when its record is written again, and takes none away.
func renewal(t *testing.T, tb *table, w *world) {
	t.Helper()
	before := slices.Clone(tb.peers.sorted)
	if len(before) == 0 {
		return
	}
	w.rev++
	l := before[w.IntN(len(before))]
	l.Revision = w.rev
	w.records[l.Subnet] = l
	tb.put(l)
	tb.put(l)
	if tb.settle() {
		t.Fatalf("the renewal of %v at %v made %v of %v", l.Subnet, l.Attrs.PublicIP, tb.peers.sorted, before)
	}
	checkTable(t, tb, before, w)
}

func runWorld(t *testing.T, seed uint64, steps int) {
	w := &world{Rand: rand.New(rand.NewPCG(seed, 1)), records: map[netip.Prefix]Lease{}, rev: 1}
	tb := testTable(t)
	for range steps {
		before := slices.Clone(tb.peers.sorted)
		w.step(tb)
		changed := tb.settle()
		checkTable(t, tb, before, w)
		same := slices.EqualFunc(before, tb.peers.sorted, func(a, b Lease) bool { return a.Subnet == b.Subnet && a.Attrs.Equal(b.Attrs) })
		if changed == same {
			t.Fatalf("changed is %v, with %v before and %v now", changed, before, tb.peers.sorted)
		}
		if w.IntN(10) == 0 {
			hostileMisfit(t, tb, w)
		}
		if w.IntN(4) == 0 {
			renewal(t, tb, w)
		}
	}
}

// TestTable compares with the naive twin, while records come, go and change.
func TestTable(t *testing.T) {
	for seed := range uint64(60) {
		runWorld(t, seed, 60)
	}
}

func FuzzTable(f *testing.F) {
	f.Add(uint64(1000), 20)
	f.Fuzz(func(t *testing.T, seed uint64, steps int) { runWorld(t, seed, max(0, min(steps, 100))) })
}

func TestRefuse(t *testing.T) {
	const ok = ""
	for _, tt := range []struct {
		sn, ip string
		why    reason
	}{
		{"10.0.2.0/24", "10.2.0.2", ok},
		{"10.7.255.0/24", "192.0.2.9", ok},
		{"10.0.0.0/24", "192.0.2.9", ok}, // below SubnetMin, and in nobody's way
		{"10.5.0.0/16", "192.0.2.9", ok}, // SubnetLen was 16
		{"10.5.0.0/26", "192.0.2.9", ok},
		{"10.0.2.0/24", "10.2.0.1", ownIP},
		{"10.0.1.128/25", "192.0.2.9", overlapsOurs},
		{"10.0.0.0/16", "192.0.2.9", overlapsOurs},
		{"0.0.0.0/1", "192.0.2.9", outside},
		{"128.0.0.0/1", "192.0.2.9", outside},
		{"11.0.0.0/24", "192.0.2.9", outside},
		{"127.0.0.0/8", "192.0.2.9", outside},
		{"10.0.0.0/8", "192.0.2.9", outside},
		{"224.0.0.0/4", "192.0.2.9", outside},
		{"10.2.0.0/24", "192.0.2.9", protected}, // our own public IP
		{"10.3.0.0/24", "192.0.2.9", protected}, // etcd
		{"10.3.0.8/30", "192.0.2.9", protected},
		{"10.0.2.0/24", "127.0.0.1", noHost},
		{"10.0.2.0/24", "169.254.1.1", noHost},
		{"10.0.2.0/24", "0.1.2.3", noHost},
		{"10.0.2.0/24", "224.0.0.1", noHost},
		{"10.0.2.0/24", "255.255.255.255", noHost},
		{"10.0.2.0/24", "10.0.1.7", loopsOurs},
		{"10.0.2.0/24", "10.0.2.7", loopsItself},
		{"10.0.2.0/24", "10.0.9.7", loops}, // inside that of a peer
		{"10.0.9.128/25", "192.0.2.9", overlaps},
		{"10.0.8.0/22", "192.0.2.9", overlaps},
		{"10.2.0.2/31", "192.0.2.9", coversPeer},
		{"10.5.0.0/16", "10.0.9.7", loops},
	} {
		tb := testTable(t)
		var log bytes.Buffer
		tb.log = slog.New(slog.NewTextHandler(&log, nil))
		tb.put(lease("10.0.9.0/24", "10.2.0.3", 2))
		l := lease(tt.sn, tt.ip, 3)
		for range 5 { // and again, and renewed
			tb.put(l)
			tb.settle()
			tb.replace([]Lease{lease("10.0.9.0/24", "10.2.0.3", 2), l}, nil)
			tb.settle()
			l.Revision++
		}
		_, served := tb.peers.get(l.Subnet)
		if got := tb.refused[l.Subnet].why; got != tt.why || served != (tt.why == ok) {
			t.Errorf("%s at %s: served %v, %q, want %q", tt.sn, tt.ip, served, got, tt.why)
		}
		if _, there := tb.peers.get(netip.MustParsePrefix("10.0.9.0/24")); !there {
			t.Errorf("%s at %s took a peer away", tt.sn, tt.ip)
		}
		want := 1
		if tt.why == ok {
			want = 0
		}
		if got := strings.Count(log.String(), "\n"); got != want || !strings.Contains(log.String(), string(tt.why)) {
			t.Errorf("%s at %s: logged %s", tt.sn, tt.ip, log.String())
		}
		// It goes and comes: that is news.
		tb.remove(l.Subnet)
		tb.settle()
		tb.put(l)
		tb.settle()
		if got := strings.Count(log.String(), "\n"); got != 2*want {
			t.Errorf("%s at %s came again: logged %s", tt.sn, tt.ip, log.String())
		}
	}
}

// Networks of special addresses, and underlays of link-local ones, are somebody's
// choice.
func TestSpecialNetworks(t *testing.T) {
	for _, tt := range []struct {
		network, own, ownIP, sn, ip string
		why                         reason
	}{
		{"240.5.0.0/16", "240.5.1.0/24", "192.0.2.1", "240.5.2.0/24", "192.0.2.2", ""},
		{"10.0.0.0/16", "10.0.1.0/24", "169.254.0.1", "10.0.2.0/24", "169.254.0.2", ""},
		{"10.0.0.0/16", "10.0.1.0/24", "169.254.0.1", "10.0.2.0/24", "127.0.0.2", noHost},
		{"0.0.0.0/0", "10.0.1.0/24", "192.0.2.1", "10.0.2.0/24", "192.0.3.2", ""},
		{"0.0.0.0/0", "10.0.1.0/24", "192.0.2.1", "127.0.0.0/24", "192.0.3.2", special},
		{"0.0.0.0/0", "10.0.1.0/24", "192.0.2.1", "0.0.0.0/24", "192.0.3.2", special},
		{"0.0.0.0/0", "10.0.1.0/24", "192.0.2.1", "169.254.7.0/24", "192.0.3.2", special},
		{"0.0.0.0/0", "10.0.1.0/24", "192.0.2.1", "239.0.0.0/24", "192.0.3.2", special},
		{"0.0.0.0/0", "10.0.1.0/24", "192.0.2.1", "250.0.0.0/24", "192.0.3.2", special},
		{"0.0.0.0/0", "10.0.1.0/24", "192.0.2.1", "192.0.2.0/24", "192.0.3.2", protected},
	} {
		cfg, err := ParseConfig([]byte(`{"Network":"` + tt.network + `","SubnetLen":24}`))
		if err != nil {
			t.Fatal(err)
		}
		tb := newTable(cfg, slog.New(slog.DiscardHandler))
		tb.setOwn(lease(tt.own, tt.ownIP, 1))
		tb.put(lease(tt.sn, tt.ip, 2))
		tb.settle()
		if got := tb.refused[netip.MustParsePrefix(tt.sn)].why; got != tt.why {
			t.Errorf("%+v: %q", tt, got)
		}
	}
}

// The usual events must not judge everything anew.
func TestTableFastPaths(t *testing.T) {
	tb := testTable(t)
	for i := range 100 {
		tb.put(lease(fmt.Sprintf("10.4.%d.0/24", i), fmt.Sprintf("10.2.1.%d", i), 2))
	}
	tb.put(lease("10.5.0.0/16", "10.2.2.1", 3)) // a misfit that is served
	tb.settle()
	tb.put(lease("10.4.210.0/24", "10.6.1.1", 3))
	tb.remove(netip.MustParsePrefix("10.4.210.0/24"))
	tb.settle()
	for name, f := range map[string]func(){
		"where one's public IP was": func() { tb.put(lease("10.6.1.0/24", "10.2.1.210", 9)) },
		"renewal":                   func() { tb.put(lease("10.4.7.0/24", "10.2.1.7", 9)) },
		"misfit's renewal":          func() { tb.put(lease("10.5.0.0/16", "10.2.2.1", 9)) },
		"new peer":                  func() { tb.put(lease("10.4.200.0/24", "10.2.1.200", 9)) },
		"peer moved":                func() { tb.put(lease("10.4.7.0/24", "10.2.3.7", 9)) },
		"peer left":                 func() { tb.remove(netip.MustParsePrefix("10.4.8.0/24")) },
		"junk":                      func() { tb.put(lease("192.168.0.0/24", "10.2.1.200", 9)) },
		"peer turns bad":            func() { tb.put(lease("10.4.9.0/24", "127.0.0.1", 9)) },
		"peer turns good":           func() { tb.put(lease("10.4.9.0/24", "10.2.1.9", 9)) },
		"unknown left":              func() { tb.remove(netip.MustParsePrefix("10.6.8.0/24")) },
	} {
		if f(); tb.dirty {
			t.Errorf("%s: all are to be judged", name)
			tb.settle()
		}
	}
}
