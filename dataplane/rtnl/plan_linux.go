package rtnl

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// A plan holds the changes that bring the kernel's objects of one kind to their
// desired state. It is made from one look at the kernel's tables and worth
// applying once, soon.
type plan struct {
	first  requests // removals that must come before set
	set    requests // additions and replacements
	prune  requests // removals of what is ours and no longer wanted
	faults []error  // what is wanted and cannot be had
}

// len is the number of changes, 0 if the kernel is as it should be.
func (p *plan) len() int { return p.first.len() + p.set.len() + p.prune.len() }

// apply carries out plans that depend on each other: all additions in the order
// of the plans, then all removals in the opposite order. What a later plan
// refers to thus exists while it is referred to. A change that fails does not
// keep the others from being made; the errors are joined, and each names its
// object.
func (h *Handle) apply(plans ...*plan) error {
	var errs complaints
	for _, p := range plans {
		h.send(&p.first, &errs)
		h.send(&p.set, &errs)
		errs.add(p.faults...)
	}
	for i := len(plans) - 1; i >= 0; i-- {
		h.send(&plans[i].prune, &errs)
	}
	return errs.join()
}

func (h *Handle) send(r *requests, errs *complaints) {
	err := h.raw.send(r, func(i int, err error) {
		gone := errors.Is(err, unix.ESRCH) || errors.Is(err, unix.ENOENT)
		if r.each[i].verb == remove && gone {
			return // already
		}
		r.each[i].failed = true
		if errs.full() {
			errs.add(err)
			return
		}
		errs.add(fmt.Errorf("%s: %w", h.describe(r, i), err))
	})
	if err != nil {
		errs.add(err)
	}
}

// complaints are errors, of which there may be as many as there are peers.
type complaints struct {
	errs []error
	more int
}

const maxComplaints = 20

func (c *complaints) full() bool { return len(c.errs) >= maxComplaints }

func (c *complaints) add(errs ...error) {
	for _, err := range errs {
		if c.full() {
			c.more++
		} else {
			c.errs = append(c.errs, err)
		}
	}
}

func (c *complaints) join() error {
	if c.more > 0 {
		return errors.Join(append(c.errs, fmt.Errorf("and %d more", c.more))...)
	}
	return errors.Join(c.errs...)
}
