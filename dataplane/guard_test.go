package dataplane

import (
	"net/netip"
	"sync"
	"testing"
)

func TestParseSourceCheck(t *testing.T) {
	for name, want := range map[string]SourceCheck{"off": CheckOff, "peer": CheckPeer, "strict": CheckStrict} {
		if got, ok := ParseSourceCheck(name); !ok || got != want || got.String() != name {
			t.Errorf("%q is %v, %v", name, got, ok)
		}
	}
	for _, name := range []string{"", "Off", "STRICT", "peers", " off", "strict ", "0", "1", "true", "none"} {
		if got, ok := ParseSourceCheck(name); ok || got != CheckOff {
			t.Errorf("%q is %v, %v", name, got, ok)
		}
	}
}

var sourceChecks = []SourceCheck{CheckOff, CheckPeer, CheckStrict}

// Every kind of source and destination with every check, once the own subnet
// is known and before.
func TestGuard(t *testing.T) {
	tests := []struct {
		name           string
		src, dst, from string
		always         Reason // dropped whatever the check is
		strict         Reason // else: what CheckStrict finds
		early          Reason // what it finds before SetOwn
	}{
		{name: "right", src: "10.5.2.7", dst: "10.5.1.2", from: "192.0.2.2"},
		{name: "host of the peer", src: "192.0.2.2", dst: "10.5.1.2", from: "192.0.2.2"},
		{name: "relay to another peer", src: "10.5.2.7", dst: "10.5.3.3", from: "192.0.2.2"},
		{name: "relay outwards", src: "10.5.2.7", dst: "198.51.100.1", from: "192.0.2.2"},
		{name: "to an unreachable subnet", src: "10.5.2.7", dst: "10.5.4.4", from: "192.0.2.2"},

		{name: "own source", src: "10.5.1.7", dst: "10.5.1.2", from: "192.0.2.2", always: Looping, early: ForeignSource},
		{name: "own source, first address", src: "10.5.1.0", dst: "10.5.1.2", from: "192.0.2.2", always: Looping, early: ForeignSource},
		{name: "own source, last address", src: "10.5.1.255", dst: "10.5.1.2", from: "192.0.2.2", always: Looping, early: ForeignSource},
		{name: "own source of a stranger", src: "10.5.1.7", dst: "10.5.1.2", from: "192.0.2.9", always: Looping, early: UnknownPeer},
		{name: "back to the sender", src: "10.5.2.7", dst: "10.5.2.8", from: "192.0.2.2", always: Looping},
		{name: "foreign back to the sender", src: "10.5.3.7", dst: "10.5.2.8", from: "192.0.2.2", always: Looping, early: ForeignSource},

		{name: "source this network", src: "0.0.0.0", dst: "10.5.1.2", from: "192.0.2.2", always: Martian, early: Martian},
		{name: "source in 0/8", src: "0.255.255.255", dst: "10.5.1.2", from: "192.0.2.2", always: Martian, early: Martian},
		{name: "source loopback", src: "127.0.0.1", dst: "10.5.1.2", from: "192.0.2.2", always: Martian, early: Martian},
		{name: "source in 127/8", src: "127.255.0.9", dst: "10.5.1.2", from: "192.0.2.2", always: Martian, early: Martian},
		{name: "source multicast", src: "224.0.0.1", dst: "10.5.1.2", from: "192.0.2.2", always: Martian, early: Martian},
		{name: "source multicast end", src: "239.255.255.255", dst: "10.5.1.2", from: "192.0.2.2", always: Martian, early: Martian},
		{name: "source the last multicast", src: "239.255.255.255", dst: "10.5.1.2", from: "192.0.2.2", always: Martian, early: Martian},
		{name: "source broadcast", src: "255.255.255.255", dst: "10.5.1.2", from: "192.0.2.2", always: Martian, early: Martian},
		{name: "to this network", src: "10.5.2.7", dst: "0.0.0.0", from: "192.0.2.2", always: Martian, early: Martian},
		{name: "to loopback", src: "10.5.2.7", dst: "127.0.0.1", from: "192.0.2.2", always: Martian, early: Martian},
		{name: "to multicast", src: "10.5.2.7", dst: "239.1.2.3", from: "192.0.2.2", always: Martian, early: Martian},
		{name: "to broadcast", src: "10.5.2.7", dst: "255.255.255.255", from: "192.0.2.2", always: Martian, early: Martian},
		{name: "martian of a stranger", src: "127.0.0.1", dst: "10.5.1.2", from: "192.0.2.9", always: Martian, early: Martian},

		{name: "beside 0/8", src: "1.0.0.0", dst: "10.5.1.2", from: "192.0.2.2", strict: ForeignSource, early: ForeignSource},
		{name: "beside 127/8", src: "126.255.255.255", dst: "128.0.0.0", from: "192.0.2.2", strict: ForeignSource, early: ForeignSource},
		{name: "beside multicast", src: "223.255.255.255", dst: "10.5.1.2", from: "192.0.2.2", strict: ForeignSource, early: ForeignSource},
		{name: "source of another peer", src: "10.5.3.7", dst: "10.5.1.2", from: "192.0.2.2", strict: ForeignSource, early: ForeignSource},
		{name: "host of another peer", src: "192.0.2.3", dst: "10.5.1.2", from: "192.0.2.2", strict: ForeignSource, early: ForeignSource},
		{name: "source of nobody", src: "198.51.100.1", dst: "10.5.1.2", from: "192.0.2.2", strict: ForeignSource, early: ForeignSource},
		{name: "source in an unreachable subnet", src: "10.5.4.7", dst: "10.5.1.2", from: "192.0.2.2", strict: ForeignSource, early: ForeignSource},
		{name: "below the peer's subnet", src: "10.5.0.255", dst: "10.5.1.2", from: "192.0.2.2", strict: ForeignSource, early: ForeignSource},

		{name: "stranger", src: "10.5.9.7", dst: "10.5.1.2", from: "192.0.2.9", strict: UnknownPeer, early: UnknownPeer},
		{name: "stranger with a peer's source", src: "10.5.2.7", dst: "10.5.1.2", from: "192.0.2.9", strict: UnknownPeer, early: UnknownPeer},
		{name: "stranger to a peer", src: "10.5.9.7", dst: "10.5.2.2", from: "192.0.2.9", strict: UnknownPeer, early: UnknownPeer},
		{name: "host of a stranger", src: "192.0.2.9", dst: "10.5.1.2", from: "192.0.2.9", strict: UnknownPeer, early: UnknownPeer},
		{name: "pod's address as the underlay's", src: "10.5.2.7", dst: "10.5.1.2", from: "10.5.2.7", strict: UnknownPeer, early: UnknownPeer},
	}
	for _, tt := range tests {
		ip := IPv4(packet(header{src: tt.src, dst: tt.dst, ttl: 64}))
		from := netip.MustParseAddr(tt.from)
		for _, check := range sourceChecks {
			g := guarded(check).Guard
			drop, suspect := g.admit(ip, from)
			if wantDrop, wantSuspect := expect(check, tt.always, tt.strict); drop != wantDrop || suspect != wantSuspect {
				t.Errorf("%s, %v: drop %v, suspect %v, want %v, %v", tt.name, check, drop, suspect, wantDrop, wantSuspect)
			}
			g = &Guard{Peers: g.Peers, Check: check} // no own subnet yet
			always := tt.early
			if always != Martian {
				always = NotDropped
			}
			drop, suspect = g.admit(ip, from)
			if wantDrop, wantSuspect := expect(check, always, tt.early); drop != wantDrop || suspect != wantSuspect {
				t.Errorf("%s, %v, before SetOwn: drop %v, suspect %v, want %v, %v", tt.name, check, drop, suspect, wantDrop, wantSuspect)
			}
		}
	}
}

// expect is what admit says where always is what every check drops for and
// strict what the strict one does.
func expect(check SourceCheck, always, strict Reason) (drop, suspect Reason) {
	if always != NotDropped {
		return always, NotDropped
	}
	drops := map[SourceCheck]map[Reason]bool{
		CheckOff:    {},
		CheckPeer:   {UnknownPeer: true},
		CheckStrict: {UnknownPeer: true, ForeignSource: true},
	}
	if drops[check][strict] {
		return strict, NotDropped
	}
	return NotDropped, strict
}

// A peer that routes the whole network may send to us, and no packet of ours.
func TestGuardOwnInsidePeer(t *testing.T) {
	g := &Guard{Peers: &Table{}, Check: CheckStrict}
	g.Peers.Replace([]Route{route("10.5.0.0/16", "192.0.2.2")})
	g.SetOwn(netip.MustParsePrefix("10.5.1.0/24"))
	for _, tt := range []struct {
		src, dst string
		want     Reason
	}{
		{"10.5.2.2", "10.5.1.2", NotDropped},
		{"10.5.1.2", "10.5.1.3", Looping},
		{"10.5.2.2", "10.5.3.2", Looping},
	} {
		if drop, _ := g.admit(packet(header{src: tt.src, dst: tt.dst, ttl: 64}), netip.MustParseAddr("192.0.2.2")); drop != tt.want {
			t.Errorf("%s to %s: %v, want %v", tt.src, tt.dst, drop, tt.want)
		}
	}
}

// Without peers nobody is one, not even who has no address.
func TestGuardNoPeers(t *testing.T) {
	for _, routes := range [][]Route{nil, {route("10.5.4.0/24", "")}} {
		for _, from := range []netip.Addr{netip.MustParseAddr("192.0.2.2"), {}} {
			for _, check := range sourceChecks {
				g := &Guard{Peers: &Table{}, Check: check}
				g.Peers.Replace(routes)
				wantDrop, wantSuspect := expect(check, NotDropped, UnknownPeer)
				drop, suspect := g.admit(packet(header{src: "10.5.4.2", dst: "10.5.1.2", ttl: 64}), from)
				if drop != wantDrop || suspect != wantSuspect {
					t.Errorf("%v from %v: drop %v, suspect %v", check, from, drop, suspect)
				}
			}
		}
	}
}

// While the own subnet and the peers change, a packet that is right with all of
// them passes, and one that is wrong with all of them does not.
func TestGuardConcurrent(t *testing.T) {
	g := guarded(CheckStrict).Guard
	owns := []netip.Prefix{netip.MustParsePrefix("10.5.1.0/24"), netip.MustParsePrefix("10.5.8.0/24")}
	sets := [][]Route{
		{route("10.5.2.0/24", "192.0.2.2")},
		{route("10.5.2.0/24", "192.0.2.2"), route("10.5.3.0/24", "192.0.2.3")},
	}
	g.Peers.Replace(sets[0])
	from := netip.MustParseAddr("192.0.2.2")
	done := make(chan struct{})
	var wg sync.WaitGroup
	for _, tt := range []struct {
		src, dst string
		want     []Reason
	}{
		{"10.5.2.7", "10.5.1.2", []Reason{NotDropped}},
		{"10.5.2.7", "10.5.2.8", []Reason{Looping}},
		{"10.5.9.7", "10.5.1.2", []Reason{ForeignSource}},
		{"10.5.8.7", "10.5.1.2", []Reason{ForeignSource, Looping}},
	} {
		ip := IPv4(packet(header{src: tt.src, dst: tt.dst, ttl: 64}))
		wg.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				drop, _ := g.admit(ip, from)
				if drop != tt.want[0] && drop != tt.want[len(tt.want)-1] {
					t.Errorf("%s to %s: %v, want %v", tt.src, tt.dst, drop, tt.want)
					return
				}
			}
		})
	}
	for i := range 2000 {
		g.SetOwn(owns[i%2])
		g.Peers.Replace(sets[i/2%2])
	}
	close(done)
	wg.Wait()
}

func BenchmarkGuard(b *testing.B) {
	for _, n := range []int{2, 10000} {
		b.Run("strict/"+itoa(n), func(b *testing.B) {
			f, _ := loaded(n, true)
			var pkts []Packet
			for i, r := range peers(n) {
				if i == 4096 {
					break
				}
				ip := packet(header{src: r.Subnet.Addr().Next().String(), dst: "172.16.1.2", ttl: 64, payload: 1400})
				pkts = append(pkts, Packet{Bytes: ip, Peer: r.Peer})
			}
			b.SetBytes(int64(len(pkts[0].Bytes)))
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				p := &pkts[i%len(pkts)]
				if drop, _ := f.Guard.admit(p.Bytes, p.Peer.Addr()); drop != NotDropped {
					b.Fatal(drop)
				}
				i++
			}
		})
	}
}
