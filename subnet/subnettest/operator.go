package subnettest

import (
	"slices"
	"time"

	"tweed/subnet"
)

// SetConfig writes the network config, as an operator does; "" removes it.
func (m *Memory) SetConfig(value string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if value == "" && m.config == "" {
		return // there is nothing to remove
	}
	m.expire()
	m.config = value
	m.rev++
	m.history = append(m.history, subnet.Event{Kind: subnet.Configured, Revision: m.rev})
	m.wake()
}

// SetRaw writes any record under any key, as an operator does. A ttl of 0 means
// that it does not expire.
func (m *Memory) SetRaw(key, value string, ttl time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.expire()
	m.put(key, value, ttl)
}

// Remove deletes a record, as an operator does. There need not be one.
func (m *Memory) Remove(key string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.expire()
	if _, ok := m.records[key]; ok {
		m.remove(key)
	}
}

// RemoveAll deletes all records at once. Watches fail with ErrCompacted.
func (m *Memory) RemoveAll() {
	m.mu.Lock()
	clear(m.records)
	m.mu.Unlock()
	m.Compact()
}

// Compact forgets the history: running watches, and those after a revision
// listed before, fail with ErrCompacted.
func (m *Memory) Compact() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.rev++
	m.compacted = m.rev
	m.history = nil
	m.wake()
}

// Value returns the raw value under key, and whether there is one.
func (m *Memory) Value(key string) (value string, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.expire()
	r, ok := m.records[key]
	return r.value, ok
}

// Keys returns the keys of all records in order.
func (m *Memory) Keys() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.expire()
	var keys []string
	for key := range m.records {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys
}

// Fail makes every method first call f with its name in lower case ("config",
// "list", "create", "update", "delete", "watch"), and fail with the error that f
// returns, if any, before it has done anything. Running watches ask at once and
// after every change. Nil ends it.
func (m *Memory) Fail(f func(op string) error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fail = f
	m.wake()
}

// FailAfter is like Fail, but f is called when the method has done its work:
// the answer is lost, as when a network fails after the request was sent.
func (m *Memory) FailAfter(f func(op string) error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.failAfter = f
	m.wake()
}
