package tun

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"strings"
	"testing"
)

func TestCut(t *testing.T) {
	tcp := func(payload int, change func(*packet)) packet {
		p := tcpPacket(payload)
		if change != nil {
			change(&p)
		}
		return p
	}
	nops := func(n int) []byte { return bytes.Repeat([]byte{1}, n) }
	for _, tt := range []struct {
		name  string
		super packet
		size  int
		want  int // packets
	}{
		{"one segment", tcp(100, nil), 1000, 1},
		{"one full segment", tcp(1000, nil), 1000, 1},
		{"one byte in the last", tcp(2001, nil), 1000, 3},
		{"one byte in each", tcp(5, nil), 1, 5},
		{"odd sizes", tcp(10001, nil), 1447, 7},
		{"largest", tcp(65535-20-32, nil), 1448, 46},
		{"segment of nearly all", tcp(65000, nil), 64999, 2},
		{"no TCP options", tcp(3000, func(p *packet) { p.options = nil }), 1460, 3},
		{"60 bytes of TCP header", tcp(3000, func(p *packet) { p.options = nops(40) }), 1420, 3},
		{"IP options", tcp(3000, func(p *packet) { p.ipOptions = nops(8) }), 1440, 3},
		{"60 bytes of IP header", tcp(3000, func(p *packet) { p.ipOptions = nops(40) }), 1408, 3},
		{"FIN and PSH only on the last", tcp(3000, func(p *packet) { p.flags = 0x19 }), 1000, 3},
		{"FIN and PSH on one", tcp(10, func(p *packet) { p.flags = 0x19 }), 1000, 1},
		{"CWR only on the first", tcp(3000, func(p *packet) { p.flags = 0xd8 }), 1000, 3},
		{"every flag", tcp(3000, func(p *packet) { p.flags = 0xff }), 1000, 3},
		{"URG and its pointer", tcp(3000, func(p *packet) { p.flags, p.urgent = 0x30, 77 }), 1000, 3},
		{"sequence wraps", tcp(4000, func(p *packet) { p.seq = 0xffff_ffff - 1500 }), 1000, 4},
		{"sequence wraps to 0", tcp(4000, func(p *packet) { p.seq = 0xffff_fc18 }), 1000, 4},
		{"identification wraps", tcp(4000, func(p *packet) { p.id, p.df = 0xfffe, false }), 1000, 4},
		{"TOS and TTL", tcp(4000, func(p *packet) { p.tos, p.ttl = 0xff, 1 }), 1000, 4},
		{"UDP", udpPacket(4416), 1472, 3},
		{"UDP, one segment", udpPacket(3), 1472, 1},
		{"UDP, last of one byte", udpPacket(4417), 1472, 4},
		{"UDP, 128 segments", udpPacket(128 * 64), 64, 128},
		{"UDP, odd", udpPacket(10000), 333, 31},
	} {
		t.Run(tt.name, func(t *testing.T) {
			super := tt.super.superpacket(tt.size)
			got, err := cut(super)
			if err != nil {
				t.Fatal(err)
			}
			if len(got) != tt.want {
				t.Errorf("%d packets, want %d", len(got), tt.want)
			}
			samePackets(t, got, encode(tt.super.segments(tt.size)))
			for _, b := range got {
				checkCodec(t, b)
			}
		})
	}
}

// The kernel sets a bit of the type if CWR is set; it changes nothing.
func TestCutECN(t *testing.T) {
	p := tcpPacket(3000)
	p.flags = 0x90
	super := p.superpacket(1000)
	super[1] |= 0x80
	got, err := cut(super)
	if err != nil {
		t.Fatal(err)
	}
	samePackets(t, got, encode(p.segments(1000)))
}

// A checksum of UDP that comes out as 0 is sent as 0xffff (RFC 768).
func TestZeroChecksum(t *testing.T) {
	p := zeroChecksum()
	want := p.bytes()
	if got := want[26:28]; got[0] != 0xff || got[1] != 0xff {
		t.Fatalf("the test's packet has checksum % x, want ff ff", got)
	}
	single := p.superpacket(4)
	single[1] = 0 // no superpacket, only without a checksum
	for _, super := range [][]byte{p.superpacket(4), single} {
		got, err := cut(super)
		if err != nil {
			t.Fatal(err)
		}
		samePackets(t, got, [][]byte{want})
	}
}

// zeroChecksum is a packet whose sum is 0xffff without its checksum.
func zeroChecksum() packet {
	p := udpPacket(4)
	binary.BigEndian.PutUint16(p.payload[2:], 0)
	sum := binary.BigEndian.Uint16(p.bytes()[26:])
	binary.BigEndian.PutUint16(p.payload[2:], sum) // what is missing
	return p
}

// What the kernel did not checksum and is no superpacket.
func TestComplete(t *testing.T) {
	for n := range 40 {
		for _, p := range []packet{tcpPacket(n), udpPacket(n)} {
			b := p.superpacket(1)
			b[1] = 0
			got, err := cut(b)
			if err != nil {
				t.Fatal(err)
			}
			samePackets(t, got, [][]byte{p.bytes()})
			checkCodec(t, got[0])
		}
	}
	b := udpPacket(1).superpacket(1)
	b[1] = 0
	for _, offset := range []uint16{28, 29, 0x7fff, 0xffff} {
		binary.NativeEndian.PutUint16(b[6:], offset-6)
		if _, err := cut(b); !errors.Is(err, errSuperpacket) {
			t.Errorf("checksum at byte %d of %d: %v, want errSuperpacket", offset, len(b)-vnetHdrLen, err)
		}
	}
	binary.NativeEndian.PutUint16(b[6:], 0xffff)
	binary.NativeEndian.PutUint16(b[8:], 0xffff)
	if _, err := cut(b); !errors.Is(err, errSuperpacket) {
		t.Errorf("checksum beyond 64 KiB: %v, want errSuperpacket", err)
	}
}

func TestCutMalformed(t *testing.T) {
	ip := func(b []byte) []byte { // makes the header checksum right again
		h := b[vnetHdrLen : vnetHdrLen+20]
		h[10], h[11] = 0, 0
		binary.BigEndian.PutUint16(h[10:], ^fold(slowSum(h)))
		return b
	}
	for _, tt := range []struct {
		name   string
		super  packet
		change func(b []byte) []byte
		text   string
	}{
		{"nothing", tcpPacket(100), func(b []byte) []byte { return b[:10] }, "truncated"},
		{"19 bytes", tcpPacket(100), func(b []byte) []byte { return b[:29] }, "truncated"},
		{"truncated", tcpPacket(100), func(b []byte) []byte { return b[:len(b)-1] }, "truncated"},
		{"only an IP header", tcpPacket(100), func(b []byte) []byte { b[12], b[13] = 0, 20; return ip(b[:30]) }, "short TCP header"},
		{"19 bytes of TCP", tcpPacket(100), func(b []byte) []byte { b[12], b[13] = 0, 39; return ip(b[:49]) }, "short TCP header"},
		{"16 bytes of TCP header", tcpPacket(100), func(b []byte) []byte { b[42] = 0x40; return b }, "short TCP header"},
		{"no bytes of TCP header", tcpPacket(100), func(b []byte) []byte { b[42] = 0; return b }, "short TCP header"},
		{"TCP header is all", tcpPacket(0), nil, "52 bytes in all"},
		{"TCP header larger than the packet", tcpPacket(1), func(b []byte) []byte { b[42] = 0xf0; return b }, "53 bytes in all"},
		{"7 bytes of UDP", udpPacket(9), func(b []byte) []byte { b[12], b[13] = 0, 27; return ip(b[:37]) }, "27 bytes in all"},
		{"UDP header is all", udpPacket(0), nil, "28 bytes in all"},
		{"TCP type, UDP packet", udpPacket(100), func(b []byte) []byte { b[1] = 1; b[42] = 0x50; return b }, "protocol 17"},
		{"UDP type, TCP packet", tcpPacket(100), func(b []byte) []byte { b[1] = 5; return b }, "protocol 6"},
		{"ICMP", udpPacket(100), func(b []byte) []byte { b[19] = 1; return ip(b) }, "protocol 1"},
		{"type of IPv6", tcpPacket(100), func(b []byte) []byte { b[1] = 4; return b }, "unknown type 0x4"},
		{"type of fragmented UDP", udpPacket(100), func(b []byte) []byte { b[1] = 3; return b }, "unknown type 0x3"},
		{"type 2", tcpPacket(100), func(b []byte) []byte { b[1] = 2; return b }, "unknown type 0x2"},
		{"type 0x7f", tcpPacket(100), func(b []byte) []byte { b[1] = 0x7f; return b }, "unknown type 0x7f"},
		{"only ECN", tcpPacket(100), func(b []byte) []byte { b[1] = 0x80; return b }, "unknown type 0x80"},
		{"segments of 0 bytes", tcpPacket(100), func(b []byte) []byte { b[4], b[5] = 0, 0; return b }, "segments of 0 bytes"},
		{"UDP segments of 0 bytes", udpPacket(100), func(b []byte) []byte { b[4], b[5] = 0, 0; return b }, "segments of 0 bytes"},
		{"IPv6", tcpPacket(100), func(b []byte) []byte { b[10] = 0x65; return b }, "not_ipv4"},
		{"IP header of 16 bytes", tcpPacket(100), func(b []byte) []byte { b[10] = 0x44; return b }, "bad_header"},
		{"IP header checksum", tcpPacket(100), func(b []byte) []byte { b[20] ^= 1; return b }, "bad_checksum"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := tt.super.superpacket(50)
			if tt.change != nil {
				b = tt.change(b)
			}
			pkts, err := cut(b)
			if !errors.Is(err, errSuperpacket) || !strings.Contains(err.Error(), tt.text) {
				t.Errorf("%d packets, error %v, want errSuperpacket with %q", len(pkts), err, tt.text)
			}
		})
	}
}

// Bytes behind the packet's total length are no part of it.
func TestCutTrailingBytes(t *testing.T) {
	p := tcpPacket(250)
	got, err := cut(append(p.superpacket(100), 1, 2, 3))
	if err != nil {
		t.Fatal(err)
	}
	samePackets(t, got, encode(p.segments(100)))
}

// FuzzCut: whatever the kernel hands over, cutting ends without a panic, and
// no byte of payload is lost or invented.
func FuzzCut(f *testing.F) {
	f.Add(tcpPacket(3000).superpacket(1000))
	f.Add(udpPacket(300).superpacket(7))
	odd := tcpPacket(99)
	odd.ipOptions, odd.flags = []byte{1, 1, 1, 1}, 0xff
	f.Add(odd.superpacket(10))
	f.Add(tcpPacket(3000).superpacket(1000)[:60])
	f.Fuzz(func(t *testing.T, super []byte) {
		if len(super) < vnetHdrLen || len(super) > vnetHdrLen+65535 {
			return
		}
		got, err := cut(super)
		if err != nil {
			if !errors.Is(err, errSuperpacket) {
				t.Errorf("error %v", err)
			}
			return
		}
		if super[1] == 0 {
			return
		}
		b := super[vnetHdrLen:]
		p := parse(b[:binary.BigEndian.Uint16(b[2:])])
		p.df = false // the flags and offset of a fragment are copied: put them back below
		want := encode(p.segments(int(binary.NativeEndian.Uint16(super[4:]))))
		for _, w := range want {
			copy(w[6:8], b[6:8])
			w[10], w[11] = 0, 0
			header := w[:20+len(p.ipOptions)]
			binary.BigEndian.PutUint16(w[10:], ^fold(slowSum(header)))
		}
		samePackets(t, got, want)
	})
}

// Random superpackets against the naive twin and the other codec.
func TestCutRandom(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	for range 300 {
		p := randomSuper(rng)
		size := 1 + rng.IntN(1500)
		if rng.IntN(4) > 0 {
			size = max(size, len(p.payload)/50+1)
		}
		got, err := cut(p.superpacket(size))
		if err != nil {
			t.Fatal(err)
		}
		samePackets(t, got, encode(p.segments(size)))
		for _, b := range got[:min(len(got), 50)] {
			checkCodec(t, b)
		}
	}
}

func randomSuper(rng *rand.Rand) packet {
	p := udpPacket(0)
	if rng.IntN(2) == 0 {
		p = tcpPacket(0)
		p.seq, p.ack, p.flags = rng.Uint32(), rng.Uint32(), byte(rng.Uint32())
		p.window, p.urgent = uint16(rng.Uint32()), uint16(rng.Uint32())
		p.options = bytes.Repeat([]byte{1}, rng.IntN(11)*4)
	}
	p.ipOptions = bytes.Repeat([]byte{1}, rng.IntN(11)*rng.IntN(2)*4)
	p.id, p.df, p.tos, p.ttl = uint16(rng.Uint32()), rng.IntN(2) == 0, byte(rng.Uint32()), byte(rng.Uint32())
	p.payload = text(1+rng.IntN(30000), int(p.seq))
	return p
}

// samePackets compares byte for byte and in order.
func samePackets(t testing.TB, got, want [][]byte) {
	t.Helper()
	for i := range min(len(got), len(want)) {
		if g, w := got[i], want[i]; !bytes.Equal(g, w) {
			at := 0
			for at < min(len(g), len(w)) && g[at] == w[at] {
				at++
			}
			t.Fatalf("packet %d differs at byte %d:\n% x (%d bytes)\nwant\n% x (%d bytes)",
				i, at, g[:min(len(g), 80)], len(g), w[:min(len(w), 80)], len(w))
		}
	}
	if len(got) != len(want) {
		t.Fatalf("%d packets, want %d", len(got), len(want))
	}
}
