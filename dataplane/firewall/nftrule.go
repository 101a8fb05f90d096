package firewall

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// exprs returns the rule in nftables' words, each counting its packets as
// iptables' do. In form they are what nft(8) and iptables-nft can list.
func (x rule) exprs(f nftables.TableFamily) []expr.Any {
	var e []expr.Any
	if f == nftables.TableFamilyINet { // where IPv6 packets pass as well
		e = append(e,
			&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.NFPROTO_IPV4}})
	}
	// Offsets in the IPv4 header, RFC 791.
	e = append(e, x.src.exprs(12)...)
	e = append(e, x.dst.exprs(16)...)
	e = append(e, &expr.Counter{})
	switch x.target {
	case targetMasquerade:
		return append(e, &expr.Masq{})
	case targetReturn:
		return append(e, &expr.Verdict{Kind: expr.VerdictReturn})
	default:
		return append(e, &expr.Verdict{Kind: expr.VerdictAccept})
	}
}

// exprs compares the address at the offset with the prefix, in the form of
// nft(8): whole bytes without a mask. So a ruleset that was saved and loaded
// again is still right.
func (m addrMatch) exprs(offset uint32) []expr.Any {
	if m == (addrMatch{}) {
		return nil
	}
	load := &expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: 4}
	cmp := &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: m.prefix.Addr().AsSlice()}
	if m.not {
		cmp.Op = expr.CmpOpNeq
	}
	bits := m.prefix.Bits()
	if bits%8 == 0 {
		load.Len = uint32(bits / 8)
		cmp.Data = cmp.Data[:bits/8]
		return []expr.Any{load, cmp}
	}
	mask := &expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4,
		Mask: net.CIDRMask(bits, 32), Xor: make([]byte, 4)}
	return []expr.Any{load, mask, cmp}
}

// An nftRule is a rule as the kernel lists it.
type nftRule struct {
	handle  uint64
	comment string
	exprs   []netlink.Attribute // NFTA_LIST_ELEM, not decoded: most belong to others
}

// listRules returns the rules of a chain in their order.
func (n *nft) listRules(c *nftables.Chain) ([]nftRule, error) {
	name, err := netlink.MarshalAttributes([]netlink.Attribute{
		{Type: unix.NFTA_RULE_TABLE, Data: []byte(c.Table.Name + "\x00")},
		{Type: unix.NFTA_RULE_CHAIN, Data: []byte(c.Name + "\x00")},
	})
	if err != nil {
		return nil, err
	}
	// struct nfgenmsg: family, version 0, resource 0 (linux/netfilter/nfnetlink.h).
	replies, err := n.dump(netlink.Message{
		Header: netlink.Header{
			Type:  unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_GETRULE,
			Flags: netlink.Request | netlink.Dump,
		},
		Data: slices.Concat([]byte{byte(c.Table.Family), 0, 0, 0}, name),
	})
	if err != nil {
		return nil, fmt.Errorf("list rules: %w", err)
	}
	var rules []nftRule
	for _, m := range replies {
		r, err := parseNFTRule(m.Data)
		if err != nil {
			return nil, fmt.Errorf("list rules: %w", err)
		}
		rules = append(rules, r)
	}
	return rules, nil
}

// dumpTries bounds how often a dump is repeated because another program changed
// the ruleset while it was read.
const dumpTries = 20

// dump asks until the ruleset held still for once: a dump of several parts that
// meets a change shows rules twice, or not at all.
func (n *nft) dump(request netlink.Message) ([]netlink.Message, error) {
	for range dumpTries {
		replies, err := n.read.Execute(request)
		if err != nil {
			return nil, err
		}
		if !slices.ContainsFunc(replies, func(m netlink.Message) bool { return m.Header.Flags&netlink.DumpInterrupted != 0 }) {
			return replies, nil
		}
	}
	return nil, fmt.Errorf("the ruleset changes all the time (%d tries)", dumpTries)
}

// parseNFTRule reads a message of NFT_MSG_NEWRULE.
func parseNFTRule(b []byte) (nftRule, error) {
	if len(b) < 4 {
		return nftRule{}, errors.New("message from nftables too short")
	}
	attrs, err := netlink.UnmarshalAttributes(b[4:])
	if err != nil {
		return nftRule{}, fmt.Errorf("message from nftables: %w", err)
	}
	var r nftRule
	var udata []byte
	for _, a := range attrs {
		switch kind(a) {
		case unix.NFTA_RULE_HANDLE:
			if len(a.Data) == 8 {
				r.handle = binary.BigEndian.Uint64(a.Data)
			}
		case unix.NFTA_RULE_USERDATA:
			udata = a.Data
		case unix.NFTA_RULE_EXPRESSIONS:
			if r.exprs, err = netlink.UnmarshalAttributes(a.Data); err != nil {
				return nftRule{}, fmt.Errorf("message from nftables: %w", err)
			}
		}
	}
	r.comment = comment(udata)
	for i := 0; i < len(r.exprs) && r.comment == ""; i++ {
		r.comment = xtComment(r.exprs[i])
	}
	return r, nil
}

// comment finds the comment in a rule's user data: records of type, length and
// text that ends in NUL. The kernel does not check what others put there.
func comment(b []byte) string {
	for len(b) >= 2 && len(b) >= 2+int(b[1]) {
		if userdata.Type(b[0]) == userdata.TypeComment {
			return string(bytes.TrimRight(b[2:2+int(b[1])], "\x00"))
		}
		b = b[2+int(b[1]):]
	}
	return ""
}

// xtComment returns the comment that the expression is, if it is one: the form
// that ours take when iptables-restore loads a chain that iptables-save saved.
func xtComment(e netlink.Attribute) string {
	outer, err := netlink.UnmarshalAttributes(e.Data)
	if err != nil || string(attr(outer, unix.NFTA_EXPR_NAME)) != "match\x00" {
		return ""
	}
	match, err := netlink.UnmarshalAttributes(attr(outer, unix.NFTA_EXPR_DATA))
	if err != nil || string(attr(match, unix.NFTA_MATCH_NAME)) != "comment\x00" {
		return ""
	}
	text, _, _ := bytes.Cut(attr(match, unix.NFTA_MATCH_INFO), []byte{0})
	return string(text)
}

// attr returns the content of the first attribute of the kind, or nil.
func attr(attrs []netlink.Attribute, k uint16) []byte {
	for _, a := range attrs {
		if kind(a) == k {
			return a.Data
		}
	}
	return nil
}

// sameRules reports whether the kernel's rules are the wanted ones.
func sameRules(have []nftRule, want []rule, f nftables.TableFamily) (bool, error) {
	if len(have) != len(want) {
		return false, nil
	}
	for i, x := range want {
		var exprs []netlink.Attribute
		for _, e := range x.exprs(f) {
			b, err := expr.Marshal(byte(f), e)
			if err != nil {
				return false, fmt.Errorf("rule %q: %w", x, err)
			}
			exprs = append(exprs, netlink.Attribute{Type: netlink.Nested | unix.NFTA_LIST_ELEM, Data: b})
		}
		if len(exprs) != len(have[i].exprs) {
			return false, nil
		}
		for j := range exprs {
			if !sameAttr(have[i].exprs[j], exprs[j]) {
				return false, nil
			}
		}
	}
	return true, nil
}

// sameAttr reports whether the kernel's attribute says what ours says. Kernels
// add attributes to those that were sent, zero by default, and counters count.
func sameAttr(have, want netlink.Attribute) bool {
	if kind(have) != kind(want) {
		return false
	}
	if want.Type&netlink.Nested == 0 {
		return bytes.Equal(have.Data, want.Data)
	}
	h, err := netlink.UnmarshalAttributes(have.Data)
	if err != nil {
		return false
	}
	w, err := netlink.UnmarshalAttributes(want.Data)
	if err != nil {
		return false
	}
	for _, a := range w {
		i := slices.IndexFunc(h, func(b netlink.Attribute) bool { return kind(b) == kind(a) })
		if i < 0 || !sameAttr(h[i], a) {
			return false
		}
		if string(a.Data) == "counter\x00" {
			return true // the name; its numbers follow
		}
		h = slices.Delete(h, i, i+1)
	}
	return !slices.ContainsFunc(h, func(a netlink.Attribute) bool {
		return len(bytes.Trim(a.Data, "\x00")) > 0
	})
}

// kind is the attribute's type without the flags, of which kernels and
// libraries set one or none.
func kind(a netlink.Attribute) uint16 { return a.Type &^ (netlink.Nested | netlink.NetByteOrder) }
