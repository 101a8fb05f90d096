package dataplane

import (
	"encoding/binary"
	"math/rand/v2"
	"testing"
)

// slowSum is RFC 1071 word for word, the twin that Sum is tested against.
func slowSum(initial uint16, b []byte) uint16 {
	sum := uint32(initial)
	for i := 0; i < len(b); i += 2 {
		word := uint32(b[i]) << 8
		if i+1 < len(b) {
			word |= uint32(b[i+1])
		}
		sum += word
		sum = sum>>16 + sum&0xffff
	}
	return uint16(sum)
}

func TestSum(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	buf := make([]byte, 1600)
	for i := range buf {
		buf[i] = byte(rng.Uint32())
	}
	ones := make([]byte, 1600)
	for i := range ones {
		ones[i] = 0xff
	}
	for _, data := range [][]byte{buf, ones, make([]byte, 1600)} {
		for offset := range 9 {
			for length := range 1500 {
				checkSum(t, uint16(rng.Uint32()), data[offset:offset+length])
			}
			checkSum(t, 0xffff, data[offset:])
			checkSum(t, 0, data[offset:])
		}
	}
	// The example of RFC 1071, 3.
	if got := Sum(0, []byte{0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7}); got != 0xddf2 {
		t.Errorf("sum %#x, want 0xddf2", got)
	}
}

func checkSum(t *testing.T, initial uint16, b []byte) {
	t.Helper()
	if got, want := Sum(initial, b), slowSum(initial, b); got != want {
		t.Fatalf("sum of %d bytes from %#x is %#x, want %#x", len(b), initial, got, want)
	}
}

func FuzzSum(f *testing.F) {
	f.Add(uint16(0), uint(0), []byte{})
	f.Add(uint16(0xffff), uint(1), []byte{0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, initial uint16, at uint, b []byte) {
		checkSum(t, initial, b)
		// The sum of two pieces is the sum of the whole.
		cut := int(at % uint(len(b)+1) &^ 1)
		if got, want := Sum(Sum(initial, b[:cut]), b[cut:]), Sum(initial, b); got != want {
			t.Errorf("cut at %d of %d: %#x, want %#x", cut, len(b), got, want)
		}
		// Data with its checksum behind it sums up to all ones.
		if len(b)%2 == 0 {
			sealed := binary.BigEndian.AppendUint16(b[:len(b):len(b)], ^Sum(0, b))
			if got := Sum(0, sealed); got != 0xffff {
				t.Errorf("sum with checksum is %#x", got)
			}
		}
	})
}

func BenchmarkSum(b *testing.B) {
	for _, size := range []int{20, 64, 1472, 65535} {
		b.Run(itoa(size), func(b *testing.B) {
			buf := make([]byte, size)
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				Sum(0, buf)
			}
		})
	}
}
