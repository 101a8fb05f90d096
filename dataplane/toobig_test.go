package dataplane

import (
	"bytes"
	"net/netip"
	"syscall"
	"testing"
)

const dontFragment = 0x4000

// one is a single packet dropped for the reason.
func one(r Reason) (dropped Reasons) {
	dropped[r] = 1
	return dropped
}

// A large packet that must not be cut is answered as RFC 1191, 4 has it.
func TestTooBigDF(t *testing.T) {
	large := func(change func(h *header)) []byte {
		h := header{src: "10.5.1.2", dst: "10.5.2.9", ttl: 64, proto: protoUDP, frag: dontFragment, payload: 1452}
		change(&h)
		return packet(h)
	}
	for _, tt := range []struct {
		name    string
		pkt     []byte
		mtu     int // of the answer below 1472
		told    int // 0 for no answer
		outcome Reason
	}{
		{"UDP", large(func(*header) {}), 1400, 1400, TooBig},
		{"a byte too many", large(func(*header) {}), 1471, 1471, TooBig},
		{"options", large(func(h *header) { h.options = 8 }), 1472, 1472, TooBig},
		{"least", large(func(*header) {}), 68, 68, TooBig},
		{"less than any network has", large(func(*header) {}), 1, 1, TooBig},
		{"first fragment", large(func(h *header) { h.frag |= moreFragments }), 1400, 1400, TooBig},
		{"ICMP error", large(func(h *header) { h.proto, h.first = protoICMP, 3 }), 1400, 0, TooBig},
		{"ping", large(func(h *header) { h.proto, h.first = protoICMP, 8 }), 1400, 1400, TooBig},
		{"later fragment", large(func(h *header) { h.frag |= 100 }), 1400, 0, TooBig},
		{"source loopback", large(func(h *header) { h.src = "127.0.0.1" }), 1400, 0, TooBig},
		{"unknown MTU", large(func(*header) {}), 0, 0, SendFailed},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := toPeers(route("10.5.2.0/24", "192.0.2.2"))
			b.SetAddr(netip.MustParseAddr("10.5.1.0"))
			b.out.limit(tt.mtu, true)
			b.in.put(tt.pkt)
			b.runAll(t)
			s := b.Stats()
			if s.Dropped != one(tt.outcome) || s.Sent != 0 || s.Fragmented != 0 || len(b.out.sent) != 0 {
				t.Errorf("%+v", s)
			}
			if tt.told == 0 {
				if len(b.in.sent) != 0 || s.Replies != 0 {
					t.Errorf("answered: % x", b.in.sent[0].Bytes)
				}
				return
			}
			if len(b.in.sent) != 1 || s.Replies != 1 {
				t.Fatalf("%d answers, want 1", len(b.in.sent))
			}
			IPv4(tt.pkt).DecrementTTL() // it is quoted as it was sent
			checkAnswer(t, b.in.sent[0], "10.5.2.0", 3, 4, uint32(tt.told), tt.pkt)
		})
	}
}

// The field of the MTU has 16 bits.
func TestTooBigHugeMTU(t *testing.T) {
	b := toPeers(route("10.5.2.0/24", "192.0.2.2"))
	b.out.refuse = func(Packet) (syscall.Errno, int) { return syscall.EMSGSIZE, 70000 }
	pkt := packet(header{src: "10.5.1.2", dst: "10.5.2.9", ttl: 64, frag: dontFragment})
	b.in.put(pkt)
	b.runAll(t)
	if len(b.in.sent) != 1 {
		t.Fatalf("%d answers, want 1", len(b.in.sent))
	}
	IPv4(pkt).DecrementTTL()
	checkAnswer(t, b.in.sent[0], "10.5.2.0", 3, 4, 65535, pkt)
}

// The same towards the pods: a peer is told, from our own address.
func TestTooBigFromPeers(t *testing.T) {
	pkt := packet(header{src: "10.5.2.7", dst: "10.5.1.2", ttl: 64, frag: dontFragment, payload: 1000})
	for peer, answers := range map[string]int{"192.0.2.2": 1, "192.0.2.9": 0} {
		b := guarded(CheckOff)
		b.out.limit(600, true)
		b.in.putFrom(peer, bytes.Clone(pkt))
		b.runAll(t)
		if s := b.Stats(); s.Dropped[TooBig] != 1 || len(b.in.sent) != answers {
			t.Fatalf("%s: %d answers, want %d: %+v", peer, len(b.in.sent), answers, s)
		}
		for _, p := range b.in.sent {
			quoted := bytes.Clone(pkt)
			IPv4(quoted).DecrementTTL()
			checkAnswer(t, p, "10.5.1.0", 3, 4, 600, quoted)
			if p.Peer.String() != peer+":8285" {
				t.Errorf("answer to %s", p.Peer)
			}
		}
	}
}

// Without DF the packet is cut. The rest of the batch does not notice.
func TestTooBigIsCut(t *testing.T) {
	b := toPeers(route("10.5.2.0/24", "192.0.2.2"), route("10.5.3.0/24", "192.0.2.3"))
	b.out.limit(600, true)
	to := func(dst string, frag uint16, payload int) []byte {
		return packet(header{src: "10.5.1.2", dst: dst, ttl: 64, frag: frag, payload: payload})
	}
	b.in.put(to("10.5.2.1", 0, 100), to("10.5.3.1", 0, 1480), to("10.5.2.2", dontFragment, 1480), to("10.5.3.2", moreFragments|20, 1480), to("10.5.2.3", 0, 580))
	b.runAll(t)
	var whole, sent [][]byte
	cut := map[string][][]byte{}
	for _, p := range b.out.sent {
		if dst := IPv4(p.Bytes).Dst().String(); p.Peer.String() == "192.0.2.3:8285" {
			cut[dst] = append(cut[dst], p.Bytes)
		} else {
			sent = append(sent, p.Bytes)
		}
	}
	for _, dst := range []string{"10.5.3.1", "10.5.3.2"} {
		pkt := to(dst, map[string]uint16{"10.5.3.2": moreFragments | 20}[dst], 1480)
		IPv4(pkt).DecrementTTL()
		checkFragments(t, pkt, cut[dst], 600)
	}
	for _, pkt := range [][]byte{to("10.5.2.1", 0, 100), to("10.5.2.3", 0, 580)} {
		IPv4(pkt).DecrementTTL()
		whole = append(whole, pkt)
	}
	if len(sent) != 2 || !bytes.Equal(sent[0], whole[0]) || !bytes.Equal(sent[1], whole[1]) {
		t.Errorf("%d uncut packets, want 2", len(sent))
	}
	checkStats(t, b, Stats{
		Received: 5, ReceivedBytes: 5220, Sent: 4, SentBytes: 3720, Batches: 1, BatchSizes: BatchSizes{3: 1}, Replies: 1, Fragmented: 2,
		Dropped: Reasons{TooBig: 1},
	})
}

// What cannot be cut, or not be sent after it was cut, is dropped once.
func TestTooBigNotCut(t *testing.T) {
	fragmentsFail := func(after int) func(Packet) (syscall.Errno, int) {
		return func(p Packet) (syscall.Errno, int) {
			switch {
			case len(p.Bytes) > 600:
				return syscall.EMSGSIZE, 600
			case after == 0:
				return syscall.ENOBUFS, 0
			}
			after--
			return 0, 0
		}
	}
	limit := func(mtu int) func(Packet) (syscall.Errno, int) {
		m := &memory{}
		m.limit(mtu, true)
		return m.refuse
	}
	for _, tt := range []struct {
		name   string
		h      header
		refuse func(Packet) (syscall.Errno, int)
		want   Reason
		sent   int // fragments
	}{
		{"unknown MTU", header{payload: 1480}, limit(0), SendFailed, 0},
		{"MTU 1", header{payload: 1480}, limit(1), TooBig, 0},
		{"MTU 27", header{payload: 1480}, limit(27), TooBig, 0},
		{"long header", header{options: 40, payload: 1000}, limit(67), TooBig, 0},
		{"header only", header{options: 40}, limit(59), TooBig, 0},
		{"beyond the largest datagram", header{frag: 0x1fff, payload: 1000}, limit(600), TooBig, 0},
		{"first fragment refused", header{payload: 1480}, fragmentsFail(0), SendFailed, 0},
		{"last fragment refused", header{payload: 1480}, fragmentsFail(2), SendFailed, 2},
		{"smaller still", header{payload: 1480}, func(Packet) (syscall.Errno, int) { return syscall.EMSGSIZE, 600 }, SendFailed, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := toPeers(route("10.5.2.0/24", "192.0.2.2"))
			b.out.refuse = tt.refuse
			tt.h.src, tt.h.dst, tt.h.ttl = "10.5.1.2", "10.5.2.9", 64
			b.in.put(packet(tt.h))
			b.runAll(t)
			s := b.Stats()
			if s.Dropped != one(tt.want) || s.Sent != 0 || s.SentBytes != 0 || s.Fragmented != 0 || s.Replies != 0 {
				t.Errorf("%+v", s)
			}
			if len(b.out.sent) != tt.sent || len(b.in.sent) != 0 {
				t.Errorf("%d fragments sent and %d answers, want %d and 0", len(b.out.sent), len(b.in.sent), tt.sent)
			}
		})
	}
}
