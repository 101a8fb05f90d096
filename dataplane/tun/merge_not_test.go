package tun

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
)

// Each reason not to merge, on its own. Two packets that would be merged, but
// for one change to the second or to the first of them, or to both.
func TestMergeNot(t *testing.T) {
	const first, second, either, both, every = 1, 2, 3, 4, 7
	options := func(b ...byte) func(*packet) { return func(p *packet) { p.options = b } }
	flag := func(f uint8) func(*packet) { return func(p *packet) { p.flags |= f } }
	for _, tt := range []struct {
		name   string
		proto  uint8 // 0: TCP and UDP
		which  int
		change func(*packet)
		raw    func([]byte) []byte
	}{
		{"ECN", 0, either, func(p *packet) { p.tos |= 3 }, nil},
		{"TOS", 0, either, func(p *packet) { p.tos ^= 0x80 }, nil},
		{"TTL", 0, either, func(p *packet) { p.ttl-- }, nil},
		{"source address", 0, either, func(p *packet) { p.src[3]++ }, nil},
		{"source net", 0, either, func(p *packet) { p.src[0]++ }, nil},
		{"destination address", 0, either, func(p *packet) { p.dst[3]++ }, nil},
		{"source port", 0, either, func(p *packet) { p.sport++ }, nil},
		{"destination port", 0, either, func(p *packet) { p.dport++ }, nil},
		{"DF", 0, either, func(p *packet) { p.df = false }, nil},
		{"IP options", 0, every, func(p *packet) { p.ipOptions = []byte{1, 1, 1, 0} }, nil},
		{"no payload", 0, every, func(p *packet) { p.payload = nil }, nil},
		{"larger than the first", 0, second, func(p *packet) { p.payload = text(1001, 0) }, nil},
		{"checksum", 0, every, nil, func(b []byte) []byte { b[len(b)-1] ^= 1; return b }},
		{"checksum of a port", 0, second, nil, func(b []byte) []byte { b[20+16] ^= 1; return b }},
		{"trailing byte", 0, every, nil, func(b []byte) []byte { return append(b, 0) }},
		{"truncated", 0, every, nil, func(b []byte) []byte { return b[:len(b)-1] }},
		{"first fragment", 0, every, nil, ipField(func(h []byte) { h[6] |= 0x20 })},
		{"later fragment", 0, every, nil, ipField(func(h []byte) { h[7] = 1 })},
		{"far fragment", 0, every, nil, ipField(func(h []byte) { h[6] |= 1 })},
		{"reserved IP flag", 0, every, nil, ipField(func(h []byte) { h[6] |= 0x80 })},
		{"version", 0, every, nil, ipField(func(h []byte) { h[0] = 0x65 })},
		{"IP header of 16 bytes", 0, every, nil, ipField(func(h []byte) { h[0] = 0x44 })},

		{"sequence: lost", 6, either, func(p *packet) { p.seq++ }, nil},
		{"sequence: again", 6, either, func(p *packet) { p.seq-- }, nil},
		{"sequence: far", 6, either, func(p *packet) { p.seq += 1 << 31 }, nil},
		{"ack", 6, either, func(p *packet) { p.ack++ }, nil},
		{"ack, high byte", 6, either, func(p *packet) { p.ack ^= 1 << 31 }, nil},
		{"window", 6, either, func(p *packet) { p.window++ }, nil},
		{"window, high byte", 6, either, func(p *packet) { p.window ^= 0x8000 }, nil},
		{"urgent pointer", 6, either, func(p *packet) { p.urgent = 1 }, nil},
		{"option's value", 6, either, options(timestamps(8)...), nil},
		{"option's last byte", 6, either, options(1, 1, 8, 10, 0, 0, 0, 7, 0, 0, 0, 2), nil},
		{"option more", 6, either, options(append(timestamps(7), 1, 1, 1, 1)...), nil},
		{"no options", 6, either, options(), nil},
		{"FIN", 6, every, flag(0x01), nil},
		{"SYN", 6, every, flag(0x02), nil},
		{"RST", 6, every, flag(0x04), nil},
		{"PSH in the middle", 6, first, flag(0x08), nil},
		{"no ACK", 6, every, func(p *packet) { p.flags = 0 }, nil},
		{"URG", 6, every, flag(0x20), nil},
		{"ECE", 6, every, flag(0x40), nil},
		{"CWR", 6, every, flag(0x80), nil},
		{"AE", 6, every, func(p *packet) { p.reserved = 1 }, nil},
		{"reserved", 6, every, func(p *packet) { p.reserved = 8 }, nil},
		{"TCP header of 16 bytes", 6, every, nil, func(b []byte) []byte { b[32] = 0x40; return sealed(b) }},
		{"TCP header larger than the packet", 6, every, func(p *packet) { p.payload = nil }, func(b []byte) []byte { b[32] = 0xf0; return b }},
		{"19 bytes of TCP", 6, every, nil, func(b []byte) []byte { return ipField(func(h []byte) { h[2], h[3] = 0, 39 })(b[:39]) }},

		{"UDP without a checksum", 17, every, nil, func(b []byte) []byte { b[26], b[27] = 0, 0; return b }},
		{"UDP length", 17, every, nil, func(b []byte) []byte { b[25]--; return sealed(b) }},
		{"7 bytes of UDP", 17, every, nil, func(b []byte) []byte { return ipField(func(h []byte) { h[2], h[3] = 0, 27 })(b[:27]) }},
	} {
		for _, base := range []packet{tcpPacket(1000), udpPacket(1000)} {
			if tt.proto != 0 && tt.proto != base.proto {
				continue
			}
			for _, which := range []int{first, second, both} {
				if tt.which&which == 0 {
					continue
				}
				t.Run(fmt.Sprintf("%s/protocol %d/%d", tt.name, base.proto, which), func(t *testing.T) {
					pair := train(base, 2)
					changed := []int{0, 1}
					if which != both {
						changed = []int{which - 1}
					}
					for _, i := range changed {
						if tt.change != nil {
							tt.change(&pair[i])
						}
					}
					pkts := encode(pair)
					for _, i := range changed {
						if tt.raw != nil {
							pkts[i] = tt.raw(pkts[i])
						}
					}
					want := slices.Clone(pkts)
					for i := range want {
						want[i] = append(make([]byte, vnetHdrLen), want[i]...)
					}
					samePackets(t, merge(pkts), want)
				})
			}
		}
	}
}

// UDP without a checksum stays without one, also where the checksum that it
// would have is the one that cannot be told from none.
func TestMergeNoChecksum(t *testing.T) {
	p := zeroChecksum()
	pkts := [][]byte{p.bytes(), p.bytes(), p.bytes()}
	for _, b := range pkts[1:] {
		b[26], b[27] = 0, 0
	}
	checkMerge(t, pkts, 1, 1, 1)
}

// TCP headers that are too short, and would go on from each other.
func TestMergeShortHeaders(t *testing.T) {
	pair := train(tcpPacket(1000), 2)
	pair[1].seq = pair[0].seq + 1000 + 12 + 4 // with the options and the end of the header
	pkts := encode(pair)
	for _, b := range pkts {
		b[32] = 0x40
		sealed(b)
	}
	checkMerge(t, pkts, 1, 1)
}

// Flows that share a place in the merger's memory do not become one, whatever
// differs between them.
func TestMergeOtherFlows(t *testing.T) {
	rng := rand.New(rand.NewPCG(11, 12))
	for range 3000 {
		for _, change := range []func(*packet){
			func(p *packet) { binary.BigEndian.PutUint16(p.src[2:], uint16(rng.Uint32())) },
			func(p *packet) { binary.BigEndian.PutUint16(p.dst[2:], uint16(rng.Uint32())) },
			func(p *packet) { p.sport ^= uint16(1 + rng.IntN(0xffff)) },
			func(p *packet) { p.dport ^= uint16(1 + rng.IntN(0xffff)) },
			func(p *packet) { p.sport, p.dport = p.dport, p.sport },
			func(p *packet) { p.src, p.dst = p.dst, p.src },
			func(p *packet) { p.proto, p.flags = 6, 0x10 },
		} {
			first := udpPacket(30)
			first.sport = uint16(rng.Uint32())
			pair := train(first, 2)
			change(&pair[1])
			if pair[1].src == pair[0].src && pair[1].dst == pair[0].dst && pair[1].sport == pair[0].sport &&
				pair[1].dport == pair[0].dport && pair[1].proto == pair[0].proto {
				continue
			}
			if supers := merge(encode(pair)); len(supers) != 2 {
				t.Fatalf("merged %+v\nand %+v", pair[0], pair[1])
			}
		}
	}
}

// The identification matters without DF.
func TestMergeIdentification(t *testing.T) {
	for _, base := range []packet{tcpPacket(1000), udpPacket(1000)} {
		base.df = false
		for _, step := range []uint16{0, 2, 0xffff, 0x100} {
			pair := train(base, 2)
			pair[1].id = pair[0].id + step
			if supers := merge(encode(pair)); len(supers) != 2 {
				t.Errorf("protocol %d, identification %d more: merged", base.proto, int16(step))
			}
		}
	}
}

// ipField makes a change to the IP header and puts its checksum right.
func ipField(change func(header []byte)) func([]byte) []byte {
	return func(b []byte) []byte {
		h := b[:20]
		change(h)
		h[10], h[11] = 0, 0
		binary.BigEndian.PutUint16(h[10:], ^fold(slowSum(h)))
		return b
	}
}

// sealed puts the checksum of TCP or UDP right, whatever else may be wrong.
func sealed(b []byte) []byte {
	t, at := b[20:], 16
	if b[9] == 17 {
		at = 6
	}
	t[at], t[at+1] = 0, 0
	binary.BigEndian.PutUint16(t[at:], ^fold(packet{src: [4]byte(b[12:]), dst: [4]byte(b[16:]), proto: b[9]}.pseudo(len(t))+slowSum(t)))
	return b
}
