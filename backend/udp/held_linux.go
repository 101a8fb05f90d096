package udp

import (
	"context"

	"tweed/dataplane/rtnl"
)

// repair brings the TUN interface to the state that the lease asks for, and
// returns what was not so.
//
// The address is a /32 beside an explicit route. With the network's own prefix
// length, as flannel v0.10 has it, the first address of the network would be
// its broadcast address.
func (b *Backend) repair() ([]rtnl.Repair, error) {
	index := b.tun.Index()
	repairs, err := b.nl.EnsureLink(index, b.MTU(), txQueueLen)
	if err != nil {
		return repairs, err
	}
	// A queue in front of the TUN's own only costs time.
	if err := b.nl.EnsureNoQueue(index); err != nil {
		b.log.Warn("keeping the queueing discipline, which costs some speed", "err", err)
	}
	more, err := b.nl.EnsureAddr(index, b.own.Addr(), b.network)
	if repairs = append(repairs, more...); err != nil {
		return repairs, err
	}
	more, err = b.tables.Compare(rtnl.Entries{
		Scope:  rtnl.Scope{Within: b.network},
		Routes: []rtnl.Route{{Dst: b.network, Link: index}},
	})
	b.sure = err == nil
	return append(repairs, more...), err
}

func (b *Backend) setWatched(on bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.watched, b.sure = on, false
}

// held is the Backend as the subject of rtnl.Monitor.Hold.
type held struct{ b *Backend }

// Concerns implements rtnl.Subject.
func (h held) Concerns(n rtnl.Notice) (key string) {
	b := h.b
	b.mu.Lock()
	defer b.mu.Unlock()
	if key := b.tables.Differs(n); key != "" {
		b.sure = false
		return key
	}
	if n.Lost() {
		key = rtnl.Surroundings
	} else if name, index, ok := b.links.News(n); ok && index == b.tun.Index() {
		key = rtnl.LinkKey(name)
	} else if addr, link, ok := n.Addr(); ok && link == b.tun.Index() {
		key = "address " + addr.String()
	}
	if key != "" {
		b.sure = false
	}
	return key
}

// Repair implements rtnl.Subject. An interface that was deleted is none of its
// business: then Run ends.
func (h held) Repair(ctx context.Context) ([]rtnl.Repair, error) {
	b := h.b
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.own.IsValid() || ctx.Err() != nil {
		return nil, nil // there is nothing to hold yet
	}
	return b.repair()
}
