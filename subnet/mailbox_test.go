package subnet

import (
	"context"
	"errors"
	"testing"
)

func TestMailbox(t *testing.T) {
	b := newMailbox()
	ctx, cancel := context.WithCancel(t.Context())
	put := func(rev int64, n int) {
		t.Helper()
		if err := b.events(ctx, make([]Event, n)); err != nil {
			t.Fatal(err)
		}
		b.pending.events[len(b.pending.events)-1].Revision = rev
	}
	put(1, 1)
	put(2, maxPending) // what comes at once stays together
	if err := func() error { cancel(); return b.events(ctx, make([]Event, 1)) }(); !errors.Is(err, context.Canceled) {
		t.Errorf("a full one took more: %v", err)
	}
	ctx = t.Context()
	b.snapshot(Snapshot{Revision: 3}) // what came before is in it
	put(4, 1)
	<-b.ready
	u := b.take()
	if u.snap == nil || u.snap.Revision != 3 || len(u.events) != 1 || u.events[0].Revision != 4 {
		t.Errorf("took %+v", u)
	}
	select {
	case <-b.ready:
		t.Error("it is ready, and empty")
	default:
	}
	if u := b.take(); u.snap != nil || u.events != nil {
		t.Errorf("took %+v twice", u)
	}
}
