package rtnl

import (
	"errors"
	"fmt"
)

// A Plan holds the changes that bring the kernel's objects of one kind to
// their desired state. It is made from one dump of the kernel's tables and
// worth applying once, soon.
type Plan struct {
	set   []func() error // additions and replacements
	prune []func() error // removals of what is ours and no longer wanted
}

// Len is the number of changes, 0 if the kernel is as it should be.
func (p *Plan) Len() int { return len(p.set) + len(p.prune) }

// Apply carries out plans that depend on each other: all additions in the
// order of the plans, then all removals in the opposite order. What a later
// plan refers to thus exists while it is referred to. A change that fails does
// not keep the others from being made; the errors are joined, and each names
// its object.
func Apply(plans ...*Plan) error {
	var errs []error
	for _, p := range plans {
		errs = append(errs, run(p.set))
	}
	for i := len(plans) - 1; i >= 0; i-- {
		errs = append(errs, run(plans[i].prune))
	}
	return errors.Join(errs...)
}

func run(changes []func() error) error {
	var errs []error
	for _, change := range changes {
		if err := change(); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// pair is an entry of a kernel table that maps keys to values.
type pair[K, V comparable] struct {
	key K
	val V
}

// diff returns the pairs to set and the pairs to remove for have to become
// want. Setting a key overwrites the first of the pairs that the kernel has
// under it; the kernel may have more of them (the FDB does). Of several wanted
// values for one key the first wins, so that repeating the diff settles; the
// others are returned as conflicts.
func diff[K, V comparable](have, want []pair[K, V]) (set, remove, conflicts []pair[K, V]) {
	wanted := make(map[K]V, len(want))
	for _, w := range want {
		if v, ok := wanted[w.key]; !ok {
			wanted[w.key] = w.val
		} else if v != w.val {
			conflicts = append(conflicts, w)
		}
	}
	satisfied := make(map[K]bool, len(have))
	for _, h := range have {
		if v, ok := wanted[h.key]; ok && v == h.val {
			satisfied[h.key] = true
		}
	}
	overwritten := make(map[K]bool)
	for _, h := range have {
		v, ok := wanted[h.key]
		switch {
		case ok && v == h.val:
		case ok && !satisfied[h.key] && !overwritten[h.key]:
			overwritten[h.key] = true
		default:
			remove = append(remove, h)
		}
	}
	for _, w := range want {
		if !satisfied[w.key] && wanted[w.key] == w.val {
			satisfied[w.key] = true
			set = append(set, w)
		}
	}
	return set, remove, conflicts
}

// fail is a change that cannot be made.
func fail(format string, args ...any) func() error {
	return func() error { return fmt.Errorf(format, args...) }
}
