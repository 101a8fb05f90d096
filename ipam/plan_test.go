package ipam

import (
	"errors"
	"math/rand/v2"
	"net/netip"
	"strconv"
	"strings"
	"testing"
)

func TestNewPlan(t *testing.T) {
	tests := []struct {
		name     string
		network  string
		len      int
		min, max string
		want     string // SubnetLen SubnetMin SubnetMax, or
		err      string // text in the error
	}{
		{name: "defaults", network: "10.5.0.0/16", want: "24 10.5.1.0 10.5.255.0"},
		{name: "host bits are masked", network: "10.5.7.9/16", want: "24 10.5.1.0 10.5.255.0"},
		{name: "whole address space", network: "0.0.0.0/0", len: 30, want: "30 0.0.0.4 255.255.255.252"},
		{name: "/22 still gets /24", network: "10.5.0.0/22", want: "24 10.5.1.0 10.5.3.0"},
		{name: "/23 gets two bits more", network: "10.5.0.0/23", want: "25 10.5.0.128 10.5.1.128"},
		{name: "/28 is the smallest", network: "10.5.0.0/28", want: "30 10.5.0.4 10.5.0.12"},
		{name: "explicit", network: "10.0.0.0/8", len: 20, min: "10.10.0.0", max: "10.99.0.0", want: "20 10.10.0.0 10.99.0.0"},
		{name: "min may be the first", network: "10.5.0.0/16", min: "10.5.0.0", want: "24 10.5.0.0 10.5.255.0"},
		{name: "min equals max", network: "10.5.0.0/16", min: "10.5.9.0", max: "10.5.9.0", want: "24 10.5.9.0 10.5.9.0"},
		{name: "0.0.0.0 is unset", network: "10.5.0.0/16", min: "0.0.0.0", max: "0.0.0.0", want: "24 10.5.1.0 10.5.255.0"},

		{name: "no network", err: "Network"},
		{name: "IPv6 network", network: "fd00::/48", err: "Network"},
		{name: "/29 without length", network: "10.5.0.0/29", err: "Network 10.5.0.0/29"},
		{name: "/29 with length", network: "10.5.0.0/29", len: 30, err: "Network 10.5.0.0/29"},
		{name: "length 31", network: "10.5.0.0/16", len: 31, err: "SubnetLen 31: want a prefix length from 18 to 30"},
		{name: "negative length", network: "10.5.0.0/16", len: -1, err: "SubnetLen -1"},
		{name: "length one more than network", network: "10.5.0.0/16", len: 17, err: "SubnetLen 17"},
		{name: "min outside", network: "10.5.0.0/16", min: "10.6.0.0", err: "SubnetMin 10.6.0.0"},
		{name: "max outside", network: "10.5.0.0/16", max: "10.4.255.0", err: "SubnetMax 10.4.255.0"},
		{name: "min unaligned", network: "10.5.0.0/16", min: "10.5.1.128", err: "SubnetMin 10.5.1.128: want the first address of a /24"},
		{name: "max unaligned", network: "10.5.0.0/16", max: "10.5.1.1", err: "SubnetMax 10.5.1.1"},
		{name: "IPv6 min", network: "10.5.0.0/16", min: "fd00::", err: "SubnetMin fd00::"},
		{name: "min above max", network: "10.5.0.0/16", min: "10.5.9.0", max: "10.5.8.0", err: "SubnetMin 10.5.9.0: want no more than SubnetMax 10.5.8.0"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var network netip.Prefix
			if tt.network != "" {
				network = netip.MustParsePrefix(tt.network)
			}
			p, err := NewPlan(network, tt.len, addr(tt.min), addr(tt.max))
			if tt.err != "" {
				var fe *FieldError
				if !errors.As(err, &fe) || !strings.Contains(err.Error(), tt.err) {
					t.Fatalf("error %v, want a FieldError with %q", err, tt.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			got := strings.Join([]string{strconv.Itoa(p.SubnetLen), p.SubnetMin.String(), p.SubnetMax.String()}, " ")
			if got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
}

func TestContains(t *testing.T) {
	p := mustPlan(t, "10.5.0.0/16", 24, "10.5.3.0", "10.5.9.0")
	for sn, want := range map[string]bool{
		"10.5.3.0/24": true, "10.5.9.0/24": true, "10.5.5.0/24": true,
		"10.5.2.0/24": false, "10.5.10.0/24": false, "10.5.4.0/25": false,
		"10.5.4.1/24": false, "10.6.4.0/24": false, "fd00::/24": false,
	} {
		if got := p.Contains(netip.MustParsePrefix(sn)); got != want {
			t.Errorf("Contains(%s) = %v", sn, got)
		}
	}
	if p.Contains(netip.Prefix{}) {
		t.Error("contains the zero prefix")
	}
}

// naiveFree is the twin that Pick is tested against: try every subnet in turn.
func naiveFree(p Plan, used []netip.Prefix) []netip.Prefix {
	var free []netip.Prefix
	sn := netip.PrefixFrom(p.SubnetMin, p.SubnetLen)
	for {
		taken := false
		for _, u := range used {
			taken = taken || u.Overlaps(sn)
		}
		if !taken {
			free = append(free, sn)
		}
		if sn.Addr() == p.SubnetMax || len(free) == 100 {
			return free
		}
		next := sn.Addr()
		for netip.PrefixFrom(next, p.SubnetLen).Masked() == sn {
			next = next.Next()
		}
		sn = netip.PrefixFrom(next, p.SubnetLen)
	}
}

func TestPickAgainstNaive(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for round := range 2000 {
		bits := 16 + rng.IntN(9) // /16 to /24
		length := min(bits+2+rng.IntN(6), 30)
		network := netip.PrefixFrom(toAddr(rng.Uint32()), bits).Masked()
		p, err := NewPlan(network, length, netip.Addr{}, netip.Addr{})
		if err != nil {
			t.Fatal(err)
		}
		if n := int(p.count()); n > 4 && rng.IntN(2) == 0 {
			a, b := uint32(rng.IntN(n)), uint32(rng.IntN(n))
			p.SubnetMin, p.SubnetMax = p.at(min(a, b)), p.at(max(a, b))
		}
		var used []netip.Prefix
		for range rng.IntN(int(2 * p.count())) {
			base := toU32(p.Network.Addr()) | rng.Uint32()>>bits
			l := length
			if rng.IntN(4) == 0 {
				l = max(bits, length-2) + rng.IntN(33-max(bits, length-2))
			}
			used = append(used, netip.PrefixFrom(toAddr(base), l).Masked())
		}
		want := naiveFree(p, used)
		if len(want) == 0 {
			if sn, err := p.Pick(used, rng.IntN); !errors.Is(err, ErrExhausted) {
				t.Fatalf("round %d: got %v %v, want ErrExhausted", round, sn, err)
			}
			continue
		}
		for i := range want {
			got, err := p.Pick(used, func(n int) int {
				if n != len(want) {
					t.Fatalf("round %d: %d candidates, want %d", round, n, len(want))
				}
				return i
			})
			if err != nil || got != want[i] {
				t.Fatalf("round %d: candidate %d is %v (%v), want %v", round, i, got, err, want[i])
			}
		}
	}
}

func TestPickEdges(t *testing.T) {
	zero := func(int) int { return 0 }
	top := mustPlan(t, "255.255.0.0/16", 24, "255.255.255.0", "")
	if sn, err := top.Pick(nil, zero); err != nil || sn.String() != "255.255.255.0/24" {
		t.Errorf("last subnet of the address space: %v %v", sn, err)
	}
	all := netip.MustParsePrefix("0.0.0.0/0")
	if _, err := top.Pick([]netip.Prefix{all}, zero); !errors.Is(err, ErrExhausted) {
		t.Errorf("everything used: %v", err)
	}
	odd := []netip.Prefix{{}, netip.MustParsePrefix("fd00::/16"), netip.MustParsePrefix("192.0.2.0/24")}
	if sn, err := top.Pick(odd, zero); err != nil || !top.Contains(sn) {
		t.Errorf("irrelevant prefixes: %v %v", sn, err)
	}
}

func FuzzPickNeverOverlaps(f *testing.F) {
	f.Add(uint32(0x0a050000), uint8(16), uint8(24), []byte{1, 2, 3, 4, 24})
	f.Fuzz(func(t *testing.T, base uint32, bits, length uint8, raw []byte) {
		p, err := NewPlan(netip.PrefixFrom(toAddr(base), int(bits%33)), int(length), netip.Addr{}, netip.Addr{})
		if err != nil {
			return
		}
		var used []netip.Prefix
		for ; len(raw) >= 5; raw = raw[5:] {
			used = append(used, netip.PrefixFrom(netip.AddrFrom4([4]byte(raw)), int(raw[4]%33)))
		}
		sn, err := p.Pick(used, rand.IntN)
		if err != nil {
			return
		}
		if !p.Contains(sn) {
			t.Errorf("%v is not in the plan %+v", sn, p)
		}
		for _, u := range used {
			if u.Overlaps(sn) {
				t.Errorf("%v overlaps %v", sn, u)
			}
		}
	})
}

func BenchmarkPick10000(b *testing.B) {
	p, err := NewPlan(netip.MustParsePrefix("10.0.0.0/8"), 24, netip.Addr{}, netip.Addr{})
	if err != nil {
		b.Fatal(err)
	}
	var used []netip.Prefix
	for i := range uint32(10000) {
		used = append(used, netip.PrefixFrom(p.at(i+1), 24))
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := p.Pick(used, rand.IntN); err != nil {
			b.Fatal(err)
		}
	}
}

func mustPlan(t *testing.T, network string, length int, lo, hi string) Plan {
	t.Helper()
	p, err := NewPlan(netip.MustParsePrefix(network), length, addr(lo), addr(hi))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func addr(s string) netip.Addr {
	if s == "" {
		return netip.Addr{}
	}
	return netip.MustParseAddr(s)
}
