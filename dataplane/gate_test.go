package dataplane

import (
	"errors"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// A gated queue keeps what it was told.
type gated struct {
	line
	refuses error

	mu       sync.Mutex
	restrict [][]netip.Addr // nil where the restriction ended
}

func (q *gated) Restrict(peers []netip.Addr) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.restrict = append(q.restrict, slices.Clone(peers))
	return q.refuses
}

func (q *gated) told() [][]netip.Addr {
	q.mu.Lock()
	defer q.mu.Unlock()
	return slices.Clone(q.restrict)
}

// shut reports whether the last word was a restriction.
func (q *gated) shut() bool {
	told := q.told()
	return len(told) > 0 && told[len(told)-1] != nil
}

func newGate(q *gated) *gate {
	t := new(Table)
	t.Replace([]Route{{netip.MustParsePrefix("10.5.2.0/24"), netip.MustParseAddrPort("192.0.2.2:8285")},
		{netip.MustParsePrefix("10.5.3.0/24"), netip.MustParseAddrPort("192.0.2.2:8285")}})
	return &gate{queue: q, peers: t}
}

// flood has batches of 50 packets of junk come for so long, at a rate.
func (g *gate) flood(d time.Duration, perSecond int, known bool) {
	const batch = 50
	for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(time.Second * batch / time.Duration(perSecond)) {
		g.look(time.Now(), batch, known)
	}
}

// TestGate: it closes for a second under a flood, and opens by itself.
func TestGate(t *testing.T) {
	for _, tt := range []struct {
		name   string
		rate   int
		known  bool
		closed bool
	}{
		{"flood", 100_000, true, true},
		{"just a flood", 52_000, true, true},
		{"less than a flood", 48_000, true, false},
		{"peers are not known", 100_000, false, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				q := new(gated)
				g := newGate(q)
				g.flood(500*time.Millisecond, tt.rate, tt.known)
				synctest.Wait()
				var want [][]netip.Addr
				if tt.closed {
					want = [][]netip.Addr{{netip.MustParseAddr("192.0.2.2")}}
				}
				if got := q.told(); !slices.EqualFunc(got, want, slices.Equal) {
					t.Fatalf("restricted to %v, want %v", got, want)
				}
				time.Sleep(time.Minute)
				if tt.closed {
					want = append(want, nil)
				}
				if got := q.told(); !slices.EqualFunc(got, want, slices.Equal) {
					t.Errorf("after a minute restricted to %v, want %v", got, want)
				}
			})
		})
	}
}

// TestGateUnderALongFlood has what the filter lets through, and after each second
// the whole flood: it is closed nearly all the time, with the peers of the day.
func TestGateUnderALongFlood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := new(gated)
		g := newGate(q)
		closed := time.Duration(0)
		for range 10000 { // ms
			if q.shut() {
				closed += time.Millisecond
				g.look(time.Now(), 3, true)
			} else {
				g.look(time.Now(), 200, true)
			}
			time.Sleep(time.Millisecond)
			synctest.Wait()
		}
		if n := len(q.told()); closed < 9500*time.Millisecond || n < 19 || n > 21 {
			t.Errorf("closed for %s of 10 s, in %d calls, want two a second", closed, n)
		}
		g.peers.Replace([]Route{{netip.MustParsePrefix("10.5.2.0/24"), netip.MustParseAddrPort("192.0.2.7:8285")}})
		time.Sleep(2 * time.Second)
		g.flood(100*time.Millisecond, 100_000, true)
		if got := q.told(); !slices.Equal(got[len(got)-1], []netip.Addr{netip.MustParseAddr("192.0.2.7")}) {
			t.Errorf("restricted to %v, want the new peer at last", got)
		}
	})
}

// TestGateEnds: a forwarder that ends leaves no filter behind, and no timer that
// opens the gate of the next one.
func TestGateEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := new(gated)
		g := newGate(q)
		g.end()
		if len(q.told()) != 0 {
			t.Error("a gate that was never closed was opened")
		}
		g.flood(100*time.Millisecond, 100_000, true)
		g.end()
		time.Sleep(time.Minute)
		if got := q.told(); len(got) != 2 || got[1] != nil {
			t.Errorf("restricted to %v, want an end", got)
		}
	})
}

// TestGateOfAnOldKernel is not asked all the time.
func TestGateOfAnOldKernel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := &gated{refuses: errors.New("no such option")}
		newGate(q).flood(10*time.Second, 200_000, true)
		if n := len(q.told()); n < 9 || n > 10 {
			t.Errorf("asked %d times in 10 s of flood, want one each second", n)
		}
	})
}

// restrictedMemory is a memory that keeps to its restrictions, but for nobody.
type restrictedMemory struct {
	*memory
	gated
}

// TestForwardUnderAFlood: what peers send counts for nothing, whatever strangers
// send counts, once it is dropped.
func TestForwardUnderAFlood(t *testing.T) {
	good := packet(header{src: "10.5.2.2", dst: "10.5.1.2", ttl: 64})
	for _, tt := range []struct {
		name, from string
		junk       []byte
		check      SourceCheck
		closes     bool
	}{
		{"no packets", "192.0.2.9", []byte("junk"), CheckOff, true},
		{"martians", "192.0.2.9", packet(header{src: "127.0.0.1", dst: "10.5.1.2", ttl: 64}), CheckOff, true},
		{"of a peer", "192.0.2.2", packet(header{src: "127.0.0.1", dst: "10.5.1.2", ttl: 64}), CheckOff, true},
		{"strangers", "192.0.2.9", packet(header{src: "10.5.9.2", dst: "10.5.1.2", ttl: 64}), CheckPeer, true},
		{"strangers are taken", "192.0.2.9", packet(header{src: "10.5.9.2", dst: "10.5.1.2", ttl: 64}), CheckOff, false},
		{"too old", "192.0.2.9", packet(header{src: "10.5.2.2", dst: "10.5.1.2", ttl: 1}), CheckOff, false},
		{"good", "192.0.2.2", good, CheckStrict, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := guarded(tt.check)
				q := &restrictedMemory{memory: b.in}
				b.In = q
				b.in.putFrom("192.0.2.2", good)
				for range junkMost/100 + 2 {
					var batch [][]byte
					for range 100 {
						batch = append(batch, tt.junk)
					}
					b.in.putFrom(tt.from, batch...)
				}
				b.runAll(t)
				if got := len(q.told()) > 0; got != tt.closes {
					t.Errorf("closed: %t, want %t; %+v", got, tt.closes, b.Stats())
				}
				if q.shut() {
					t.Error("closed when all is over")
				}
			})
		})
	}
}
