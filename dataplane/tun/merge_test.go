package tun

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
)

// What belongs together goes together, with one header that the kernel agrees
// with.
func TestMerge(t *testing.T) {
	without := func(p packet) packet { // DF
		p.df = false
		return p
	}
	last := func(ps []packet, change func(*packet)) []packet {
		change(&ps[len(ps)-1])
		return ps
	}
	for _, tt := range []struct {
		name string
		pkts []packet
		want int // superpackets and packets
	}{
		{"two", train(tcpPacket(1448), 2), 1},
		{"up to 64 KiB", train(tcpPacket(1448), 45), 1},
		{"beyond 64 KiB", train(tcpPacket(1448), 46), 2},
		{"exactly 65535 bytes", append(train(tcpPacket(1448), 45), train(tcpPacket(1448), 45)[44].after(65535-52-45*1448)), 1},
		{"65536 bytes", append(train(tcpPacket(1448), 45), train(tcpPacket(1448), 45)[44].after(65536-52-45*1448)), 2},
		{"one byte each", train(tcpPacket(1), 100), 1},
		{"a smaller one at the end", append(train(tcpPacket(1000), 2), train(tcpPacket(1000), 2)[1].after(1)), 1},
		{"PSH at the end", last(train(tcpPacket(1000), 3), func(p *packet) { p.flags |= 0x08 }), 1},
		{"no TCP options", func() []packet { p := tcpPacket(1000); p.options = nil; return train(p, 10) }(), 1},
		{"60 bytes of TCP header", func() []packet { p := tcpPacket(1000); p.options = bytes.Repeat([]byte{1}, 40); return train(p, 10) }(), 1},
		{"sequence wraps", func() []packet { p := tcpPacket(1000); p.seq = 0xffff_ffff - 2500; return train(p, 5) }(), 1},
		{"identification wraps", func() []packet { p := without(tcpPacket(1000)); p.id = 0xfffe; return train(p, 5) }(), 1},
		{"any identification with DF", func() []packet {
			ps := train(tcpPacket(1000), 3)
			ps[1].id, ps[2].id = 0, 77
			return ps
		}(), 1},
		{"without DF", train(without(tcpPacket(1448)), 45), 1},
		{"every bit of TOS", func() []packet { p := tcpPacket(1000); p.tos = 0xff; return train(p, 3) }(), 1},
		{"UDP", train(udpPacket(1472), 44), 1},
		{"UDP without DF", train(without(udpPacket(1472)), 44), 1},
		{"UDP, 128 segments", train(udpPacket(64), 128), 1},
		{"UDP, 129 segments", train(udpPacket(64), 129), 2},
		{"UDP, 256 segments in two rounds", train(udpPacket(64), 256), 3}, // 128 and 4, then 124
		{"UDP, a smaller one at the end", append(train(udpPacket(1000), 2), train(udpPacket(1000), 2)[1].after(1)), 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			pkts := encode(tt.pkts)
			supers := merge(pkts)
			if len(supers) != tt.want {
				t.Errorf("%d superpackets, want %d", len(supers), tt.want)
			}
			checkSupers(t, supers)
			checkSameFlows(t, cutAll(t, supers), pkts)
		})
	}
}

// Segments of several flows come mixed, and each flow becomes one superpacket.
func TestMergeInterleaved(t *testing.T) {
	for _, flows := range []int{2, 4, 8} {
		for _, first := range []packet{tcpPacket(1400), udpPacket(1400)} {
			trains := make([][]packet, flows)
			for i := range trains {
				p := first
				p.sport += uint16(i)
				trains[i] = train(p, 16)
			}
			var pkts [][]byte
			for n := range 16 {
				for i := range trains {
					pkts = append(pkts, trains[i][n].bytes())
				}
			}
			supers := merge(pkts)
			if len(supers) != flows {
				t.Errorf("protocol %d: %d superpackets of %d flows", first.proto, len(supers), flows)
			}
			checkSupers(t, supers)
			checkSameFlows(t, cutAll(t, supers), pkts)
		}
	}
}

// A smaller packet ends a superpacket; so does PSH.
func TestMergeEnds(t *testing.T) {
	small := tcpPacket(1000)
	ps := train(small, 2)
	ps = append(ps, ps[1].after(10))
	ps = append(ps, ps[2].after(10))
	ps = append(ps, ps[3].after(1000))
	checkMerge(t, encode(ps), 3, 1, 1) // the last is larger than the one before

	ps = train(small, 6)
	ps[2].flags |= 0x08
	checkMerge(t, encode(ps), 3, 3)

	ps = train(udpPacket(1000), 3)
	ps = append(ps, ps[2].after(999))
	ps = append(ps, ps[3].after(999))
	checkMerge(t, encode(ps), 4, 1)
}

// A damaged packet stays alone, and what is around it merges as if it were of
// another flow.
func TestMergeDamaged(t *testing.T) {
	for _, base := range []packet{tcpPacket(1000), udpPacket(1000)} {
		for bad, want := range [][]int{{1, 4}, {1, 1, 3}, {2, 1, 2}, {3, 1, 1}, {4, 1}} {
			pkts := encode(train(base, 5))
			pkts[bad][700] ^= 0x10
			checkMerge(t, pkts, want...)
		}
		// Two that make up for each other in the sum.
		pkts := encode(train(base, 2))
		pkts[0][700] ^= 1
		pkts[1][700] ^= 1
		checkMerge(t, pkts, 1, 1)
	}
}

// What comes between packets of a flow must not be overtaken by those behind
// it, even where its flow cannot be seen; what is of another flow may be.
func TestMergeAcross(t *testing.T) {
	for _, base := range []packet{tcpPacket(1000), udpPacket(1000)} {
		raw := func(change func([]byte) []byte) []byte { return change(base.bytes()) }
		with := func(change func(*packet)) []byte {
			p := base
			change(&p)
			return p.bytes()
		}
		icmp := raw(ipField(func(h []byte) { h[9] = 1 }))
		between := map[string]struct {
			pkt  []byte
			want []int
		}{
			"later fragment":      {raw(ipField(func(h []byte) { h[7] = 100 })), []int{2, 1, 2}},
			"first fragment":      {raw(ipField(func(h []byte) { h[6] |= 0x20 })), []int{2, 1, 2}},
			"IP options":          {with(func(p *packet) { p.ipOptions = []byte{1, 1, 1, 1} }), []int{2, 1, 2}},
			"no payload":          {with(func(p *packet) { p.payload = nil }), []int{2, 1, 2}},
			"junk":                {[]byte{1, 2, 3}, []int{2, 1, 2}},
			"trailing bytes":      {raw(func(b []byte) []byte { return append(b, 0) }), []int{2, 1, 2}},
			"damaged":             {raw(func(b []byte) []byte { b[999] ^= 1; return b }), []int{2, 1, 2}},
			"ICMP":                {icmp, []int{4, 1}},
			"another flow":        {with(func(p *packet) { p.dport++ }), []int{4, 1}},
			"another destination": {with(func(p *packet) { p.dst[3]++ }), []int{4, 1}},
		}
		if base.proto == 6 {
			for name, f := range map[string]uint8{"SYN": 2, "FIN": 1, "RST": 4, "ECE": 0x40} {
				b := between[name]
				b.pkt, b.want = with(func(p *packet) { p.flags |= f }), []int{2, 1, 2}
				between[name] = b
			}
		} else {
			b := between["no checksum"]
			b.pkt, b.want = raw(func(b []byte) []byte { b[26], b[27] = 0, 0; return b }), []int{2, 1, 2}
			between["no checksum"] = b
		}
		for name, b := range between {
			t.Run(fmt.Sprintf("%s/protocol %d", name, base.proto), func(t *testing.T) {
				pkts := slices.Insert(encode(train(base, 4)), 2, b.pkt)
				checkMerge(t, pkts, b.want...)
			})
		}
	}
}

// With many flows, some share a place in the merger's memory. That may keep
// packets apart, but never out of order.
func TestMergeManyFlows(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	for range 50 {
		var pkts [][]byte
		next := make([]packet, 60)
		for i := range next {
			next[i] = tcpPacket(100)
			if i%2 == 0 {
				next[i] = udpPacket(100)
			}
			next[i].sport, next[i].dst[2] = uint16(rng.Uint32()), byte(rng.Uint32())
		}
		for range 400 {
			i := rng.IntN(len(next))
			pkts = append(pkts, next[i].bytes())
			next[i] = next[i].after(100)
		}
		checkMerge(t, pkts)
	}
}

// Two flows that share a place are found by their not merging when mixed.
func TestMergeCollision(t *testing.T) {
	a := train(udpPacket(100), 8)
	for try := range 5000 {
		p := udpPacket(100)
		p.sport += uint16(try) + 1
		p.src[2] = byte(try >> 3)
		b := train(p, 8)
		var pkts [][]byte
		for i := range a {
			pkts = append(pkts, a[i].bytes(), b[i].bytes())
		}
		if supers := merge(pkts); len(supers) == 2 {
			continue
		}
		for rot := range pkts {
			checkMerge(t, append(slices.Clone(pkts[rot:]), pkts[:rot]...))
		}
		return
	}
	t.Log("no two of 5000 flows share a place")
}

// merge of cut gives the superpacket again.
func TestMergeOfCut(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 8))
	for range 300 {
		p := randomSuper(rng)
		p.ipOptions, p.reserved, p.flags = nil, 0, 0x10|p.flags&0x08
		size := len(p.payload)/(1+rng.IntN(120)) + 1
		if size >= len(p.payload) {
			continue
		}
		want := p.superpacket(size)
		pkts, err := cut(want)
		if err != nil {
			t.Fatal(err)
		}
		samePackets(t, merge(pkts), [][]byte{want})
	}
}
