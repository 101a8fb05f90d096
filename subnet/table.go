package subnet

import (
	"log/slog"
	"net/netip"
	"slices"
)

// A table holds all readable records but our own, and which of them are peers. It
// outlives the loss of the lease: what is known is not forgotten.
type table struct {
	cfg       Config
	log       *slog.Logger
	own       Lease                // its subnet and public IP count
	former    map[netip.Addr]int64 // public IPs that we had, and the revision up to which records with them are ours
	protected []Protected
	noPods    []netip.Prefix // none of them may be in a peer's subnet
	noHosts   []netip.Prefix // nor be its public IP

	peers   peerList
	refused map[netip.Prefix]verdict

	inside  map[block]int // by subnet of the plan: how many judged records have their public IP there
	misfits *blockSet     // judged records that do not fit the plan
	dirty   bool          // all must be judged anew
}

// A verdict is a record that is refused.
type verdict struct {
	Lease
	why   reason // empty until it is judged
	alone bool   // because of itself, without influence on others
}

func newTable(cfg Config, log *slog.Logger) *table {
	return &table{cfg: cfg, log: log, former: map[netip.Addr]int64{},
		refused: map[netip.Prefix]verdict{}, inside: map[block]int{}, misfits: newBlockSet()}
}

// setOwn says which lease is ours from now on.
func (t *table) setOwn(own Lease) {
	t.own, t.dirty = own, true
	// What an operator chose on purpose, such as 240.5.0.0/16, is left.
	t.noPods = slices.DeleteFunc(prefixes(specialPods), func(r netip.Prefix) bool {
		return r.Bits() <= t.cfg.Network.Bits() && r.Contains(t.cfg.Network.Addr())
	})
	t.noHosts = slices.DeleteFunc(prefixes(specialHosts), func(r netip.Prefix) bool { return r.Contains(own.Attrs.PublicIP) })
}

func (t *table) setProtected(p []Protected) {
	if !slices.Equal(t.protected, p) {
		t.protected, t.dirty = slices.Clone(p), true
	}
}

// put takes over a record. The usual cases are decided at once: a renewal, and a
// record that fits the plan and has nothing to do with any other.
func (t *table) put(l Lease) {
	sn := l.Subnet
	if sn == t.own.Subnet {
		t.remove(sn)
		return
	}
	if t.dirty {
		t.hold(l, t.refused[sn].why)
		return
	}
	why := t.alone(l)
	if old, ok := t.peers.get(sn); ok && why == "" && old.Attrs.PublicIP == l.Attrs.PublicIP {
		t.peers.put(l)
		return
	}
	told := t.refused[sn].why
	t.remove(sn)
	switch {
	case t.dirty:
		t.hold(l, told)
	case why != "":
		v := verdict{l, why, true}
		t.refused[sn] = v
		if why != told {
			t.tell(v)
		}
	case t.cfg.Contains(sn) && t.unrelated(l):
		t.count(l, 1)
		t.peers.put(l)
	default:
		t.hold(l, told)
	}
}

// remove forgets a record.
func (t *table) remove(sn netip.Prefix) {
	if v, ok := t.refused[sn]; ok {
		delete(t.refused, sn)
		t.dirty = t.dirty || !v.alone
		return
	}
	l, ok := t.peers.get(sn)
	if !ok {
		return
	}
	t.peers.remove(sn)
	if t.dirty {
		return
	}
	t.count(l, -1)
	t.dirty = !t.cfg.Contains(sn) || !t.unrelated(l)
}

// hold keeps a record until all are judged. It was refused for the reason told, if
// any.
func (t *table) hold(l Lease, told reason) {
	if _, ok := t.peers.get(l.Subnet); ok {
		t.peers.remove(l.Subnet)
	}
	t.refused[l.Subnet] = verdict{Lease: l, why: told}
	t.dirty = true
}

// unrelated reports whether a record that fits the plan neither decides on another
// one nor depends on one. It is not counted itself.
func (t *table) unrelated(l Lease) bool {
	b, ip := blockOf(l.Subnet), l.Attrs.PublicIP
	if t.inside[b] > 0 || t.misfits.overlaps(b) || t.misfits.covers(hostBlock(ip)) {
		return false
	}
	home, ok := t.home(ip)
	return !ok || !t.holds(home)
}

// holds reports whether there is a record of a subnet of the plan that was not
// refused because of itself.
func (t *table) holds(b block) bool {
	sn := b.prefix()
	if _, ok := t.peers.get(sn); ok {
		return true
	}
	v, ok := t.refused[sn]
	return ok && !v.alone
}

func (t *table) count(l Lease, by int) {
	home, ok := t.home(l.Attrs.PublicIP)
	if !ok {
		return
	}
	if t.inside[home] += by; t.inside[home] == 0 {
		delete(t.inside, home)
	}
}

// replace takes over a whole snapshot. Records of the subnets in keep, which are
// there but unreadable, stay what they were.
func (t *table) replace(leases []Lease, keep map[netip.Prefix]bool) {
	seen := make([]bool, len(t.peers.sorted))
	unseen := make(map[netip.Prefix]bool, len(t.refused))
	for sn := range t.refused {
		unseen[sn] = !keep[sn]
	}
	var news []int
	for n, l := range leases {
		i, ok := t.peers.find(l.Subnet)
		if !ok {
			delete(unseen, l.Subnet)
			news = append(news, n)
			continue
		}
		seen[i] = true
		if old := &t.peers.sorted[i]; old.Revision == l.Revision && old.Attrs.Equal(l.Attrs) && l.Subnet != t.own.Subnet {
			old.Expires = l.Expires
		} else {
			news = append(news, n)
		}
	}
	// Those that are gone go first, as a rule they have made room for others.
	var gone []netip.Prefix
	for i, ok := range seen {
		if sn := t.peers.sorted[i].Subnet; !ok && !keep[sn] {
			gone = append(gone, sn)
		}
	}
	for sn, ok := range unseen {
		if ok {
			gone = append(gone, sn)
		}
	}
	for _, sn := range gone {
		t.remove(sn)
	}
	for _, n := range news {
		t.put(leases[n])
	}
}

// settle brings all that was taken over into force, and reports whether peers
// came, went or changed what they publish.
func (t *table) settle() (changed bool) {
	if t.dirty {
		t.judge()
		t.dirty = false
	}
	return t.peers.merge()
}
