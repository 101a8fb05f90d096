package dataplane

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// bench is a Forwarder between two memory devices.
type bench struct {
	*Forwarder
	in, out *memory
}

func toPeers(routes ...Route) bench {
	b := fromPeers()
	b.Routes = &Table{}
	b.Routes.Replace(routes)
	return b
}

func fromPeers() bench {
	in, out := newMemory(), newMemory()
	return bench{&Forwarder{In: in, Out: out}, in, out}
}

// run forwards what has been put into in until Recv fails for good, with
// os.ErrClosed unless an earlier error did it.
func (b bench) run(t *testing.T) error {
	t.Helper()
	b.in.arrive(received{err: os.ErrClosed})
	return b.Run(t.Context())
}

func TestForwardToPeers(t *testing.T) {
	b := toPeers(route("10.5.2.0/24", "192.0.2.2"), route("10.5.3.0/24", "192.0.2.3"), route("10.5.4.0/24", ""))
	to := func(dst string, ttl uint8) []byte {
		return packet(header{src: "10.5.1.2", dst: dst, ttl: ttl, proto: protoUDP, payload: 40})
	}
	damaged := to("10.5.2.9", 64)
	damaged[10]++
	b.in.put(
		to("10.5.2.9", 64),
		to("10.5.9.9", 64), // answered
		append(to("10.5.3.9", 2), "trailer"...),
		to("10.5.2.9", 1),
		to("10.5.9.9", 1), // answered: no route, whatever the TTL
		packet(header{src: "10.5.1.2", dst: "10.5.9.9", ttl: 64, proto: protoICMP}),
		to("10.5.4.4", 64), // answered: unreachable route
		damaged,
		[]byte{0x60, 1, 2},
		[]byte{0x45},
		nil,
		to("10.5.3.1", 64),
	)
	if err := b.run(t); !errors.Is(err, os.ErrClosed) {
		t.Fatal(err)
	}
	want := []struct{ peer, dst string }{{"192.0.2.2:8285", "10.5.2.9"}, {"192.0.2.3:8285", "10.5.3.9"}, {"192.0.2.3:8285", "10.5.3.1"}}
	if len(b.out.sent) != len(want) {
		t.Fatalf("sent %d packets, want %d", len(b.out.sent), len(want))
	}
	for i, p := range b.out.sent {
		ttl := []uint8{63, 1, 63}[i]
		if p.Peer.String() != want[i].peer || !bytes.Equal(p.Bytes, to(want[i].dst, ttl)) {
			t.Errorf("packet %d to %s: % x", i, p.Peer, p.Bytes)
		}
	}
	if len(b.in.sent) != 3 {
		t.Fatalf("%d answers, want 3", len(b.in.sent))
	}
	for i, original := range [][]byte{to("10.5.9.9", 64), to("10.5.9.9", 1), to("10.5.4.4", 64)} {
		answer, reason := ParseIPv4(b.in.sent[i].Bytes)
		if reason != NotDropped || answer.Src() != IPv4(original).Dst() || answer.Dst().String() != "10.5.1.2" || answer[20] != 3 || answer[21] != 0 {
			t.Errorf("answer %d: % x", i, answer)
		}
		if !bytes.Equal(answer[28:], original[:28]) {
			t.Errorf("answer %d quotes % x, not the packet as it came", i, answer[28:])
		}
	}
	checkStats(t, b, Stats{
		Received: 12, Sent: 3, SentBytes: 180, Batches: 1, Replies: 3,
		Dropped: [numReasons]uint64{NoRoute: 4, TTLExceeded: 1, BadChecksum: 1, NotIPv4: 1, Truncated: 2},
	})
}

func TestForwardFromPeers(t *testing.T) {
	b := fromPeers()
	b.in.put(simple(64), simple(1), simple(0), simple(2))
	b.in.put([]byte("junk"), simple(255))
	if err := b.run(t); !errors.Is(err, os.ErrClosed) {
		t.Fatal(err)
	}
	for i, ttl := range []uint8{63, 1, 254} {
		if !bytes.Equal(b.out.sent[i].Bytes, simple(ttl)) {
			t.Errorf("packet %d: % x", i, b.out.sent[i].Bytes)
		}
	}
	checkStats(t, b, Stats{
		Received: 6, Sent: 3, SentBytes: 150, Batches: 2,
		Dropped: [numReasons]uint64{TTLExceeded: 2, NotIPv4: 1},
	})
	if len(b.in.sent) != 0 {
		t.Error("a peer was answered")
	}
}

// A batch larger than the forwarder's own loses nothing, nor the order.
func TestLargeBatch(t *testing.T) {
	b := toPeers(route("10.5.2.0/24", "192.0.2.2"))
	var pkts [][]byte
	for i := range 3*batchSize + 7 {
		pkts = append(pkts, packet(header{src: "10.5.1.2", dst: "10.5.2.9", ttl: 64, payload: i}))
	}
	b.in.put(pkts...)
	b.run(t)
	if len(b.out.sent) != len(pkts) {
		t.Fatalf("sent %d, want %d", len(b.out.sent), len(pkts))
	}
	for i, p := range b.out.sent {
		if len(p.Bytes) != minHeader+i {
			t.Fatalf("packet %d has %d bytes", i, len(p.Bytes))
		}
	}
}

// A full batch without routes is answered whole.
func TestLargeBatchOfAnswers(t *testing.T) {
	b := toPeers()
	for range 2 {
		var pkts [][]byte
		for range batchSize {
			pkts = append(pkts, simple(64))
		}
		b.in.put(pkts...)
	}
	b.run(t)
	if n := b.Stats().Replies; n != 2*batchSize {
		t.Errorf("%d answers", n)
	}
}

func TestTransientErrors(t *testing.T) {
	b := toPeers(route("10.5.2.0/24", "192.0.2.2"), route("10.5.3.0/24", "192.0.2.3"))
	to := func(n byte) []byte {
		return packet(header{src: "10.5.1.2", dst: "10.5." + itoa(int(n)) + ".1", ttl: 64})
	}
	b.out.sendErr = func(p Packet) error {
		if p.Peer.Addr().String() == "192.0.2.3" {
			return Transient(syscall.ENOBUFS)
		}
		return nil
	}
	b.in.sendErr = func(Packet) error { return fmt.Errorf("wrapped: %w", Transient(syscall.EIO)) }
	b.in.put(to(3), to(2), to(3), to(3), to(2), to(9), to(3))
	b.in.arrive(received{err: Transient(syscall.ECONNREFUSED)})
	b.in.put(to(2))
	if err := b.run(t); !errors.Is(err, os.ErrClosed) {
		t.Fatal(err)
	}
	checkStats(t, b, Stats{
		Received: 8, Sent: 3, SentBytes: 60, Batches: 2, RecvErrors: 1,
		Dropped: [numReasons]uint64{SendFailed: 5, NoRoute: 1},
	})
}

func TestFinalErrors(t *testing.T) {
	dead := errors.New("read tun flannel0: the interface is gone")
	t.Run("Recv", func(t *testing.T) {
		b := fromPeers()
		b.in.arrive(received{err: dead})
		if err := b.Run(t.Context()); err != dead {
			t.Error(err)
		}
	})
	t.Run("Send", func(t *testing.T) {
		b := fromPeers()
		n := 0
		b.out.sendErr = func(Packet) error {
			if n++; n == 3 {
				return dead
			}
			return nil
		}
		b.in.put(simple(64), simple(64), simple(64), simple(64))
		if err := b.Run(t.Context()); err != dead {
			t.Error(err)
		}
		if s := b.Stats(); s.Sent != 2 || s.SentBytes != 100 || s.Received != 4 {
			t.Errorf("%+v", s)
		}
	})
	t.Run("answer", func(t *testing.T) {
		b := toPeers()
		b.in.sendErr = func(Packet) error { return dead }
		b.in.put(simple(64))
		if err := b.Run(t.Context()); err != dead {
			t.Error(err)
		}
	})
	t.Run("nothing but transient errors", func(t *testing.T) {
		b := fromPeers()
		for range maxRecvErrors + 1 {
			b.in.arrive(received{err: Transient(syscall.ENOMEM)})
		}
		err := b.Run(t.Context())
		if want := fmt.Sprintf("receive: %d errors in a row", maxRecvErrors+1); !errors.Is(err, syscall.ENOMEM) || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %s", err, want)
		}
	})
	t.Run("transient errors between packets", func(t *testing.T) {
		b := fromPeers()
		for range maxRecvErrors + 1 {
			b.in.arrive(received{err: Transient(syscall.ENOMEM)})
			b.in.put(simple(64))
		}
		if err := b.run(t); !errors.Is(err, os.ErrClosed) {
			t.Error(err)
		}
	})
	t.Run("closed before", func(t *testing.T) {
		b := fromPeers()
		b.in.Close()
		if err := b.Run(t.Context()); !errors.Is(err, os.ErrClosed) {
			t.Error(err)
		}
	})
	t.Run("deadline of somebody else", func(t *testing.T) {
		b := fromPeers()
		b.in.arrive(received{err: os.ErrDeadlineExceeded})
		if err := b.Run(t.Context()); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Error(err)
		}
	})
}

// Run ends with its context, whether it waits or is busy, leaves no goroutine
// behind, and may be called again.
func TestRunEndsWithContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := fromPeers()
		for range 3 {
			ctx, cancel := context.WithCancel(t.Context())
			result := make(chan error)
			go func() { result <- b.Run(ctx) }()
			synctest.Wait() // blocked in Recv
			b.in.put(simple(64))
			synctest.Wait()
			cancel()
			if err := <-result; err != nil {
				t.Error(err)
			}
		}
		if n := len(b.out.sent); n != 3 {
			t.Errorf("sent %d, want 3", n)
		}

		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		b.in.put(simple(64))
		if err := b.Run(ctx); err != nil {
			t.Error(err)
		}
	})
}

// hesitant is a Device that takes its time to set a deadline.
type hesitant struct {
	*memory
	set atomic.Int32
}

func (h *hesitant) SetReadDeadline(t time.Time) error {
	err := h.memory.SetReadDeadline(t)
	time.Sleep(time.Second)
	h.set.Add(1)
	return err
}

// Run does not touch its devices any more once it has returned.
func TestRunJoinsDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := fromPeers()
		in := &hesitant{memory: b.in}
		b.In = in
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		if err := b.Run(ctx); err != nil {
			t.Error(err)
		}
		if n := in.set.Load(); n != 2 {
			t.Errorf("Run returned after %d deadlines of 2 were set", n)
		}
	})
}

// Whatever comes in, every packet is sent or counted as dropped, and what is
// sent is a right packet with some TTL left.
func FuzzForwarder(f *testing.F) {
	f.Add(simple(64), simple(1), true)
	f.Add([]byte{0x45, 0, 0, 19}, []byte{}, false)
	f.Fuzz(func(t *testing.T, first, second []byte, right bool) {
		if right && len(first) >= minHeader { // let the fuzzer's packets through
			seal(first)
		}
		for _, b := range []bench{toPeers(route("10.5.0.0/16", "192.0.2.2"), route("128.0.0.0/1", "192.0.2.3")), fromPeers()} {
			b.in.put(bytes.Clone(first), bytes.Clone(second))
			b.run(t)
			s := b.Stats()
			total := s.Sent
			for _, n := range s.Dropped {
				total += n
			}
			if s.Received != 2 || total != 2 || s.Sent != uint64(len(b.out.sent)) || s.Replies != uint64(len(b.in.sent)) {
				t.Fatalf("%+v", s)
			}
			for _, p := range b.out.sent {
				ip, reason := ParseIPv4(p.Bytes)
				if reason != NotDropped || len(ip) != len(p.Bytes) || ip.TTL() == 0 {
					t.Errorf("sent % x: %v", p.Bytes, reason)
				}
			}
		}
	})
}

// A context that ends while packets keep coming.
func TestRunEndsWhileBusy(t *testing.T) {
	b := fromPeers()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	e := &endless{memory: b.in, left: -1}
	e.add(simple(64))
	b.In, b.Out = e, e
	if err := b.Run(ctx); err != nil {
		t.Error(err)
	}
}

func TestNoAllocations(t *testing.T) {
	for _, n := range []int{2, 10000} {
		f, e := loaded(n)
		e.left = -1
		e.add(packet(header{src: "10.5.1.2", dst: "172.16.0.1", ttl: 64, proto: protoUDP}))
		var b batch
		if allocs := testing.AllocsPerRun(1000, func() {
			if err := f.round(&b); err != nil {
				t.Fatal(err)
			}
		}); allocs != 0 {
			t.Errorf("%v allocations per batch", allocs)
		}
		if s := f.Stats(); s.Replies == 0 || s.Sent == 0 {
			t.Errorf("nothing was measured: %+v", s)
		}
	}
}

// loaded returns a forwarder with n peers between endless devices that give 32
// packets at a time.
func loaded(n int) (*Forwarder, *endless) {
	routes := peers(n)
	e := &endless{memory: newMemory()}
	for i := range 32 {
		dst := routes[i*31%n].Subnet.Addr().Next().String()
		e.add(packet(header{src: "10.5.1.2", dst: dst, ttl: 64, proto: protoUDP, payload: 1400}))
	}
	f := &Forwarder{In: e, Out: e, Routes: &Table{}}
	f.Routes.Replace(routes)
	return f, e
}

func BenchmarkForwarder(b *testing.B) {
	for _, n := range []int{2, 10000} {
		b.Run("peers/"+itoa(n), func(b *testing.B) {
			f, e := loaded(n)
			b.SetBytes(int64(len(e.batch[0].Bytes)))
			b.ReportAllocs()
			e.left = b.N/len(e.batch) + 1
			if err := f.Run(b.Context()); !errors.Is(err, os.ErrClosed) {
				b.Fatal(err)
			}
		})
	}
}

func TestReasonStrings(t *testing.T) {
	seen := map[string]bool{}
	for r := range numReasons {
		if s := r.String(); s == "unknown" || seen[s] {
			t.Errorf("reason %d is %q", r, s)
		} else {
			seen[s] = true
		}
	}
}

func checkStats(t *testing.T, b bench, want Stats) {
	t.Helper()
	if got := b.Stats(); got != want {
		t.Errorf("stats %+v\nwant  %+v", got, want)
	}
}
