package subnet

import (
	"context"
	"errors"
	"net/netip"
	"time"
)

// Errors that every Store promises. Any other error is a failure to reach or
// to understand the store, and worth a retry.
var (
	// ErrNoConfig: nobody has written a network config yet.
	ErrNoConfig = errors.New("no network config")
	// ErrExists: Create found a record, whatever is in it.
	ErrExists = errors.New("subnet record exists already")
	// ErrNotFound: Update or Delete found no record.
	ErrNotFound = errors.New("subnet record not found")
	// ErrConflict: Update or Delete found a record of another revision.
	ErrConflict = errors.New("subnet record was changed by another writer")
	// ErrCompacted: Watch cannot tell what happened since the given revision;
	// list again.
	ErrCompacted = errors.New("watch: history is gone")
)

// A Store holds the network config and the lease records. All nodes of a
// network share one. Every method is safe for concurrent use, may be repeated
// after a failure, and returns soon after its context ends.
//
// Revisions rise with every change to the store. A record that cannot be
// parsed never fails a method: it is reported as a BadRecord.
type Store interface {
	// Config returns the raw network config: ErrNoConfig.
	Config(ctx context.Context) ([]byte, error)
	// List returns all records, consistent (not from a stale member).
	List(ctx context.Context) (Snapshot, error)
	// Create makes a record only if the subnet has none: ErrExists.
	Create(ctx context.Context, sn netip.Prefix, a Attrs, ttl time.Duration) (Lease, error)
	// Update writes l.Attrs only if the record still has l.Revision:
	// ErrConflict, ErrNotFound. A ttl of 0 makes it a reservation.
	Update(ctx context.Context, l Lease, ttl time.Duration) (Lease, error)
	// Delete removes the record only if it still has l.Revision: ErrConflict,
	// ErrNotFound.
	Delete(ctx context.Context, l Lease) error
	// Watch calls fn, in order and from one goroutine, with what happened
	// after the given revision, until ctx ends (returning its error), fn fails
	// (returning that error), or the store does: ErrCompacted, or a failure
	// after which Watch may be called again with the last revision seen.
	Watch(ctx context.Context, after int64, fn func([]Event) error) error
}

// A Snapshot is the content of a Store at one revision.
type Snapshot struct {
	Leases   []Lease
	Bad      []BadRecord
	Revision int64 // watch after this one
}

// A BadRecord is something under the lease directory that is not a lease.
type BadRecord struct {
	Key    string
	Subnet netip.Prefix // the zero value if the key is not a subnet either
	Err    error        // names the field and the value, and says what is valid

	Revision int64 // as Lease.Revision
}

// An Event is one change to one record, or to the network config. Exactly one of
// the cases holds.
type Event struct {
	Kind     EventKind
	Lease    Lease        // Put
	Subnet   netip.Prefix // Removed
	Bad      BadRecord    // Bad
	Revision int64
}

// EventKind tells the cases of an Event apart.
type EventKind int

const (
	Put     EventKind = iota // the record now holds Lease
	Removed                  // the record of Subnet was deleted or has expired
	Bad                      // the record was written with something unreadable

	// Configured: the network config was written or removed. The event has
	// nothing but Kind and Revision; read the config by Store.Config.
	Configured
)
