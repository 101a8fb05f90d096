package dataplane

import "sync/atomic"

// Reason says why a packet was dropped.
type Reason uint8

const (
	NotDropped  Reason = iota
	Truncated          // fewer bytes than an IPv4 header, or than its total length
	NotIPv4            // another version, such as IPv6 that the kernel sends on every link
	BadHeader          // header length below 20 bytes or above the total length
	BadChecksum        // of the IPv4 header
	TTLExceeded        // the TTL would reach 0
	NoRoute            // no peer has the destination
	SendFailed         // the device refused it with a Transient error
	numReasons
)

// String returns the reason in the snake case of a metrics label.
func (r Reason) String() string {
	switch r {
	case NotDropped:
		return "not_dropped"
	case Truncated:
		return "truncated"
	case NotIPv4:
		return "not_ipv4"
	case BadHeader:
		return "bad_header"
	case BadChecksum:
		return "bad_checksum"
	case TTLExceeded:
		return "ttl_exceeded"
	case NoRoute:
		return "no_route"
	case SendFailed:
		return "send_failed"
	}
	return "unknown"
}

// Stats counts what a Forwarder has done since it was made.
type Stats struct {
	Received   uint64             // packets
	Sent       uint64             // packets
	SentBytes  uint64             // of inner packets
	Batches    uint64             // successful calls of Recv
	Replies    uint64             // ICMP errors sent back
	RecvErrors uint64             // Transient errors of Recv
	Dropped    [numReasons]uint64 // packets, by Reason; SendFailed counts lost replies too
}

// counters is the shared form of Stats: written once per batch by the
// forwarder's goroutine, read by any.
type counters struct {
	_                                                     cacheLine
	received, sent, sentBytes, batches, replies, recvErrs atomic.Uint64
	dropped                                               [numReasons]atomic.Uint64
	_                                                     cacheLine
}

// cacheLine keeps the counters of two directions off each other's cache
// lines, on every architecture.
type cacheLine [256]byte

// add adds what one round did.
func (c *counters) add(s *Stats) {
	add := func(to *atomic.Uint64, n uint64) {
		if n != 0 {
			to.Add(n)
		}
	}
	add(&c.received, s.Received)
	add(&c.sent, s.Sent)
	add(&c.sentBytes, s.SentBytes)
	add(&c.batches, s.Batches)
	add(&c.replies, s.Replies)
	add(&c.recvErrs, s.RecvErrors)
	for i := range s.Dropped {
		add(&c.dropped[i], s.Dropped[i])
	}
}

func (c *counters) snapshot() Stats {
	s := Stats{
		Received:   c.received.Load(),
		Sent:       c.sent.Load(),
		SentBytes:  c.sentBytes.Load(),
		Batches:    c.batches.Load(),
		Replies:    c.replies.Load(),
		RecvErrors: c.recvErrs.Load(),
	}
	for i := range s.Dropped {
		s.Dropped[i] = c.dropped[i].Load()
	}
	return s
}
