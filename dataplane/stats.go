package dataplane

import (
	"math/bits"
	"sync/atomic"
)

// Reason says why a packet was dropped.
type Reason uint8

const (
	NotDropped    Reason = iota
	Truncated            // fewer bytes than an IPv4 header, or than its total length
	NotIPv4              // another version, such as IPv6 that the kernel sends on every link
	BadHeader            // header length below 20 bytes or above the total length
	BadChecksum          // of the IPv4 header
	Martian              // from a peer: source or destination that no network has, such as 127.0.0.1
	Outside              // from a peer: the destination is not in the network
	Looping              // from a peer: our own packet, or one that would go back to where it came from
	UnknownPeer          // from an address that is no peer's (SourceCheck)
	ForeignSource        // from a peer: the source is not in the peer's subnet (SourceCheck)
	Crowded              // not from a peer's address, while more comes than can be carried
	TTLExceeded          // the TTL would reach 0
	NoRoute              // no peer has the destination
	TooBig               // larger than the path MTU, and not to be fragmented
	SendFailed           // the device refused it
	numReasons
)

var reasonNames = [numReasons]string{
	NotDropped:    "not_dropped",
	Truncated:     "truncated",
	NotIPv4:       "not_ipv4",
	BadHeader:     "bad_header",
	BadChecksum:   "bad_checksum",
	Martian:       "martian",
	Outside:       "outside",
	Looping:       "looping",
	UnknownPeer:   "unknown_peer",
	ForeignSource: "foreign_source",
	Crowded:       "crowded",
	TTLExceeded:   "ttl_exceeded",
	NoRoute:       "no_route",
	TooBig:        "too_big",
	SendFailed:    "send_failed",
}

// String returns the reason in the snake case of a metrics label.
func (r Reason) String() string {
	if r < numReasons {
		return reasonNames[r]
	}
	return "unknown"
}

// Reasons counts packets by Reason.
type Reasons [numReasons]uint64

// BatchSizes counts batches by their number of packets: element i has those of
// up to 1<<i packets that are in no element before, the last one all larger
// ones.
type BatchSizes [9]uint64

// Stats counts what a Forwarder has done since it was made.
type Stats struct {
	Received      uint64     // packets
	ReceivedBytes uint64     // of inner packets, valid or not
	Sent          uint64     // packets
	SentBytes     uint64     // of inner packets
	Batches       uint64     // successful calls of Recv
	BatchSizes    BatchSizes // received packets per batch
	Replies       uint64     // ICMP errors sent back
	Muted         uint64     // ICMP errors not sent because of the rate limit
	Fragmented    uint64     // packets sent in fragments
	RecvErrors    uint64     // Transient errors of Recv
	Dropped       Reasons    // packets; SendFailed counts lost replies too
	Suspect       Reasons    // packets that passed, but that the strict SourceCheck drops for this reason
}

// IOStats counts the system calls of a Device and how well they are used. A
// superpacket stands for several packets of one flow, its segments.
type IOStats struct {
	Recvs         uint64 // calls that brought something
	RecvSupers    uint64 // superpackets received
	RecvSegments  uint64 // packets that were cut out of them
	RecvMalformed uint64 // superpackets dropped because they make no sense
	Overflows     uint64 // buffers that the kernel dropped, because the receive buffer was full or a filter was set; each holds up to 128 datagrams
	Sends         uint64 // calls that took something
	SendSupers    uint64 // superpackets sent
	SendSegments  uint64 // packets that were merged into them
	Restrictions  uint64 // times that a filter was set that keeps junk out of the socket
	Fallbacks     uint64 // times that an offload was refused and its packets were sent without
}

// IOCounters is the shared form of the counters that IOStats has.
type IOCounters struct {
	_                                              cacheLine
	Recvs, RecvSupers, RecvSegments, RecvMalformed atomic.Uint64
	_                                              cacheLine
	Sends, SendSupers, SendSegments, Fallbacks     atomic.Uint64
	Restrictions                                   atomic.Uint64
	_                                              cacheLine
}

// Snapshot returns the present values; Overflows is not among them.
func (c *IOCounters) Snapshot() IOStats {
	return IOStats{
		Recvs:         c.Recvs.Load(),
		RecvSupers:    c.RecvSupers.Load(),
		RecvSegments:  c.RecvSegments.Load(),
		RecvMalformed: c.RecvMalformed.Load(),
		Sends:         c.Sends.Load(),
		SendSupers:    c.SendSupers.Load(),
		SendSegments:  c.SendSegments.Load(),
		Restrictions:  c.Restrictions.Load(),
		Fallbacks:     c.Fallbacks.Load(),
	}
}

// counters is the shared form of Stats: written once per batch by the
// forwarder's goroutine, read by any.
type counters struct {
	_                       cacheLine
	received, receivedBytes atomic.Uint64
	sent, sentBytes         atomic.Uint64
	batches, replies, muted atomic.Uint64
	fragmented, recvErrs    atomic.Uint64
	batchSizes              [len(BatchSizes{})]atomic.Uint64
	dropped, suspect        [numReasons]atomic.Uint64
	_                       cacheLine
}

// cacheLine keeps the counters of two directions off each other's cache
// lines, on every architecture.
type cacheLine [256]byte

// add adds what one round did. Adding is dear beside the rest of a round of
// one packet, so what is 0 is left out.
func (c *counters) add(s *Stats) {
	add := func(to *atomic.Uint64, n uint64) {
		if n != 0 {
			to.Add(n)
		}
	}
	add(&c.received, s.Received)
	add(&c.receivedBytes, s.ReceivedBytes)
	add(&c.sent, s.Sent)
	add(&c.sentBytes, s.SentBytes)
	add(&c.batches, s.Batches)
	add(&c.replies, s.Replies)
	add(&c.muted, s.Muted)
	add(&c.fragmented, s.Fragmented)
	add(&c.recvErrs, s.RecvErrors)
	for i := range s.BatchSizes {
		add(&c.batchSizes[i], s.BatchSizes[i])
	}
	for i := range s.Dropped {
		add(&c.dropped[i], s.Dropped[i])
		add(&c.suspect[i], s.Suspect[i])
	}
}

func (c *counters) snapshot() Stats {
	s := Stats{
		Received:      c.received.Load(),
		ReceivedBytes: c.receivedBytes.Load(),
		Sent:          c.sent.Load(),
		SentBytes:     c.sentBytes.Load(),
		Batches:       c.batches.Load(),
		Replies:       c.replies.Load(),
		Muted:         c.muted.Load(),
		Fragmented:    c.fragmented.Load(),
		RecvErrors:    c.recvErrs.Load(),
	}
	for i := range s.BatchSizes {
		s.BatchSizes[i] = c.batchSizes[i].Load()
	}
	for i := range s.Dropped {
		s.Dropped[i] = c.dropped[i].Load()
		s.Suspect[i] = c.suspect[i].Load()
	}
	return s
}

// sized counts a batch of n packets.
func (b *BatchSizes) sized(n int) {
	b[min(bits.Len(uint(n-1)), len(b)-1)]++
}
