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

// TestGate: it closes under a flood, and opens by itself when that is over.
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
				time.Sleep(gateTime + time.Millisecond)
				if tt.closed {
					want = append(want, nil)
				}
				if got := q.told(); !slices.EqualFunc(got, want, slices.Equal) {
					t.Errorf("after %s restricted to %v, want %v", gateTime, got, want)
				}
			})
		})
	}
}

// TestGateUnderALongFlood: while one of SampleOf is let in, it stays closed as
// long as that means a flood, and knows the peers that come meanwhile.
func TestGateUnderALongFlood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := new(gated)
		g := newGate(q)
		sampled := 0
		come := func(d time.Duration, perSecond int) (closed time.Duration) {
			for range d / time.Millisecond {
				n := perSecond / 1000
				if q.shut() {
					closed += time.Millisecond
					sampled += n
					n = sampled / SampleOf
					sampled %= SampleOf
				}
				g.look(time.Now(), n, true)
				time.Sleep(time.Millisecond)
				synctest.Wait()
			}
			return closed
		}
		if closed := come(10*time.Second, 200_000); closed < 9900*time.Millisecond || len(q.told()) != 1 {
			t.Errorf("closed for %s of 10 s, told %v", closed, q.told())
		}
		g.peers.Replace([]Route{{netip.MustParsePrefix("10.5.2.0/24"), netip.MustParseAddrPort("192.0.2.7:8285")}})
		come(time.Second, 200_000)
		if got := q.told(); len(got) != 2 || !slices.Equal(got[1], []netip.Addr{netip.MustParseAddr("192.0.2.7")}) {
			t.Errorf("told %v, want the new peer once, at last", got)
		}
		// Half of a flood is enough to go on, less is none.
		if closed := come(10*time.Second, 30_000); closed < 10*time.Second {
			t.Errorf("closed for %s of 10 s", closed)
		}
		if closed := come(10*time.Second, 20_000); closed > 2*gateTime || q.shut() {
			t.Errorf("closed for another %s", closed)
		}
	})
}

// TestGateIsNotHeldBySpurts: what would close it for a moment costs whoever sends
// it half of a flood to keep it closed.
func TestGateIsNotHeldBySpurts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := new(gated)
		g := newGate(q)
		closed := time.Duration(0)
		for i := range 10000 { // ms
			if i%1000 == 0 {
				g.look(time.Now(), junkMost+1, true)
			}
			time.Sleep(time.Millisecond)
			synctest.Wait()
			if q.shut() {
				closed += time.Millisecond
			}
		}
		if closed > 2100*time.Millisecond {
			t.Errorf("closed for %s of 10 s by %d packets a second", closed, junkMost+1)
		}
	})
}

// TestGateHeldBySamples: what is least to keep it closed is some 25 000 packets a
// second, of which one of SampleOf is seen.
func TestGateHeldBySamples(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := new(gated)
		g := newGate(q)
		g.look(time.Now(), junkMost+1, true)
		for range 10 { // a spurt that is just enough, as seldom as it can be
			time.Sleep(gateTime - 10*time.Millisecond)
			g.look(time.Now(), junkMost/2/SampleOf+2, true)
		}
		synctest.Wait()
		if !q.shut() {
			return
		}
		t.Errorf("held by %d packets each %s", junkMost/2, gateTime-10*time.Millisecond)
	})
}

// TestGateRefusedLater: where the kernel refuses new peers it is asked again while
// the flood lasts, and the old ones stay meanwhile.
func TestGateRefusedLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := new(gated)
		g := newGate(q)
		g.flood(time.Second, 100_000, true)
		q.refuses = errors.New("no memory")
		g.peers.Replace([]Route{{netip.MustParsePrefix("10.5.2.0/24"), netip.MustParseAddrPort("192.0.2.7:8285")}})
		g.flood(5*time.Second, 100_000, true)
		if n := len(q.told()); n < 5 || n > 7 {
			t.Errorf("told %d times, want once and then each second", n)
		}
		q.refuses = nil
		g.flood(2*time.Second, 100_000, true)
		n := len(q.told())
		g.flood(2*time.Second, 100_000, true)
		if got := q.told(); len(got) != n || !q.shut() {
			t.Errorf("told %v, want an end of that", got)
		}
		g.peers.Replace(nil)
		g.flood(2*time.Second, 100_000, true)
		if got := q.told(); len(got) != n || !q.shut() {
			t.Errorf("without peers told %v", got)
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

// TestGateOfAnOldKernel: one that refuses is not asked all the time, and then
// nobody is held back.
func TestGateOfAnOldKernel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := &gated{refuses: errors.New("no such option")}
		g := newGate(q)
		g.flood(10*time.Second, 200_000, true)
		if n := len(q.told()); n < 9 || n > 10 {
			t.Errorf("asked %d times in 10 s of flood, want one each second", n)
		}
		if until := g.look(time.Now(), junkMost+1, true); !until.IsZero() {
			t.Errorf("closed until %s", until)
		}
	})
}

// restrictedMemory is a memory that takes a millisecond for each batch.
type restrictedMemory struct {
	*memory
	gated
}

func (m *restrictedMemory) Recv(pkts []Packet) (int, error) {
	time.Sleep(time.Millisecond)
	return m.memory.Recv(pkts)
}

// TestForwardUnderAFlood: what strangers send is junk once it is dropped, and of
// peers only what is no packet, because that is what a filter keeps out.
func TestForwardUnderAFlood(t *testing.T) {
	const peer, stranger = "192.0.2.2", "192.0.2.9"
	good := packet(header{src: "10.5.2.2", dst: "10.5.1.2", ttl: 64})
	martian := packet(header{src: "127.0.0.1", dst: "10.5.1.2", ttl: 64})
	foreign := packet(header{src: "10.5.9.2", dst: "10.5.1.2", ttl: 64})
	spoilt := packet(header{src: "10.5.2.2", dst: "10.5.1.2", ttl: 64})
	spoilt[10]++
	for _, tt := range []struct {
		name, from string
		junk       []byte
		check      SourceCheck
		crowd      line
		closes     bool
	}{
		{"no packets", stranger, []byte("junk"), CheckOff, false, true},
		{"IPv6", stranger, []byte{0x60, 39: 0}, CheckOff, false, true},
		{"checksum", stranger, spoilt, CheckOff, false, true},
		{"martians", stranger, martian, CheckOff, false, true},
		{"looping", stranger, packet(header{src: "10.5.1.9", dst: "10.5.1.2", ttl: 64}), CheckOff, false, true},
		{"checked", stranger, foreign, CheckPeer, false, true},
		{"taken", stranger, foreign, CheckOff, false, false},
		{"crowded", stranger, foreign, CheckOff, true, true},
		{"too old", stranger, packet(header{src: "10.5.9.2", dst: "10.5.1.2", ttl: 1}), CheckOff, false, false},
		{"no packets of a peer", peer, []byte("junk"), CheckOff, false, true},
		{"cut packets of a peer", peer, packet(header{src: "10.5.2.2", dst: "10.5.1.2", ttl: 64, payload: 100})[:50], CheckOff, false, false},
		{"cut packets", stranger, packet(header{src: "10.5.2.2", dst: "10.5.1.2", ttl: 64, payload: 100})[:50], CheckOff, false, true},
		{"martians of a peer", peer, martian, CheckOff, false, false},
		{"checksum of a peer", peer, spoilt, CheckOff, false, false},
		{"looping of a peer", peer, packet(header{src: "10.5.2.2", dst: "10.5.2.3", ttl: 64}), CheckOff, false, false},
		{"foreign of a peer", peer, foreign, CheckStrict, false, false},
		{"good", peer, good, CheckStrict, true, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := guarded(tt.check)
				q := &restrictedMemory{memory: b.in, gated: gated{line: tt.crowd}}
				b.In = q
				b.in.putFrom(peer, good)
				for range 100 {
					var batch [][]byte
					for range 120 {
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

// TestBudgetUnderAFlood: strangers whose packets are let in while the gate is
// closed have the budget of a crowd, though nothing has to wait any more.
func TestBudgetUnderAFlood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := guarded(CheckOff)
		b.In = &restrictedMemory{memory: b.in}
		b.in.putFrom("192.0.2.2", packet(header{src: "10.5.2.2", dst: "10.5.1.2", ttl: 64}))
		foreign := packet(header{src: "10.5.9.2", dst: "10.5.1.2", ttl: 64})
		const batches = 100
		for range batches {
			var batch [][]byte
			for range 100 {
				batch = append(batch, []byte("junk"))
			}
			b.in.putFrom("192.0.2.9", append(batch, foreign, foreign, foreign, foreign, foreign, foreign, foreign, foreign)...)
		}
		b.runAll(t)
		s := b.Stats()
		// The gate closes at the 51st batch; then there is the burst, and four a
		// millisecond of the eight.
		if want := uint64(8 * 49); s.Dropped[Crowded] == 0 || s.Dropped[Crowded] > want-strangersBurst {
			t.Errorf("%d packets crowded out, want some, at most %d", s.Dropped[Crowded], want-strangersBurst)
		}
	})
}
