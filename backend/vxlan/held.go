package vxlan

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

// Concerns implements rtnl.Subject.
func (h held) Concerns(n rtnl.Notice) (key string) {
	b := h.b
	b.mu.Lock()
	defer b.mu.Unlock()
	if key := b.tables.Differs(n); key != "" {
		return key
	}
	if key = b.concerns(n); key != "" {
		b.sure = false
	}
	return key
}

// concerns is about all but the tables.
func (b *Backend) concerns(n rtnl.Notice) string {
	if n.Lost() {
		return rtnl.Surroundings
	}
	if name, index, ok := b.links.News(n); ok {
		switch {
		case name == b.dev.Name || index == b.index:
			return rtnl.LinkKey(b.dev.Name)
		case name == b.under.Name || index == b.lower || b.leadsOver(index):
			return rtnl.Surroundings
		}
		return ""
	}
	if addr, link, ok := n.Addr(); ok && link == b.index {
		return "address " + addr.String()
	} else if ok && (link == b.lower || b.direct) {
		return rtnl.Surroundings
	}
	// Which peers are reached directly follows from other routes.
	if b.direct && n.Route(rtnl.Scope{Within: b.net}) {
		return rtnl.Surroundings
	}
	return ""
}

// leadsOver reports whether a peer is reached directly over the link.
func (b *Backend) leadsOver(index int) bool {
	for _, link := range b.paths {
		if link == index {
			return true
		}
	}
	return false
}

// Repair implements rtnl.Subject.
func (h held) Repair(ctx context.Context) ([]rtnl.Repair, error) {
	b := h.b
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.own.IsValid() || ctx.Err() != nil {
		return nil, nil // there is nothing to hold yet
	}
	return b.repair()
}
