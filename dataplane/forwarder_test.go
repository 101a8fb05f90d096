package dataplane

import (
	"bytes"
	"errors"
	"net/netip"
	"os"
	"syscall"
	"testing"
	"testing/synctest"
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

// guarded is a host with the subnet 10.5.1.0/24, the address 10.5.1.0 and two
// peers, 192.0.2.2 with 10.5.2.0/24 and 192.0.2.3 with 10.5.3.0/24.
func guarded(check SourceCheck) bench {
	b := fromPeers()
	b.Guard = &Guard{Peers: &Table{}, Check: check}
	b.Guard.Peers.Replace([]Route{route("10.5.2.0/24", "192.0.2.2"), route("10.5.3.0/24", "192.0.2.3"), route("10.5.4.0/24", "")})
	b.Guard.SetOwn(netip.MustParsePrefix("10.5.1.0/24"))
	b.SetAddr(netip.MustParseAddr("10.5.1.0"))
	return b
}

// run forwards what has been put into in until Recv fails for good, with
// os.ErrClosed unless an earlier error did it.
func (b bench) run(t *testing.T) error {
	t.Helper()
	b.in.arrive(received{err: os.ErrClosed})
	return b.Run(t.Context())
}

// runAll is run where nothing else may go wrong.
func (b bench) runAll(t *testing.T) {
	t.Helper()
	if err := b.run(t); !errors.Is(err, os.ErrClosed) {
		t.Fatal(err)
	}
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
		to("10.5.2.9", 1), // answered
		to("10.5.9.9", 1), // answered: no route, whatever the TTL
		packet(header{src: "10.5.1.2", dst: "10.5.9.9", ttl: 64, proto: protoICMP}),
		to("10.5.4.4", 64), // answered: unreachable route
		damaged,
		[]byte{0x60, 1, 2},
		[]byte{0x45},
		nil,
		to("10.5.3.1", 64),
	)
	b.runAll(t)
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
	answers := []struct {
		about []byte
		from  string
		typ   uint8
	}{
		{to("10.5.9.9", 64), "10.5.9.9", 3},
		{to("10.5.2.9", 1), "10.5.2.0", 11},
		{to("10.5.9.9", 1), "10.5.9.9", 3},
		{to("10.5.4.4", 64), "10.5.4.4", 3},
	}
	if len(b.in.sent) != len(answers) {
		t.Fatalf("%d answers, want %d", len(b.in.sent), len(answers))
	}
	for i, want := range answers {
		checkAnswer(t, b.in.sent[i], want.from, want.typ, 0, 0, want.about)
	}
	checkStats(t, b, Stats{
		Received: 12, ReceivedBytes: 511, Sent: 3, SentBytes: 180, Batches: 1, BatchSizes: BatchSizes{4: 1}, Replies: 4,
		Dropped: Reasons{NoRoute: 4, TTLExceeded: 1, BadChecksum: 1, NotIPv4: 1, Truncated: 2},
	})
}

// checkAnswer wants p to be the ICMP error about the packet as it came.
func checkAnswer(t *testing.T, p Packet, from string, typ, code uint8, rest uint32, about []byte) {
	t.Helper()
	ip, reason := ParseIPv4(p.Bytes)
	if reason != NotDropped || len(ip) < minHeader+icmpHeader {
		t.Fatalf("answer % x: %v", p.Bytes, reason)
	}
	if ip.Src().String() != from || ip.Dst() != IPv4(about).Src() {
		t.Errorf("answer from %s to %s, want from %s to %s", ip.Src(), ip.Dst(), from, IPv4(about).Src())
	}
	msg := ip[minHeader:]
	if got := toU32(netip.AddrFrom4([4]byte(msg[4:8]))); msg[0] != typ || msg[1] != code || got != rest {
		t.Errorf("answer %d/%d with %#x, want %d/%d with %#x", msg[0], msg[1], got, typ, code, rest)
	}
	if slowSum(0, msg) != 0xffff {
		t.Error("wrong checksum of the message")
	}
	if quoted := about[:min(len(about), IPv4(about).HeaderLen()+icmpQuoted)]; !bytes.Equal(msg[icmpHeader:], quoted) {
		t.Errorf("answer quotes % x, want % x", msg[icmpHeader:], quoted)
	}
}

func TestForwardFromPeers(t *testing.T) {
	b := fromPeers()
	b.in.put(simple(64), simple(1), simple(0), simple(2))
	b.in.put([]byte("junk"), simple(255))
	b.runAll(t)
	if len(b.out.sent) != 3 {
		t.Fatalf("sent %d packets, want 3", len(b.out.sent))
	}
	for i, ttl := range []uint8{63, 1, 254} {
		if !bytes.Equal(b.out.sent[i].Bytes, simple(ttl)) {
			t.Errorf("packet %d: % x", i, b.out.sent[i].Bytes)
		}
	}
	checkStats(t, b, Stats{
		Received: 6, ReceivedBytes: 254, Sent: 3, SentBytes: 150, Batches: 2, BatchSizes: BatchSizes{1: 1, 2: 1}, Replies: 2,
		Dropped: Reasons{TTLExceeded: 2, NotIPv4: 1},
	})
}

// What the guard finds is counted, and only that.
func TestForwardGuarded(t *testing.T) {
	from := func(src, dst string) []byte {
		return packet(header{src: src, dst: dst, ttl: 64, proto: protoUDP, payload: 10})
	}
	for _, tt := range []struct {
		check SourceCheck
		want  Stats
	}{
		{CheckOff, Stats{Sent: 4, SentBytes: 120,
			Dropped: Reasons{Martian: 1, Looping: 2}, Suspect: Reasons{UnknownPeer: 1, ForeignSource: 1}}},
		{CheckPeer, Stats{Sent: 3, SentBytes: 90,
			Dropped: Reasons{Martian: 1, Looping: 2, UnknownPeer: 1}, Suspect: Reasons{ForeignSource: 1}}},
		{CheckStrict, Stats{Sent: 2, SentBytes: 60,
			Dropped: Reasons{Martian: 1, Looping: 2, UnknownPeer: 1, ForeignSource: 1}}},
	} {
		t.Run(tt.check.String(), func(t *testing.T) {
			b := guarded(tt.check)
			b.in.putFrom("192.0.2.2",
				from("10.5.2.7", "10.5.1.2"),  // right
				from("10.5.3.7", "10.5.1.2"),  // of the other peer
				from("127.0.0.1", "10.5.1.2"), // martian
				from("10.5.1.7", "10.5.1.2"),  // our own
				from("10.5.2.7", "10.5.2.8"),  // back to the sender
				from("10.5.2.7", "10.5.3.8"))  // relay
			b.in.putFrom("192.0.2.9", from("10.5.2.7", "10.5.1.2"))
			b.runAll(t)
			want := tt.want
			want.Received, want.ReceivedBytes = 7, 210
			want.Batches, want.BatchSizes = 2, BatchSizes{0: 1, 3: 1}
			checkStats(t, b, want)
			if len(b.in.sent) != 0 {
				t.Error("a peer was answered")
			}
		})
	}
}

// Each batch sees the routes and the guard as they are, however like its first
// packet is to the last one before.
func TestChangesBetweenBatches(t *testing.T) {
	inBubble(t, func() bench { return toPeers(route("10.5.2.0/24", "192.0.2.2")) }, func(t *testing.T, b bench) {
		for _, peer := range []string{"192.0.2.2", "192.0.2.3"} {
			b.Routes.Replace([]Route{route("10.5.2.0/24", peer)})
			b.in.put(simple(64))
			synctest.Wait()
			if last := b.out.sent[len(b.out.sent)-1].Peer.Addr().String(); last != peer {
				t.Errorf("sent to %s, want %s", last, peer)
			}
		}
		b.Routes.Replace(nil)
		b.in.put(simple(64))
		synctest.Wait()
		if n := b.Stats().Dropped[NoRoute]; n != 1 {
			t.Errorf("%d without a route, want 1", n)
		}
	})
	inBubble(t, func() bench { return guarded(CheckStrict) }, func(t *testing.T, b bench) {
		pkt := packet(header{src: "10.5.2.7", dst: "10.5.1.2", ttl: 64})
		b.in.putFrom("192.0.2.2", pkt)
		synctest.Wait()
		b.Guard.SetOwn(netip.MustParsePrefix("10.5.2.0/24"))
		b.in.putFrom("192.0.2.2", pkt)
		synctest.Wait()
		b.Guard.SetOwn(netip.MustParsePrefix("10.5.1.0/24"))
		b.Guard.Peers.Replace(nil)
		b.in.putFrom("192.0.2.2", pkt)
		synctest.Wait()
		if s := b.Stats(); s.Sent != 1 || s.Dropped != (Reasons{Looping: 1, UnknownPeer: 1}) {
			t.Errorf("%+v", s)
		}
	})
}

// A batch larger than the forwarder's own loses nothing, nor the order.
func TestLargeBatch(t *testing.T) {
	b := toPeers(route("10.5.2.0/24", "192.0.2.2"))
	var pkts [][]byte
	for i := range 3*batchSize + 7 {
		pkts = append(pkts, packet(header{src: "10.5.1.2", dst: "10.5.2.9", ttl: 64, payload: i}))
	}
	b.in.put(pkts...)
	b.runAll(t)
	if len(b.out.sent) != len(pkts) {
		t.Fatalf("sent %d, want %d", len(b.out.sent), len(pkts))
	}
	for i, p := range b.out.sent {
		if len(p.Bytes) != minHeader+i {
			t.Fatalf("packet %d has %d bytes", i, len(p.Bytes))
		}
	}
	if got, want := b.Stats().BatchSizes, (BatchSizes{3: 1, 8: 3}); got != want {
		t.Errorf("batch sizes %v, want %v", got, want)
	}
}

// Every packet that a device refuses is counted, wherever it is in the batch,
// and keeps no other one back.
func TestRefusedPackets(t *testing.T) {
	b := toPeers(route("10.5.2.0/24", "192.0.2.2"), route("10.5.3.0/24", "192.0.2.3"), route("10.5.4.0/24", "192.0.2.4"))
	to := func(n byte) []byte {
		return packet(header{src: "10.5.1.2", dst: "10.5." + itoa(int(n)) + ".1", ttl: 64})
	}
	b.out.refuse = func(p Packet) (syscall.Errno, int) {
		switch p.Peer.Addr().String() {
		case "192.0.2.3":
			return syscall.ENOBUFS, 0
		case "192.0.2.4":
			return syscall.EPERM, 1400 // an MTU counts beside EMSGSIZE only
		}
		return 0, 0
	}
	b.in.refuse = func(Packet) (syscall.Errno, int) { return syscall.EIO, 0 }
	b.in.put(to(3), to(2), to(3), to(3), to(2), to(9), to(3), to(4))
	b.in.arrive(received{err: Transient(syscall.ECONNREFUSED)})
	b.in.put(to(2))
	b.runAll(t)
	checkStats(t, b, Stats{
		Received: 9, ReceivedBytes: 180, Sent: 3, SentBytes: 60, Batches: 2, BatchSizes: BatchSizes{0: 1, 3: 1}, RecvErrors: 1,
		Dropped: Reasons{SendFailed: 6, NoRoute: 1}, // one is the lost answer
	})
}

func checkStats(t *testing.T, b bench, want Stats) {
	t.Helper()
	if got := b.Stats(); got != want {
		t.Errorf("stats %+v\nwant  %+v", got, want)
	}
}
