package dataplane

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// batchSize is how many packets a round moves at most.
const batchSize = 128

// maxRecvErrors is how many Transient errors in a row a device may give
// before it counts as dead: a loop that only fails must not spin for ever.
const maxRecvErrors = 1000

// A Forwarder carries packets from one Device to another, as a router does:
// it checks the header, finds the next hop and counts the TTL down. One loop
// serves both directions:
//
//	toPeers   := &Forwarder{In: tun, Out: socket, Routes: table}
//	fromPeers := &Forwarder{In: socket, Out: tun}
//
// Per packet it takes no lock, sends on no channel and allocates nothing; what
// cannot be forwarded is counted and dropped, and logged nowhere.
type Forwarder struct {
	In, Out Device
	// Routes finds the peers to send to and lets packets without one be
	// answered with ICMP net unreachable, into In. It is nil where Out needs
	// no peer.
	Routes *Table

	count counters
}

// Stats returns the counters. It may be called at any time; what one round did
// appears at its end.
func (f *Forwarder) Stats() Stats { return f.count.snapshot() }

// Run forwards until ctx ends, and then returns nil, or until a device fails
// for good. It does not close the devices, and may be called again, but not
// concurrently.
func (f *Forwarder) Run(ctx context.Context) error {
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
	pkts    [batchSize]Packet
	replies [batchSize]Packet
	icmp    [batchSize][MaxICMPError]byte
	stats   Stats // of the current round
}

// round receives one batch and sends what is to be sent of it. A Transient
// error is always one of Recv.
func (f *Forwarder) round(b *batch) error {
	b.stats = Stats{}
	defer f.count.add(&b.stats)

	n, err := f.In.Recv(b.pkts[:])
	if err != nil {
		if isTransient(err) {
			b.stats.RecvErrors++
		}
		return err
	}
	b.stats.Batches++
	b.stats.Received += uint64(n)

	// Packets that go on move to the front, over those that were dropped.
	out, replies := b.pkts[:0], b.replies[:0]
	for _, p := range b.pkts[:n] {
		reason := f.prepare(&p)
		if reason == NotDropped {
			out = append(out, p)
			continue
		}
		b.stats.Dropped[reason]++
		if reason == NoRoute {
			buf := &b.icmp[len(replies)]
			if n := unreachable(buf[:], p.Bytes); n > 0 {
				replies = append(replies, Packet{Bytes: buf[:n]})
			}
		}
	}
	sent, bytes, err := b.send(f.Out, out)
	b.stats.Sent += sent
	b.stats.SentBytes += bytes
	if err != nil || len(replies) == 0 {
		return err
	}
	sent, _, err = b.send(f.In, replies)
	b.stats.Replies += sent
	return err
}

// prepare makes p ready to be sent, or says why it must be dropped. The order
// is that of a router: a packet without a route is answered as it came.
func (f *Forwarder) prepare(p *Packet) Reason {
	ip, reason := ParseIPv4(p.Bytes)
	if reason != NotDropped {
		return reason
	}
	p.Bytes = ip
	if f.Routes != nil {
		peer, ok := f.Routes.Lookup(ip.Dst())
		if !ok {
			return NoRoute
		}
		p.Peer = peer
	}
	if !ip.DecrementTTL() {
		return TTLExceeded
	}
	return NotDropped
}

// send sends pkts, skipping those that the device refuses, and returns how
// many packets and bytes went out.
func (b *batch) send(d Device, pkts []Packet) (sent, bytes uint64, err error) {
	for len(pkts) > 0 {
		n, err := d.Send(pkts)
		for _, p := range pkts[:n] {
			bytes += uint64(len(p.Bytes))
		}
		sent += uint64(n)
		if n == len(pkts) {
			return sent, bytes, nil
		}
		if !isTransient(err) {
			return sent, bytes, err
		}
		b.stats.Dropped[SendFailed]++
		pkts = pkts[n+1:]
	}
	return sent, bytes, nil
}

// unreachable writes the ICMP error about a packet without a route into buf
// and returns its length, 0 if there is to be none.
//
// It comes from the address that the packet was sent to. The TUN's own one,
// which flannel v0.10 puts in, is an address of this host, and the kernel
// drops what claims to come from itself (fib_validate_source). The destination
// is none, or the packet had not come out of the TUN, and the route back to it
// is the way the packet took, which pleases rp_filter.
func unreachable(buf []byte, offender IPv4) int {
	return NetUnreachable().Put(buf, offender.Dst(), offender)
}

func isTransient(err error) bool {
	_, ok := errors.AsType[Transient](err)
	return ok
}
