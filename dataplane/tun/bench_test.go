package tun

import (
	"fmt"
	"testing"

	"tweed/dataplane"
)

// loads are what the benchmarks cut and merge: a superpacket in each flow, and
// its segments.
var loads = []struct {
	name  string
	first packet
	size  int // payload of a segment in bytes
	count int // segments of each flow
	flows int
}{
	{"TCP/44x1472", tcpPacket(0), 1472 - 52, 44, 1},
	{"UDP/44x1472", udpPacket(0), 1472 - 28, 44, 1},
	{"UDP/128x92", udpPacket(0), 92 - 28, 128, 1},
	{"TCP/4flows/11x1472", tcpPacket(0), 1472 - 52, 11, 4},
	{"UDP/4flows/32x92", udpPacket(0), 92 - 28, 32, 4},
}

// BenchmarkSplit cuts a superpacket of each flow.
func BenchmarkSplit(b *testing.B) {
	for _, load := range loads {
		b.Run(load.name, func(b *testing.B) {
			var supers [][]byte
			for i := range load.flows {
				p := load.first
				p.sport += uint16(i)
				p.payload = text(load.size*load.count, i)
				supers = append(supers, p.superpacket(load.size))
			}
			b.SetBytes(int64(load.flows * load.count * (load.size + len(load.first.bytes()))))
			b.ReportAllocs()
			room := make([]byte, maxPacket)
			var s splitter
			for b.Loop() {
				for _, super := range supers {
					cutInto(b, &s, super, room)
				}
			}
		})
	}
}

// cutInto cuts a superpacket without keeping the packets.
func cutInto(t testing.TB, s *splitter, super, room []byte) {
	var h vnetHdr
	h.decode(super)
	if err := s.begin(h, super[vnetHdrLen:]); err != nil {
		t.Fatal(err)
	}
	for s.left() > 0 {
		s.next(room)
	}
}

// BenchmarkMerge merges the packets of all flows, interleaved.
func BenchmarkMerge(b *testing.B) {
	for _, load := range loads {
		b.Run(load.name, func(b *testing.B) {
			pkts, bytes := interleaved(load.first, load.size, load.count, load.flows)
			b.SetBytes(int64(bytes))
			b.ReportAllocs()
			m := new(merger)
			for b.Loop() {
				mergeInto(b, m, pkts, load.flows)
			}
		})
	}
}

// mergeInto merges without keeping the superpackets, of which there must be
// want.
func mergeInto(t testing.TB, m *merger, pkts []dataplane.Packet, want int) {
	n := 0
	mergeRound(m, pkts, func(_ []byte, last bool) {
		if last {
			n++
		}
	})
	if n != want {
		t.Fatalf("%d superpackets, want %d", n, want)
	}
}

// interleaved is count packets of each flow in turn.
func interleaved(first packet, size, count, flows int) (pkts []dataplane.Packet, total int) {
	trains := make([][]packet, flows)
	for i := range trains {
		p := first
		p.sport += uint16(i)
		p.payload = text(size, i)
		trains[i] = train(p, count)
	}
	for n := range count {
		for i := range trains {
			b := trains[i][n].bytes()
			pkts = append(pkts, dataplane.Packet{Bytes: b})
			total += len(b)
		}
	}
	return pkts, total
}

func BenchmarkPseudoSum(b *testing.B) {
	p := tcpPacket(1420).bytes()
	b.ReportAllocs()
	for b.Loop() {
		pseudoSum(p, len(p)-ipHeader)
	}
}

func BenchmarkSeal(b *testing.B) {
	for _, size := range []int{64, 1472} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			p := tcpPacket(size - 52).bytes()
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				seal(p, p[ipHeader:], tcpCsum)
			}
		})
	}
}

func TestZeroAllocations(t *testing.T) {
	for _, load := range loads {
		pkts, _ := interleaved(load.first, load.size, load.count, load.flows)
		m := new(merger)
		if n := testing.AllocsPerRun(100, func() { mergeInto(t, m, pkts, load.flows) }); n != 0 {
			t.Errorf("%s: %v allocations to merge", load.name, n)
		}
		p := load.first
		p.payload = text(load.size*load.count, 0)
		super, room := p.superpacket(load.size), make([]byte, maxPacket)
		var s splitter
		if n := testing.AllocsPerRun(100, func() { cutInto(t, &s, super, room) }); n != 0 {
			t.Errorf("%s: %v allocations to cut", load.name, n)
		}
	}
	// Nothing merges: a superpacket for each.
	pkts, _ := interleaved(udpPacket(0), 64, 1, maxMerge)
	m := new(merger)
	if n := testing.AllocsPerRun(100, func() { mergeInto(t, m, pkts, maxMerge) }); n != 0 {
		t.Errorf("%d flows: %v allocations to merge", maxMerge, n)
	}
}
