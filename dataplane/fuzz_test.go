package dataplane

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"testing"
)

// FuzzForwarder: whatever comes in, every packet is sent or counted as dropped,
// and what is sent is a right packet with some TTL left and no larger than the
// device takes.
func FuzzForwarder(f *testing.F) {
	f.Add(simple(64), simple(1), true, uint16(1472), true, uint8(0))
	f.Add([]byte{0x45, 0, 0, 19}, []byte{}, false, uint16(0), false, uint8(1))
	f.Add(packet(header{src: "10.5.2.2", dst: "10.5.1.3", ttl: 9, payload: 500}), simple(0), true, uint16(99), true, uint8(2))
	f.Add(packet(header{src: "10.5.2.2", dst: "10.5.1.3", ttl: 9, frag: 0x4000, payload: 500}), simple(0), true, uint16(99), true, uint8(135))
	f.Fuzz(func(t *testing.T, first, second []byte, right bool, mtu uint16, told bool, kind uint8) {
		if right && len(first) >= minHeader { // let the fuzzer's packets through
			if kind >= 128 {
				binary.BigEndian.PutUint16(first[2:], uint16(len(first)))
			}
			seal(first)
		}
		peer := []string{"192.0.2.2", "192.0.2.3", "192.0.2.9"}[kind/3%3]
		for _, b := range []bench{
			toPeers(route("10.5.0.0/16", "192.0.2.2"), route("128.0.0.0/1", "192.0.2.3")),
			fromPeers(),
			guarded(sourceChecks[kind%3]),
		} {
			b.out.limit(int(mtu), told)
			b.in.putFrom(peer, bytes.Clone(first), bytes.Clone(second))
			b.run(t)
			checkBooks(t, b, 2, int(mtu), told)
			for _, p := range b.in.sent {
				if b.Guard != nil && !b.Guard.Peers.HasPeer(p.Peer.Addr()) {
					t.Errorf("%s is no peer and gets an answer", p.Peer)
				}
			}
		}
	})
}

// checkBooks wants the counters to agree with what was sent of n packets.
func checkBooks(t *testing.T, b bench, n uint64, mtu int, told bool) {
	t.Helper()
	s := b.Stats()
	total, suspects := s.Sent, uint64(0)
	for r := range numReasons {
		total += s.Dropped[r]
		suspects += s.Suspect[r]
	}
	if s.Received != n || total != n || suspects > n || s.Replies+s.Muted > total || s.Replies != uint64(len(b.in.sent)) {
		t.Fatalf("%+v", s)
	}
	var whole, pieces uint64
	for _, p := range b.out.sent {
		ip, reason := ParseIPv4(p.Bytes)
		if reason != NotDropped || len(ip) != len(p.Bytes) || len(ip) > mtu || ip.TTL() == 0 {
			t.Errorf("sent % x: %v", p.Bytes, reason)
		}
		if ip.LaterFragment() || ip[6]&0x20 != 0 {
			pieces++
		} else {
			whole++
		}
	}
	if s.Sent != uint64(len(b.out.sent)) && s.Fragmented == 0 || whole > s.Sent || s.Fragmented > pieces || s.Fragmented > 0 && !told {
		t.Errorf("%d whole packets and %d fragments: %+v", whole, pieces, s)
	}
	for _, p := range b.in.sent {
		ip, reason := ParseIPv4(p.Bytes)
		if reason != NotDropped || ip.Protocol() != protoICMP || slowSum(0, ip[minHeader:]) != 0xffff {
			t.Errorf("answer % x: %v", p.Bytes, reason)
		}
	}
}

// What is remembered within a batch changes nothing: packets of many pairs of
// hosts and peers fare in one batch as each would alone.
func TestBatchIsAsPacketsAlone(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 8))
	hosts := []string{"10.5.1.2", "10.5.1.3", "10.5.2.2", "10.5.2.3", "10.5.3.2", "10.5.4.2", "10.5.9.9", "127.0.0.1", "192.0.2.2", "198.51.100.1"}
	origins := []string{"192.0.2.2:8285", "192.0.2.3:8285", "192.0.2.3:9999", "192.0.2.9:8285"}
	benches := map[string]func() bench{
		"to peers": func() bench {
			return toPeers(route("10.5.2.0/24", "192.0.2.2"), route("10.5.3.0/24", "192.0.2.3"), route("10.5.2.3/32", "192.0.2.4"))
		},
		"unguarded": fromPeers,
	}
	for _, check := range sourceChecks {
		benches[check.String()] = func() bench { return guarded(check) }
	}
	for name, fresh := range benches {
		t.Run(name, func(t *testing.T) {
			for range 50 {
				together, apart := fresh(), fresh()
				var batch []Packet
				var src, dst, from string
				for i := range 40 { // below the limit of answers
					// Runs of packets that differ in one thing only.
					switch rng.IntN(4) {
					case 0:
						src = hosts[rng.IntN(len(hosts))]
					case 1:
						dst = hosts[rng.IntN(len(hosts))]
					case 2:
						from = origins[rng.IntN(len(origins))]
					}
					if i == 0 {
						src, dst, from = hosts[0], hosts[2], origins[0]
					}
					batch = append(batch, Packet{
						Bytes: packet(header{src: src, dst: dst, ttl: 64 - uint8(rng.IntN(2)*63), payload: i}),
						Peer:  netip.MustParseAddrPort(from),
					})
				}
				together.in.arrive(received{pkts: batch})
				together.runAll(t)
				for _, p := range batch {
					apart.in.arrive(received{pkts: []Packet{p}})
				}
				apart.runAll(t)
				want := apart.Stats()
				want.Batches, want.BatchSizes = 1, BatchSizes{6: 1}
				checkStats(t, together, want)
				checkSame(t, together.out.sent, apart.out.sent)
				checkSame(t, together.in.sent, apart.in.sent)
			}
		})
	}
}

func checkSame(t *testing.T, got, want []Packet) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%d packets, want %d", len(got), len(want))
	}
	for i := range got {
		if got[i].Peer != want[i].Peer || !bytes.Equal(got[i].Bytes, want[i].Bytes) {
			t.Fatalf("packet %d to %s: % x, want to %s: % x", i, got[i].Peer, got[i].Bytes, want[i].Peer, want[i].Bytes)
		}
	}
}
