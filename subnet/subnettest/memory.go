// Package subnettest holds an in-memory subnet.Store for tests, and the
// conformance suite that every Store must pass.
package subnettest

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"tweed/subnet"
)

// Memory is a subnet.Store in memory. Records expire by the clock without any
// goroutine, so it works under testing/synctest. Make one with NewMemory; it
// needs no closing.
type Memory struct {
	mu        sync.Mutex
	config    string
	records   map[string]record
	rev       int64
	history   []subnet.Event // after compacted, in order
	compacted int64
	fail      func(op string) error
	failAfter func(op string) error
	changed   chan struct{} // closed and replaced whenever a watch should look again
}

type record struct {
	value   string
	rev     int64
	expires time.Time // zero: never
}

var _ subnet.Store = (*Memory)(nil)

// NewMemory returns an empty store.
func NewMemory() *Memory {
	return &Memory{records: map[string]record{}, rev: 1, compacted: 1, changed: make(chan struct{})}
}

// Config implements subnet.Store.
func (m *Memory) Config(ctx context.Context) (value []byte, err error) {
	err = m.do(ctx, "config", func() error {
		if m.config == "" {
			return fmt.Errorf("read config: %w", subnet.ErrNoConfig)
		}
		value = []byte(m.config)
		return nil
	})
	return value, err
}

// List implements subnet.Store.
func (m *Memory) List(ctx context.Context) (s subnet.Snapshot, err error) {
	err = m.do(ctx, "list", func() error {
		s.Revision = m.rev
		for key, r := range m.records {
			if l, bad := parse(key, r); bad != nil {
				s.Bad = append(s.Bad, *bad)
			} else {
				s.Leases = append(s.Leases, l)
			}
		}
		return nil
	})
	if err != nil {
		return subnet.Snapshot{}, err
	}
	return s, nil
}

// Create implements subnet.Store.
func (m *Memory) Create(ctx context.Context, sn netip.Prefix, a subnet.Attrs, ttl time.Duration) (subnet.Lease, error) {
	l := subnet.Lease{Subnet: sn, Attrs: a}
	return m.write(ctx, "create", l, ttl, func(_ record, found bool) error {
		if found {
			return subnet.ErrExists
		}
		return nil
	})
}

// Update implements subnet.Store.
func (m *Memory) Update(ctx context.Context, l subnet.Lease, ttl time.Duration) (subnet.Lease, error) {
	return m.write(ctx, "update", l, ttl, func(old record, found bool) error {
		return sameRevision(l, old, found)
	})
}

// Delete implements subnet.Store.
func (m *Memory) Delete(ctx context.Context, l subnet.Lease) error {
	key := subnet.Key(l.Subnet)
	return m.do(ctx, "delete", func() error {
		old, found := m.records[key]
		if err := sameRevision(l, old, found); err != nil {
			return fmt.Errorf("delete %s: %w", key, err)
		}
		m.remove(key)
		return nil
	})
}

func sameRevision(l subnet.Lease, old record, found bool) error {
	switch {
	case !found:
		return subnet.ErrNotFound
	case old.rev != l.Revision:
		return subnet.ErrConflict
	}
	return nil
}

func (m *Memory) write(ctx context.Context, op string, l subnet.Lease, ttl time.Duration, allowed func(record, bool) error) (subnet.Lease, error) {
	key := subnet.Key(l.Subnet)
	value, err := encode(l.Subnet, l.Attrs)
	if err != nil {
		return subnet.Lease{}, fmt.Errorf("%s %s: %w", op, key, err)
	}
	err = m.do(ctx, op, func() error {
		old, found := m.records[key]
		if err := allowed(old, found); err != nil {
			return fmt.Errorf("%s %s: %w", op, key, err)
		}
		r := m.put(key, value, ttl)
		l.Revision, l.Expires = r.rev, r.expires
		return nil
	})
	if err != nil {
		return subnet.Lease{}, err
	}
	return l, nil
}

// Watch implements subnet.Store.
func (m *Memory) Watch(ctx context.Context, after int64, fn func([]subnet.Event) error) error {
	for {
		var events []subnet.Event
		var changed <-chan struct{}
		var next time.Time
		err := m.do(ctx, "watch", func() error {
			if after < m.compacted {
				return fmt.Errorf("after revision %d: %w", after, subnet.ErrCompacted)
			}
			for _, e := range m.history {
				if e.Revision > after {
					events = append(events, e)
				}
			}
			changed, next = m.changed, m.nextExpiry()
			return nil
		})
		if err != nil {
			return err
		}
		if len(events) > 0 {
			after = events[len(events)-1].Revision
			if err := fn(events); err != nil {
				return err
			}
			continue
		}
		wait(ctx, changed, next)
	}
}

// wait returns at a change, at the time next if there is one, or when ctx ends.
func wait(ctx context.Context, changed <-chan struct{}, next time.Time) {
	var expired <-chan time.Time
	if !next.IsZero() {
		timer := time.NewTimer(time.Until(next))
		defer timer.Stop()
		expired = timer.C
	}
	select {
	case <-changed:
	case <-expired:
	case <-ctx.Done():
	}
}

// do runs fn under the lock on a store without expired records.
func (m *Memory) do(ctx context.Context, op string, fn func() error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	m.mu.Lock()
	before, after := m.fail, m.failAfter
	m.mu.Unlock()
	// Faults may block or call the operator's verbs: not under the lock.
	if before != nil {
		if err := before(op); err != nil {
			return err
		}
	}
	m.mu.Lock()
	m.expire()
	err := fn()
	m.mu.Unlock()
	if err == nil && after != nil {
		return after(op)
	}
	return err
}

// expire removes the records whose time has come, the earliest first.
func (m *Memory) expire() {
	for now := time.Now(); ; {
		due := m.nextExpiry()
		if due.IsZero() || due.After(now) {
			return
		}
		for key, r := range m.records {
			if r.expires.Equal(due) {
				m.remove(key)
				break
			}
		}
	}
}

func (m *Memory) nextExpiry() (next time.Time) {
	for _, r := range m.records {
		if !r.expires.IsZero() && (next.IsZero() || r.expires.Before(next)) {
			next = r.expires
		}
	}
	return next
}

func (m *Memory) put(key, value string, ttl time.Duration) record {
	m.rev++
	r := record{value: value, rev: m.rev}
	if ttl > 0 {
		r.expires = time.Now().Add(ttl)
	}
	m.records[key] = r
	e := subnet.Event{Kind: subnet.Put, Revision: r.rev}
	if l, bad := parse(key, r); bad != nil {
		e.Kind, e.Bad = subnet.Bad, *bad
	} else {
		e.Lease = l
	}
	m.history = append(m.history, e)
	m.wake()
	return r
}

func (m *Memory) remove(key string) {
	delete(m.records, key)
	m.rev++
	if sn, err := subnet.ParseKey(key); err == nil {
		m.history = append(m.history, subnet.Event{Kind: subnet.Removed, Subnet: sn, Revision: m.rev})
	}
	m.wake()
}

func (m *Memory) wake() {
	close(m.changed)
	m.changed = make(chan struct{})
}

func parse(key string, r record) (subnet.Lease, *subnet.BadRecord) {
	bad := &subnet.BadRecord{Key: key, Revision: r.rev}
	if bad.Subnet, bad.Err = subnet.ParseKey(key); bad.Err != nil {
		return subnet.Lease{}, bad
	}
	l := subnet.Lease{Subnet: bad.Subnet, Expires: r.expires, Revision: r.rev}
	if bad.Err = json.Unmarshal([]byte(r.value), &l.Attrs); bad.Err != nil {
		bad.Err = fmt.Errorf("value of %s: %w", key, bad.Err)
		return subnet.Lease{}, bad
	}
	return l, nil
}

// encode refuses what parse could not read.
func encode(sn netip.Prefix, a subnet.Attrs) (string, error) {
	if _, err := subnet.ParseKey(subnet.Key(sn)); err != nil {
		return "", err
	}
	if !a.PublicIP.Is4() {
		return "", fmt.Errorf("PublicIP %s: want an IPv4 address", a.PublicIP)
	}
	b, err := json.Marshal(a)
	return string(b), err
}
