package dataplane

import (
	"cmp"
	"encoding/binary"
	"maps"
	"math/bits"
	"net/netip"
	"slices"
	"sync/atomic"
)

// A Route says which peer the packets for a subnet are sent to.
type Route struct {
	Subnet netip.Prefix   // IPv4
	Peer   netip.AddrPort // the zero value makes the subnet unreachable
}

// A Table finds the peer for a destination by longest prefix match. The zero
// value has no routes and is ready to use; it must not be copied.
//
// One goroutine at a time may Replace while any number Lookup: readers take no
// lock, and each sees either the old set of routes or the new one, whole.
type Table struct {
	ranges atomic.Pointer[ranges]
}

// Replace makes routes the whole content of the table. Subnets may overlap; of
// two routes to the same subnet the later one counts. Subnets that are not
// IPv4 are left out.
func (t *Table) Replace(routes []Route) { t.ranges.Store(newRanges(routes)) }

// Lookup returns the peer of the longest subnet that contains dst, and whether
// there is one.
func (t *Table) Lookup(dst netip.Addr) (netip.AddrPort, bool) {
	r := t.ranges.Load()
	if r == nil || !dst.Is4() {
		return netip.AddrPort{}, false
	}
	i := r.find(toU32(dst))
	if i < 0 {
		return netip.AddrPort{}, false
	}
	return r.peers[i], r.peers[i].IsValid()
}

// firstBeside returns an address that has the same peer as dst: the lowest one
// of the range that dst is in, as a rule that of the peer's TUN.
func (t *Table) firstBeside(dst netip.Addr) netip.Addr {
	if r := t.ranges.Load(); r != nil && dst.Is4() {
		if i := r.find(toU32(dst)); i >= 0 {
			var b [4]byte
			binary.BigEndian.PutUint32(b[:], r.starts[i])
			return netip.AddrFrom4(b)
		}
	}
	return dst
}

// HasPeer reports whether a is the address of a peer in the table.
func (t *Table) HasPeer(a netip.Addr) bool {
	r := t.ranges.Load()
	if r == nil {
		return false
	}
	_, ok := r.known[a]
	return ok
}

// Peers returns the addresses of all peers, in no order.
func (t *Table) Peers() []netip.Addr {
	r := t.ranges.Load()
	if r == nil {
		return nil
	}
	return slices.Collect(maps.Keys(r.known))
}

// ranges is the immutable inside of a Table: the address space cut at the
// borders of the subnets, so that overlap costs nothing to look up,
//
//	starts   10.5.1.0   10.5.2.0   10.5.4.0   10.5.5.0
//	peers    A          none       B          none
//
// and an index of equal slices of that space, which says where to search.
// Subnets of one network mostly have one size, so that a slice holds few
// starts, and the cost of a lookup does not depend on the number of peers.
type ranges struct {
	starts []uint32         // rising
	peers  []netip.AddrPort // peers[i] is for starts[i] to starts[i+1]-1
	shift  int              // a slice has 1<<shift addresses; slice 0 begins at starts[0]
	index  []uint32         // index[s] is how many starts are not above the start of slice s
	known  map[netip.Addr]struct{}
}

// find returns the number of the range that dst is in, -1 before the first one.
func (r *ranges) find(dst uint32) int {
	if dst < r.starts[0] {
		return -1
	}
	// The range before the first start above dst is the one. All starts
	// before lo are at or below dst, all from hi on above.
	lo, hi := len(r.starts), len(r.starts)
	if s := (dst - r.starts[0]) >> r.shift; int64(s) < int64(len(r.index)-1) {
		lo, hi = int(r.index[s]), int(r.index[s+1])
	}
	for lo < hi {
		if mid := (lo + hi) / 2; r.starts[mid] <= dst {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return lo - 1
}

// newRanges returns nil if there is nothing to look up.
func newRanges(routes []Route) *ranges {
	r := &ranges{known: make(map[netip.Addr]struct{}, len(routes))}
	for _, rt := range routes {
		if rt.Peer.IsValid() && rt.Subnet.Addr().Is4() {
			r.known[rt.Peer.Addr()] = struct{}{}
		}
	}
	r.cut(routes)
	if len(r.starts) == 0 {
		return nil
	}
	// Two to four slices per start cover all starts; behind the last one
	// nothing has to be searched.
	base, last := r.starts[0], r.starts[len(r.starts)-1]
	r.shift = max(0, bits.Len32(last-base)-bits.Len(uint(len(r.starts)))-1)
	n := uint32(0)
	for at := uint64(base); ; at += 1 << r.shift {
		for int(n) < len(r.starts) && uint64(r.starts[n]) <= at {
			n++
		}
		r.index = append(r.index, n)
		if at > uint64(last) {
			return r
		}
	}
}

// cut fills in starts and peers. Prefixes either nest or are disjoint, so one
// sweep over them with a stack of those that are open finds all borders.
func (r *ranges) cut(routes []Route) {
	routes = slices.DeleteFunc(slices.Clone(routes), func(rt Route) bool {
		return !rt.Subnet.IsValid() || !rt.Subnet.Addr().Is4()
	})
	// The outer prefix before those inside; equal ones stay in order.
	slices.SortStableFunc(routes, func(a, b Route) int {
		return cmp.Or(
			a.Subnet.Masked().Addr().Compare(b.Subnet.Masked().Addr()),
			cmp.Compare(a.Subnet.Bits(), b.Subnet.Bits()))
	})

	type span struct {
		end  uint64
		peer netip.AddrPort
	}
	open := []span{{end: 1 << 33}} // what no subnet covers
	closeUpTo := func(addr uint64) {
		for open[len(open)-1].end <= addr {
			end := open[len(open)-1].end
			open = open[:len(open)-1]
			r.border(end, open[len(open)-1].peer)
		}
	}
	for _, rt := range routes {
		start := uint64(toU32(rt.Subnet.Masked().Addr()))
		closeUpTo(start)
		r.border(start, rt.Peer)
		open = append(open, span{start + 1<<(32-rt.Subnet.Bits()), rt.Peer})
	}
	closeUpTo(1 << 32)
}

// border notes that peer is responsible from addr on, instead of who was so far.
func (r *ranges) border(addr uint64, peer netip.AddrPort) {
	n := len(r.starts)
	switch {
	case addr == 1<<32:
	case n > 0 && r.starts[n-1] == uint32(addr):
		r.peers[n-1] = peer
	default:
		r.starts = append(r.starts, uint32(addr))
		r.peers = append(r.peers, peer)
	}
}

func toU32(a netip.Addr) uint32 {
	b := a.As4()
	return binary.BigEndian.Uint32(b[:])
}
