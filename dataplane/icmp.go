package dataplane

import (
	"encoding/binary"
	"net/netip"
)

// An ICMPError is a message to the source of a packet that cannot be
// forwarded.
type ICMPError struct {
	Type, Code uint8
	// Rest is the second word of the message: the MTU of the next hop in bytes
	// for FragmentationNeeded (RFC 1191), 0 otherwise.
	Rest uint32
}

// NetUnreachable says that no peer has a subnet with the destination (RFC 792).
func NetUnreachable() ICMPError { return ICMPError{Type: 3, Code: 0} }

// TimeExceeded says that the TTL was used up in transit (RFC 792).
func TimeExceeded() ICMPError { return ICMPError{Type: 11, Code: 0} }

// FragmentationNeeded says that the packet has DF set and is larger than mtu
// bytes (RFC 1191, 4).
func FragmentationNeeded(mtu uint16) ICMPError {
	return ICMPError{Type: 3, Code: 4, Rest: uint32(mtu)}
}

const (
	icmpHeader = 8
	icmpQuoted = 8 // bytes quoted behind the offender's header (RFC 792)
	icmpTTL    = 8 // of flannel v0.10: the message goes to a pod of this host

	// MaxICMPError is the size in bytes of the longest message.
	MaxICMPError = minHeader + icmpHeader + maxHeader + icmpQuoted
)

// Put writes the IPv4 packet with the message about offender, sent by from,
// into buf, which must hold MaxICMPError bytes, and returns its length. It
// returns 0 where no message must be sent: about ICMP errors, about later
// fragments, about what was not sent to one host, and where the source is not
// one host (RFC 1812, 4.3.2.7). flannel v0.10 tells about no ICMP at all, so
// that ping never learns why there is no answer.
func (e ICMPError) Put(buf []byte, from netip.Addr, offender IPv4) int {
	if !from.Is4() || isICMPError(offender) || offender.LaterFragment() ||
		!isOneHost(offender.Src()) || !isOneHost(offender.Dst()) {
		return 0
	}
	quoted := min(len(offender), offender.HeaderLen()+icmpQuoted)
	b := buf[:minHeader+icmpHeader+quoted]
	clear(b[:minHeader+icmpHeader])

	b[0] = 4<<4 | minHeader/4
	b[1] = 6 << 5 // precedence internetwork control (RFC 1812, 4.3.2.5)
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
	b[8] = icmpTTL
	b[9] = protoICMP
	src := from.As4()
	copy(b[12:16], src[:])
	copy(b[16:20], offender[12:16])
	binary.BigEndian.PutUint16(b[10:], ^Sum(0, b[:minHeader]))

	msg := b[minHeader:]
	msg[0], msg[1] = e.Type, e.Code
	binary.BigEndian.PutUint32(msg[4:], e.Rest)
	copy(msg[icmpHeader:], offender[:quoted])
	binary.BigEndian.PutUint16(msg[2:], ^Sum(0, msg))
	return len(b)
}

// isICMPError reports whether the packet carries an ICMP error, or ICMP of which
// that cannot be seen (RFC 1122, 3.2.2).
func isICMPError(p IPv4) bool {
	if p.Protocol() != protoICMP {
		return false
	}
	msg := p[p.HeaderLen():]
	if len(msg) == 0 {
		return true
	}
	switch msg[0] {
	case 3, 4, 5, 11, 12: // unreachable, source quench, redirect, time exceeded, parameter problem
		return true
	}
	return false
}

// isOneHost reports whether a can be the address of a single host on a
// network: not "this network" 0/8, loopback, multicast or broadcast (RFC 1122,
// 3.2.1.3). 240/4 can, for Linux routes it, and some networks use it.
func isOneHost(a netip.Addr) bool {
	b := a.As4()
	return b[0] != 0 && b[0] != 127 && b[0]>>4 != 0xe && b != [4]byte{255, 255, 255, 255}
}
