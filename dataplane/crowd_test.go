package dataplane

import (
	"net/netip"
	"testing"
	"testing/synctest"
	"time"
)

// line is a queue that is empty or not.
type line bool

func (l *line) Waiting() bool { return bool(*l) }

func (*line) Restrict([]netip.Addr) error { return nil }

// crowdFor looks every millisecond for so long, with a packet of a peer and so
// many of strangers each time, and returns how many of those were admitted.
func crowdFor(c *crowd, q queue, start time.Time, ms, strangers int, peer bool) (admitted int) {
	for i := range ms {
		c.look(start.Add(time.Duration(i)*time.Millisecond), q)
		if peer && !c.admit(false) {
			return -1
		}
		for range strangers {
			if c.admit(true) {
				admitted++
			}
		}
	}
	return admitted
}

// Strangers are held back only in a crowd, and only where peers are known.
func TestCrowd(t *testing.T) {
	start := time.Unix(1e9, 0)
	for _, tt := range []struct {
		name        string
		waiting     line
		peer        bool
		ms          int
		least, most int // of 100 packets each ms
	}{
		{"room for all", false, true, 1000, 100000, 100000},
		{"a short burst", true, true, 10, 1000, 1000},
		{"crowd", true, true, 1010, 1100 + 3990, 1100 + 4000}, // ten ms of all, then the burst and the budget
		{"crowd without peers", true, false, 1000, 100000, 100000},
	} {
		c := new(crowd)
		if got := crowdFor(c, &tt.waiting, start, tt.ms, 100, tt.peer); got < tt.least || got > tt.most {
			t.Errorf("%s: %d admitted, want %d to %d", tt.name, got, tt.least, tt.most)
		}
	}
}

// A crowd is over a second after packets have last been waiting, and peers are
// forgotten after a minute.
func TestCrowdEnds(t *testing.T) {
	start := time.Unix(1e9, 0)
	crowded := func() (*crowd, *line) {
		c, q := new(crowd), new(line)
		*q = true
		crowdFor(c, q, start, 100, 1, true)
		if !c.strict {
			t.Fatal("no crowd")
		}
		return c, q
	}
	c, q := crowded()
	*q = false
	c.look(start.Add(crowdHold+98*time.Millisecond), q)
	if !c.strict {
		t.Error("the crowd is over too early")
	}
	c.look(start.Add(crowdHold+100*time.Millisecond), q)
	if c.strict {
		t.Error("the crowd is not over")
	}
	// A queue that is empty once in a while is no crowd.
	c, q = new(crowd), new(line)
	for i := range 1000 {
		*q = i%9 != 0
		crowdFor(c, q, start.Add(time.Duration(i)*time.Millisecond), 1, 1, true)
		if c.strict {
			t.Fatalf("a crowd after %d ms", i)
		}
	}
	c, q = crowded()
	if got := crowdFor(c, q, start.Add(time.Second), 59000, 100, false); got > 59*strangersPerSecond+2*strangersBurst {
		t.Errorf("%d admitted while peers are remembered", got)
	}
	if got := crowdFor(c, q, start.Add(62*time.Second), 100, 100, false); got != 10000 {
		t.Errorf("%d admitted of 10000 after peers are forgotten", got)
	}
}

// crowdedMemory is a memory that always has more, a millisecond later.
type crowdedMemory struct{ *memory }

func (crowdedMemory) Waiting() bool { return true }

func (crowdedMemory) Restrict([]netip.Addr) error { return nil }

func (m crowdedMemory) Recv(pkts []Packet) (int, error) {
	time.Sleep(time.Millisecond)
	return m.memory.Recv(pkts)
}

// In the forwarder: what a peer sends goes on, what strangers send is counted
// as crowded, and nobody is answered. A check of sources comes first.
func TestForwardInACrowd(t *testing.T) {
	for _, check := range sourceChecks {
		synctest.Test(t, func(t *testing.T) {
			b := guarded(check)
			b.In = crowdedMemory{b.in}
			batch := []Packet{{
				Bytes: packet(header{src: "10.5.2.2", dst: "10.5.1.2", ttl: 64}),
				Peer:  netip.MustParseAddrPort("192.0.2.2:8285"),
			}}
			const rounds, strangers = 100, 50
			for range strangers {
				batch = append(batch, Packet{
					Bytes: packet(header{src: "10.5.9.2", dst: "10.5.1.2", ttl: 64}),
					Peer:  netip.MustParseAddrPort("192.0.2.9:8285"),
				})
			}
			for range rounds {
				b.in.arrive(received{pkts: batch})
			}
			b.runAll(t)
			s := b.Stats()
			var want Stats
			if check >= CheckPeer {
				want.Sent, want.Dropped[UnknownPeer] = rounds, rounds*strangers
			} else {
				// Ten rounds until it is a crowd, the burst, and four a millisecond.
				passed := uint64(10*strangers + strangersBurst + 89*4)
				want.Sent, want.Suspect[UnknownPeer] = rounds+passed, passed
				want.Dropped[Crowded] = rounds*strangers - passed
			}
			if s.Sent != want.Sent || s.Dropped != want.Dropped || s.Suspect != want.Suspect {
				t.Errorf("%v: %+v, want %+v", check, s, want)
			}
			if len(b.in.sent) != 0 {
				t.Errorf("%v: %d answers", check, len(b.in.sent))
			}
		})
	}
}

// A packet for elsewhere is not for the kernel to forward, whoever sends it.
func TestGuardOutside(t *testing.T) {
	for _, check := range sourceChecks {
		for _, tt := range []struct {
			dst, from string
			outside   bool
		}{
			{"10.5.1.2", "192.0.2.2", false},
			{"10.5.3.3", "192.0.2.2", false}, // to another peer, which has just taken over that subnet
			{"10.5.255.255", "192.0.2.2", false},
			{"10.6.0.0", "192.0.2.2", true},
			{"10.4.255.255", "192.0.2.2", true},
			{"192.0.2.1", "192.0.2.2", true},
			{"198.51.100.1", "192.0.2.2", true},
			{"198.51.100.1", "192.0.2.9", true},
		} {
			b := guarded(check)
			b.Guard.Network = netip.MustParsePrefix("10.5.0.0/16")
			b.in.putFrom(tt.from, packet(header{src: "10.5.2.2", dst: tt.dst, ttl: 64}))
			b.runAll(t)
			if got := b.Stats().Dropped[Outside] == 1; got != tt.outside || got == (len(b.out.sent) == 1) || len(b.in.sent) > 0 {
				t.Errorf("%v: to %s from %s: %+v", check, tt.dst, tt.from, b.Stats())
			}
		}
	}
}

// TestCrowdGap has two bursts, with nothing in between for a loop to look at.
func TestCrowdGap(t *testing.T) {
	start := time.Unix(1e9, 0)
	for pause, most := range map[time.Duration]int{3 * time.Second: 500, 20 * time.Millisecond: 499} {
		c, q := new(crowd), line(true)
		crowdFor(c, &q, start, 5, 100, true)
		got := crowdFor(c, &q, start.Add(pause), 5, 100, true)
		if (got == 500) != (most == 500) {
			t.Errorf("after a pause of %s %d of 500 are admitted", pause, got)
		}
	}
}
