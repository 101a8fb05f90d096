package dataplane

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/ip4defrag"
	"github.com/google/gopacket/layers"
)

// copiedOptions is the twin of appendCopiedHeader: the options that later
// fragments must have, filled up with zeros.
func copiedOptions(opts []byte) (copied []byte) {
	for i := 0; i < len(opts) && opts[i] != 0; {
		size := 1
		if opts[i] != 1 {
			if i+1 == len(opts) || opts[i+1] < 2 || i+int(opts[i+1]) > len(opts) {
				break
			}
			size = int(opts[i+1])
		}
		if opts[i] >= 128 {
			copied = append(copied, opts[i:i+size]...)
		}
		i += size
	}
	return append(copied, make([]byte, (4-len(copied)%4)%4)...)
}

// checkFragments wants frags to be the fragments of the whole: as few as can
// be, none above mtu bytes, in order, and the whole again if put together.
func checkFragments(t *testing.T, whole IPv4, frags [][]byte, mtu int) {
	t.Helper()
	header, data := whole[:whole.HeaderLen()], whole[whole.HeaderLen():]
	room := (mtu - len(header)) / 8 * 8
	if want := (len(data) + room - 1) / room; len(frags) != want {
		t.Fatalf("%d fragments, want %d", len(frags), want)
	}
	field := binary.BigEndian.Uint16(whole[6:])
	flags, at := field>>13, int(field&0x1fff)*8
	for i, f := range frags {
		ip, reason := ParseIPv4(f)
		if reason != NotDropped || len(ip) != len(f) || len(f) > mtu || slowSum(0, f[:ip.HeaderLen()]) != 0xffff {
			t.Fatalf("fragment %d of %d bytes: %v: % x", i, len(f), reason, f)
		}
		want := bytes.Clone(header)
		if i > 0 {
			want = append(want[:minHeader:minHeader], copiedOptions(header[minHeader:])...)
			want[0] = 0x40 | byte(len(want)/4)
		}
		piece := f[ip.HeaderLen():]
		if len(piece) > len(data) {
			t.Fatalf("fragment %d has %d bytes of the last %d", i, len(piece), len(data))
		}
		last := i == len(frags)-1
		wantFlags := flags
		if !last {
			wantFlags |= 1 // more fragments
		}
		binary.BigEndian.PutUint16(want[2:], uint16(len(want)+len(piece)))
		binary.BigEndian.PutUint16(want[6:], wantFlags<<13|uint16(at/8))
		seal(want)
		if !bytes.Equal(f[:ip.HeaderLen()], want) {
			t.Fatalf("header of fragment %d is\n% x, want\n% x", i, f[:ip.HeaderLen()], want)
		}
		if !last && len(piece)%8 != 0 {
			t.Fatalf("fragment %d has %d bytes of data", i, len(piece))
		}
		if !bytes.Equal(piece, data[:len(piece)]) {
			t.Fatalf("fragment %d has other data", i)
		}
		data, at = data[len(piece):], at+len(piece)
	}
	if len(data) != 0 {
		t.Fatalf("%d bytes lost", len(data))
	}
}

func TestFragment(t *testing.T) {
	tests := []struct {
		name  string
		whole header
		mtu   int
		want  []int // sizes of the fragments
	}{
		{"two", header{payload: 100}, 100, []int{100, 40}},
		{"even", header{payload: 160}, 100, []int{100, 100}},
		{"one byte left", header{payload: 161}, 100, []int{100, 100, 21}},
		{"not a multiple of 8", header{payload: 100}, 107, []int{100, 40}},
		{"least of RFC 791", header{payload: 100}, 68, []int{68, 68, 24}},
		{"8 bytes each", header{payload: 24}, 28, []int{28, 28, 28}},
		{"fits", header{payload: 80}, 100, []int{100}},
		{"longest header at its least", header{payload: 100, options: 40}, 68, slices.Concat([]int{68}, slices.Repeat([]int{28}, 11), []int{24})},
		{"first fragment", header{payload: 160, frag: moreFragments}, 100, []int{100, 100}},
		{"middle fragment", header{payload: 160, frag: moreFragments | 10}, 60, []int{60, 60, 60, 60}},
		{"last fragment", header{payload: 100, frag: 10}, 100, []int{100, 40}},
		{"end of the largest datagram", header{payload: 1447, frag: 8011}, 820, []int{820, 667}},
		{"reserved flag", header{payload: 100, frag: 0x8000}, 100, []int{100, 40}},
		{"largest packet", header{payload: 65515}, 32783, []int{32780, 32775}},

		{"no room", header{payload: 100}, 27, nil},
		{"no room beside options", header{payload: 100, options: 40}, 67, nil},
		{"less than a header", header{payload: 100}, 10, nil},
		{"MTU 1", header{payload: 100}, 1, nil},
		{"no data", header{options: 40}, 59, nil},
		{"beyond the largest datagram", header{payload: 1000, frag: moreFragments | 0x1fff}, 500, nil},
		{"a byte beyond", header{payload: 1448, frag: 8011}, 820, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.whole.src, tt.whole.dst, tt.whole.ttl, tt.whole.proto = "10.5.1.2", "10.5.2.9", 9, protoUDP
			whole := packet(tt.whole)
			binary.BigEndian.PutUint16(whole[4:], 0xabcd)
			whole[1] = 0x2e
			seal(whole)
			before := bytes.Clone(whole)
			frags, _ := IPv4(whole).fragment(nil, nil, tt.mtu)
			var sizes []int
			for _, f := range frags {
				sizes = append(sizes, len(f))
			}
			if !slices.Equal(sizes, tt.want) {
				t.Errorf("fragments of %v bytes, want %v", sizes, tt.want)
			}
			if len(frags) > 0 {
				checkFragments(t, whole, frags, tt.mtu)
			}
			if !bytes.Equal(whole, before) {
				t.Error("the packet itself was changed")
			}
		})
	}
}

// Which options go into later fragments, byte by byte (RFC 791, 3.1).
func TestFragmentOptions(t *testing.T) {
	const (
		nop, end    = 1, 0
		recordRoute = 7   // first fragment only
		timestamp   = 68  // first fragment only
		security    = 130 // copied
		looseRoute  = 131 // copied
		streamID    = 136 // copied
	)
	for _, tt := range []struct {
		name       string
		opts, want []byte
	}{
		{"none", nil, nil},
		{"padding", []byte{nop, nop, nop, end}, nil},
		{"not copied", []byte{recordRoute, 7, 4, 0, 0, 0, 0, end}, nil},
		{"copied", []byte{streamID, 4, 0xab, 0xcd}, []byte{streamID, 4, 0xab, 0xcd}},
		{"one of three", []byte{recordRoute, 3, 4, looseRoute, 7, 4, 192, 0, 2, 1, timestamp, 4, 5, 0, nop, end},
			[]byte{looseRoute, 7, 4, 192, 0, 2, 1, 0}},
		{"two of three", []byte{streamID, 4, 1, 2, timestamp, 4, 5, 0, security, 3, 9, end}, []byte{streamID, 4, 1, 2, security, 3, 9, 0}},
		{"behind the end", []byte{end, streamID, 4, 1, 2, 0, 0, 0}, nil},
		{"behind the end and something", []byte{end, 4, 9, 9, streamID, 4, 1, 2}, nil},
		{"after no operation", []byte{nop, nop, nop, nop, streamID, 4, 1, 2}, []byte{streamID, 4, 1, 2}},
		{"length 0", []byte{looseRoute, 0, 0, 0}, nil},
		{"length 1", []byte{streamID, 4, 1, 2, looseRoute, 1, 0, 0}, []byte{streamID, 4, 1, 2}},
		{"longer than the header", []byte{looseRoute, 5, 4, 0}, nil},
		{"length cut off", []byte{nop, nop, nop, looseRoute}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			whole := packet(header{src: "10.5.1.2", dst: "10.5.2.9", ttl: 9, options: len(tt.opts), payload: 100})
			copy(whole[minHeader:], tt.opts)
			seal(whole)
			frags, _ := IPv4(whole).fragment(nil, nil, 100)
			checkFragments(t, whole, frags, 100)
			for i, f := range frags {
				want := tt.want
				if i == 0 {
					want = tt.opts
				}
				if got := f[minHeader:IPv4(f).HeaderLen()]; !bytes.Equal(got, want) {
					t.Errorf("options of fragment %d: % x, want % x", i, got, want)
				}
			}
		})
	}
}

// Fragments cut again, and put together in any order by somebody else's code,
// are the packet again.
func TestFragmentsReassembled(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	for _, size := range []int{1000, 1472, 8192, 65512} {
		whole := packet(header{src: "10.5.1.2", dst: "10.5.2.9", ttl: 9, proto: protoUDP, payload: size})
		frags, _ := IPv4(whole).fragment(nil, nil, 1420)
		var again [][]byte
		for _, f := range frags {
			smaller, _ := IPv4(f).fragment(nil, nil, 604)
			checkFragments(t, f, smaller, 604)
			again = append(again, smaller...)
		}
		rng.Shuffle(len(again), func(i, j int) { again[i], again[j] = again[j], again[i] })
		defrag := ip4defrag.NewIPv4Defragmenter()
		var got *layers.IPv4
		for i, f := range again {
			var ip layers.IPv4
			if err := ip.DecodeFromBytes(f, gopacket.NilDecodeFeedback); err != nil {
				t.Fatal(err)
			}
			out, err := defrag.DefragIPv4(&ip)
			if err != nil {
				t.Fatalf("fragment %d of %d: %v", i, len(again), err)
			}
			if out != nil {
				got = out
			}
		}
		if got == nil || !bytes.Equal(got.Payload, whole[minHeader:]) {
			t.Errorf("%d bytes in %d fragments are not put together", size, len(again))
		}
	}
}

// The buffers may be used again and again, and grow as they must.
func TestFragmentBuffers(t *testing.T) {
	frags, buf := make([][]byte, 0, 1), make([]byte, 0, 16)
	for _, size := range []int{30, 5000, 30, 9000} {
		whole := packet(header{src: "10.5.1.2", dst: "10.5.2.9", ttl: 9, payload: size})
		frags, buf = IPv4(whole).fragment(frags[:0], buf[:0], 44)
		checkFragments(t, whole, frags, 44)
	}
}

func FuzzFragment(f *testing.F) {
	f.Add(simple(64), uint16(28), uint16(0))
	f.Add(packet(header{src: "10.5.1.2", dst: "10.5.2.9", ttl: 9, options: 40, payload: 200}), uint16(68), uint16(moreFragments|9))
	f.Add(packet(header{src: "10.5.1.2", dst: "10.5.2.9", payload: 1000}), uint16(500), uint16(moreFragments|0x1fff))
	f.Fuzz(func(t *testing.T, b []byte, mtu, field uint16) {
		if len(b) < minHeader || len(b) > 65535 {
			return
		}
		b[0] = 0x40 | max(5, b[0]&15)
		binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
		binary.BigEndian.PutUint16(b[6:], field)
		if IPv4(b).HeaderLen() > len(b) {
			return
		}
		seal(b)
		whole := IPv4(b)
		frags, _ := whole.fragment(nil, nil, int(mtu))
		data := len(b) - whole.HeaderLen()
		possible := int(mtu) >= whole.HeaderLen()+8 && int(field&0x1fff)*8+data <= 65535 && data > 0
		if possible != (len(frags) > 0) {
			t.Fatalf("%d fragments of %d bytes with %#x for an MTU of %d", len(frags), len(b), field, mtu)
		}
		if possible {
			checkFragments(t, whole, frags, int(mtu))
		}
	})
}
