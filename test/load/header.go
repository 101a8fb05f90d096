package load

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"
)

const (
	// MinSize is the smallest UDP payload in bytes: the header alone.
	MinSize = 16

	// MaxSize is the largest UDP payload over IPv4 in bytes.
	MaxSize = 65507
)

func checkSize(size int) error {
	if size < MinSize || size > MaxSize {
		return fmt.Errorf("payload of %d bytes: want %d to %d", size, MinSize, MaxSize)
	}
	return nil
}

// A key tells the packets of one run from all others.
type key uint64

func newKey() key {
	var b [8]byte
	rand.Read(b[:])
	return key(binary.BigEndian.Uint64(b[:]))
}

// A UDP payload is a header and a pattern, the same in each packet of a run:
//
//	bytes 0-7   number of the packet, from 0, times 2, plus 1 if it was sent
//	            inside the window (big endian)
//	bytes 8-15  check of bytes 0-7 and the key
//	bytes 16-   pattern
//
// put writes the header.
func (k key) put(p []byte, number uint64, inside bool) {
	word := number << 1
	if inside {
		word |= 1
	}
	binary.BigEndian.PutUint64(p, word)
	binary.BigEndian.PutUint64(p[8:], k.check(word))
}

// get reads the header; ok says that put has written it.
func (k key) get(p []byte) (number uint64, inside, ok bool) {
	if len(p) < MinSize {
		return 0, false, false
	}
	word := binary.BigEndian.Uint64(p)
	return word >> 1, word&1 == 1, binary.BigEndian.Uint64(p[8:]) == k.check(word)
}

// check differs for any two words, as it multiplies by an odd number.
func (k key) check(word uint64) uint64 { return (word ^ uint64(k)) * 0x9e3779b97f4a7c15 }

// pattern fills the rest of the payload.
func pattern(size int) []byte {
	b := make([]byte, size-MinSize)
	rand.Read(b)
	return b
}
