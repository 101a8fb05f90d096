package dataplane

import (
	"bytes"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"
)

// memory is a Device without a kernel: packets that a test puts into it are
// received, and packets sent to it are kept. It breaks the bytes that it
// handed out before as soon as Recv is called again, as real devices do, and
// leaves nonsense wherever the contract of Device promises nothing.
type memory struct {
	// refuse, if set, is asked about each packet before it is sent: 0, or why
	// not, with the MTU that belongs to EMSGSIZE.
	refuse func(p Packet) (errno syscall.Errno, mtu int)
	// dead, if set, is asked before each batch is sent. An error is final.
	dead func(pkts []Packet) error

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

// put makes the packets arrive in one batch, from no peer.
func (m *memory) put(pkts ...[]byte) { m.putFrom("", pkts...) }

// putFrom makes the packets arrive in one batch from the peer, an address.
func (m *memory) putFrom(peer string, pkts ...[]byte) {
	var r received
	var from netip.AddrPort
	if peer != "" {
		from = netip.AddrPortFrom(netip.MustParseAddr(peer), 8285)
	}
	for _, b := range pkts {
		r.pkts = append(r.pkts, Packet{Bytes: b, Peer: from})
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
			pkts[i].Err, pkts[i].MTU = syscall.EBADF, 1 // not Recv's to set
			m.lent = append(m.lent, pkts[i].Bytes)
		}
		return n, nil
	}
}

func (m *memory) Send(pkts []Packet) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	defer m.changed.Broadcast()
	if m.closed {
		return os.ErrClosed
	}
	if m.dead != nil {
		if err := m.dead(pkts); err != nil {
			return err
		}
	}
	for i := range pkts {
		p := &pkts[i]
		p.Err, p.MTU = 0, 1 // the MTU of what was sent means nothing
		if m.refuse != nil {
			p.Err, p.MTU = m.refuse(*p)
		}
		if p.Err == 0 {
			m.sent = append(m.sent, Packet{Bytes: bytes.Clone(p.Bytes), Peer: p.Peer})
		}
	}
	return nil
}

// limit makes the device refuse packets above mtu bytes, and tell it if told.
func (m *memory) limit(mtu int, told bool) {
	m.refuse = func(p Packet) (syscall.Errno, int) {
		switch {
		case len(p.Bytes) <= mtu:
			return 0, 0
		case told:
			return syscall.EMSGSIZE, mtu
		}
		return syscall.EMSGSIZE, 0
	}
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
	mtu   int       // larger packets are refused; 0 for none
}

func (e *endless) add(b []byte, from netip.AddrPort) {
	e.batch = append(e.batch, Packet{Bytes: b, Peer: from})
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

func (e *endless) Send(pkts []Packet) error {
	for i := range pkts {
		pkts[i].Err = 0
		if e.mtu > 0 && len(pkts[i].Bytes) > e.mtu {
			pkts[i].Err, pkts[i].MTU = syscall.EMSGSIZE, e.mtu
		}
	}
	return nil
}
