package tun

import (
	"bytes"
	"encoding/binary"

	"tweed/dataplane"
)

const (
	maxMerge    = 132   // packets that one round of merging looks at
	maxSuper    = 65535 // bytes of a superpacket, from its IP header on
	maxSegments = 128   // per superpacket of UDP (linux/udp.h, UDP_MAX_SEGMENTS)
	maxHeaders  = ipHeader + 60
	flowSlots   = 256
)

// A merger finds packets that one superpacket can stand for, the reverse of
// splitter: cut again, it gives the same packets byte for byte (but for the IP
// identification of packets with DF, which means nothing, RFC 6864, 4.1). The
// checksums of the IP headers must be right, which a Forwarder has seen to.
//
// Packets of several flows may be mixed. What becomes of a flow stays in order,
// because superpackets are written in the order of their first packets, and a
// packet joins only the latest one of its flow.
type merger struct {
	supers []super
	next   [maxMerge]int16  // the packet behind packet i in its superpacket, -1 at the end
	flows  [flowSlots]uint8 // by hash: 1 + index of the superpacket that may grow
	head   [vnetHdrLen + maxHeaders]byte
}

// A super is a superpacket in the making, or a single packet.
type super struct {
	first, last int16
	count       int
	size        int    // payload bytes of the first packet, and of all but the last
	total       int    // bytes, with the headers once
	headers     int    // bytes
	seq         uint32 // TCP: of the next packet
	id          uint16 // IP identification of the last packet
	proto       uint8  // 0 if nothing can be merged with it
	verified    bool   // the checksum of the first packet is right
	closed      bool
}

// start forgets everything.
func (m *merger) start() {
	m.supers = m.supers[:0]
	clear(m.flows[:])
}

// add takes packet number i; they must come in order, from 0 up to maxMerge-1.
// tcp and udp say what may be merged at all.
func (m *merger) add(pkts []dataplane.Packet, i int, tcp, udp bool) {
	b := pkts[i].Bytes
	m.next[i] = -1
	s, kind := classify(b)
	s.first, s.last, s.count = int16(i), int16(i), 1
	switch kind {
	case unclear:
		// It may belong to any flow, so none goes on across it.
		clear(m.flows[:])
		fallthrough
	case other:
		m.supers = append(m.supers, s)
		return
	}
	slot := &m.flows[flowHash(b)]
	if kind == mergeable && (s.proto == protoTCP && tcp || s.proto == protoUDP && udp) {
		if *slot != 0 && m.join(pkts, int(*slot)-1, &s) {
			return
		}
		m.supers = append(m.supers, s)
		*slot = uint8(len(m.supers))
		return
	}
	*slot = 0
	m.supers = append(m.supers, s)
}

// The kinds of packets.
const (
	unclear   = iota // of what flow it is cannot be seen, such as a later fragment
	other            // of a flow that is neither TCP nor UDP
	alone            // of a flow, but not to be merged
	mergeable        // with what fits
)

// classify says what a packet is and what a superpacket that begins with it
// would be. Each reason not to merge is one return.
func classify(b []byte) (s super, kind int) {
	if len(b) < ipHeader || b[0] != 0x45 {
		return s, unclear // IPv4 options stay what they are
	}
	if int(binary.BigEndian.Uint16(b[2:])) != len(b) {
		return s, unclear // trailing bytes
	}
	if b[6]&^0x40 != 0 || b[7] != 0 {
		return s, unclear // a fragment, or the reserved flag
	}
	t := b[ipHeader:]
	switch b[9] {
	case protoTCP:
		if len(t) < tcpHeader {
			return s, unclear
		}
		if t[tcpFlags]&^flagPSH != flagACK {
			return s, alone // SYN, FIN, RST, URG, ECE, CWR
		}
		if t[tcpOffset]&0x0f != 0 {
			return s, alone // reserved bits, AE among them
		}
		header := int(t[tcpOffset]>>4) * 4
		if header < tcpHeader || header >= len(t) {
			return s, alone // malformed, or without payload
		}
		s.headers = ipHeader + header
		s.seq = binary.BigEndian.Uint32(t[tcpSeq:]) + uint32(len(t)-header)
		s.closed = t[tcpFlags]&flagPSH != 0
	case protoUDP:
		if len(t) < udpHeader {
			return s, unclear
		}
		if int(binary.BigEndian.Uint16(t[udpLength:])) != len(t) || len(t) == udpHeader {
			return s, alone // malformed, or without payload
		}
		if t[udpCsum] == 0 && t[udpCsum+1] == 0 {
			return s, alone // without a checksum, which a superpacket cannot say
		}
		s.headers = ipHeader + udpHeader
	default:
		return s, other
	}
	s.proto = b[9]
	s.total = len(b)
	s.size = len(b) - s.headers
	s.id = binary.BigEndian.Uint16(b[4:])
	return s, mergeable
}

// flowHash spreads flows over the slots: addresses, ports and protocol.
func flowHash(b []byte) uint8 {
	h := binary.NativeEndian.Uint64(b[12:]) * 0x9e3779b97f4a7c15
	h ^= (uint64(binary.NativeEndian.Uint32(b[ipHeader:])) + uint64(b[9])<<32) * 0xff51afd7ed558ccd
	return uint8((h ^ h>>29) * 0x9e3779b97f4a7c15 >> 56)
}

// join appends the single packet p to superpacket number at, if together they
// are what the splitter would cut.
func (m *merger) join(pkts []dataplane.Packet, at int, p *super) bool {
	s := &m.supers[at]
	if s.closed || p.size > s.size || s.count == maxSegments || s.total+p.size > maxSuper {
		return false
	}
	a, b := pkts[s.first].Bytes, pkts[p.first].Bytes
	if !sameFlow(a, b, s, p) {
		return false
	}
	if !s.verified && !checksumRight(a) {
		s.closed = true
		return false
	}
	s.verified = true
	if !checksumRight(b) {
		p.closed = true
		return false
	}
	m.next[s.last] = p.first
	s.last = p.first
	s.count++
	s.total += p.size
	s.seq, s.id = p.seq, p.id
	s.closed = p.closed || p.size < s.size
	return true
}

// sameFlow reports whether the headers of packet b go on from superpacket s,
// which begins with packet a.
func sameFlow(a, b []byte, s, p *super) bool {
	if binary.NativeEndian.Uint64(a[12:]) != binary.NativeEndian.Uint64(b[12:]) {
		return false // addresses
	}
	if binary.NativeEndian.Uint32(a[ipHeader:]) != binary.NativeEndian.Uint32(b[ipHeader:]) {
		return false // ports
	}
	if a[9] != b[9] || a[1] != b[1] || a[8] != b[8] || a[6] != b[6] {
		return false // protocol, TOS with ECN, TTL, DF
	}
	if a[6]&0x40 == 0 && p.id != s.id+1 {
		return false // without DF the identification matters
	}
	if s.proto == protoUDP {
		return true
	}
	if s.headers != p.headers || s.seq != binary.BigEndian.Uint32(b[ipHeader+tcpSeq:]) {
		return false // not the next bytes of the stream
	}
	ta, tb := a[ipHeader:s.headers], b[ipHeader:p.headers]
	return bytes.Equal(ta[tcpAck:tcpOffset], tb[tcpAck:tcpOffset]) &&
		bytes.Equal(ta[tcpWindow:tcpCsum], tb[tcpWindow:tcpCsum]) &&
		bytes.Equal(ta[tcpUrgent:], tb[tcpUrgent:]) // and all options
}

// checksumRight verifies the checksum of TCP or UDP. A superpacket gets new
// ones, which would hide that a packet was damaged.
func checksumRight(b []byte) bool {
	t := b[ipHeader:]
	return dataplane.Sum(pseudoSum(b, len(t)), t) == 0xffff
}

// header writes the headers of a superpacket of several packets.
func (m *merger) header(pkts []dataplane.Packet, s *super) []byte {
	h := m.head[:vnetHdrLen+s.headers]
	ip := h[vnetHdrLen:]
	copy(ip, pkts[s.first].Bytes[:s.headers])
	binary.BigEndian.PutUint16(ip[2:], uint16(s.total))
	ip[10], ip[11] = 0, 0
	binary.BigEndian.PutUint16(ip[10:], ^dataplane.Sum(0, ip[:ipHeader]))

	vnet := vnetHdr{flags: needsCsum, hdrLen: uint16(s.headers), gsoSize: uint16(s.size), csumStart: ipHeader}
	t := ip[ipHeader:]
	length := s.total - ipHeader
	if s.proto == protoTCP {
		vnet.gsoType, vnet.csumOffset = gsoTCPv4, tcpCsum
		t[tcpFlags] |= pkts[s.last].Bytes[ipHeader+tcpFlags] & flagPSH
	} else {
		vnet.gsoType, vnet.csumOffset = gsoUDPL4, udpCsum
		binary.BigEndian.PutUint16(t[udpLength:], uint16(length))
	}
	binary.BigEndian.PutUint16(t[vnet.csumOffset:], pseudoSum(ip, length))
	vnet.encode(h)
	return h
}
