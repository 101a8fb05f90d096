package subnet

import (
	"cmp"
	"context"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
)

// A Protected address range must never become part of a peer's subnet, because
// this node would then lose its way to What: "the underlay address".
type Protected struct {
	Prefix netip.Prefix
	What   string
}

// A reason says why a lease is refused: why packets must not go there.
type reason string

const (
	ownIP        reason = "ignoring another lease with our own public IP"
	formerIP     reason = "ignoring a lease of ours from before our public IP changed"
	outside      reason = "ignoring a lease outside of the network"
	overlapsOurs reason = "ignoring a lease that overlaps ours"
	special      reason = "ignoring a lease of addresses that no pod can have"
	protected    reason = "ignoring a lease of addresses that must stay outside of the overlay"
	noHost       reason = "ignoring a lease whose public IP is no address of another host"
	loopsOurs    reason = "ignoring a lease whose public IP is inside our own subnet"
	loopsItself  reason = "ignoring a lease whose public IP is inside its own subnet"
	loops        reason = "ignoring a lease whose public IP is inside another node's subnet"
	overlaps     reason = "ignoring a lease that does not fit the network config and overlaps another"
	coversPeer   reason = "ignoring a lease that does not fit the network config and covers a node's public IP"
)

// Ranges that are neither a pod's nor, as a rule, a node's.
const (
	specialPods  = "0.0.0.0/8 127.0.0.0/8 169.254.0.0/16 224.0.0.0/4 240.0.0.0/4"
	specialHosts = "0.0.0.0/8 127.0.0.0/8 169.254.0.0/16 224.0.0.0/4 255.255.255.255/32"
)

func prefixes(list string) (all []netip.Prefix) {
	for s := range strings.FieldsSeq(list) {
		all = append(all, netip.MustParsePrefix(s))
	}
	return all
}

// alone judges a record by itself. What is refused here has no influence on
// other records.
func (t *table) alone(l Lease) reason {
	ip := l.Attrs.PublicIP
	switch {
	case ip == t.own.Attrs.PublicIP:
		return ownIP
	case t.isFormer(l):
		return formerIP
	case !t.cfg.Network.Contains(l.Subnet.Addr()) || l.Subnet.Bits() < t.cfg.Network.Bits():
		return outside
	case l.Subnet.Overlaps(t.own.Subnet):
		return overlapsOurs
	case slices.ContainsFunc(t.noPods, l.Subnet.Overlaps):
		return special
	case l.Subnet.Contains(t.own.Attrs.PublicIP), slices.ContainsFunc(t.protected, func(p Protected) bool { return p.Prefix.Overlaps(l.Subnet) }):
		return protected
	case slices.ContainsFunc(t.noHosts, func(r netip.Prefix) bool { return r.Contains(ip) }):
		return noHost
	case t.own.Subnet.Contains(ip):
		return loopsOurs
	case l.Subnet.Contains(ip):
		return loopsItself
	}
	return ""
}

// isFormer reports whether l was written for this node under an address that it
// had before. Another node may have that address by now: what it writes is newer.
func (t *table) isFormer(l Lease) bool {
	since, ok := t.former[l.Attrs.PublicIP]
	return ok && l.Revision <= since
}

// home returns the subnet of the plan that holds ip, if there is one.
func (t *table) home(ip netip.Addr) (block, bool) {
	sn := netip.PrefixFrom(ip, t.cfg.SubnetLen).Masked()
	return blockOf(sn), t.cfg.Contains(sn)
}

// judge decides on all records anew. Those that fit the plan, which cannot overlap
// each other, come first: one is refused if its public IP is inside another that is
// served, since its outer packets would go into the overlay again. Then those that
// do not fit: each must harm none that is served already. Of these the ones that
// are served now come first, since a renewal makes a record younger than one that
// was refused because of it, and then the older ones. So no record is refused because
// of one that is refused itself, but for those whose public IPs are inside each
// other's subnets in a circle, of which all are.
func (t *table) judge() {
	var fits, misfits []Lease
	verdicts := map[netip.Prefix]verdict{}
	sort := func(l Lease) {
		if l.Subnet == t.own.Subnet {
			t.peers.remove(l.Subnet)
		} else if why := t.alone(l); why != "" {
			verdicts[l.Subnet] = verdict{l, why, true}
		} else if t.cfg.Contains(l.Subnet) {
			fits = append(fits, l)
		} else {
			misfits = append(misfits, l)
		}
	}
	t.peers.each(sort)
	for _, v := range t.refused {
		sort(v.Lease)
	}
	t.inside, t.misfits = map[block]int{}, newBlockSet()
	for _, l := range slices.Concat(fits, misfits) {
		t.count(l, 1)
	}
	refused := t.refuseLoops(fits)
	accept := func(l Lease) { t.peers.put(l) }
	fits = slices.DeleteFunc(fits, func(l Lease) bool {
		if !refused[blockOf(l.Subnet)] {
			accept(l)
			return false
		}
		verdicts[l.Subnet] = verdict{l, loops, false}
		return true
	})
	if len(misfits) > 0 {
		t.judgeMisfits(fits, misfits, verdicts, accept)
	}
	for sn := range verdicts {
		if _, ok := t.peers.get(sn); ok {
			t.peers.remove(sn)
		}
	}
	old := t.refused
	t.refused = verdicts
	for sn, v := range verdicts {
		if old[sn].why != v.why {
			t.tell(v)
		}
	}
}

// refuseLoops returns which leases that fit the plan are refused because of
// others that do. Each has its public IP in at most one of them, so every way
// along them ends, or goes in a circle.
func (t *table) refuseLoops(fits []Lease) map[block]bool {
	looped := slices.ContainsFunc(fits, func(l Lease) bool { return t.inside[blockOf(l.Subnet)] > 0 })
	if !looped {
		return nil
	}
	next := make(map[block]block, len(fits)) // to the lease with the public IP inside
	known := make(map[block]bool, len(fits))
	for _, l := range fits {
		known[blockOf(l.Subnet)] = true
	}
	for _, l := range fits {
		if home, ok := t.home(l.Attrs.PublicIP); ok && known[home] {
			next[blockOf(l.Subnet)] = home
		}
	}
	refused := make(map[block]bool, len(next))
	decided := make(map[block]bool, len(next))
	for start := range next {
		var way []block
		at := map[block]int{}
		b, ok := start, true
		for ok && !decided[b] {
			if i, again := at[b]; again { // a circle
				for _, c := range way[i:] {
					refused[c], decided[c] = true, true
				}
				way = way[:i]
				break
			}
			at[b] = len(way)
			way = append(way, b)
			b, ok = next[b]
		}
		for _, b := range slices.Backward(way) {
			to, ok := next[b]
			refused[b], decided[b] = ok && !refused[to], true
		}
	}
	return refused
}

// judgeMisfits decides on records that do not fit the plan, given those that do
// and are served. There may be many, and none of them harmful, where SubnetLen
// was changed.
func (t *table) judgeMisfits(fits, misfits []Lease, verdicts map[netip.Prefix]verdict, accept func(Lease)) {
	subnets, ips := newBlockSet(), newBlockSet()
	serve := func(l Lease) {
		subnets.add(blockOf(l.Subnet))
		ips.add(hostBlock(l.Attrs.PublicIP))
	}
	for _, l := range fits {
		serve(l)
	}
	type ranked struct {
		*Lease
		rank int
	}
	order := make([]ranked, len(misfits)) // there may be as many as there are peers
	for i := range misfits {
		order[i] = ranked{&misfits[i], t.rank(misfits[i])}
	}
	slices.SortFunc(order, func(a, b ranked) int {
		return cmp.Or(a.rank-b.rank, cmp.Compare(a.Revision, b.Revision), compareSubnets(a.Subnet, b.Subnet))
	})
	for _, r := range order {
		l := *r.Lease
		b := blockOf(l.Subnet)
		t.misfits.add(b)
		var why reason
		switch {
		case subnets.overlaps(b):
			why = overlaps
		case ips.overlaps(b):
			why = coversPeer
		case subnets.covers(hostBlock(l.Attrs.PublicIP)):
			why = loops
		default:
			serve(l)
			accept(l)
			continue
		}
		verdicts[l.Subnet] = verdict{l, why, false}
	}
}

// rank is 0 for a record that is in force with the same public IP, else 1.
func (t *table) rank(l Lease) int {
	if i, ok := t.peers.find(l.Subnet); ok && t.peers.sorted[i].Attrs.PublicIP == l.Attrs.PublicIP {
		return 0
	}
	return 1
}

// tell logs a refusal, once for each record and reason.
func (t *table) tell(v verdict) {
	args := []any{"subnet", v.Subnet, "peer", v.Attrs.PublicIP}
	level := slog.LevelWarn
	switch v.why {
	case formerIP:
		level = slog.LevelInfo
	case outside:
		args = append(args, "network", t.cfg.Network)
	case overlapsOurs:
		level = slog.LevelError
		args = append(args, "own", t.own.Subnet)
	case protected:
		if v.Subnet.Contains(t.own.Attrs.PublicIP) {
			args = append(args, "covers", t.own.Attrs.PublicIP, "what", "our public IP")
			break
		}
		for _, p := range t.protected {
			if p.Prefix.Overlaps(v.Subnet) {
				args = append(args, "covers", p.Prefix, "what", p.What)
				break
			}
		}
	}
	t.log.Log(context.Background(), level, string(v.why), args...)
}
