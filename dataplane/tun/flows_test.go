package tun

import (
	"bytes"
	"encoding/binary"
	"slices"
	"testing"
)

// checkMerge merges packets, checks the superpackets and what they are cut
// into, and if counts are given, how many packets each stands for.
func checkMerge(t testing.TB, pkts [][]byte, counts ...int) {
	t.Helper()
	before := slices.Clone(pkts)
	for i := range before {
		before[i] = bytes.Clone(before[i])
	}
	supers := merge(pkts)
	samePackets(t, pkts, before) // Send does not change Bytes
	checkSupers(t, supers)
	out := cutAll(t, supers)
	checkSameFlows(t, out, pkts)
	if counts == nil {
		return
	}
	var got []int
	for _, s := range supers {
		b, err := cut(s)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, len(b))
	}
	if !slices.Equal(got, counts) {
		t.Fatalf("superpackets of %v packets, want %v", got, counts)
	}
}

// checkSupers demands of each superpacket what the kernel does
// (linux/virtio_net.h, virtio_net_hdr_to_skb), and that every field is the one
// of the first packet.
func checkSupers(t testing.TB, supers [][]byte) {
	t.Helper()
	for _, s := range supers {
		if s[1] == 0 {
			if !bytes.Equal(s[:vnetHdrLen], make([]byte, vnetHdrLen)) {
				t.Fatalf("single packet with virtio_net_hdr % x, want zeros", s[:vnetHdrLen])
			}
			continue
		}
		b := s[vnetHdrLen:]
		size := int(binary.NativeEndian.Uint16(s[4:]))
		p := parse(b)
		samePackets(t, [][]byte{s}, [][]byte{p.superpacket(size)})
		switch {
		case size == 0 || size >= len(p.payload):
			t.Fatalf("%d bytes of payload in segments of %d, want more than one", len(p.payload), size)
		case len(b) > 65535:
			t.Fatalf("superpacket of %d bytes, want at most 65535", len(b))
		case p.proto == 17 && (len(p.payload)+size-1)/size > 128:
			t.Fatalf("%d bytes of UDP in segments of %d, want at most 128 segments", len(p.payload), size)
		}
	}
}

// cutAll cuts superpackets, by the splitter and by its naive twin.
func cutAll(t testing.TB, supers [][]byte) (out [][]byte) {
	t.Helper()
	for _, s := range supers {
		pkts, err := cut(s)
		if err != nil {
			t.Fatal(err)
		}
		if s[1] != 0 {
			want := parse(s[vnetHdrLen:]).segments(int(binary.NativeEndian.Uint16(s[4:])))
			samePackets(t, pkts, encode(want))
		}
		out = append(out, pkts...)
	}
	return out
}

// checkSameFlows demands that each flow has the same packets in the same
// order, and that none changed its place among packets whose flow is unclear.
func checkSameFlows(t testing.TB, got, want [][]byte) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%d packets became %d", len(want), len(got))
	}
	flows := make(map[string]bool)
	for _, b := range want {
		flows[flowOf(b)] = true
	}
	for flow := range flows {
		of := func(pkts [][]byte) (out [][]byte) {
			for _, b := range pkts {
				if f := flowOf(b); f == flow || f == "" {
					out = append(out, withoutID(b))
				}
			}
			return out
		}
		samePackets(t, of(got), of(want))
	}
}

// flowOf names the flow of a packet; "" is any flow.
func flowOf(b []byte) string {
	if len(b) < 20 || b[0] != 0x45 || int(binary.BigEndian.Uint16(b[2:])) != len(b) || b[6]&^0x40 != 0 || b[7] != 0 {
		return ""
	}
	switch {
	case b[9] != 6 && b[9] != 17:
		return string(b[9:10]) + string(b[12:20])
	case len(b) < 28 || b[9] == 6 && len(b) < 40:
		return ""
	}
	return string(b[9:10]) + string(b[12:24])
}

// withoutID is a packet without what merging may change: the identification
// if there is DF (RFC 6864, 4.1), and with it the checksum of the header, if it
// was right.
func withoutID(b []byte) []byte {
	if flowOf(b) == "" || b[6] != 0x40 || fold(slowSum(b[:20])) != 0xffff {
		return b
	}
	b = bytes.Clone(b)
	b[4], b[5], b[10], b[11] = 0, 0, 0, 0
	return b
}

// FuzzMerge: cutting what was merged gives the packets that were there before,
// flow by flow, whatever they are.
func FuzzMerge(f *testing.F) {
	f.Add([]byte{})
	f.Add(bytes.Repeat([]byte{0, 0}, 200))                      // one flow
	f.Add(bytes.Repeat([]byte{0, 0, 1, 0, 2, 0, 3, 0}, 60))     // some flows
	f.Add(bytes.Repeat([]byte{0, 0, 1, 0, 0, 64, 4, 0, 0}, 60)) // with a twist
	all := make([]byte, 4096)
	for i := range all {
		all[i] = byte(i * 31 >> 2)
	}
	f.Add(all)
	f.Fuzz(func(t *testing.T, script []byte) {
		checkMerge(t, randomTraffic(script))
	})
}
