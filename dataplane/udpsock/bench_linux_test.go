package udpsock

import (
	"fmt"
	"net/netip"
	"testing"

	"tweed/dataplane"
	"tweed/test/nstest"
)

func addrPort(a [4]byte) netip.AddrPort { return netip.AddrPortFrom(netip.AddrFrom4(a), 8285) }

// Neither Send nor Recv allocates, whatever they do with the packets.
func TestNoAllocations(t *testing.T) {
	for _, mode := range modes {
		nstest.Enter(t)
		a, b, c := mustListen(t, "127.0.0.1:8285", mode.from), mustListen(t, "127.0.0.2:8285", mode.to), mustListen(t, "127.0.0.3:8285", mode.to)
		for name, pkts := range map[string][]dataplane.Packet{
			"one packet": packets(b.Addr(), 100),
			"one size":   packets(b.Addr(), times(44, 1472)...),
			"mixed":      append(packets(b.Addr(), 1472, 1472, 100, 0, 60, 1472, 60000), packets(c.Addr(), times(20, 64)...)...),
			"bad peers":  append(packets(netip.AddrPort{}, 1, 2, 3), packets(b.Addr(), 1)...),
		} {
			toB, toC := 0, 0
			for _, p := range pkts {
				switch p.Peer {
				case b.Addr():
					toB++
				case c.Addr():
					toC++
				}
			}
			got := make([]dataplane.Packet, 132)
			take := func(s *Socket, n int) {
				for n > 0 {
					m, err := s.Recv(got)
					if err != nil {
						t.Fatal(err)
					}
					n -= m
				}
			}
			if allocs := testing.AllocsPerRun(100, func() {
				if err := a.Send(pkts); err != nil {
					t.Fatal(err)
				}
				take(b, toB)
				take(c, toC)
			}); allocs != 0 {
				t.Errorf("%s, %s: %v allocations", mode.name, name, allocs)
			}
		}
	}
}

// How fast packets get from one socket to another on the loopback, both in one
// thread.
func BenchmarkSendRecv(b *testing.B) {
	for _, mode := range sameModes {
		for _, size := range []int{64, 1472} {
			for _, peers := range []int{1, 16} {
				b.Run(fmt.Sprintf("%s/%d bytes/%d peers", mode.name, size, peers), func(b *testing.B) {
					nstest.Enter(b)
					from := mustListen(b, "127.0.0.1:8285", mode.Options)
					var to []*Socket
					for i := range peers {
						to = append(to, mustListen(b, fmt.Sprintf("127.0.1.%d:8285", i+1), mode.Options))
					}
					pkts := packets(to[0].Addr(), times(128, size)...)
					for i := range pkts {
						pkts[i].Peer = to[i%peers].Addr()
					}
					got := make([]dataplane.Packet, 132)
					b.SetBytes(int64(len(pkts) * size))
					b.ReportAllocs()
					for b.Loop() {
						if err := from.Send(pkts); err != nil {
							b.Fatal(err)
						}
						for _, s := range to {
							for n := 0; n < len(pkts)/peers; {
								m, err := s.Recv(got)
								if err != nil {
									b.Fatal(err)
								}
								n += m
							}
						}
					}
				})
			}
		}
	}
}
