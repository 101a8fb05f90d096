package firewall

import (
	"math/bits"
	"net/netip"
	"slices"
	"strings"
)

// parseRule reads one line of `iptables -S`, such as
//
//	-A POSTROUTING -s 10.5.0.0/16 ! -d 224.0.0.0/4 -j MASQUERADE
//
// Versions of iptables differ in the order of the matches, the place of "!",
// the way of writing a netmask and the counters; all of these are understood.
// ok is false for any line that is not a rule of just a source, a destination
// and one of our targets: such a rule is someone else's.
func parseRule(line string) (chain string, x rule, ok bool) {
	f := strings.Fields(line)
	if len(f) > 0 && strings.HasPrefix(f[0], "[") { // [packets:bytes], of iptables-save
		f = f[1:]
	}
	if len(f) < 2 || f[0] != "-A" {
		return "", rule{}, false
	}
	chain, f = f[1], f[2:]
	for len(f) > 0 {
		not := f[0] == "!"
		if not {
			f = f[1:]
		}
		switch {
		case len(f) >= 2 && (f[0] == "-s" || f[0] == "-d"):
			m := &x.src
			if f[0] == "-d" {
				m = &x.dst
			}
			if !not && f[1] == "!" && len(f) >= 3 { // iptables before 1.4.3
				not, f = true, f[1:]
			}
			if *m != (addrMatch{}) {
				return "", rule{}, false
			}
			if *m, ok = parseAddrMatch(f[1], not); !ok {
				return "", rule{}, false
			}
			f = f[2:]
		case !not && len(f) >= 2 && f[0] == "-j" && x.target == "":
			x.target = target(f[1])
			f = f[2:]
		case !not && len(f) >= 3 && f[0] == "-c": // counters
			f = f[3:]
		default:
			return "", rule{}, false
		}
	}
	ours := slices.Contains([]target{targetAccept, targetReturn, targetMasquerade}, x.target)
	if !ours {
		return "", rule{}, false
	}
	return chain, x, true
}

// parseAddrMatch reads an address with a prefix length, a dotted netmask or
// nothing, which means a single host.
func parseAddrMatch(s string, not bool) (addrMatch, bool) {
	host, mask, found := strings.Cut(s, "/")
	a, err := netip.ParseAddr(host)
	if err != nil || !a.Is4() {
		return addrMatch{}, false
	}
	p := netip.PrefixFrom(a, 32)
	if m, err := netip.ParseAddr(mask); err == nil && m.Is4() {
		n, ok := maskBits(m)
		if !ok {
			return addrMatch{}, false
		}
		p = netip.PrefixFrom(a, n)
	} else if found {
		if p, err = netip.ParsePrefix(s); err != nil {
			return addrMatch{}, false
		}
	}
	if p.Bits() == 0 {
		return addrMatch{}, !not // every address, which is the zero value; none at all is nobody's rule
	}
	return addrMatch{p.Masked(), not}, true
}

// maskBits returns the length of a netmask, if its ones are all in front.
func maskBits(mask netip.Addr) (int, bool) {
	b := mask.As4()
	u := uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
	n := bits.LeadingZeros32(^u)
	return n, n+bits.TrailingZeros32(u) >= 32
}

// owned returns, in order, the rules of a listing that s says are its own:
// wanted ones, however often they occur, and stale ones.
func (s ruleSet) owned(listing []string) []rule {
	var own []rule
	for _, line := range listing {
		chain, x, ok := parseRule(line)
		if ok && chain == s.chain && (slices.Contains(s.rules, x) || s.stale(x)) {
			own = append(own, x)
		}
	}
	return own
}
