package vxlan

import (
	"net/netip"
	"slices"

	"tweed/dataplane/rtnl"
	"tweed/subnet"
)

// maxPatch is how many changes patch takes; looking at everything costs little
// more then.
const maxPatch = 1000

// A macUse is where a MAC leads to, and for how many peers.
type macUse struct {
	to netip.Addr
	n  int
}

// patch is what Sync does in the usual case, that a few of very many peers have
// changed: it finds those, which costs a comparison for each peer and no memory,
// and changes just them. It reports whether that was all there is to do; if it
// was not, nothing is lost. Leases that are ignored, or that contradict each
// other, are for usable.
func (b *Backend) patch(leases []subnet.Lease) bool {
	if !b.watched || !b.sure || b.direct || b.uses == nil {
		return false
	}
	var gone, come []peer
	i := 0 // in b.wanted, which is in the same order
	for j := range leases {
		l := &leases[j]
		mac, ok := plainVTEP(l.Attrs.BackendData)
		if !ok {
			return false
		}
		p := peer{l.Subnet, l.Attrs.PublicIP, mac}
		for i < len(b.wanted) && b.wanted[i].Subnet != p.Subnet && b.wanted[i].Subnet.Compare(p.Subnet) < 0 {
			gone = append(gone, b.wanted[i])
			i++
		}
		if i < len(b.wanted) && b.wanted[i].Subnet == p.Subnet {
			if b.wanted[i] == p && l.Attrs.BackendType == Type {
				i++
				continue
			}
			gone = append(gone, b.wanted[i])
			i++
		}
		if b.peers.Refuse(l) != nil || mac == b.dev.MAC || len(come) == maxPatch {
			return false
		}
		come = append(come, p)
	}
	gone = append(gone, b.wanted[i:]...)
	if len(gone) > maxPatch {
		return false
	}
	return b.swap(gone, come)
}

// swap takes peers away and adds others. Those to come may be at the same places
// as those that go.
func (b *Backend) swap(gone, come []peer) bool {
	drop, add := b.entriesOf(nil), b.entriesOf(come)
	for _, p := range gone {
		if b.unuse(p) {
			drop.FDB = append(drop.FDB, rtnl.FDBEntry{MAC: p.MAC, Dst: p.PublicIP})
		}
		drop.Neighbours = append(drop.Neighbours, rtnl.Neighbour{IP: p.Subnet.Addr(), MAC: p.MAC})
		drop.Routes = append(drop.Routes, rtnl.Route{Dst: p.Subnet})
		if i, ok := b.place(p); ok {
			b.wanted = slices.Delete(b.wanted, i, i+1)
		}
	}
	for _, p := range come {
		i, _ := b.place(p)
		if i > 0 && b.wanted[i-1].Subnet.Overlaps(p.Subnet) || i < len(b.wanted) && b.wanted[i].Subnet.Overlaps(p.Subnet) || !b.use(p) {
			b.uses = nil // what was done here so far is void
			return false
		}
		b.wanted = slices.Insert(b.wanted, i, p)
	}
	if err := b.tables.Patch(drop, add); err != nil {
		b.uses = nil
		return false
	}
	return true
}

// place returns where p is, or belongs, in b.wanted.
func (b *Backend) place(p peer) (int, bool) {
	return slices.BinarySearchFunc(b.wanted, p, func(a, b peer) int { return a.Subnet.Compare(b.Subnet) })
}

// count makes b.uses anew, or nil if not all leases are served.
func (b *Backend) count(leases int) {
	b.uses = nil
	if len(b.wanted) != leases {
		return
	}
	b.uses = make(map[rtnl.MAC]macUse, leases)
	for _, p := range b.wanted {
		b.use(p)
	}
}

// use reports whether the peer's MAC leads nowhere else.
func (b *Backend) use(p peer) bool {
	u, ok := b.uses[p.MAC]
	if ok && u.to != p.PublicIP {
		return false
	}
	b.uses[p.MAC] = macUse{p.PublicIP, u.n + 1}
	return true
}

// unuse reports whether the peer was the last with its MAC.
func (b *Backend) unuse(p peer) bool {
	u := b.uses[p.MAC]
	if u.n > 1 {
		u.n--
		b.uses[p.MAC] = u
		return false
	}
	delete(b.uses, p.MAC)
	return true
}
