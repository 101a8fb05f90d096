package ipam

import (
	"math/rand/v2"
	"net/netip"
	"testing"
)

func TestTotal(t *testing.T) {
	for _, tt := range []struct {
		network   string
		len       int
		min, max  string
		total, of int // and Free of nothing
	}{
		{"10.5.0.0/16", 0, "0.0.0.0", "0.0.0.0", 255, 255},
		{"10.5.0.0/16", 24, "10.5.0.0", "0.0.0.0", 256, 256},
		{"10.5.0.0/16", 24, "10.5.9.0", "10.5.9.0", 1, 1},
		{"255.255.0.0/16", 24, "0.0.0.0", "0.0.0.0", 255, 255}, // up to 2^32
		{"0.0.0.0/0", 30, "0.0.0.0", "0.0.0.0", 1<<30 - 1, 1<<30 - 1},
		{"10.5.0.0/28", 0, "0.0.0.0", "0.0.0.0", 3, 3},
	} {
		p, err := NewPlan(netip.MustParsePrefix(tt.network), tt.len, netip.MustParseAddr(tt.min), netip.MustParseAddr(tt.max))
		if err != nil {
			t.Fatal(err)
		}
		if p.Total() != tt.total || p.Free(nil) != tt.of {
			t.Errorf("%s /%d %s-%s: total %d, free %d, want %d and %d", tt.network, tt.len, tt.min, tt.max, p.Total(), p.Free(nil), tt.total, tt.of)
		}
	}
}

// TestFree compares with counting one subnet after the other.
func TestFree(t *testing.T) {
	p, err := NewPlan(netip.MustParsePrefix("10.5.0.0/20"), 24, netip.MustParseAddr("10.5.2.0"), netip.MustParseAddr("10.5.13.0"))
	if err != nil {
		t.Fatal(err)
	}
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		var used []netip.Prefix
		for range rnd.IntN(8) {
			a := netip.AddrFrom4([4]byte{10, 5, byte(rnd.IntN(20)), byte(rnd.IntN(256))})
			used = append(used, netip.PrefixFrom(a, 18+rnd.IntN(15)))
		}
		want := 0
	subnets:
		for i := 2; i <= 13; i++ {
			sn := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 5, byte(i), 0}), 24)
			for _, u := range used {
				if u.Overlaps(sn) {
					continue subnets
				}
			}
			want++
		}
		if got := p.Free(used); got != want {
			t.Fatalf("with %v: %d free, want %d", used, got, want)
		}
	}
}
