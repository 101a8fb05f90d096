package hostgw

import (
	"context"

	"tweed/dataplane/rtnl"
)

// held is the Backend as the subject of rtnl.Monitor.Hold.
type held struct{ b *Backend }

func (b *Backend) setWatched(on bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.watched, b.sure = on, false
}

// Concerns implements rtnl.Subject. Routes vanish without notice when their
// interface goes down or loses an address.
func (h held) Concerns(n rtnl.Notice) (key string) {
	b := h.b
	b.mu.Lock()
	defer b.mu.Unlock()
	if key := b.tables.Differs(n); key != "" {
		return key
	}
	if n.Lost() {
		key = rtnl.Surroundings
	} else if name, index, ok := b.links.News(n); ok && (name == b.under.Name || index == b.index) {
		key = rtnl.Surroundings
	} else if _, link, ok := n.Addr(); ok && link == b.index {
		key = rtnl.Surroundings
	}
	if key != "" {
		b.sure = false
	}
	return key
}

// Repair implements rtnl.Subject.
func (h held) Repair(ctx context.Context) ([]rtnl.Repair, error) {
	b := h.b
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.synced || ctx.Err() != nil {
		return nil, nil // there is nothing to hold yet
	}
	return b.repair()
}
