package dataplane

import (
	"errors"
	"net/netip"
	"os"
	"testing"
)

func TestReasonStrings(t *testing.T) {
	seen := map[string]bool{}
	for r := range numReasons {
		if s := r.String(); s == "unknown" || s == "" || seen[s] {
			t.Errorf("reason %d is %q", r, s)
		} else {
			seen[s] = true
		}
	}
	for _, r := range []Reason{numReasons, 255} {
		if s := r.String(); s != "unknown" {
			t.Errorf("reason %d is %q, want unknown", r, s)
		}
	}
}

func TestBatchSizes(t *testing.T) {
	// The largest batch of each element, in words of its doc comment.
	bounds := [...]int{1, 2, 4, 8, 16, 32, 64, 128}
	for n := 1; n <= 4*batchSize; n++ {
		want := len(bounds)
		for i, bound := range bounds {
			if n <= bound {
				want = i
				break
			}
		}
		var got, expected BatchSizes
		got.sized(n)
		if expected[want] = 1; got != expected {
			t.Errorf("batch of %d: %v, want element %d", n, got, want)
		}
	}
}

// Who reads while packets are forwarded sees counters that only grow, and at
// the end the exact ones.
func TestStatsWhileRunning(t *testing.T) {
	const rounds = 3000
	f, e := loaded(2, true)
	e.left = rounds
	e.add(packet(header{src: "10.0.1.1", dst: "172.16.1.2", ttl: 64}), netip.MustParseAddrPort("203.0.113.9:8285"))
	result := make(chan error, 1)
	go func() { result <- f.Run(t.Context()) }()
	var last Stats
	for done := false; !done; {
		select {
		case err := <-result:
			if !errors.Is(err, os.ErrClosed) {
				t.Fatal(err)
			}
			done = true
		default:
		}
		s := f.Stats()
		if s.Received < last.Received || s.SentBytes < last.SentBytes || s.Batches < last.Batches ||
			s.BatchSizes[6] < last.BatchSizes[6] || s.Dropped[UnknownPeer] < last.Dropped[UnknownPeer] {
			t.Fatalf("%+v\nafter %+v", s, last)
		}
		last = s
	}
	size := uint64(len(e.batch[0].Bytes))
	want := Stats{Received: 33 * rounds, ReceivedBytes: (32*size + minHeader) * rounds, Sent: 32 * rounds, SentBytes: 32 * size * rounds,
		Batches: rounds, BatchSizes: BatchSizes{6: rounds}, Dropped: Reasons{UnknownPeer: rounds}}
	if last != want {
		t.Errorf("stats %+v\nwant  %+v", last, want)
	}
}

// Each counter ends up in the field of its name, and in no other.
func TestIOCounters(t *testing.T) {
	var c IOCounters
	c.Recvs.Add(1)
	c.RecvSupers.Add(2)
	c.RecvSegments.Add(3)
	c.RecvMalformed.Add(4)
	c.Sends.Add(5)
	c.SendSupers.Add(6)
	c.SendSegments.Add(7)
	c.Fallbacks.Add(8)
	want := IOStats{Recvs: 1, RecvSupers: 2, RecvSegments: 3, RecvMalformed: 4, Sends: 5, SendSupers: 6, SendSegments: 7, Fallbacks: 8}
	if got := c.Snapshot(); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
}
