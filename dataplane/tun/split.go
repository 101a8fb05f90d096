package tun

import (
	"encoding/binary"
	"errors"
	"fmt"

	"tweed/dataplane"
)

// errSuperpacket: the kernel's superpacket makes no sense.
var errSuperpacket = errors.New("malformed superpacket")

// A splitter cuts a superpacket into the packets that the kernel would have
// made of it without segmentation offload (net/ipv4/tcp_offload.c,
// tcp_gso_segment; net/ipv4/udp_offload.c, __udp_gso_segment):
//
//	+---------+--------------------------------------+
//	| headers | payload                              |
//	+---------+--------------------------------------+
//	+---------+-----------+ +---------+-----------+ +---------+-----+
//	| headers | gso_size  | | headers | gso_size  | | headers | rest |
//	+---------+-----------+ +---------+-----------+ +---------+-----+
//
// The zero value has nothing to cut.
type splitter struct {
	headers []byte // IP and TCP or UDP, of the superpacket
	payload []byte // what is left of it
	ipLen   int
	size    int // of a full segment's payload
	count   int // of segments so far
}

// begin takes a superpacket, which must stay unchanged until the last next.
func (s *splitter) begin(h vnetHdr, b []byte) error {
	ip, reason := dataplane.ParseIPv4(b)
	if reason != dataplane.NotDropped {
		return fmt.Errorf("%w: %v", errSuperpacket, reason)
	}
	ipLen := ip.HeaderLen()
	var proto byte
	transport := 0
	switch h.gsoType &^ gsoECN {
	case gsoTCPv4:
		proto = protoTCP
		if len(ip) >= ipLen+tcpHeader {
			transport = int(ip[ipLen+tcpOffset]>>4) * 4
		}
		if transport < tcpHeader {
			return fmt.Errorf("%w: short TCP header", errSuperpacket)
		}
	case gsoUDPL4:
		proto, transport = protoUDP, udpHeader
	default:
		return fmt.Errorf("%w: unknown type %#x", errSuperpacket, h.gsoType)
	}
	if ip.Protocol() != proto || h.gsoSize == 0 || len(ip) <= ipLen+transport {
		return fmt.Errorf("%w: protocol %d, segments of %d bytes, %d bytes in all", errSuperpacket, ip.Protocol(), h.gsoSize, len(ip))
	}
	*s = splitter{
		headers: ip[:ipLen+transport],
		payload: ip[ipLen+transport:],
		ipLen:   ipLen,
		size:    int(h.gsoSize),
	}
	return nil
}

// left returns how many bytes the next segment has, 0 if there is none.
func (s *splitter) left() int {
	if len(s.payload) == 0 {
		return 0
	}
	return len(s.headers) + min(s.size, len(s.payload))
}

// next writes the next segment into buf, which must hold it, and returns it.
func (s *splitter) next(buf []byte) []byte {
	n := min(s.size, len(s.payload))
	b := buf[:len(s.headers)+n]
	copy(b, s.headers)
	copy(b[len(s.headers):], s.payload)
	s.payload = s.payload[n:]
	first, last := s.count == 0, len(s.payload) == 0

	binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
	id := binary.BigEndian.Uint16(b[4:]) + uint16(s.count)
	binary.BigEndian.PutUint16(b[4:], id)
	b[10], b[11] = 0, 0
	binary.BigEndian.PutUint16(b[10:], ^dataplane.Sum(0, b[:s.ipLen]))

	t := b[s.ipLen:]
	if b[9] == protoTCP {
		seq := binary.BigEndian.Uint32(t[tcpSeq:]) + uint32(s.count*s.size)
		binary.BigEndian.PutUint32(t[tcpSeq:], seq)
		if !last {
			t[tcpFlags] &^= flagFIN | flagPSH
		}
		if !first {
			t[tcpFlags] &^= flagCWR
		}
		seal(b, t, tcpCsum)
	} else {
		binary.BigEndian.PutUint16(t[udpLength:], uint16(len(t)))
		seal(b, t, udpCsum)
	}
	s.count++
	return b
}

// seal computes the checksum of TCP or UDP, which is at offset at of t, the
// packet behind its IP header.
func seal(packet, t []byte, at int) {
	t[at], t[at+1] = 0, 0
	sum := ^dataplane.Sum(pseudoSum(packet, len(t)), t)
	if sum == 0 && at == udpCsum {
		sum = 0xffff // 0 means no checksum (RFC 768)
	}
	binary.BigEndian.PutUint16(t[at:], sum)
}

// complete computes the checksum that the kernel left to us.
func complete(h vnetHdr, b []byte) error {
	start, at := int(h.csumStart), int(h.csumStart)+int(h.csumOffset)
	if at+2 > len(b) {
		return fmt.Errorf("%w: checksum at byte %d of %d", errSuperpacket, at, len(b))
	}
	sum := ^dataplane.Sum(0, b[start:])
	if sum == 0 && h.csumOffset == udpCsum {
		sum = 0xffff
	}
	binary.BigEndian.PutUint16(b[at:], sum)
	return nil
}
