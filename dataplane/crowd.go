package dataplane

import (
	"net/netip"
	"time"
)

const (
	// crowdTime is how long packets must have been waiting all the time for
	// more to come than can be carried. It is what a loop may be off its
	// processor for.
	crowdTime = 10 * time.Millisecond

	// crowdGap is how far apart two looks are at most for packets to have been
	// waiting all the time in between.
	crowdGap = 5 * crowdTime

	// crowdHold is how long that is held to be so after it was seen.
	crowdHold = time.Second

	// peerMemory is how long a packet from a peer shows that peers are known by
	// their addresses. Where address translation hides those of all, none ever
	// comes.
	peerMemory = time.Minute

	// What strangers may send into a crowd, in packets. One that goes on to a pod
	// which has no use for it costs 10 us, so this is 4 % of a processor, and
	// 46 Mbit/s of full packets.
	strangersPerSecond = 4000
	strangersBurst     = 100
)

// A crowd lets peers go first while more comes from the underlay than can be
// carried: a packet of a stranger, which may well be junk, costs fifty times as
// much as one of a TCP stream that is written in a superpacket. The queue in
// the kernel has no order but that of arrival.
type crowd struct {
	since    time.Time // packets have been waiting at each look; the zero value if not
	until    time.Time // it is crowded
	asked    time.Time // the device, whether packets wait
	refilled time.Time // budget
	peerSeen time.Time

	peer   bool    // one has sent something since the last look
	strict bool    // strangers have the budget only
	budget float64 // packets
}

// A queue is a Device with something to say about what waits to be received.
type queue interface {
	// Waiting reports whether packets wait behind those of the last Recv.
	Waiting() bool
	// Restrict has the kernel turn away what does not come from these addresses, but
	// for one datagram of SampleOf. No peers end that.
	Restrict(peers []netip.Addr) error
}

// look is called once for each batch, before its packets are admitted.
func (c *crowd) look(now time.Time, q queue) {
	if c.peer {
		c.peer, c.peerSeen = false, now
	}
	if gap := now.Sub(c.asked); gap >= crowdTime/10 {
		c.asked = now
		if gap > crowdGap {
			c.since = time.Time{} // nothing came meanwhile
		}
		switch {
		case !q.Waiting():
			c.since = time.Time{}
		case c.since.IsZero():
			c.since = now
		case now.Sub(c.since) >= crowdTime:
			c.until = now.Add(crowdHold)
		}
	}
	c.strict = now.Before(c.until) && c.knowsPeers(now)
	if c.strict {
		c.budget = min(strangersBurst, c.budget+now.Sub(c.refilled).Seconds()*strangersPerSecond)
		c.refilled = now
	}
}

// knowsPeers reports whether peers are known by their addresses.
func (c *crowd) knowsPeers(now time.Time) bool { return now.Sub(c.peerSeen) < peerMemory }

// admit reports whether the packet of a stranger, or a peer, may go on.
func (c *crowd) admit(stranger bool) bool {
	switch {
	case !stranger:
		c.peer = true
	case !c.strict:
	case c.budget < 1:
		return false
	default:
		c.budget--
	}
	return true
}
