package firewall

import (
	"fmt"
	"net/netip"
	"strings"
)

// Rules says what is wanted of the firewall. It is a plain value.
type Rules struct {
	Network    netip.Prefix // of the overlay, IPv4, not 0.0.0.0/0
	Subnet     netip.Prefix // this node's part of it; only needed to masquerade
	Masquerade bool         // -ip-masq
	Forward    bool         // -iptables-forward-rules
}

// check returns r with its prefixes masked.
func (r Rules) check() (Rules, error) {
	if !r.Network.IsValid() || !r.Network.Addr().Is4() || r.Network.Bits() == 0 {
		return r, fmt.Errorf("firewall rules for network %s: want an IPv4 network smaller than 0.0.0.0/0", r.Network)
	}
	r.Network = r.Network.Masked()
	if !r.Masquerade {
		return r, nil
	}
	if !r.Subnet.IsValid() || r.Subnet.Bits() < r.Network.Bits() || !r.Network.Contains(r.Subnet.Addr()) {
		return r, fmt.Errorf("firewall rules for subnet %s: want a part of network %s", r.Subnet, r.Network)
	}
	r.Subnet = r.Subnet.Masked()
	return r, nil
}

// A target is what happens to a packet that matches.
type target string

const (
	targetAccept     target = "ACCEPT"
	targetReturn     target = "RETURN"
	targetMasquerade target = "MASQUERADE"
)

// An addrMatch matches an address inside the prefix, or outside if not is set.
// The zero value matches every address.
type addrMatch struct {
	prefix netip.Prefix // masked
	not    bool
}

// A rule is the common form of what both modes put into the kernel.
type rule struct {
	src, dst addrMatch
	target   target
}

// A ruleSet is the wanted part of one chain, in its order.
type ruleSet struct {
	table, chain string // as iptables names them
	rules        []rule
	stale        func(rule) bool // tells the rules that an earlier set may have left
}

// sets returns the wanted rules: none for what is switched off.
func (r Rules) sets() []ruleSet {
	var sets []ruleSet
	if r.Masquerade {
		sets = append(sets, ruleSet{"nat", "POSTROUTING", r.masquerade(), r.namesSubnet})
	}
	if r.Forward {
		sets = append(sets, ruleSet{"filter", "FORWARD", r.forward(), func(rule) bool { return false }})
	}
	return sets
}

// masquerade returns flannel v0.10's rules. The package comment explains them.
func (r Rules) masquerade() []rule {
	var (
		network   = addrMatch{prefix: r.Network}
		elsewhere = addrMatch{prefix: r.Network, not: true}
		unicast   = addrMatch{prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{224}), 4), not: true}
		subnet    = addrMatch{prefix: r.Subnet}
	)
	return []rule{
		{network, network, targetReturn},
		{network, unicast, targetMasquerade},
		{elsewhere, subnet, targetReturn},
		{elsewhere, network, targetMasquerade},
	}
}

func (r Rules) forward() []rule {
	return []rule{
		{src: addrMatch{prefix: r.Network}, target: targetAccept},
		{dst: addrMatch{prefix: r.Network}, target: targetAccept},
	}
}

// namesSubnet tells the one rule that names a subnet of the network, whichever
// it is: the present one or one that the node had before.
func (r Rules) namesSubnet(x rule) bool {
	return x.target == targetReturn && x.src == addrMatch{prefix: r.Network, not: true} &&
		!x.dst.not && x.dst.prefix.Bits() > r.Network.Bits() && r.Network.Contains(x.dst.prefix.Addr())
}

// args returns the rule in iptables' words, without table and chain.
func (x rule) args() []string {
	var args []string
	for _, m := range []struct {
		flag string
		addrMatch
	}{{"-s", x.src}, {"-d", x.dst}} {
		if m.addrMatch == (addrMatch{}) {
			continue
		}
		if m.not {
			args = append(args, "!")
		}
		args = append(args, m.flag, m.prefix.String())
	}
	return append(args, "-j", string(x.target))
}

func (x rule) String() string { return strings.Join(x.args(), " ") }
