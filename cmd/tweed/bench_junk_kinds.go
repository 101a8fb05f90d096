package main

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"

	"tweed/dataplane"
)

// A junkKind is what an attacker may send to the port of the udp backend.
type junkKind struct {
	name, title string
	raw         bool // with an outer header of its own
	payloads    func(v victim) [][]byte
}

func (k junkKind) id() string { return k.name }

// A victim is the node that is flooded. Peer and nowhere are addresses in the
// subnet of another node, and in one that no node has.
type victim struct {
	addr               netip.AddrPort // of its udp backend
	pod, peer, nowhere netip.Addr
}

// junkPayloads is how many different payloads a kind has whose payloads differ.
const junkPayloads = 64

// What a round measures besides the kinds.
const (
	junkQuiet = "quiet" // no flood at all
	junkSink  = "sink"  // garbage to a socket of the victim that nobody reads from
)

// junkKinds in the order in which each round goes over them.
func junkKinds() []junkKind {
	return []junkKind{
		{name: "empty", title: "no payload at all", payloads: func(victim) [][]byte { return [][]byte{{}} }},
		{name: "byte", title: "one byte", payloads: func(victim) [][]byte { return [][]byte{{0x45}} }},
		{name: "garbage", title: "64 bytes that are no IPv4 packet", payloads: garbage},
		{name: "large", title: "1472 bytes that are none", payloads: func(victim) [][]byte { return [][]byte{make([]byte, 1472)} }},
		{name: "martian", title: "a packet from 127.0.0.1 to a pod", payloads: func(v victim) [][]byte {
			return [][]byte{inner(netip.MustParseAddr("127.0.0.1"), v.pod)}
		}},
		{name: "nowhere", title: "a packet for a subnet that nobody has", payloads: func(v victim) [][]byte {
			return [][]byte{inner(v.peer, v.nowhere)}
		}},
		{name: "foreign", title: "packets to a pod, from sources that no node has", payloads: func(v victim) [][]byte {
			return differing(func(r *rand.Rand) []byte { return inner(randomAddr(r), v.pod) })
		}},
		{name: "spoofed", title: "the same, with outer sources that differ too", raw: true, payloads: func(v victim) [][]byte {
			return differing(func(r *rand.Rand) []byte {
				return datagram(randomAddr(r), v.addr, inner(randomAddr(r), v.pod))
			})
		}},
	}
}

// garbage is random, but for the version, which is not 4.
func garbage(victim) [][]byte {
	return differing(func(r *rand.Rand) []byte {
		b := make([]byte, 64)
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		b[0] &= 0x3f
		return b
	})
}

// differing calls f again and again; each run of the bench gets the same.
func differing(f func(*rand.Rand) []byte) [][]byte {
	r := rand.New(rand.NewPCG(8285, 5))
	all := make([][]byte, junkPayloads)
	for i := range all {
		all[i] = f(r)
	}
	return all
}

// randomAddr is one of 198.18.0.0/15, which is for benchmarks (RFC 2544).
func randomAddr(r *rand.Rand) netip.Addr {
	return netip.AddrFrom4([4]byte{198, 18 + byte(r.IntN(2)), byte(r.IntN(256)), 1 + byte(r.IntN(254))})
}

// inner is an IPv4 packet with 8 bytes to the port discard.
func inner(src, dst netip.Addr) []byte {
	return datagram(src, netip.AddrPortFrom(dst, 9), make([]byte, 8))
}

// datagram is an IPv4 packet with a UDP datagram without checksum.
func datagram(src netip.Addr, dst netip.AddrPort, payload []byte) []byte {
	const ipHeader, udpHeader = 20, 8
	b := make([]byte, ipHeader+udpHeader, ipHeader+udpHeader+len(payload))
	b[0], b[8], b[9] = 0x45, 64, 17
	binary.BigEndian.PutUint16(b[2:], uint16(cap(b)))
	copy(b[12:], src.AsSlice())
	copy(b[16:], dst.Addr().AsSlice())
	binary.BigEndian.PutUint16(b[10:], ^dataplane.Sum(0, b[:ipHeader]))
	udp := b[ipHeader:]
	binary.BigEndian.PutUint16(udp, 8285)
	binary.BigEndian.PutUint16(udp[2:], dst.Port())
	binary.BigEndian.PutUint16(udp[4:], uint16(udpHeader+len(payload)))
	return append(b, payload...)
}
