package subnet

import (
	"net/netip"
	"slices"
)

// A peerList is the set of leases to serve, kept in order of their subnets.
// Changes are staged and then merged all at once, so that one change costs no
// more than moving what is behind it, and a thousand cost one pass.
type peerList struct {
	sorted []Lease
	staged map[netip.Prefix]stagedLease
}

type stagedLease struct {
	Lease
	gone bool
}

func compareSubnets(a, b netip.Prefix) int {
	if c := a.Addr().Compare(b.Addr()); c != 0 {
		return c
	}
	return a.Bits() - b.Bits()
}

// find looks among the leases in force, without what is staged.
func (p *peerList) find(sn netip.Prefix) (int, bool) {
	return slices.BinarySearchFunc(p.sorted, sn, func(l Lease, sn netip.Prefix) int { return compareSubnets(l.Subnet, sn) })
}

func (p *peerList) get(sn netip.Prefix) (Lease, bool) {
	if s, ok := p.staged[sn]; ok {
		return s.Lease, !s.gone
	}
	if i, ok := p.find(sn); ok {
		return p.sorted[i], true
	}
	return Lease{}, false
}

func (p *peerList) put(l Lease) {
	if _, ok := p.staged[l.Subnet]; !ok {
		if i, ok := p.find(l.Subnet); ok && p.sorted[i].Attrs.Equal(l.Attrs) {
			p.sorted[i] = l // a renewal
			return
		}
	}
	p.stage(l.Subnet, stagedLease{Lease: l})
}

func (p *peerList) remove(sn netip.Prefix) { p.stage(sn, stagedLease{gone: true}) }

func (p *peerList) stage(sn netip.Prefix, s stagedLease) {
	if p.staged == nil {
		p.staged = map[netip.Prefix]stagedLease{}
	}
	p.staged[sn] = s
}

// each yields all leases with what is staged, in no order.
func (p *peerList) each(yield func(Lease)) {
	for _, l := range p.sorted {
		if _, ok := p.staged[l.Subnet]; !ok {
			yield(l)
		}
	}
	for _, s := range p.staged {
		if !s.gone {
			yield(s.Lease)
		}
	}
}

// merge brings what is staged into force, and reports whether peers came, went
// or changed what they publish.
func (p *peerList) merge() (changed bool) {
	var gone []int
	var fresh []Lease
	for sn, s := range p.staged {
		switch i, ok := p.find(sn); {
		case s.gone && ok:
			gone = append(gone, i)
		case !s.gone && ok:
			changed = changed || !p.sorted[i].Attrs.Equal(s.Attrs)
			p.sorted[i] = s.Lease
		case !s.gone:
			if fresh == nil {
				fresh = make([]Lease, 0, len(p.staged))
			}
			fresh = append(fresh, s.Lease)
		}
	}
	p.staged = nil
	p.drop(gone)
	p.insert(fresh)
	return changed || len(gone) > 0 || len(fresh) > 0
}

// drop removes the leases at these places by moving what lies between them.
func (p *peerList) drop(gone []int) {
	if len(gone) == 0 {
		return
	}
	slices.Sort(gone)
	end := gone[0]
	for n, i := range gone {
		next := len(p.sorted)
		if n+1 < len(gone) {
			next = gone[n+1]
		}
		end += copy(p.sorted[end:], p.sorted[i+1:next])
	}
	clear(p.sorted[end:])
	p.sorted = p.sorted[:end]
}

// insert adds leases of other subnets, from the last to the first, so that each
// old lease moves once.
func (p *peerList) insert(fresh []Lease) {
	slices.SortFunc(fresh, func(a, b Lease) int { return compareSubnets(a.Subnet, b.Subnet) })
	end := len(p.sorted)
	p.sorted = append(p.sorted, fresh...)
	for n := len(fresh); n > 0; n-- {
		l := fresh[n-1]
		i, _ := slices.BinarySearchFunc(p.sorted[:end], l.Subnet, func(l Lease, sn netip.Prefix) int { return compareSubnets(l.Subnet, sn) })
		copy(p.sorted[i+n:], p.sorted[i:end])
		p.sorted[i+n-1] = l
		end = i
	}
}
