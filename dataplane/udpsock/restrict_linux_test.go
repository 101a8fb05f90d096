package udpsock

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"tweed/dataplane"
	"tweed/test/nstest"
)

// ipPackets are n packets of so many bytes that are IPv4 by their first one.
func ipPackets(to netip.AddrPort, n, size int) []dataplane.Packet {
	pkts := packets(to, times(n, size)...)
	for i := range pkts {
		pkts[i].Bytes[0] = 0x45
	}
	return pkts
}

// drain receives until nothing waits, and returns how many packets there were.
func drain(t *testing.T, s *Socket) (n int) {
	t.Helper()
	s.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	defer s.SetReadDeadline(time.Now().Add(patience))
	pkts := make([]dataplane.Packet, 132)
	for {
		got, err := s.Recv(pkts)
		n += got
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return n
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// TestRestrict: what peers send comes in, unless it is no packet, and little of
// what others do; the kernel counts the rest.
func TestRestrict(t *testing.T) {
	for _, mode := range modes {
		t.Run(mode.name, func(t *testing.T) {
			nstest.Enter(t)
			to, peer := mustListen(t, "127.0.0.1:8285", mode.to), mustListen(t, "127.0.0.2:8285", mode.from)
			// A superpacket would be let in whole.
			stranger, another := mustListen(t, "127.0.0.9:8285", Options{}), mustListen(t, "127.0.0.8:8285", Options{})
			if err := to.Restrict([]netip.Addr{peer.Addr().Addr(), another.Addr().Addr()}); err != nil {
				t.Fatal(err)
			}
			for _, size := range []int{20, 21, 600, 1472, 9000} {
				good := ipPackets(to.Addr(), 100, size)
				mustSend(t, peer, good, nil)
				wantRecv(t, to, 132, from(peer, good))
			}

			const floods, flood = 8, 1600
			// wantSampled wants all packets to be counted, one of SampleOf as received.
			wantSampled := func(what string, s *Socket, pkts []dataplane.Packet) {
				t.Helper()
				n, before := 0, to.Stats().Overflows
				for chunk := range slices.Chunk(pkts, flood) {
					mustSend(t, s, chunk, nil)
					n += drain(t, to)
				}
				if err := nstest.Await(t.Context(), patience, func() error {
					n += drain(t, to)
					if dropped := int(to.Stats().Overflows - before); n+dropped != len(pkts) {
						return fmt.Errorf("%d of %d came in, and the kernel counts %d", n, len(pkts), dropped)
					}
					return nil
				}); err != nil {
					t.Errorf("%s: %v", what, err)
				}
				// 400 of 12800 are to be expected, with a deviation of 20.
				if want := len(pkts) / dataplane.SampleOf; n < want*3/4 || n > want*5/4 {
					t.Errorf("%s: %d of %d packets came in, want about %d", what, n, len(pkts), want)
				}
			}
			wantSampled("a stranger", stranger, ipPackets(to.Addr(), floods*flood, 100))
			var junk []dataplane.Packet
			for range floods * flood / 6 {
				for _, b := range [][]byte{{}, {0x45}, ipPackets(to.Addr(), 1, 19)[0].Bytes, {0x65, 39: 0}, {0x35, 39: 0}, make([]byte, 1472)} {
					junk = append(junk, dataplane.Packet{Bytes: b, Peer: to.Addr()})
				}
			}
			wantSampled("a peer's junk", another, junk)

			for range 2 {
				if err := to.Restrict(nil); err != nil {
					t.Fatal(err)
				}
			}
			free := packets(to.Addr(), times(300, 10)...)
			mustSend(t, stranger, free, nil)
			wantRecv(t, to, 132, from(stranger, free))
			if got := to.Stats().Restrictions; got != 1 {
				t.Errorf("%d restrictions, want 1", got)
			}
			to.Close()
			if err := to.Restrict([]netip.Addr{peer.Addr().Addr()}); !errors.Is(err, os.ErrClosed) {
				t.Errorf("after Close: %v", err)
			}
		})
	}
}

// TestRestrictToMany: a filter that fits into what an old kernel allows, or into
// even less, knows all of the peers.
func TestRestrictToMany(t *testing.T) {
	for _, limit := range []string{"20480", "10240", "2048", "1100", "100"} {
		t.Run(limit, func(t *testing.T) {
			nstest.Enter(t)
			const file = "/proc/sys/net/core/optmem_max"
			if err := os.WriteFile(file, []byte(limit), 0o644); err != nil {
				nstest.Missing(t, file+" of a network namespace (Linux 6.8)")
			}
			restrictToMany(t, limit == "100")
		})
	}
}

func restrictToMany(t *testing.T, tooLittle bool) {
	to := mustListen(t, "127.0.0.1:8285", Options{Offload: true})
	r := rand.New(rand.NewPCG(1, 2))
	var peers []netip.Addr
	for range 65536 {
		peers = append(peers, netip.AddrFrom4([4]byte{192 + byte(r.IntN(60)), byte(r.Uint32()), byte(r.Uint32()), byte(r.Uint32())}))
	}
	hosts := []string{"127.0.0.2", "127.0.0.77", "127.200.0.1"}
	for _, h := range hosts {
		peers = append(peers, netip.MustParseAddr(h))
	}
	if !tooLittle {
		if err := to.Restrict(peers[:40000]); err != nil {
			t.Fatal(err)
		}
	}
	if err := to.Restrict(peers); tooLittle != errors.Is(err, unix.ENOMEM) || !tooLittle && err != nil {
		t.Fatal(err)
	}
	for _, h := range hosts {
		peer := mustListen(t, h+":8285", Options{})
		good := ipPackets(to.Addr(), 50, 100)
		mustSend(t, peer, good, nil)
		wantRecv(t, to, 132, from(peer, good))
	}
}

func address(n uint32) netip.Addr {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], n)
	return netip.AddrFrom4(b)
}

// TestSearch runs filters over addresses at and around the borders of ranges.
func TestSearch(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for _, n := range []int{1, 2, 15, 16, 17, 31, 33, 100, maxRanges} {
		var addrs []netip.Addr
		for range n {
			addrs = append(addrs, address(r.Uint32()))
		}
		addrs = append(addrs, address(0), address(1<<32-1))
		rs := addrRanges(addrs, n)
		if len(rs) != n {
			t.Fatalf("%d ranges, want %d", len(rs), n)
		}
		vm, err := bpf.NewVM(append([]bpf.Instruction{bpf.LoadAbsolute{Size: 4}}, search(rs)...))
		if err != nil {
			t.Fatal(err)
		}
		probe := func(a uint32) {
			var in [4]byte
			binary.BigEndian.PutUint32(in[:], a)
			got, err := vm.Run(in[:])
			want := slices.ContainsFunc(rs, func(x addrRange) bool { return x.first <= a && a <= x.last })
			if err != nil || (got != 0) != want {
				t.Fatalf("%d ranges: %s is let in: %t (%v), want %t", n, address(a), got != 0, err, want)
			}
		}
		for _, x := range rs {
			for d := range uint32(3) {
				probe(x.first + d - 1)
				probe(x.last + d - 1)
			}
		}
		for range 1000 {
			probe(r.Uint32())
		}
	}
}

func TestAddrRanges(t *testing.T) {
	for _, tt := range []struct {
		addrs []string
		most  int
		want  []string // pairs
	}{
		{nil, 4, nil},
		{[]string{"::1"}, 4, nil},
		{[]string{"10.0.0.7"}, 4, []string{"10.0.0.7", "10.0.0.7"}},
		{[]string{"10.0.0.7", "10.0.0.9", "10.0.0.8", "10.0.0.8"}, 4, []string{"10.0.0.7", "10.0.0.9"}},
		{[]string{"0.0.0.0", "255.255.255.255"}, 4, []string{"0.0.0.0", "0.0.0.0", "255.255.255.255", "255.255.255.255"}},
		{[]string{"10.0.0.1", "10.0.0.3", "10.0.0.10", "10.0.0.12"}, 4, []string{"10.0.0.1", "10.0.0.1", "10.0.0.3", "10.0.0.3", "10.0.0.10", "10.0.0.10", "10.0.0.12", "10.0.0.12"}},
		{[]string{"10.0.0.1", "10.0.0.3", "10.0.0.10", "10.0.0.12"}, 2, []string{"10.0.0.1", "10.0.0.3", "10.0.0.10", "10.0.0.12"}},
		{[]string{"10.0.0.1", "10.0.0.3", "10.0.0.10", "10.0.0.12"}, 1, []string{"10.0.0.1", "10.0.0.12"}},
		{[]string{"10.0.0.1", "10.0.0.4", "10.0.0.6", "20.0.0.0"}, 3, []string{"10.0.0.1", "10.0.0.1", "10.0.0.4", "10.0.0.6", "20.0.0.0", "20.0.0.0"}},
	} {
		var addrs []netip.Addr
		for _, a := range tt.addrs {
			addrs = append(addrs, netip.MustParseAddr(a))
		}
		var got []string
		for _, x := range addrRanges(addrs, tt.most) {
			got = append(got, address(x.first).String(), address(x.last).String())
		}
		if !slices.Equal(got, tt.want) {
			t.Errorf("%v in %d: %v, want %v", tt.addrs, tt.most, got, tt.want)
		}
	}
}
