package tun

import "encoding/binary"

// vnetHdr is the header in front of each packet that a TUN with IFF_VNET_HDR
// reads and writes, in the byte order of the machine (linux/virtio_net.h,
// struct virtio_net_hdr):
//
//	+-------+----------+---------+----------+-----------+-------------+
//	| flags | gso_type | hdr_len | gso_size | csum_start | csum_offset |
//	|   1   |    1     |    2    |    2     |     2      |      2      |
//	+-------+----------+---------+----------+-----------+-------------+
//
// With needsCsum the two bytes at csum_start+csum_offset hold the sum of the
// pseudo header, and the checksum from csum_start on is still to be computed.
type vnetHdr struct {
	flags      uint8
	gsoType    uint8
	hdrLen     uint16 // bytes of all headers
	gsoSize    uint16 // bytes of payload in each segment
	csumStart  uint16
	csumOffset uint16
}

const (
	vnetHdrLen = 10

	needsCsum = 1 // VIRTIO_NET_HDR_F_NEEDS_CSUM

	gsoNone  = 0
	gsoTCPv4 = 1
	gsoUDPL4 = 5
	gsoECN   = 0x80 // VIRTIO_NET_HDR_GSO_ECN, a flag beside the type
)

func (h *vnetHdr) decode(b []byte) {
	h.flags, h.gsoType = b[0], b[1]
	h.hdrLen = binary.NativeEndian.Uint16(b[2:])
	h.gsoSize = binary.NativeEndian.Uint16(b[4:])
	h.csumStart = binary.NativeEndian.Uint16(b[6:])
	h.csumOffset = binary.NativeEndian.Uint16(b[8:])
}

func (h *vnetHdr) encode(b []byte) {
	b[0], b[1] = h.flags, h.gsoType
	binary.NativeEndian.PutUint16(b[2:], h.hdrLen)
	binary.NativeEndian.PutUint16(b[4:], h.gsoSize)
	binary.NativeEndian.PutUint16(b[6:], h.csumStart)
	binary.NativeEndian.PutUint16(b[8:], h.csumOffset)
}

// Offsets in the headers of IPv4, TCP and UDP, and the flags of TCP (RFC 791,
// 3.1; RFC 9293, 3.1; RFC 768).
const (
	protoTCP = 6
	protoUDP = 17

	ipHeader  = 20 // without options
	tcpHeader = 20 // without options
	udpHeader = 8

	tcpSeq    = 4
	tcpAck    = 8
	tcpOffset = 12
	tcpFlags  = 13
	tcpWindow = 14
	tcpCsum   = 16
	tcpUrgent = 18
	udpLength = 4
	udpCsum   = 6

	flagFIN = 0x01
	flagPSH = 0x08
	flagACK = 0x10
	flagCWR = 0x80
)

// pseudoSum is the sum of the pseudo header of TCP and UDP (RFC 9293, 3.1): the
// addresses and protocol of the packet and the length of header and payload in
// bytes.
func pseudoSum(packet []byte, length int) uint16 {
	sum := uint32(packet[9]) + uint32(length)
	for i := 12; i < 20; i += 2 {
		sum += uint32(binary.BigEndian.Uint16(packet[i:]))
	}
	sum = sum>>16 + sum&0xffff
	return uint16(sum>>16 + sum)
}
