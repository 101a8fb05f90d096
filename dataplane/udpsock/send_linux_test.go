package udpsock

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"syscall"
	"testing"

	"tweed/dataplane"
	"tweed/test/nstest"
)

// Sends of all shapes arrive whole and in order, in as few pieces as UDP
// allows: 65507 bytes, and 128 segments of one size of which only the last may
// be smaller.
func TestShapes(t *testing.T) {
	for _, tt := range []struct {
		name             string
		sizes            []int
		supers, segments uint64 // at least, with offload
		exact            bool   // and not more
	}{
		{"one", []int{100}, 0, 0, true},
		{"two", times(2, 1400), 1, 2, true},
		{"smallest", times(128, 1), 1, 128, true},
		{"last smaller", []int{1400, 1400, 1400, 700}, 1, 4, true},
		{"last of one byte", []int{1400, 1400, 1}, 1, 3, true},
		{"larger after smaller", []int{700, 1400, 1400}, 1, 2, true},
		{"smaller in the middle", []int{1400, 700, 1400, 1400}, 2, 4, true},
		{"falling", []int{1400, 1200, 1000, 800}, 2, 4, true},
		{"rising", []int{800, 1000, 1200, 1400}, 0, 0, true},
		{"empty ones", times(5, 0), 0, 0, true},
		{"empty in the middle", []int{100, 0, 100, 100, 0}, 1, 2, true},
		{"as much as UDP takes", times(44, 1472), 1, 44, true},
		{"more than UDP takes", times(60, 1472), 2, 60, false},
		{"just more than UDP takes", []int{32754, 32754}, 0, 0, true},
		{"just what UDP takes", []int{32754, 32753}, 1, 2, true},
		{"the largest", []int{65507, 65507, 1}, 0, 0, false},
		{"more than 128", times(200, 64), 2, 199, false},
		{"a thousand", times(1000, 500), 8, 990, false},
	} {
		for _, mode := range modes {
			t.Run(tt.name+"/"+mode.name, func(t *testing.T) {
				nstest.Enter(t)
				a, b := mustListen(t, "127.0.0.1:1", mode.from), mustListen(t, "127.0.0.2:2", mode.to)
				pkts := packets(b.Addr(), tt.sizes...)
				before := clone(pkts)
				mustSend(t, a, pkts, nil)
				wantRecv(t, b, 132, from(a, pkts))
				for i := range pkts {
					if !bytes.Equal(pkts[i].Bytes, before[i].Bytes) || pkts[i].Peer != before[i].Peer {
						t.Fatalf("Send changed packet %d", i)
					}
				}

				s := a.Stats()
				switch {
				case !mode.from.Offload && s.SendSupers+s.SendSegments > 0:
					t.Errorf("superpackets in plain mode: %+v", s)
				case mode.from.Offload && (s.SendSupers < tt.supers || s.SendSegments < tt.segments),
					mode.from.Offload && tt.exact && (s.SendSupers != tt.supers || s.SendSegments != tt.segments):
					t.Errorf("%d superpackets of %d packets, want %d of %d", s.SendSupers, s.SendSegments, tt.supers, tt.segments)
				}
				r := b.Stats()
				// On the loopback the kernel itself joins nothing, and cuts only
				// what is above its gso_max_size of 65536 with all headers.
				both := mode.from.Offload && mode.to.Offload && tt.name != "just what UDP takes"
				if both && r.RecvSegments != s.SendSegments || !mode.to.Offload && r.RecvSegments > 0 {
					t.Errorf("received %+v of %+v", r, s)
				}
				if s.Fallbacks > 0 || r.RecvMalformed > 0 || r.Overflows > 0 {
					t.Errorf("sent %+v, received %+v", s, r)
				}
			})
		}
	}
}

func clone(pkts []dataplane.Packet) []dataplane.Packet {
	pkts = slices.Clone(pkts)
	for i := range pkts {
		pkts[i].Bytes = bytes.Clone(pkts[i].Bytes)
	}
	return pkts
}

// Packets of several peers and sizes, with some that have no peer, interleaved
// in one Send: each peer gets its own, whole and in order.
func TestManyPeers(t *testing.T) {
	for _, mode := range modes {
		t.Run(mode.name, func(t *testing.T) {
			nstest.Enter(t)
			sender := mustListen(t, "127.0.0.1:8285", mode.from)
			peers := make([]*Socket, 60)
			for i := range peers {
				peers[i] = mustListen(t, fmt.Sprintf("127.0.1.%d:%d", 1+i/2, 8285+i%2), mode.to)
			}
			r := rand.New(rand.NewPCG(1, 2))
			sizes := []int{0, 1, 100, 500, 1472, 1472, 1472, 1472, 9000}
			want := make([][]dataplane.Packet, len(peers))
			var pkts []dataplane.Packet
			for len(pkts) < 3000 {
				to := r.IntN(len(peers))
				if r.IntN(3) > 0 {
					to = r.IntN(4) // most is for few
				}
				for range 1 + r.IntN(6) {
					p := packets(peers[to].Addr(), sizes[r.IntN(len(sizes))])[0]
					p.Bytes = append(fmt.Appendf(nil, "%d ", len(pkts)), p.Bytes...)
					pkts = append(pkts, p)
					want[to] = append(want[to], from(sender, []dataplane.Packet{p})...)
				}
				if r.IntN(10) == 0 {
					pkts = append(pkts, dataplane.Packet{Bytes: []byte("nobody's")})
				}
			}
			if err := sender.Send(pkts); err != nil {
				t.Fatal(err)
			}
			for i := range pkts {
				want := syscall.Errno(0)
				if !pkts[i].Peer.IsValid() {
					want = syscall.EDESTADDRREQ
				}
				if pkts[i].Err != want {
					t.Fatalf("packet %d: %v, want %v", i, pkts[i].Err, want)
				}
			}
			for i, p := range peers {
				wantRecv(t, p, 50, want[i])
			}
			s := sender.Stats()
			if mode.from.Offload != (s.SendSupers > 0) || s.Fallbacks > 0 {
				t.Errorf("%+v", s)
			}
		})
	}
}

// So many peers in one Send that no table of theirs stays without collisions.
func TestHundredsOfPeers(t *testing.T) {
	for _, mode := range sameModes {
		t.Run(mode.name, func(t *testing.T) {
			nstest.Enter(t)
			sender := mustListen(t, "127.0.0.1:8285", mode.Options)
			peers := make([]*Socket, 250)
			want := make([][]dataplane.Packet, len(peers))
			for i := range peers {
				peers[i] = mustListen(t, fmt.Sprintf("127.0.%d.%d:%d", i%16, 2+i/16, 9000+i*i%997), Options{})
			}
			r := rand.New(rand.NewPCG(7, 7))
			var pkts []dataplane.Packet
			for n := range 5000 {
				i := r.IntN(len(peers))
				p := dataplane.Packet{Bytes: fmt.Appendf(nil, "%04d", n), Peer: peers[i].Addr()}
				pkts = append(pkts, p)
				want[i] = append(want[i], from(sender, []dataplane.Packet{p})...)
			}
			mustSend(t, sender, pkts, nil)
			for i, p := range peers {
				wantRecv(t, p, 50, want[i])
			}
		})
	}
}

// Each errno that one datagram can meet leaves the socket alive, and all other
// packets are sent.
func TestSendErrors(t *testing.T) {
	for _, mode := range sameModes {
		t.Run(mode.name, func(t *testing.T) {
			a, b := newSpace(t), newSpace(t)
			join(a, b, "eth0", "192.0.2.1/24", "192.0.2.2/24", 1500)
			a.do(func() error { return configure("lo", "127.0.0.1/8") })
			s := a.listen("192.0.2.1:8285", mode.Options)
			self := s.Addr()
			for _, tt := range []struct {
				name string
				peer string
				size int
				want syscall.Errno
			}{
				{"no route", "198.51.100.1:8285", 10, syscall.ENETUNREACH},
				{"broadcast", "192.0.2.255:8285", 10, syscall.EACCES},
				{"port 0", "192.0.2.2:0", 10, syscall.EINVAL},
				{"too large for the interface", "192.0.2.2:8285", 1473, syscall.EMSGSIZE},
				{"too large for UDP", self.String(), 65508, syscall.EMSGSIZE},
				{"IPv6 peer", "[2001:db8::1]:8285", 10, syscall.EDESTADDRREQ},
				{"IPv4 in IPv6", "[::ffff:192.0.2.2]:8285", 10, syscall.EDESTADDRREQ},
				{"no peer", "", 10, syscall.EDESTADDRREQ},
			} {
				var peer netip.AddrPort
				if tt.peer != "" {
					peer = netip.MustParseAddrPort(tt.peer)
				}
				good, bad := packets(self, 100, 100, 100, 100, 100), packets(peer, tt.size, tt.size, tt.size)
				pkts := []dataplane.Packet{bad[0], good[0], good[1], bad[1], good[2], bad[2], good[3], good[4]}
				if err := s.Send(pkts); err != nil {
					t.Fatalf("%s: %v", tt.name, err)
				}
				for i, p := range pkts {
					want := syscall.Errno(0)
					if p.Peer == peer && len(p.Bytes) == tt.size {
						want = tt.want
					}
					if p.Err != want {
						t.Errorf("%s: packet %d: %v, want %v", tt.name, i, p.Err, want)
					}
				}
				wantRecv(t, s, 132, from(s, good))
				if segmenting(s) != mode.Offload {
					t.Errorf("%s: UDP_SEGMENT is in use: %t", tt.name, segmenting(s))
				}
			}
		})
	}
}
