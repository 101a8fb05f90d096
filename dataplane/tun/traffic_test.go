package tun

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"slices"
	"testing"
)

// A script decides what packets there are, one byte for each decision; 0 is
// the plainest. It ends the traffic.
type script []byte

// roll returns a number below n, 0 if the script is at its end.
func (s *script) roll(n int) int {
	if len(*s) == 0 {
		return 0
	}
	v := int((*s)[0]) % n
	*s = (*s)[1:]
	return v
}

// randomTraffic is what a script of decisions makes of eight flows: mostly
// packet after packet, with everything that happens on networks.
func randomTraffic(s script) (pkts [][]byte) {
	flows := make([]packet, 8)
	for i := range flows {
		flows[i] = tcpPacket(100)
		if i&1 == 1 {
			flows[i] = udpPacket(100)
		}
		flows[i].sport += uint16(i >> 1 & 1)
		flows[i].dst[3] += byte(i >> 2)
		flows[i].seq -= uint32(i) * 0x01000000
		flows[i].df = i%3 > 0
	}
	for len(s) > 0 && len(pkts) < 400 {
		p := &flows[s.roll(8)]
		what := s.roll(64)
		if what < 32 { // the next packet
			pkts = append(pkts, p.bytes())
			*p = p.after(len(p.payload))
			continue
		}
		pkts = twist(&s, what-32, p, pkts)
	}
	return pkts
}

// twist makes something unusual happen to the flow that p is the next packet
// of.
func twist(s *script, what int, p *packet, pkts [][]byte) [][]byte {
	once := *p
	var raw func([]byte) []byte
	switch what {
	case 0: // lost
		*p = p.after(len(p.payload))
		return pkts
	case 1: // twice
		if n := len(pkts); n > 0 {
			pkts = append(pkts, bytes.Clone(pkts[n-1-s.roll(n)]))
		}
		return pkts
	case 2: // reordered
		if n := len(pkts); n > 1 {
			i, j := n-1-s.roll(n), n-1-s.roll(n)
			pkts[i], pkts[j] = pkts[j], pkts[i]
		}
		return pkts
	case 3, 4: // from now on of another size
		p.payload = text(1+s.roll(250), s.roll(9))
		return pkts
	case 5:
		p.payload = text(1+s.roll(6)*300, s.roll(9))
		return pkts
	case 6: // one that is smaller or larger
		once.payload = text(1+s.roll(250), s.roll(9))
	case 7:
		once.flags ^= 1 << s.roll(8)
	case 8:
		once.flags |= 0x08
	case 9:
		once.ttl -= byte(s.roll(3))
	case 10:
		once.tos ^= 1 << s.roll(8)
	case 11:
		once.df = !once.df
	case 12:
		p.df = !p.df
		return pkts
	case 13:
		p.id += uint16(s.roll(4))
		return pkts
	case 14:
		p.id = 0xffff
		return pkts
	case 15:
		once.options = bytes.Repeat([]byte{1}, s.roll(11)*4)
	case 16:
		p.options = timestamps(byte(s.roll(4)))
		return pkts
	case 17:
		once.ipOptions = bytes.Repeat([]byte{1}, s.roll(11)*4)
	case 18:
		once.ack += uint32(s.roll(3))
	case 19:
		p.window ^= uint16(s.roll(256)) << 4
		return pkts
	case 20:
		once.urgent = uint16(s.roll(4))
	case 21:
		once.reserved = uint8(s.roll(16))
	case 22: // a fragment, the first or a later one
		field := []byte{0x20, 0, 0x01, 0x3f}[s.roll(4)]
		offset := byte(s.roll(4))
		raw = ipField(func(h []byte) { h[6] |= field; h[7] = offset })
	case 23: // another protocol
		proto := []byte{1, 4, 47, 132}[s.roll(4)]
		raw = ipField(func(h []byte) { h[9] = proto })
	case 24: // damage behind the IP header
		at, bit := s.roll(200), byte(1)<<s.roll(8)
		raw = func(b []byte) []byte { b[20+at%(len(b)-20)] ^= bit; return b }
	case 25:
		if p.proto == 17 { // no checksum
			raw = func(b []byte) []byte { b[26], b[27] = 0, 0; return b }
		}
	case 26:
		once.payload = nil
	case 27: // truncated
		n := s.roll(60)
		raw = func(b []byte) []byte { return b[:min(n, len(b))] }
	case 28: // with bytes behind the packet
		n := 1 + s.roll(8)
		raw = func(b []byte) []byte { return append(b, make([]byte, n)...) }
	case 29: // junk
		b := make([]byte, s.roll(64))
		for i := range b {
			b[i] = byte(s.roll(256))
		}
		return append(pkts, b)
	case 30: // any byte of a packet that is short
		at, v := s.roll(48), byte(s.roll(256))
		once.payload = text(1, 0)
		raw = func(b []byte) []byte {
			at %= len(b)
			if at < 20 { // the checksum is right: no other header passes the Forwarder
				return ipField(func(h []byte) { h[at] = v })(b)
			}
			b[at] = v
			return b
		}
	case 31: // a length that is not the packet's
		n := uint16(s.roll(256))
		raw = ipField(func(h []byte) { binary.BigEndian.PutUint16(h[2:], n) })
	}
	b := once.bytes()
	if raw != nil {
		b = raw(b)
	}
	*p = p.after(len(p.payload))
	return append(pkts, b)
}

// TestMergeRandom is the property of FuzzMerge on much longer traffic.
func TestMergeRandom(t *testing.T) {
	rng := rand.New(rand.NewPCG(9, 10))
	merged, of := 0, 0
	for range 400 {
		script := make([]byte, 100+rng.IntN(600))
		bound := 33 + rng.IntN(32) // with many twists or few
		for i := range script {
			script[i] = byte(rng.Uint32())
			if rng.IntN(64) >= bound {
				script[i] &= 31
			}
		}
		pkts := randomTraffic(slices.Clone(script))
		checkMerge(t, pkts)
		of += len(pkts)
		merged += len(pkts) - len(merge(pkts))
	}
	if merged < of/4 {
		t.Errorf("%d packets of %d merged, want traffic that tests more", merged, of)
	}
}
