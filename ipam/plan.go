// Package ipam decides which subnets exist inside an overlay network and
// which free one a node should take. It is pure: no I/O, no clock, no log.
package ipam

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
)

// ErrExhausted is returned by Plan.Pick when no subnet is free.
var ErrExhausted = errors.New("out of subnets")

// maxSubnetLen leaves every subnet at least two usable host addresses.
const maxSubnetLen = 30

// candidates is how many free subnets Pick chooses from. Nodes that start
// together see the same list; a random choice keeps their races few.
const candidates = 100

// Plan says how an IPv4 network is cut into node subnets of equal length.
// The zero value is not usable; NewPlan makes a valid one. A Plan is an
// immutable value.
type Plan struct {
	Network   netip.Prefix // masked
	SubnetLen int          // prefix length of each subnet
	SubnetMin netip.Addr   // first address of the lowest subnet that may be leased
	SubnetMax netip.Addr   // first address of the highest one
}

// A FieldError names the configuration field that is wrong, its value, and
// what would be valid.
type FieldError struct {
	Field string
	Value string
	Want  string
}

func (e *FieldError) Error() string {
	return fmt.Sprintf("%s %s: want %s", e.Field, e.Value, e.Want)
}

// NewPlan checks the four values and fills in defaults: subnetLen 0 means 24
// in a network of /22 or larger and two bits more than the network otherwise;
// an unset lo skips the first subnet of the network; an unset hi is the last
// subnet. 0.0.0.0 counts as unset. Every error is a *FieldError.
func NewPlan(network netip.Prefix, subnetLen int, lo, hi netip.Addr) (Plan, error) {
	if !network.IsValid() || !network.Addr().Is4() {
		return Plan{}, &FieldError{"Network", network.String(), "an IPv4 network in CIDR form, such as 10.5.0.0/16"}
	}
	p := Plan{Network: network.Masked(), SubnetLen: subnetLen, SubnetMin: lo, SubnetMax: hi}
	bits := p.Network.Bits()
	switch {
	case subnetLen == 0 && bits > 28:
		return Plan{}, &FieldError{"Network", p.Network.String(), "a prefix length of 28 or less, so that it holds at least four subnets"}
	case subnetLen == 0 && bits <= 22:
		p.SubnetLen = 24
	case subnetLen == 0:
		p.SubnetLen = bits + 2
	case subnetLen > maxSubnetLen || subnetLen < bits+2:
		if bits+2 > maxSubnetLen {
			return Plan{}, &FieldError{"Network", p.Network.String(), "a prefix length of 28 or less, so that it holds at least four subnets"}
		}
		return Plan{}, &FieldError{"SubnetLen", fmt.Sprint(subnetLen),
			fmt.Sprintf("a prefix length from %d to %d for Network %s", bits+2, maxSubnetLen, p.Network)}
	}

	first, last := p.at(0), p.at(p.count()-1)
	if unset(p.SubnetMin) {
		p.SubnetMin = p.at(1)
	}
	if unset(p.SubnetMax) {
		p.SubnetMax = last
	}
	for _, b := range []struct {
		field string
		addr  netip.Addr
	}{{"SubnetMin", p.SubnetMin}, {"SubnetMax", p.SubnetMax}} {
		if !b.addr.Is4() || !p.Network.Contains(b.addr) || netip.PrefixFrom(b.addr, p.SubnetLen).Masked().Addr() != b.addr {
			return Plan{}, &FieldError{b.field, b.addr.String(),
				fmt.Sprintf("the first address of a /%d subnet, from %s to %s", p.SubnetLen, first, last)}
		}
	}
	if p.SubnetMax.Less(p.SubnetMin) {
		return Plan{}, &FieldError{"SubnetMin", p.SubnetMin.String(), fmt.Sprintf("no more than SubnetMax %s", p.SubnetMax)}
	}
	return p, nil
}

func unset(a netip.Addr) bool { return !a.IsValid() || a == netip.IPv4Unspecified() }

// Contains reports whether sn is one of the subnets that may be leased.
func (p Plan) Contains(sn netip.Prefix) bool {
	return sn.IsValid() && sn == sn.Masked() && sn.Bits() == p.SubnetLen &&
		!sn.Addr().Less(p.SubnetMin) && !p.SubnetMax.Less(sn.Addr())
}

// Pick returns a subnet that overlaps none of used, which may hold prefixes of
// any length, in any order, inside the network or not. It chooses among the
// first 100 free ones with intn, which must return a number in [0, n), as
// math/rand/v2.IntN does. It fails with ErrExhausted only.
func (p Plan) Pick(used []netip.Prefix, intn func(int) int) (netip.Prefix, error) {
	taken := spans(used)
	step := uint64(1) << (32 - p.SubnetLen)
	end := uint64(toU32(p.SubnetMax)) + step // 64 bits: the last subnet may end at 2^32

	var free []uint32
	for base := uint64(toU32(p.SubnetMin)); base < end && len(free) < candidates; {
		for len(taken) > 0 && taken[0].end <= base {
			taken = taken[1:]
		}
		if len(taken) > 0 && taken[0].start < base+step {
			// Go on at the first aligned address behind what is in the way.
			base = (taken[0].end + step - 1) / step * step
			continue
		}
		free = append(free, uint32(base))
		base += step
	}
	if len(free) == 0 {
		return netip.Prefix{}, ErrExhausted
	}
	return netip.PrefixFrom(toAddr(free[intn(len(free))]), p.SubnetLen), nil
}

// span is a half-open range of IPv4 addresses.
type span struct{ start, end uint64 }

// spans returns the ranges that the IPv4 prefixes cover, merged where they
// overlap and in rising order.
func spans(prefixes []netip.Prefix) []span {
	all := make([]span, 0, len(prefixes))
	for _, sn := range prefixes {
		if !sn.IsValid() || !sn.Addr().Is4() {
			continue
		}
		start := uint64(toU32(sn.Masked().Addr()))
		all = append(all, span{start, start + 1<<(32-sn.Bits())})
	}
	slices.SortFunc(all, func(a, b span) int { return cmp.Compare(a.start, b.start) })
	merged := all[:0]
	for _, s := range all {
		if n := len(merged); n > 0 && s.start <= merged[n-1].end {
			merged[n-1].end = max(merged[n-1].end, s.end)
			continue
		}
		merged = append(merged, s)
	}
	return merged
}

func (p Plan) count() uint32 { return 1 << (p.SubnetLen - p.Network.Bits()) }

// at returns the first address of subnet number i of the network.
func (p Plan) at(i uint32) netip.Addr {
	return toAddr(toU32(p.Network.Addr()) + i<<(32-p.SubnetLen))
}

func toU32(a netip.Addr) uint32 {
	b := a.As4()
	return binary.BigEndian.Uint32(b[:])
}

func toAddr(n uint32) netip.Addr {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], n)
	return netip.AddrFrom4(b)
}
