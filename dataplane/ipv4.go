package dataplane

import (
	"encoding/binary"
	"net/netip"
)

// IPv4 is a packet whose header ParseIPv4 has checked (RFC 791, 3.1):
//
//	 0                   1                   2                   3
//	 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//	+-------+-------+---------------+-------------------------------+
//	|Version|  IHL  |      TOS      |         Total Length          |
//	+-------+-------+---------------+-----+-------------------------+
//	|        Identification         |Flags|     Fragment Offset     |
//	+---------------+---------------+-----+-------------------------+
//	|      TTL      |   Protocol    |        Header Checksum        |
//	+---------------+---------------+-------------------------------+
//	|                            Source                             |
//	+---------------------------------------------------------------+
//	|                          Destination                          |
//	+---------------------------------------------------------------+
//	|                  Options, up to 40 bytes ...                  |
type IPv4 []byte

const (
	minHeader = 20
	maxHeader = 60

	protoICMP = 1
)

// ParseIPv4 checks the header of the packet at the start of b and returns the
// packet, without the bytes that may follow it. If something is wrong it
// returns nil and says what; else the reason is NotDropped.
func ParseIPv4(b []byte) (IPv4, Reason) {
	if len(b) == 0 {
		return nil, Truncated
	}
	if b[0]>>4 != 4 {
		return nil, NotIPv4
	}
	if len(b) < minHeader {
		return nil, Truncated
	}
	header := int(b[0]&0x0f) * 4
	total := int(binary.BigEndian.Uint16(b[2:]))
	if header < minHeader || total < header {
		return nil, BadHeader
	}
	if total > len(b) {
		return nil, Truncated
	}
	if Sum(0, b[:header]) != 0xffff {
		return nil, BadChecksum
	}
	return IPv4(b[:total]), NotDropped
}

// HeaderLen is the length of the header in bytes, options included.
func (p IPv4) HeaderLen() int { return int(p[0]&0x0f) * 4 }

// TTL is the time to live.
func (p IPv4) TTL() uint8 { return p[8] }

// Protocol is the IANA number of what the packet carries.
func (p IPv4) Protocol() uint8 { return p[9] }

// LaterFragment reports whether the packet is a fragment other than the first.
func (p IPv4) LaterFragment() bool { return binary.BigEndian.Uint16(p[6:])&0x1fff != 0 }

// Src is the source address.
func (p IPv4) Src() netip.Addr { return netip.AddrFrom4([4]byte(p[12:16])) }

// Dst is the destination address.
func (p IPv4) Dst() netip.Addr { return netip.AddrFrom4([4]byte(p[16:20])) }

// DecrementTTL counts the TTL down in place and adjusts the header checksum
// incrementally. It reports false, and changes nothing, if the TTL would reach
// 0: such a packet must not be forwarded (RFC 1812, 5.3.1).
func (p IPv4) DecrementTTL() bool {
	if p[8] <= 1 {
		return false
	}
	// HC' = ~(~HC + ~m + m'), where m is the word of TTL and protocol (RFC
	// 1624, equation 3). TTL is its high byte, so ~m + m' is ~0x0100.
	p[8]--
	sum := uint32(^binary.BigEndian.Uint16(p[10:])) + 0xfeff
	sum = sum>>16 + sum&0xffff
	binary.BigEndian.PutUint16(p[10:], ^uint16(sum))
	return true
}
