package subnet

import (
	"encoding/binary"
	"net/netip"
)

// A block is an IPv4 prefix in a form that is cheap as the key of a map.
type block struct {
	addr uint32
	bits int8
}

func blockOf(sn netip.Prefix) block {
	b := sn.Addr().As4()
	return block{binary.BigEndian.Uint32(b[:]), int8(sn.Bits())}
}

// hostBlock is the /32 of an address.
func hostBlock(a netip.Addr) block {
	b := a.As4()
	return block{binary.BigEndian.Uint32(b[:]), 32}
}

// cut returns the block of the given length, no longer than b's, around b.
func (b block) cut(bits int8) block {
	if bits == 0 {
		return block{}
	}
	return block{b.addr &^ (1<<(32-bits) - 1), bits}
}

// A blockSet answers which blocks overlap it in at most 33 look-ups.
type blockSet struct {
	members map[block]struct{}
	above   map[block]struct{} // all blocks around members
	lengths [33]bool           // of members
}

func newBlockSet() *blockSet {
	return &blockSet{members: map[block]struct{}{}, above: map[block]struct{}{}}
}

func (s *blockSet) add(b block) {
	s.members[b] = struct{}{}
	s.lengths[b.bits] = true
	for bits := b.bits - 1; bits >= 0; bits-- {
		up := b.cut(bits)
		if _, ok := s.above[up]; ok {
			return // and so are all above it
		}
		s.above[up] = struct{}{}
	}
}

// covers reports whether a member holds all of b.
func (s *blockSet) covers(b block) bool {
	for bits := range b.bits + 1 {
		if s.lengths[bits] {
			if _, ok := s.members[b.cut(bits)]; ok {
				return true
			}
		}
	}
	return false
}

// overlaps reports whether a member shares an address with b.
func (s *blockSet) overlaps(b block) bool {
	_, inside := s.above[b]
	return inside || s.covers(b)
}

func (b block) prefix() netip.Prefix {
	var a [4]byte
	binary.BigEndian.PutUint32(a[:], b.addr)
	return netip.PrefixFrom(netip.AddrFrom4(a), int(b.bits))
}
