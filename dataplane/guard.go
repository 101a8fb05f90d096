package dataplane

import (
	"net/netip"
	"slices"
	"sync/atomic"
)

// SourceCheck says whose packets are taken from the underlay.
type SourceCheck uint8

const (
	// CheckOff takes packets from any address, as flannel does, and counts
	// what the others would drop.
	CheckOff SourceCheck = iota
	// CheckPeer takes packets from the addresses of peers only.
	CheckPeer
	// CheckStrict also wants the inner source to be in a subnet of that peer,
	// or to be the peer's address.
	CheckStrict
)

var checkNames = [...]string{CheckOff: "off", CheckPeer: "peer", CheckStrict: "strict"}

// String returns "off", "peer" or "strict".
func (c SourceCheck) String() string { return checkNames[c] }

// ParseSourceCheck is the inverse of String; ok is false for anything else.
func ParseSourceCheck(s string) (c SourceCheck, ok bool) {
	i := slices.Index(checkNames[:], s)
	return SourceCheck(max(0, i)), i >= 0
}

// A Guard decides which packets from the underlay may enter. Whatever the
// SourceCheck is, it turns away what no router would take: addresses that no
// network has, our own packets, and those that the next lookup would send back
// to where they came from.
type Guard struct {
	Peers *Table // with the subnets of all peers
	Check SourceCheck
	// Network has all subnets. What is for elsewhere no peer would send, and the
	// kernel would forward it in our name. The zero value takes all.
	Network netip.Prefix

	own atomic.Pointer[netip.Prefix]
}

// SetOwn tells the guard the subnet of this host. It may be called while
// packets are checked.
func (g *Guard) SetOwn(p netip.Prefix) { g.own.Store(&p) }

// admit returns NotDropped if the packet may enter, else why not. suspect is
// why CheckStrict would drop what enters.
func (g *Guard) admit(ip IPv4, from netip.Addr) (drop, suspect Reason) {
	src, dst := ip.Src(), ip.Dst()
	if !isOneHost(src) || !isOneHost(dst) {
		return Martian, NotDropped
	}
	if g.Network.IsValid() && !g.Network.Contains(dst) {
		return Outside, NotDropped
	}
	if own := g.own.Load(); own != nil {
		if own.Contains(src) {
			return Looping, NotDropped
		}
		if !own.Contains(dst) {
			if next, ok := g.Peers.Lookup(dst); ok && next.Addr() == from {
				return Looping, NotDropped
			}
		}
	}
	reason := g.vouch(src, from)
	switch {
	case reason == UnknownPeer && g.Check >= CheckPeer, reason == ForeignSource && g.Check >= CheckStrict:
		return reason, NotDropped
	}
	return NotDropped, reason
}

// vouch returns NotDropped if src belongs to the peer at from.
func (g *Guard) vouch(src, from netip.Addr) Reason {
	if peer, ok := g.Peers.Lookup(src); ok && peer.Addr() == from {
		return NotDropped
	}
	switch {
	case !g.Peers.HasPeer(from):
		return UnknownPeer
	case src == from:
		return NotDropped
	}
	return ForeignSource
}
