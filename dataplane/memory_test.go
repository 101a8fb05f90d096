package dataplane

import (
	"bytes"
	"os"
	"sync"
	"time"
)

// memory is a Device without a kernel: packets that a test puts into it are
// received, and packets sent to it are kept. It breaks the bytes that it
// handed out before as soon as Recv is called again, as real devices do.
type memory struct {
	// sendErr, if set, is asked about each packet before it is sent.
	sendErr func(p Packet) error

	mu       sync.Mutex
	changed  *sync.Cond
	waiting  []received
	lent     [][]byte
	sent     []Packet
	deadline time.Time
	closed   bool
}

// received is what one Recv yields: packets or an error.
type received struct {
	pkts []Packet
	err  error
}

func newMemory() *memory {
	m := &memory{}
	m.changed = sync.NewCond(&m.mu)
	return m
}

// put makes the packets arrive in one batch.
func (m *memory) put(pkts ...[]byte) {
	var r received
	for _, b := range pkts {
		r.pkts = append(r.pkts, Packet{Bytes: b})
	}
	m.arrive(r)
}

func (m *memory) arrive(r received) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.waiting = append(m.waiting, r)
	m.changed.Broadcast()
}

func (m *memory) Recv(pkts []Packet) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, b := range m.lent {
		for i := range b {
			b[i] = 0xdb
		}
	}
	m.lent = m.lent[:0]
	for {
		switch {
		case m.closed:
			return 0, os.ErrClosed
		case !m.deadline.IsZero():
			return 0, os.ErrDeadlineExceeded
		case len(m.waiting) == 0:
			m.changed.Wait()
			continue
		}
		r := &m.waiting[0]
		if r.err != nil {
			m.waiting = m.waiting[1:]
			return 0, r.err
		}
		n := copy(pkts, r.pkts)
		if r.pkts = r.pkts[n:]; len(r.pkts) == 0 {
			m.waiting = m.waiting[1:]
		}
		for i := range n {
			pkts[i].Bytes = bytes.Clone(pkts[i].Bytes)
			m.lent = append(m.lent, pkts[i].Bytes)
		}
		return n, nil
	}
}

func (m *memory) Send(pkts []Packet) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	defer m.changed.Broadcast()
	for i, p := range pkts {
		if m.closed {
			return i, os.ErrClosed
		}
		if m.sendErr != nil {
			if err := m.sendErr(p); err != nil {
				return i, err
			}
		}
		p.Bytes = bytes.Clone(p.Bytes)
		m.sent = append(m.sent, p)
	}
	return len(pkts), nil
}

// SetReadDeadline knows only past deadlines and none.
func (m *memory) SetReadDeadline(t time.Time) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return os.ErrClosed
	}
	m.deadline = t
	m.changed.Broadcast()
	return nil
}

func (m *memory) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.closed = true
	m.changed.Broadcast()
	return nil
}

// endless is a Device that receives the same batch again and again and
// forgets what is sent to it. It measures the forwarder alone.
type endless struct {
	*memory
	batch []Packet
	fresh [][4]byte // TTL, protocol and checksum of each before it was forwarded
	left  int       // batches until the end
}

func (e *endless) add(b []byte) {
	e.batch = append(e.batch, Packet{Bytes: b})
	e.fresh = append(e.fresh, [4]byte(b[8:12]))
}

func (e *endless) Recv(pkts []Packet) (int, error) {
	if e.left == 0 {
		return 0, os.ErrClosed
	}
	e.left--
	for i := range e.batch {
		copy(e.batch[i].Bytes[8:12], e.fresh[i][:])
	}
	return copy(pkts, e.batch), nil
}

func (e *endless) Send(pkts []Packet) (int, error) { return len(pkts), nil }
