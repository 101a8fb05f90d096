package dataplane

import (
	"errors"
	"net/netip"
	"os"
	"testing"
)

// loaded returns a forwarder with n peers between endless devices that give 32
// packets at a time: to the peers, or from them through a strict guard.
func loaded(n int, inbound bool) (*Forwarder, *endless) {
	routes := peers(n)
	table := &Table{}
	table.Replace(routes)
	e := &endless{memory: newMemory()}
	f := &Forwarder{In: e, Out: e}
	if inbound {
		f.Guard = &Guard{Peers: table, Check: CheckStrict}
		f.Guard.SetOwn(netip.MustParsePrefix("172.16.1.0/24"))
		f.SetAddr(netip.MustParseAddr("172.16.1.0"))
	} else {
		f.Routes = table
	}
	for i := range 32 {
		r := routes[i*31%n]
		there, here := r.Subnet.Addr().Next().String(), "172.16.1.2"
		if inbound {
			e.add(packet(header{src: there, dst: here, ttl: 64, proto: protoUDP, payload: 1400}), r.Peer)
		} else {
			e.add(packet(header{src: here, dst: there, ttl: 64, proto: protoUDP, payload: 1400}), netip.AddrPort{})
		}
	}
	return f, e
}

var directions = []struct {
	inbound bool
	name    string
}{{false, "to peers"}, {true, "from peers"}}

// Nothing is allocated per packet, whatever becomes of it.
func TestNoAllocations(t *testing.T) {
	const df = 0x4000
	for _, direction := range directions {
		for _, n := range []int{2, 10000} {
			t.Run(direction.name+"/"+itoa(n), func(t *testing.T) {
				f, e := loaded(n, direction.inbound)
				e.left, e.mtu = -1, 1430
				sample := IPv4(e.batch[0].Bytes)
				src, dst, peer := sample.Src().String(), sample.Dst().String(), e.batch[0].Peer
				e.add(packet(header{src: src, dst: dst, ttl: 1, proto: protoUDP}), peer)
				e.add(packet(header{src: src, dst: dst, ttl: 64, frag: df, payload: 1420}), peer)
				e.add(packet(header{src: src, dst: dst, ttl: 64, payload: 1420}), peer)
				e.add(packet(header{src: src, dst: "198.51.100.1", ttl: 64, proto: protoUDP}), peer)
				e.add([]byte{0x60, 11: 0}, peer)

				var b batch
				if allocs := testing.AllocsPerRun(500, func() {
					b.general, b.bigOnes = limiter{}, limiter{} // so that all is answered
					if err := f.round(&b); err != nil {
						t.Fatal(err)
					}
				}); allocs != 0 {
					t.Errorf("%v allocations per batch", allocs)
				}
				// The first packet of AllocsPerRun is one more.
				s := f.Stats()
				if s.Dropped[TTLExceeded] != 501 || s.Dropped[TooBig] != 501 || s.Fragmented != 501 || s.Sent < 33*501 || s.Replies < 2*501 || s.Muted != 0 {
					t.Errorf("something else was measured: %+v", s)
				}
			})
		}
	}
}

func BenchmarkForwarder(b *testing.B) {
	for _, direction := range directions {
		for _, n := range []int{2, 10000} {
			b.Run(direction.name+"/"+itoa(n), func(b *testing.B) {
				f, e := loaded(n, direction.inbound)
				b.SetBytes(int64(len(e.batch[0].Bytes)))
				b.ReportAllocs()
				e.left = b.N/len(e.batch) + 1
				b.ResetTimer()
				if err := f.Run(b.Context()); !errors.Is(err, os.ErrClosed) {
					b.Fatal(err)
				}
				if s := f.Stats(); s.Sent != s.Received {
					b.Fatalf("%+v", s)
				}
			})
		}
	}
}
