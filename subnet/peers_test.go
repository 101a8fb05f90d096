package subnet

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"testing"
)

// TestPeerList compares with a map that is sorted each time.
func TestPeerList(t *testing.T) {
	rnd := rand.New(rand.NewPCG(3, 4))
	var p peerList
	want := map[netip.Prefix]Lease{}
	for round := range 500 {
		for range rnd.IntN(40) {
			sn := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 5, byte(rnd.IntN(64)), 0}), 22+rnd.IntN(3)).Masked()
			l := Lease{Subnet: sn, Attrs: Attrs{PublicIP: netip.AddrFrom4([4]byte{192, 0, 2, byte(rnd.IntN(4))})}, Revision: int64(round)}
			if rnd.IntN(2) == 0 {
				p.put(l)
				want[sn] = l
			} else {
				p.remove(sn)
				delete(want, sn)
			}
			got, ok := p.get(sn)
			if w, there := want[sn]; ok != there || ok && !reflect.DeepEqual(got, w) {
				t.Fatalf("%v: got %+v, %v", sn, got, ok)
			}
		}
		n := 0
		p.each(func(l Lease) {
			if n++; !reflect.DeepEqual(want[l.Subnet], l) {
				t.Fatalf("each yields %+v, want %+v", l, want[l.Subnet])
			}
		})
		p.merge()
		var sorted []Lease
		for _, l := range want {
			sorted = append(sorted, l)
		}
		slices.SortFunc(sorted, func(a, b Lease) int { return a.Subnet.Compare(b.Subnet) })
		if n != len(want) || len(sorted) != len(p.sorted) || len(sorted) > 0 && !reflect.DeepEqual(sorted, p.sorted) {
			t.Fatalf("got %v\nwant %v", p.sorted, sorted)
		}
	}
}

func benchTable(b *testing.B, n int) (*table, []Lease) {
	tb := testTable(b)
	tb.cfg.SubnetLen, tb.cfg.SubnetMin, tb.cfg.SubnetMax = 28, netip.MustParseAddr("10.1.0.0"), netip.MustParseAddr("10.15.255.240")
	var all []Lease
	for i := range n {
		sn := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(3 + i>>12), byte(i >> 4), byte(i << 4)}), 28)
		all = append(all, Lease{Subnet: sn, Revision: int64(i + 2), Attrs: Attrs{PublicIP: netip.AddrFrom4([4]byte{172, 16, byte(i >> 8), byte(i)}),
			BackendType: "vxlan", BackendData: []byte(fmt.Sprintf(`{"VtepMAC":"0e:00:00:00:%02x:%02x"}`, i>>8&255, i&255))}})
	}
	rand.New(rand.NewPCG(1, 1)).Shuffle(n, func(i, j int) { all[i], all[j] = all[j], all[i] })
	tb.protected = nil
	tb.replace(all, nil)
	tb.settle()
	if len(tb.peers.sorted) != n {
		b.Fatalf("%d peers, want %d; %d refused", len(tb.peers.sorted), n, len(tb.refused))
	}
	return tb, all
}

// BenchmarkTable is what news cost before the peers are applied.
func BenchmarkTable(b *testing.B) {
	for _, n := range []int{10_000, 50_000} {
		tb, all := benchTable(b, n)
		name := func(s string) string { return fmt.Sprintf("%d/%s", n, s) }
		b.Run(name("renewal"), func(b *testing.B) {
			b.ReportAllocs()
			for i := range b.N {
				tb.put(all[i%n])
				tb.settle()
			}
		})
		b.Run(name("leave+join"), func(b *testing.B) { // two events
			b.ReportAllocs()
			for i := range b.N {
				l := all[i%n]
				tb.remove(l.Subnet)
				tb.settle()
				tb.put(l)
				tb.settle()
			}
		})
		b.Run(name("1000 at once"), func(b *testing.B) {
			b.ReportAllocs()
			for i := range b.N {
				for j := range 1000 {
					l := all[(i*1000+j)%n]
					l.Attrs.PublicIP = netip.AddrFrom4([4]byte{172, 17, byte(i), byte(j)})
					tb.put(l)
				}
				tb.settle()
			}
		})
		b.Run(name("same list"), func(b *testing.B) {
			tb.replace(all, nil)
			tb.settle()
			b.ReportAllocs()
			b.ResetTimer()
			for range b.N {
				tb.replace(all, nil)
				if tb.settle() {
					b.Fatal("changed")
				}
			}
		})
		b.Run(name("with a misfit"), func(b *testing.B) { // all are judged
			b.ReportAllocs()
			for range b.N {
				tb.put(lease("10.1.0.0/16", "172.18.0.1", 1))
				tb.settle()
				tb.remove(netip.MustParsePrefix("10.1.0.0/16"))
				tb.settle()
			}
		})
		b.Run(name("first list"), func(b *testing.B) {
			b.ReportAllocs()
			for range b.N {
				fresh := newTable(tb.cfg, tb.log)
				fresh.setOwn(tb.own)
				fresh.settle()
				fresh.replace(all, nil)
				fresh.settle()
			}
		})
	}
}
