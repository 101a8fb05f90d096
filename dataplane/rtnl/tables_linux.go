package rtnl

import (
	"bytes"
	"errors"
	"maps"
	"slices"

	"golang.org/x/sys/unix"
)

// Tables brings the kernel's tables to what is wanted of them, and remembers it.
// As long as the kernel is known to hold what it was last brought to, because
// nothing was heard of a change (Event, Differs), another wish costs only the
// difference between the two. It is not safe for concurrent use.
type Tables struct {
	h    *Handle
	want *desired // nil before the first Set
	sure bool     // the kernel holds want
}

// Tables returns new Tables, which know nothing of the kernel.
func (h *Handle) Tables() *Tables { return &Tables{h: h} }

// Set makes e the whole of our entries. Neighbours come before FDB entries
// before routes, and removals go the other way: a route never leads to a peer
// that the device does not know. A destination that stays never lacks a route
// meanwhile.
//
// A route to a wanted destination that is not ours is replaced, as flannel v0.10
// does, with one exception: the kernel's own route of a connected network stays,
// and that destination fails, because otherwise packets to local pods would
// leave the node. Nothing else is touched: neither other destinations, nor other
// tables, nor blackholes, nor equal destinations under a metric (ours, without
// metric, precede them anyway).
func (t *Tables) Set(e Entries) error {
	d := t.h.desire(e)
	was, sure := t.want, t.sure && t.want.scope == d.scope
	t.want, t.sure = d, false
	if sure {
		if err := t.h.apply(difference(was, d)...); err == nil {
			t.sure = true
			return nil
		}
		// Something is not as it was known to be.
	}
	_, err := t.compare()
	return err
}

// Compare is Set after a look at the kernel's tables, and returns what was not
// as wanted.
func (t *Tables) Compare(e Entries) ([]Repair, error) {
	t.want = t.h.desire(e)
	return t.compare()
}

func (t *Tables) compare() ([]Repair, error) {
	t.sure = false
	plans, err := t.h.compare(t.want)
	if err != nil {
		return nil, err
	}
	err = t.h.apply(plans...)
	t.sure = err == nil
	return t.h.repairs(plans...), err
}

// Patch is Set for a part of our entries: drop goes, add comes or takes the place
// of what is there under its keys; of drop.Routes and drop.Neighbours only the
// destinations count. It fails if it is not known what the kernel has, and where a
// change fails; then only Set or Compare knows how to go on.
func (t *Tables) Patch(drop, add Entries) error {
	if !t.sure || t.want.scope != add.Scope || t.want.scope != drop.Scope {
		return errUnsure
	}
	d := t.h.desire(add)
	n, f, r := &plan{faults: d.neighbourFaults}, &plan{faults: d.fdbFaults}, &plan{faults: d.routeFaults}
	link, w := add.Scope.Link, t.want
	for _, e := range drop.Neighbours {
		ip := ip4(e.IP.As4())
		if mac, had := w.neighbours[ip]; had && !has(d.neighbours, ip) {
			n.prune.neigh(remove, unix.AF_INET, link, ip, mac)
			delete(w.neighbours, ip)
		}
	}
	for _, e := range drop.FDB {
		if dst, had := w.fdb[e.MAC]; had && !has(d.fdb, e.MAC) {
			f.prune.neigh(remove, unix.AF_BRIDGE, link, dst, e.MAC)
			delete(w.fdb, e.MAC)
		}
	}
	for _, e := range drop.Routes {
		dst := prefix4{e.Dst.Addr().As4(), uint8(e.Dst.Bits())}
		if to, had := w.routes[dst]; had && !has(d.routes, dst) {
			r.prune.route(remove, dst, to, 0)
			delete(w.routes, dst)
		}
	}
	for _, ip := range inOrder(slices.Collect(maps.Keys(d.neighbours))) {
		n.set.neigh(replace, unix.AF_INET, link, ip, d.neighbours[ip])
		w.neighbours[ip] = d.neighbours[ip]
	}
	for _, mac := range inOrder(slices.Collect(maps.Keys(d.fdb))) {
		f.set.neigh(replace, unix.AF_BRIDGE, link, d.fdb[mac], mac)
		w.fdb[mac] = d.fdb[mac]
	}
	for _, dst := range inOrder(slices.Collect(maps.Keys(d.routes))) {
		w.routes[dst] = d.routes[dst]
		r.set.route(replace, dst, d.routes[dst], w.scopeOf(dst))
	}
	if err := t.h.apply(n, f, r); err != nil {
		t.sure = false
		return err
	}
	return nil
}

var errUnsure = errors.New("it is not known what the kernel has")

func has[K comparable, V any](m map[K]V, k K) bool {
	_, ok := m[k]
	return ok
}

// Doubt makes the next Set look at the kernel's tables.
func (t *Tables) Doubt() { t.sure = false }

// A Repair says what was done about one thing that was not as wanted.
type Repair string

// maxRepairs bounds what Compare tells: the rest has the same cause.
const maxRepairs = 100

// key names the object of request i.
func (r *requests) key(i int) string {
	b := r.message(i)
	return bodyKey(native.Uint16(b[4:]), b[headerLen:])
}

func bodyKey(typ uint16, body []byte) string {
	switch typ {
	case unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
		k, _ := parseRoute(body)
		return "route " + k.dst.prefix().String()
	default:
		k, _ := parseNeigh(body)
		if k.family == unix.AF_BRIDGE {
			return "fdb entry " + k.mac.String()
		}
		return "neighbour " + k.ip.addr().String()
	}
}

// difference returns the changes from one desired state to another of the same
// scope.
func difference(was, is *desired) []*plan {
	n, f, r := &plan{faults: is.neighbourFaults}, &plan{faults: is.fdbFaults}, &plan{faults: is.routeFaults}
	link := is.scope.Link
	changes(was.neighbours, is.neighbours, n, func(q *requests, v verb, ip ip4, mac MAC) {
		q.neigh(v, unix.AF_INET, link, ip, mac)
	})
	changes(was.fdb, is.fdb, f, func(q *requests, v verb, mac MAC, dst ip4) {
		q.neigh(v, unix.AF_BRIDGE, link, dst, mac)
	})
	changes(was.routes, is.routes, r, func(q *requests, v verb, dst prefix4, to target) {
		q.route(v, dst, to, is.scopeOf(dst))
	})
	return []*plan{n, f, r}
}

func changes[K key, V comparable](was, is map[K]V, p *plan, ask func(*requests, verb, K, V)) {
	kept := 0
	var differ []K
	for k, v := range is {
		old, had := was[k]
		if had {
			kept++
		}
		if !had || old != v {
			differ = append(differ, k)
		}
	}
	for _, k := range inOrder(differ) {
		v := add
		if _, had := was[k]; had {
			v = replace
		}
		ask(&p.set, v, k, is[k])
	}
	if kept == len(was) {
		return
	}
	for k, v := range was {
		if _, still := is[k]; !still {
			ask(&p.prune, remove, k, v)
		}
	}
}

// missing calls add with what is in want and not in have, in order.
func missing[K key, V any](want map[K]V, have map[K]bool, add func(K, V)) {
	var keys []K
	for k := range want {
		if !have[k] {
			keys = append(keys, k)
		}
	}
	for _, k := range inOrder(keys) {
		add(k, want[k])
	}
}

// A key is what the entries of a table are found by.
type key interface {
	ip4 | MAC | prefix4
	comparable
	bytes() []byte
}

func (a ip4) bytes() []byte     { return a[:] }
func (m MAC) bytes() []byte     { return m[:] }
func (p prefix4) bytes() []byte { return append(p.ip[:], p.bits) }

// inOrder sorts keys, so that errors come in the same order each time.
func inOrder[K key](keys []K) []K {
	slices.SortFunc(keys, func(a, b K) int { return bytes.Compare(a.bytes(), b.bytes()) })
	return keys
}

// ReplaceRoutes makes want the whole of our routes, as Tables.Set does, after a
// look at the kernel's, and returns what was not as wanted.
func (h *Handle) ReplaceRoutes(s Scope, want []Route) ([]Repair, error) {
	p, err := h.compareRoutes(h.desire(Entries{Scope: s, Routes: want}))
	if err != nil {
		return nil, err
	}
	err = h.apply(p)
	return h.repairs(p), err
}

// repairs tells what plans have done, without what failed: that is an error, and
// nobody has changed it back.
func (h *Handle) repairs(plans ...*plan) []Repair {
	var all []Repair
	for _, p := range plans {
		for _, r := range []*requests{&p.first, &p.set, &p.prune} {
			for i := 0; i < r.len() && len(all) < maxRepairs; i++ {
				if !r.each[i].failed {
					all = append(all, Repair(h.describe(r, i)))
				}
			}
		}
	}
	return all
}
