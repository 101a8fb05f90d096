package dataplane

import (
	"encoding/binary"
	"math/bits"
)

// Sum returns the 16 bit one's complement sum of b, taken as big-endian words
// and padded with a zero byte if its length is odd, plus initial (RFC 1071).
// The Internet checksum is its complement. A sum over several pieces passes
// each result on as the next initial; all pieces but the last must have an
// even length.
func Sum(initial uint16, b []byte) uint16 {
	if len(b) == minHeader {
		return sumHeader(initial, (*[minHeader]byte)(b))
	}
	// Eight bytes at a time, in the byte order of most machines: the sum of
	// swapped words is the swapped sum (RFC 1071, 2(B)).
	sum, carry := uint64(bits.ReverseBytes16(initial)), uint64(0)
	if n := len(b) &^ 31; haveBlocks && n >= 64 {
		sum, carry = bits.Add64(sum, sumBlocks(&b[0], n), 0)
		sum += carry
		b = b[n:]
	}
	// 128 at a time are half as fast again as 32: the chain of additions with
	// carry breaks less often.
	for len(b) >= 128 {
		w := (*[128]byte)(b)
		sum, carry = bits.Add64(sum, binary.LittleEndian.Uint64(w[0:]), 0)
		sum, carry = bits.Add64(sum, binary.LittleEndian.Uint64(w[8:]), carry)
		sum, carry = bits.Add64(sum, binary.LittleEndian.Uint64(w[16:]), carry)
		sum, carry = bits.Add64(sum, binary.LittleEndian.Uint64(w[24:]), carry)
		sum, carry = bits.Add64(sum, binary.LittleEndian.Uint64(w[32:]), carry)
		sum, carry = bits.Add64(sum, binary.LittleEndian.Uint64(w[40:]), carry)
		sum, carry = bits.Add64(sum, binary.LittleEndian.Uint64(w[48:]), carry)
		sum, carry = bits.Add64(sum, binary.LittleEndian.Uint64(w[56:]), carry)
		sum, carry = bits.Add64(sum, binary.LittleEndian.Uint64(w[64:]), carry)
		sum, carry = bits.Add64(sum, binary.LittleEndian.Uint64(w[72:]), carry)
		sum, carry = bits.Add64(sum, binary.LittleEndian.Uint64(w[80:]), carry)
		sum, carry = bits.Add64(sum, binary.LittleEndian.Uint64(w[88:]), carry)
		sum, carry = bits.Add64(sum, binary.LittleEndian.Uint64(w[96:]), carry)
		sum, carry = bits.Add64(sum, binary.LittleEndian.Uint64(w[104:]), carry)
		sum, carry = bits.Add64(sum, binary.LittleEndian.Uint64(w[112:]), carry)
		sum, carry = bits.Add64(sum, binary.LittleEndian.Uint64(w[120:]), carry)
		sum += carry // cannot overflow: a sum that carried is not all ones
		b = b[128:]
	}
	for len(b) >= 32 {
		sum, carry = bits.Add64(sum, binary.LittleEndian.Uint64(b), 0)
		sum, carry = bits.Add64(sum, binary.LittleEndian.Uint64(b[8:]), carry)
		sum, carry = bits.Add64(sum, binary.LittleEndian.Uint64(b[16:]), carry)
		sum, carry = bits.Add64(sum, binary.LittleEndian.Uint64(b[24:]), carry)
		sum += carry
		b = b[32:]
	}
	for len(b) >= 8 {
		sum, carry = bits.Add64(sum, binary.LittleEndian.Uint64(b), 0)
		sum += carry
		b = b[8:]
	}
	var tail uint64 // up to seven bytes
	if len(b) >= 4 {
		tail = uint64(binary.LittleEndian.Uint32(b))
		b = b[4:]
	}
	if len(b) >= 2 {
		tail += uint64(binary.LittleEndian.Uint16(b))
		b = b[2:]
	}
	if len(b) == 1 {
		tail += uint64(b[0])
	}
	sum, carry = bits.Add64(sum, tail, 0)
	sum += carry

	sum = sum>>32 + sum&0xffffffff
	sum = sum>>32 + sum&0xffffffff
	sum = sum>>16 + sum&0xffff
	sum = sum>>16 + sum&0xffff
	return bits.ReverseBytes16(uint16(sum))
}

// sumHeader is Sum of an IPv4 header without options, which every packet has
// summed up two or three times.
func sumHeader(initial uint16, h *[minHeader]byte) uint16 {
	sum := uint64(bits.ReverseBytes16(initial)) +
		uint64(binary.LittleEndian.Uint32(h[0:])) +
		uint64(binary.LittleEndian.Uint32(h[4:])) +
		uint64(binary.LittleEndian.Uint32(h[8:])) +
		uint64(binary.LittleEndian.Uint32(h[12:])) +
		uint64(binary.LittleEndian.Uint32(h[16:]))
	sum = sum>>32 + sum&0xffffffff
	sum = sum>>16 + sum&0xffff
	sum = sum>>16 + sum&0xffff
	return bits.ReverseBytes16(uint16(sum>>16 + sum))
}
