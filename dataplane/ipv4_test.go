package dataplane

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"strconv"
	"testing"
)

// header is what a test says about a packet; the rest is made right.
type header struct {
	src, dst string
	ttl      uint8
	proto    uint8
	frag     uint16 // flags and offset
	options  int    // bytes
	payload  int    // bytes
	first    byte   // of the payload, as the type of ICMP is
}

const protoUDP = 17

// packet returns a correct IPv4 packet with a payload that counts up.
func packet(h header) []byte {
	n := minHeader + h.options
	p := make([]byte, n+h.payload)
	p[0] = 4<<4 | byte(n/4)
	binary.BigEndian.PutUint16(p[2:], uint16(len(p)))
	binary.BigEndian.PutUint16(p[6:], h.frag)
	p[8], p[9] = h.ttl, h.proto
	copy(p[12:], netip.MustParseAddr(h.src).AsSlice())
	copy(p[16:], netip.MustParseAddr(h.dst).AsSlice())
	for i := range h.options {
		p[minHeader+i] = 1 // no operation
	}
	for i := range h.payload {
		p[n+i] = byte(i)
	}
	if h.payload > 0 {
		p[n] = h.first
	}
	seal(p)
	return p
}

// seal makes the header checksum right, slowly.
func seal(p []byte) {
	p[10], p[11] = 0, 0
	binary.BigEndian.PutUint16(p[10:], ^slowSum(0, p[:min(len(p), int(p[0]&15)*4)]))
}

func simple(ttl uint8) []byte {
	return packet(header{src: "10.5.1.2", dst: "10.5.2.3", ttl: ttl, proto: protoUDP, payload: 30})
}

func TestParseIPv4(t *testing.T) {
	change := func(p []byte, f func(p []byte)) []byte {
		f(p)
		seal(p)
		return p
	}
	tests := []struct {
		name string
		b    []byte
		want Reason
		size int // of the packet
	}{
		{name: "plain", b: simple(64), size: 50},
		{name: "header only", b: packet(header{src: "10.5.1.2", dst: "10.5.2.3"}), size: 20},
		{name: "options", b: packet(header{src: "10.5.1.2", dst: "10.5.2.3", options: 40, payload: 1}), size: 61},
		{name: "trailing bytes", b: append(simple(64), 1, 2, 3), size: 50},

		{name: "nothing", b: nil, want: Truncated},
		{name: "one byte", b: []byte{0x45}, want: Truncated},
		{name: "19 bytes", b: simple(64)[:19], want: Truncated},
		{name: "one byte missing", b: simple(64)[:49], want: Truncated},
		{name: "options cut", b: packet(header{src: "10.5.1.2", dst: "10.5.2.3", options: 40})[:59], want: Truncated},
		{name: "version 6", b: change(simple(64), func(p []byte) { p[0] = 0x65 }), want: NotIPv4},
		{name: "short IPv6", b: []byte{0x60}, want: NotIPv4},
		{name: "version 0", b: make([]byte, 40), want: NotIPv4},
		{name: "header of 16", b: change(simple(64), func(p []byte) { p[0] = 0x44 }), want: BadHeader},
		{name: "header of 0", b: change(simple(64), func(p []byte) { p[0] = 0x40 }), want: BadHeader},
		{name: "total 0", b: change(simple(64), func(p []byte) { p[3] = 0 }), want: BadHeader},
		{name: "total 19", b: change(simple(64), func(p []byte) { p[3] = 19 }), want: BadHeader},
		{name: "total below header", b: change(simple(64), func(p []byte) { p[0], p[3] = 0x4f, 59 }), want: BadHeader},
		{name: "total of 64K", b: change(simple(64), func(p []byte) { p[2], p[3] = 0xff, 0xff }), want: Truncated},
		{name: "checksum one off", b: func() []byte { p := simple(64); p[11]++; return p }(), want: BadChecksum},
		{name: "bit flipped in address", b: func() []byte { p := simple(64); p[16] ^= 1; return p }(), want: BadChecksum},
		{name: "bit flipped in options", b: func() []byte {
			p := packet(header{src: "10.5.1.2", dst: "10.5.2.3", options: 4})
			p[23] ^= 1
			return p
		}(), want: BadChecksum},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p, reason := ParseIPv4(tt.b)
			if reason != tt.want || len(p) != tt.size {
				t.Errorf("%d bytes, %v, want %d, %v", len(p), reason, tt.size, tt.want)
			}
		})
	}
}

func TestIPv4Fields(t *testing.T) {
	p := IPv4(packet(header{src: "10.5.1.2", dst: "10.5.2.3", ttl: 7, proto: 6, frag: 0x2000, options: 8}))
	if p.HeaderLen() != 28 || p.TTL() != 7 || p.Protocol() != 6 || p.Src().String() != "10.5.1.2" || p.Dst().String() != "10.5.2.3" {
		t.Errorf("fields of % x", []byte(p))
	}
	for frag, want := range map[uint16]bool{0: false, 0x4000: false, 0x2000: false, 0x2001: true, 1: true, 0x1fff: true} {
		if got := IPv4(packet(header{src: "0.0.0.0", dst: "0.0.0.0", frag: frag})).LaterFragment(); got != want {
			t.Errorf("fragment field %#x: later fragment %v", frag, got)
		}
	}
}

// Every TTL with every protocol and every possible sum of the other fields:
// the incremental checksum is the one computed from scratch.
func TestDecrementTTL(t *testing.T) {
	p := IPv4(simple(64))
	for id := range 1 << 16 {
		binary.BigEndian.PutUint16(p[4:], uint16(id))
		p[8], p[9] = byte(id>>3), byte(id)
		seal(p)
		want := bytes.Clone(p)
		if ok := p.DecrementTTL(); ok != (want[8] > 1) {
			t.Fatalf("TTL %d: %v", want[8], ok)
		}
		if want[8] > 1 {
			want[8]--
			seal(want)
		}
		if !bytes.Equal(p, want) {
			t.Fatalf("id %d: header % x, want % x", id, p[:20], want[:20])
		}
	}
}

func FuzzParseIPv4(f *testing.F) {
	f.Add(simple(64))
	f.Add(packet(header{src: "10.5.1.2", dst: "10.5.2.3", ttl: 2, options: 40, payload: 9}))
	f.Add([]byte{0x45})
	f.Fuzz(func(t *testing.T, b []byte) {
		before := bytes.Clone(b)
		p, reason := ParseIPv4(b)
		if (reason == NotDropped) != (p != nil) || !bytes.Equal(b, before) {
			t.Fatalf("%d bytes, %v", len(p), reason)
		}
		if p == nil {
			return
		}
		if p.HeaderLen() < 20 || p.HeaderLen() > len(p) || len(p) > len(b) {
			t.Fatalf("header %d, packet %d, bytes %d", p.HeaderLen(), len(p), len(b))
		}
		// A packet that may go on is still one, and differs in TTL and checksum only.
		ttl := p.TTL()
		if !p.DecrementTTL() {
			if ttl > 1 || !bytes.Equal(b, before) {
				t.Errorf("TTL %d", ttl)
			}
			return
		}
		if again, reason := ParseIPv4(b); reason != NotDropped || again.TTL() != ttl-1 {
			t.Errorf("after the TTL: %v", reason)
		}
		copy(b[8:], before[8:9])
		copy(b[10:], before[10:12])
		if !bytes.Equal(b, before) {
			t.Error("other bytes changed")
		}
	})
}

func itoa(n int) string { return strconv.Itoa(n) }
