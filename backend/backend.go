// Package backend defines what carries packets between nodes, and chooses the
// interface that it uses.
package backend

import (
	"context"
	"errors"
	"net/netip"

	"tweed/subnet"
)

// A Backend carries the pods' packets between this node and its peers. The
// daemon calls Open of the backend's package; then, with a lease, Run, and
// beside it Up and Sync, again with another lease if the first is lost; and
// Close in the end.
type Backend interface {
	// Attrs is what this node publishes with its lease.
	Attrs() subnet.Attrs
	// MTU is the largest inner IPv4 packet in bytes that pods may send.
	MTU() int
	// Up configures this node's own side for the lease. It may be called
	// again, with the same or with another lease.
	Up(ctx context.Context, l subnet.Lease) error
	// Sync makes the kernel match the complete set of peers, as a
	// subnet.SyncFunc. It is idempotent, does all it can when one peer fails,
	// and returns the joined errors of what a later try may mend; a lease that
	// is of no use is logged once and left out. It is never called concurrently
	// with itself or with Up.
	Sync(ctx context.Context, peers []subnet.Lease) error
	// Run carries packets where the kernel does not, and puts right within a
	// second what others change of what Up and Sync have set up, until ctx ends;
	// then it returns nil. It returns ErrGone where only another Open helps.
	Run(ctx context.Context) error
	// Close frees what Open took. What must survive a restart of the daemon
	// without dropping traffic stays in the kernel.
	Close() error
}

// ErrGone: a device that was opened has been deleted.
var ErrGone = errors.New("the device of the backend is gone")

// Underlay is the chosen side of this node that faces its peers.
type Underlay struct {
	Name     string       // of the interface, by which it is found again if it was taken away meanwhile
	MTU      int          // of the interface, in bytes
	Addr     netip.Addr   // IPv4 address of the interface
	Net      netip.Prefix // that Addr is in, masked; the zero value if the interface has another address only
	PublicIP netip.Addr   // where peers send to; Addr unless -public-ip says otherwise
}
