package subnet

import (
	"context"
	"sync"
)

// maxPending is how many events may wait for the peers to be applied; then the
// watch waits too.
const maxPending = 4096

// An update is news of the store: a snapshot, if there is one, and the events
// after it.
type update struct {
	snap   *Snapshot
	events []Event
}

// A mailbox gathers what happens while the peers are being applied, so that all
// of it is applied together. There is one sender and one receiver.
type mailbox struct {
	mu      sync.Mutex
	pending update
	ready   chan struct{} // of one place: something is pending
	room    chan struct{} // of one place: it has been taken
}

func newMailbox() *mailbox {
	return &mailbox{ready: make(chan struct{}, 1), room: make(chan struct{}, 1)}
}

// snapshot replaces all that is pending.
func (b *mailbox) snapshot(s Snapshot) {
	b.mu.Lock()
	b.pending = update{snap: &s}
	b.mu.Unlock()
	signal(b.ready)
}

// events adds to what is pending. It waits while that is too much, but no longer
// than ctx lives.
func (b *mailbox) events(ctx context.Context, events []Event) error {
	for {
		b.mu.Lock()
		ok := len(b.pending.events) < maxPending
		if ok {
			b.pending.events = append(b.pending.events, events...)
		}
		b.mu.Unlock()
		if ok {
			signal(b.ready)
			return nil
		}
		select {
		case <-b.room:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// take returns all that is pending, once ready has been received.
func (b *mailbox) take() update {
	b.mu.Lock()
	u := b.pending
	b.pending = update{}
	b.mu.Unlock()
	signal(b.room)
	return u
}

// signal is for channels of one place: who is told twice needs to look once.
func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
