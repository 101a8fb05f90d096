package dataplane

import (
	"net/netip"
	"testing"
	"testing/synctest"
	"time"
)

// Packets from peers whose TTL ends here: the sender's host gets the answer,
// from our own address, and only if it is a peer.
func TestTTLExceededFromPeers(t *testing.T) {
	dying := func(change func(h *header)) []byte {
		h := header{src: "10.5.2.7", dst: "10.5.1.2", ttl: 1, proto: protoUDP, payload: 20}
		change(&h)
		return packet(h)
	}
	plain := dying(func(*header) {})
	for _, tt := range []struct {
		name    string
		pkt     []byte
		from    string
		answers int
		dropped Reason
	}{
		{"peer", plain, "192.0.2.2", 1, TTLExceeded},
		{"TTL 0", dying(func(h *header) { h.ttl = 0 }), "192.0.2.2", 1, TTLExceeded},
		{"first fragment", dying(func(h *header) { h.frag = moreFragments }), "192.0.2.2", 1, TTLExceeded},
		{"relayed", dying(func(h *header) { h.dst = "10.5.3.3" }), "192.0.2.2", 1, TTLExceeded},
		{"foreign source", plain, "192.0.2.3", 1, TTLExceeded},
		{"unknown peer", plain, "192.0.2.9", 0, TTLExceeded},
		{"no peer at all", plain, "", 0, TTLExceeded},
		{"ICMP error", dying(func(h *header) { h.proto, h.first = protoICMP, 11 }), "192.0.2.2", 0, TTLExceeded},
		{"ping", dying(func(h *header) { h.proto, h.first = protoICMP, 8 }), "192.0.2.2", 1, TTLExceeded},
		{"later fragment", dying(func(h *header) { h.frag = 3 }), "192.0.2.2", 0, TTLExceeded},
		{"martian", dying(func(h *header) { h.src = "127.0.0.1" }), "192.0.2.2", 0, Martian},
		{"looping", dying(func(h *header) { h.src = "10.5.1.7" }), "192.0.2.2", 0, Looping},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := guarded(CheckOff)
			b.in.putFrom(tt.from, tt.pkt)
			b.runAll(t)
			s := b.Stats()
			if len(b.in.sent) != tt.answers || s.Replies != uint64(tt.answers) || s.Dropped[tt.dropped] != 1 || s.Muted != 0 {
				t.Fatalf("%d answers, want %d: %+v", len(b.in.sent), tt.answers, s)
			}
			for _, p := range b.in.sent {
				checkAnswer(t, p, "10.5.1.0", 11, 0, 0, tt.pkt)
				if p.Peer.String() != tt.from+":8285" {
					t.Errorf("answer to %s", p.Peer)
				}
			}
			if len(b.out.sent) != 0 {
				t.Errorf("sent on: % x", b.out.sent[0].Bytes)
			}
		})
	}
}

// Packets of the pods of this host: the answer comes from the other side.
func TestTTLExceededToPeers(t *testing.T) {
	for _, tt := range []struct {
		name string
		h    header
		from string // "" for no answer
	}{
		{"UDP", header{src: "10.5.1.2", dst: "10.5.2.9", ttl: 1, proto: protoUDP}, "10.5.2.0"},
		{"the first address itself", header{src: "10.5.1.2", dst: "10.5.2.0", ttl: 1}, "10.5.2.0"},
		{"behind an inner subnet", header{src: "10.5.1.2", dst: "10.6.9.9", ttl: 1}, "10.6.8.0"},
		{"before the inner subnet", header{src: "10.5.1.2", dst: "10.6.0.9", ttl: 1}, "10.6.0.0"},
		{"ICMP", header{src: "10.5.1.2", dst: "10.5.2.9", ttl: 1, proto: protoICMP}, ""},
		{"later fragment", header{src: "10.5.1.2", dst: "10.5.2.9", ttl: 1, frag: 7}, ""},
		{"no source", header{src: "0.0.0.0", dst: "10.5.2.9", ttl: 1}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := toPeers(route("10.5.2.0/24", "192.0.2.2"), route("10.6.0.0/16", "192.0.2.3"), route("10.6.7.0/24", "192.0.2.4"))
			b.SetAddr(netip.MustParseAddr("10.5.1.0")) // of no use in this direction
			b.in.put(packet(tt.h))
			b.runAll(t)
			if s := b.Stats(); s.Dropped[TTLExceeded] != 1 || len(b.out.sent) != 0 {
				t.Fatalf("%+v", s)
			}
			if tt.from == "" {
				if len(b.in.sent) != 0 {
					t.Errorf("answered: % x", b.in.sent[0].Bytes)
				}
				return
			}
			if len(b.in.sent) != 1 {
				t.Fatalf("%d answers, want 1", len(b.in.sent))
			}
			checkAnswer(t, b.in.sent[0], tt.from, 11, 0, 0, packet(tt.h))
		})
	}
}

// inBubble runs b in a bubble of synctest, where time goes by only if step
// sleeps, until step returns.
func inBubble(t *testing.T, b func() bench, step func(t *testing.T, b bench)) {
	synctest.Test(t, func(t *testing.T) {
		b := b()
		result := make(chan error)
		go func() { result <- b.Run(t.Context()) }()
		step(t, b)
		b.in.Close()
		<-result
	})
}

// settle waits until all that was put in is forwarded, and checks how many
// answers there are and were left out since the start.
func settle(t *testing.T, b bench, replies, muted uint64) {
	t.Helper()
	synctest.Wait()
	if s := b.Stats(); s.Replies != replies || s.Muted != muted || len(b.in.sent) != int(replies) {
		t.Errorf("%d answers, %d sent, %d left out, want %d and %d left out", s.Replies, len(b.in.sent), s.Muted, replies, muted)
	}
}

// full returns a batch of batchSize times the packet.
func full(pkt []byte) (pkts [][]byte) {
	for range batchSize {
		pkts = append(pkts, pkt)
	}
	return pkts
}

// Of full batches without routes as many packets are answered as the rate
// limit lets through.
func TestLargeBatchOfAnswers(t *testing.T) {
	inBubble(t, func() bench { return toPeers() }, func(t *testing.T, b bench) {
		b.in.put(full(simple(64))...)
		b.in.put(full(simple(64))...)
		settle(t, b, icmpBurst, 2*batchSize-icmpBurst)
		time.Sleep(30 * time.Millisecond)
		b.in.put(full(simple(64))...)
		settle(t, b, icmpBurst+30, 3*batchSize-icmpBurst-30)
		time.Sleep(time.Hour)
		b.in.put(full(simple(64))[:icmpBurst]...)
		settle(t, b, 2*icmpBurst+30, 3*batchSize-icmpBurst-30)
		if n := b.Stats().Dropped[NoRoute]; n != 3*batchSize+icmpBurst {
			t.Errorf("%d without a route", n)
		}
	})
}

// What gets no answer anyway takes nothing from the limit.
func TestLimitCountsAnswersOnly(t *testing.T) {
	ping := packet(header{src: "10.5.1.2", dst: "10.5.9.9", ttl: 64, proto: protoICMP})
	inBubble(t, func() bench { return toPeers() }, func(t *testing.T, b bench) {
		b.in.put(full(ping)...)
		b.in.put(full(simple(64))[:icmpBurst]...)
		settle(t, b, icmpBurst, 0)
	})
	stray := packet(header{src: "10.5.2.7", dst: "10.5.1.2", ttl: 1})
	inBubble(t, func() bench { return guarded(CheckOff) }, func(t *testing.T, b bench) {
		b.in.putFrom("192.0.2.9", full(stray)...)
		b.in.putFrom("192.0.2.2", full(stray)[:icmpBurst]...)
		settle(t, b, icmpBurst, 0)
	})
}

// A flood of packets without routes stops no path MTU discovery, and a flood
// of large packets no other answer.
func TestLimitsAreApart(t *testing.T) {
	big := packet(header{src: "10.5.1.2", dst: "10.5.2.9", ttl: 64, frag: 0x4000, payload: 1000})
	lost := packet(header{src: "10.5.1.2", dst: "10.5.9.9", ttl: 64})
	for name, order := range map[string][2][]byte{"no route first": {lost, big}, "large first": {big, lost}} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func() bench {
				b := toPeers(route("10.5.2.0/24", "192.0.2.2"))
				b.out.limit(500, true)
				return b
			}, func(t *testing.T, b bench) {
				b.in.put(full(order[0])...)
				settle(t, b, icmpBurst, batchSize-icmpBurst)
				b.in.put(full(order[1])...)
				settle(t, b, 2*icmpBurst, 2*(batchSize-icmpBurst))
				types := map[[2]byte]int{}
				for _, p := range b.in.sent {
					types[[2]byte(p.Bytes[minHeader:])]++
				}
				if types[[2]byte{3, 0}] != icmpBurst || types[[2]byte{3, 4}] != icmpBurst {
					t.Errorf("answers %v", types)
				}
			})
		})
	}
	// Time exceeded and no route share one limit.
	inBubble(t, func() bench { return toPeers(route("10.5.2.0/24", "192.0.2.2")) }, func(t *testing.T, b bench) {
		b.in.put(full(lost)...)
		b.in.put(full(simple(1))[:10]...)
		settle(t, b, icmpBurst, batchSize-icmpBurst+10)
	})
}
