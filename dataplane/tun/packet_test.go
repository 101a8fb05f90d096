package tun

import (
	"bytes"
	"encoding/binary"
	"slices"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
)

// A packet says what is in a TCP or UDP packet. It is the tests' own idea of
// the formats, written down field by field and independent of the code under
// test.
type packet struct {
	src, dst       [4]byte
	sport, dport   uint16
	proto          uint8
	tos, ttl       uint8
	df             bool
	id             uint16
	ipOptions      []byte // a multiple of 4 bytes
	seq, ack       uint32
	reserved       uint8 // the four bits behind the data offset
	flags          uint8
	window, urgent uint16
	options        []byte // of TCP, a multiple of 4 bytes
	payload        []byte
}

// tcpPacket and udpPacket are the first packets of a flow.
func tcpPacket(payload int) packet {
	return packet{
		src: [4]byte{10, 5, 1, 2}, dst: [4]byte{10, 5, 2, 3}, sport: 40000, dport: 40080, proto: 6,
		tos: 0x08, ttl: 63, df: true, id: 0x1234, seq: 0x01020304, ack: 0xa1a2a3a4, flags: 0x10,
		window: 501, options: timestamps(7), payload: text(payload, 0),
	}
}

func udpPacket(payload int) packet {
	return packet{
		src: [4]byte{10, 5, 1, 2}, dst: [4]byte{10, 5, 2, 3}, sport: 40001, dport: 40053, proto: 17,
		tos: 0x08, ttl: 63, df: true, id: 0x1234, payload: text(payload, 0),
	}
}

// timestamps is the TCP option that nearly every packet has (RFC 7323).
func timestamps(value byte) []byte { return []byte{1, 1, 8, 10, 0, 0, 0, value, 0, 0, 0, 1} }

// text is payload that differs from byte to byte and from one at to the next.
func text(n, at int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte((i + at) * 167 >> 3)
	}
	return b
}

// after is the packet that follows p in its flow, with payload bytes.
func (p packet) after(payload int) packet {
	p.id++
	p.seq += uint32(len(p.payload))
	p.payload = text(payload, int(p.seq)+int(p.id))
	return p
}

// train is p and the packets that follow it, n in all, of the same size.
func train(p packet, n int) []packet {
	ps := []packet{p}
	for len(ps) < n {
		p = p.after(len(p.payload))
		ps = append(ps, p)
	}
	return ps
}

// bytes encodes the packet (RFC 791, RFC 9293, RFC 768).
func (p packet) bytes() []byte {
	b := p.unsealed()
	t := 20 + len(p.ipOptions)
	at := t + 16
	if p.proto == 17 {
		at = t + 6
	}
	sum := ^fold(p.pseudo(len(b)-t) + slowSum(b[t:]))
	if p.proto == 17 && sum == 0 {
		sum = 0xffff
	}
	binary.BigEndian.PutUint16(b[at:], sum)
	return b
}

// unsealed has 0 for the checksum of TCP or UDP.
func (p packet) unsealed() []byte {
	b := []byte{0x40 | byte(5+len(p.ipOptions)/4), p.tos, 0, 0}
	b = binary.BigEndian.AppendUint16(b, p.id)
	if p.df {
		b = append(b, 0x40, 0)
	} else {
		b = append(b, 0, 0)
	}
	b = append(b, p.ttl, p.proto, 0, 0)
	b = append(append(append(b, p.src[:]...), p.dst[:]...), p.ipOptions...)
	header := len(b)
	b = binary.BigEndian.AppendUint16(b, p.sport)
	b = binary.BigEndian.AppendUint16(b, p.dport)
	if p.proto == 6 {
		b = binary.BigEndian.AppendUint32(b, p.seq)
		b = binary.BigEndian.AppendUint32(b, p.ack)
		b = append(b, byte(5+len(p.options)/4)<<4|p.reserved, p.flags)
		b = binary.BigEndian.AppendUint16(b, p.window)
		b = append(b, 0, 0)
		b = binary.BigEndian.AppendUint16(b, p.urgent)
		b = append(b, p.options...)
	} else {
		b = binary.BigEndian.AppendUint16(b, uint16(8+len(p.payload)))
		b = append(b, 0, 0)
	}
	b = append(b, p.payload...)
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
	binary.BigEndian.PutUint16(b[10:], ^fold(slowSum(b[:header])))
	return b
}

func (p packet) pseudo(length int) uint32 {
	return slowSum(append(append(p.src[:], p.dst[:]...), 0, p.proto, byte(length>>8), byte(length)))
}

// slowSum adds big-endian words, at most 65535 bytes of them (RFC 1071).
func slowSum(b []byte) (sum uint32) {
	for i, v := range b {
		if i%2 == 0 {
			sum += uint32(v) << 8
		} else {
			sum += uint32(v)
		}
	}
	return sum
}

func fold(sum uint32) uint16 {
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return uint16(sum)
}

// parse decodes what bytes encodes.
func parse(b []byte) packet {
	t := int(b[0]&15) * 4
	p := packet{
		src: [4]byte(b[12:]), dst: [4]byte(b[16:]), proto: b[9], tos: b[1], ttl: b[8], df: b[6] == 0x40,
		id: binary.BigEndian.Uint16(b[4:]), ipOptions: bytes.Clone(b[20:t]),
		sport: binary.BigEndian.Uint16(b[t:]), dport: binary.BigEndian.Uint16(b[t+2:]),
	}
	if p.proto == 17 {
		p.payload = bytes.Clone(b[t+8:])
		return p
	}
	p.seq, p.ack = binary.BigEndian.Uint32(b[t+4:]), binary.BigEndian.Uint32(b[t+8:])
	p.reserved, p.flags = b[t+12]&15, b[t+13]
	p.window, p.urgent = binary.BigEndian.Uint16(b[t+14:]), binary.BigEndian.Uint16(b[t+18:])
	header := t + int(b[t+12]>>4)*4
	p.options, p.payload = bytes.Clone(b[t+20:header]), bytes.Clone(b[header:])
	return p
}

// segments is the naive twin of the splitter: what the kernel makes of the
// superpacket p when it has to cut it itself (net/ipv4/tcp_offload.c,
// tcp_gso_segment; net/ipv4/udp_offload.c, __udp_gso_segment; and
// net/ipv4/af_inet.c, inet_gso_segment, for the identification).
func (p packet) segments(size int) (out []packet) {
	pieces := slices.Collect(slices.Chunk(p.payload, size))
	for i, piece := range pieces {
		q := p
		q.payload = piece
		q.id = p.id + uint16(i)
		q.seq = p.seq + uint32(i*size)
		if i < len(pieces)-1 {
			q.flags &^= 0x01 | 0x08 // FIN, PSH
		}
		if i > 0 {
			q.flags &^= 0x80 // CWR
		}
		out = append(out, q)
	}
	return out
}

// superpacket encodes p as the kernel hands it over, in front of it its
// virtio_net_hdr (linux/virtio_net.h).
func (p packet) superpacket(size int) []byte {
	b := p.unsealed()
	start := 20 + len(p.ipOptions)
	header, gso, at := start+20+len(p.options), byte(1), 16
	if p.proto == 17 {
		header, gso, at = start+8, 5, 6
	}
	binary.BigEndian.PutUint16(b[start+at:], fold(p.pseudo(len(b)-start)))
	h := []byte{1, gso}
	for _, v := range []int{header, size, start, at} {
		h = binary.NativeEndian.AppendUint16(h, uint16(v))
	}
	return append(h, b...)
}

func encode(ps []packet) (out [][]byte) {
	for _, p := range ps {
		out = append(out, p.bytes())
	}
	return out
}

// checkCodec lets another decoder and encoder say whether the lengths and
// checksums of a packet are right.
func checkCodec(t testing.TB, b []byte) {
	t.Helper()
	p := gopacket.NewPacket(b, layers.LayerTypeIPv4, gopacket.Default)
	if p.ErrorLayer() != nil || p.NetworkLayer() == nil || p.TransportLayer() == nil {
		t.Fatalf("packet % x\nof %d bytes does not decode: %v", b[:min(len(b), 100)], len(b), p)
	}
	ip := p.NetworkLayer().(*layers.IPv4)
	parts := []gopacket.SerializableLayer{ip}
	switch l := p.TransportLayer().(type) {
	case *layers.TCP:
		l.SetNetworkLayerForChecksum(ip)
		parts = append(parts, l, gopacket.Payload(l.Payload))
	case *layers.UDP:
		l.SetNetworkLayerForChecksum(ip)
		parts = append(parts, l, gopacket.Payload(l.Payload))
	}
	want := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(want, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, parts...); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(b, want.Bytes()) {
		n := min(len(b), 100)
		t.Fatalf("packet\n% x\nwant\n% x", b[:n], want.Bytes()[:min(n, len(want.Bytes()))])
	}
}
