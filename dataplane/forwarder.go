package dataplane

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"sync/atomic"
	"syscall"
	"time"
)

// batchSize is how many packets a round moves at most: three times the 44
// packets of an Ethernet that fit into one UDP_SEGMENT send. Larger batches
// leave the cache.
const batchSize = 132

// maxRecvErrors is how many Transient errors in a row a device may give
// before it counts as dead: a loop that only fails must not spin for ever.
const maxRecvErrors = 1000

// A Forwarder carries packets from one Device to another, as a router does:
// it checks the header, finds the next hop and counts the TTL down. One loop
// serves both directions:
//
//	toPeers   := &Forwarder{In: tun, Out: socket, Routes: table}
//	fromPeers := &Forwarder{In: socket, Out: tun, Guard: guard}
//
// Per packet it takes no lock, sends on no channel and allocates nothing; what
// cannot be forwarded is counted and dropped, and logged nowhere.
type Forwarder struct {
	In, Out Device
	// Routes finds the peers to send to and lets packets without one be
	// answered with ICMP net unreachable, into In. It is nil where Out needs
	// no peer.
	Routes *Table
	// Guard checks packets that come from peers. It is nil where In is no
	// socket.
	Guard *Guard

	own   atomic.Pointer[netip.Addr]
	count counters
}

// Stats returns the counters. It may be called at any time; what one round did
// appears at its end.
func (f *Forwarder) Stats() Stats { return f.count.snapshot() }

// SetAddr tells the forwarder the address of this host in the network, from
// which peers get ICMP errors. It may be called while packets are forwarded.
func (f *Forwarder) SetAddr(a netip.Addr) { f.own.Store(&a) }

// Run forwards until ctx ends, and then returns nil, or until a device fails
// for good. It does not close the devices, and may be called again, but not
// concurrently.
func (f *Forwarder) Run(ctx context.Context) error {
	// The devices' system calls go past the scheduler; on a thread of its own
	// the loop is not handed from one to another all the time.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := f.In.SetReadDeadline(time.Time{}); err != nil {
		return fmt.Errorf("set read deadline: %w", err)
	}
	ended := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(ended)
		// The error can only be that the device is closed, and then Recv
		// returns as well.
		_ = f.In.SetReadDeadline(time.Unix(1, 0))
	})
	defer func() {
		if !stop() {
			<-ended
		}
	}()

	var b batch
	if f.Guard != nil {
		if b.queue, _ = f.In.(queue); b.queue != nil {
			b.gate = gate{queue: b.queue, peers: f.Guard.Peers}
			defer b.gate.end()
		}
	}
	for failed := 0; ; {
		err := f.round(&b)
		if ctx.Err() != nil {
			return nil
		}
		switch {
		case err == nil:
			failed = 0
		case isTransient(err) && failed < maxRecvErrors:
			failed++
		case isTransient(err):
			return fmt.Errorf("receive: %d errors in a row, the last is: %w", failed+1, err)
		default:
			return err
		}
	}
}

// batch is the working memory of one goroutine.
type batch struct {
	pkts  [batchSize]Packet
	stats Stats   // of the current round
	last  verdict // in the current round

	replies [batchSize]Packet
	icmp    [batchSize][MaxICMPError]byte
	unsent  int // replies in waiting
	general limiter
	bigOnes limiter // apart, because a flood of other errors must not stop path MTU discovery

	queue queue // nil if there is nothing to look at
	crowd crowd
	gate  gate

	frags   [][]byte
	fragBuf []byte
	one     [1]Packet // a fragment on its way out
}

// round receives one batch and sends what is to be sent of it. A Transient
// error is always one of Recv.
func (f *Forwarder) round(b *batch) error {
	b.stats, b.last = Stats{}, verdict{}
	defer f.count.add(&b.stats)

	n, err := f.In.Recv(b.pkts[:])
	if err != nil {
		if isTransient(err) {
			b.stats.RecvErrors++
		}
		return err
	}
	b.stats.Batches++
	b.stats.BatchSizes.sized(n)
	b.stats.Received += uint64(n)
	var now time.Time
	if b.queue != nil {
		now = time.Now()
		b.crowd.look(now, b.queue)
	}

	// Packets that go on move to the front, over those that were dropped.
	out, junk := b.pkts[:0], 0
	for i := range b.pkts[:n] {
		p := &b.pkts[i]
		b.stats.ReceivedBytes += uint64(len(p.Bytes))
		if reason := f.prepare(p, b); reason != NotDropped {
			b.stats.Dropped[reason]++
			if f.isJunk(reason, p) {
				junk++
			}
			f.answer(b, reason, p)
			continue
		}
		if len(out) < i {
			b.pkts[len(out)] = *p
		}
		out = b.pkts[:len(out)+1]
	}
	if junk > 0 && b.queue != nil {
		// What is let in of a flood has the budget of strangers in a crowd.
		b.crowd.until = later(b.crowd.until, b.gate.look(now, junk, b.crowd.knowsPeers(now)))
	}
	if err := f.send(b, out); err != nil {
		return err
	}
	return f.reply(b)
}

// isJunk reports whether a packet that is dropped is one that a restricted socket
// would not let in.
func (f *Forwarder) isJunk(reason Reason, p *Packet) bool {
	switch reason {
	case NotIPv4:
		return f.Guard != nil
	case Truncated:
		return f.Guard != nil && (len(p.Bytes) < 20 || !f.Guard.Peers.HasPeer(p.Peer.Addr()))
	case BadHeader, BadChecksum, Martian, Outside, Looping, UnknownPeer, Crowded:
		return f.Guard != nil && !f.Guard.Peers.HasPeer(p.Peer.Addr())
	}
	return false
}

// prepare makes p ready to be sent, or says why it must be dropped. The order
// is that of a router: a packet without a route is answered as it came.
func (f *Forwarder) prepare(p *Packet, b *batch) Reason {
	ip, reason := ParseIPv4(p.Bytes)
	if reason != NotDropped {
		return reason
	}
	p.Bytes = ip
	v := &b.last
	if addrs := binary.NativeEndian.Uint64(ip[12:]); !v.known || addrs != v.addrs || p.Peer != v.from {
		v.known, v.addrs, v.from = true, addrs, p.Peer
		f.judge(v, ip)
	}
	if v.drop != NotDropped {
		return v.drop
	}
	if f.Guard != nil && !b.crowd.admit(v.suspect == UnknownPeer) {
		return Crowded
	}
	if v.suspect != NotDropped {
		b.stats.Suspect[v.suspect]++
	}
	p.Peer = v.to
	if !ip.DecrementTTL() {
		return TTLExceeded
	}
	return NotDropped
}

// A verdict is what guard and routes say about a pair of addresses. Most
// packets of a batch share it with the one before.
type verdict struct {
	known bool
	addrs uint64 // source and destination, as they stand in the header
	from  netip.AddrPort

	to            netip.AddrPort
	drop, suspect Reason
}

func (f *Forwarder) judge(v *verdict, ip IPv4) {
	v.to, v.drop, v.suspect = v.from, NotDropped, NotDropped
	if f.Guard != nil {
		v.drop, v.suspect = f.Guard.admit(ip, v.from.Addr())
	}
	if f.Routes != nil && v.drop == NotDropped {
		var ok bool
		if v.to, ok = f.Routes.Lookup(ip.Dst()); !ok {
			v.drop = NoRoute
		}
	}
}

// send sends pkts and deals with those that the device refused.
func (f *Forwarder) send(b *batch, pkts []Packet) error {
	if len(pkts) == 0 {
		return nil
	}
	if err := f.Out.Send(pkts); err != nil {
		return err
	}
	for i := range pkts {
		p := &pkts[i]
		switch {
		case p.Err == 0:
			b.stats.Sent++
			b.stats.SentBytes += uint64(len(p.Bytes))
		case p.Err == syscall.EMSGSIZE && p.MTU > 0:
			if err := f.tooBig(b, p); err != nil {
				return err
			}
		default:
			b.stats.Dropped[SendFailed]++
		}
	}
	return nil
}

// tooBig deals with a packet that is larger than the path to its peer allows:
// it is cut, or its sender is told (RFC 1812, 4.2.2.7 and 4.3.3.3).
func (f *Forwarder) tooBig(b *batch, p *Packet) error {
	ip := IPv4(p.Bytes)
	if ip.DontFragment() {
		b.stats.Dropped[TooBig]++
		f.answer(b, TooBig, p)
		return nil
	}
	b.frags, b.fragBuf = ip.fragment(b.frags[:0], b.fragBuf[:0], p.MTU)
	if len(b.frags) == 0 {
		b.stats.Dropped[TooBig]++
		return nil
	}
	for _, frag := range b.frags {
		b.one[0] = Packet{Bytes: frag, Peer: p.Peer}
		if err := f.Out.Send(b.one[:]); err != nil {
			return err
		}
		if b.one[0].Err != 0 {
			b.stats.Dropped[SendFailed]++
			return nil
		}
	}
	b.stats.Fragmented++
	b.stats.Sent++
	b.stats.SentBytes += uint64(len(p.Bytes))
	return nil
}

// answer prepares the ICMP error, if there is one, about a packet that is
// dropped.
func (f *Forwarder) answer(b *batch, reason Reason, p *Packet) {
	var msg ICMPError
	limit := &b.general
	switch reason {
	case NoRoute:
		msg = NetUnreachable()
	case TTLExceeded:
		msg = TimeExceeded()
	case TooBig:
		msg, limit = FragmentationNeeded(uint16(min(p.MTU, 65535))), &b.bigOnes
	default:
		return
	}
	if f.Guard != nil && !f.Guard.Peers.HasPeer(p.Peer.Addr()) {
		return // whoever it is, we send nothing there
	}
	offender := IPv4(p.Bytes)
	buf := &b.icmp[b.unsent]
	n := msg.Put(buf[:], f.replySource(reason, offender), offender)
	if n == 0 {
		return
	}
	if !limit.allow(time.Now()) {
		b.stats.Muted++
		return
	}
	b.replies[b.unsent] = Packet{Bytes: buf[:n], Peer: p.Peer}
	b.unsent++
}

// replySource is the address that an ICMP error comes from.
//
// Peers are answered by this host's own address. Into the TUN that cannot be:
// the kernel drops what claims to come from the host itself
// (fib_validate_source), so with flannel v0.10 no such answer is ever seen.
// There an address answers that has the packet's way ahead of it: the far
// end's where there is a peer, else the destination itself. The route back to
// it is the TUN, which pleases rp_filter.
func (f *Forwarder) replySource(reason Reason, offender IPv4) netip.Addr {
	switch own := f.own.Load(); {
	case f.Routes == nil && own != nil:
		return *own
	case f.Routes == nil || reason == NoRoute:
		return offender.Dst()
	}
	if a := f.Routes.firstBeside(offender.Dst()); isOneHost(a) {
		return a
	}
	return offender.Dst() // of a route such as 0.0.0.0/0
}

// reply sends the answers of a round back to where its packets came from.
func (f *Forwarder) reply(b *batch) error {
	replies := b.replies[:b.unsent]
	b.unsent = 0
	if len(replies) == 0 {
		return nil
	}
	if err := f.In.Send(replies); err != nil {
		return err
	}
	for i := range replies {
		if replies[i].Err != 0 {
			b.stats.Dropped[SendFailed]++
			continue
		}
		b.stats.Replies++
	}
	return nil
}

func isTransient(err error) bool {
	_, ok := errors.AsType[Transient](err)
	return ok
}
