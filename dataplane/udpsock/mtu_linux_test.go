package udpsock

import (
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"tweed/dataplane"
)

// wantTooBig sends packets with those for another peer between them: those of
// more than mtu bytes have the Err EMSGSIZE and say so, all others arrive.
func wantTooBig(t *testing.T, s, to, other *Socket, mtu int, sizes ...int) {
	t.Helper()
	big, between := packets(to.Addr(), sizes...), packets(other.Addr(), times(len(sizes), 90)...)
	var pkts []dataplane.Packet
	for i := range big {
		pkts = append(pkts, big[i], between[i])
	}
	if err := s.Send(pkts); err != nil {
		t.Fatal(err)
	}
	var fit []dataplane.Packet
	for i, p := range pkts {
		switch tooBig := len(p.Bytes) > mtu && p.Peer == to.Addr(); {
		case tooBig && (p.Err != unix.EMSGSIZE || p.MTU != mtu):
			t.Errorf("sizes %v: packet %d of %d bytes: %v with MTU %d, want %v with %d", sizes, i, len(p.Bytes), p.Err, p.MTU, unix.EMSGSIZE, mtu)
		case !tooBig && (p.Err != 0 || p.MTU != 0):
			t.Errorf("sizes %v: packet %d of %d bytes to %s: %v with MTU %d, want it sent", sizes, i, len(p.Bytes), p.Peer, p.Err, p.MTU)
		case !tooBig && p.Peer == to.Addr():
			fit = append(fit, p)
		}
	}
	wantRecv(t, to, 132, anonymous(fit))
	wantRecv(t, other, 132, anonymous(between))
}

// bigAndSmall has packets that do not fit into mtu in every place of a group.
func bigAndSmall(mtu int) [][]int {
	return [][]int{
		{mtu}, {mtu + 1}, {mtu, mtu}, {mtu + 1, mtu + 1, mtu + 1},
		{mtu + 1, mtu}, {mtu, mtu + 1}, {mtu + 1, mtu + 1, 100}, {100, mtu + 1, 100, 100},
		slices.Concat(times(40, mtu+50), []int{mtu}), slices.Concat(times(100, 200), times(3, mtu+100), times(100, 200)),
	}
}

func TestInterfaceMTU(t *testing.T) {
	for _, mode := range sameModes {
		t.Run(mode.name, func(t *testing.T) {
			a, b, c := newSpace(t), newSpace(t), newSpace(t)
			join(a, b, "eth0", "192.0.2.1/24", "192.0.2.2/24", 1300)
			join(a, c, "eth1", "198.51.100.1/24", "198.51.100.2/24", 1500)
			s, to, other := a.listen("0.0.0.0:8285", mode.Options), b.listen("192.0.2.2:8285", mode.Options), c.listen("198.51.100.2:8285", mode.Options)
			const mtu = 1300 - 28
			for _, sizes := range bigAndSmall(mtu) {
				wantTooBig(t, s, to, other, mtu, sizes...)
			}
			wide := packets(other.Addr(), times(30, 1472)...)
			mustSend(t, s, wide, nil)
			wantRecv(t, other, 132, anonymous(wide))

			// Each peer has an MTU of its own.
			var pkts []dataplane.Packet
			for range 5 {
				pkts = append(append(pkts, packets(to.Addr(), 1600, 1600)...), packets(other.Addr(), 1600, 1600)...)
			}
			if err := s.Send(pkts); err != nil {
				t.Fatal(err)
			}
			for i, p := range pkts {
				want := map[bool]int{true: mtu, false: 1472}[p.Peer == to.Addr()]
				if p.Err != unix.EMSGSIZE || p.MTU != want {
					t.Errorf("packet %d to %s: %v with MTU %d, want %v with %d", i, p.Peer, p.Err, p.MTU, unix.EMSGSIZE, want)
				}
			}
			wantGroups(t, s, to, mode.Offload, mtu)
		})
	}
}

// anonymous returns the packets without their peers.
func anonymous(pkts []dataplane.Packet) []dataplane.Packet {
	var out []dataplane.Packet
	for _, p := range pkts {
		out = append(out, dataplane.Packet{Bytes: p.Bytes})
	}
	return out
}

// wantGroups checks that packets of size bytes leave in groups, or that they do
// not in plain mode.
func wantGroups(t *testing.T, s, to *Socket, want bool, size int) {
	t.Helper()
	before := s.Stats()
	pkts := packets(to.Addr(), times(10, size)...)
	mustSend(t, s, pkts, nil)
	wantRecv(t, to, 132, anonymous(pkts))
	after := s.Stats()
	if got := after.SendSegments - before.SendSegments; want && got != 10 || !want && got != 0 {
		t.Errorf("%d of 10 packets left in groups, want groups: %t", got, want)
	}
	if segmenting(s) != want {
		t.Errorf("UDP_SEGMENT is in use: %t, want %t", segmenting(s), want)
	}
}

// A router with a narrower link behind it says so by ICMP, once per packet that
// it drops: from then on the sender is told. The way there is learned for the
// one destination only.
func TestPathMTU(t *testing.T) {
	for _, mode := range sameModes {
		t.Run(mode.name, func(t *testing.T) {
			a, r, b := newSpace(t), newSpace(t), newSpace(t)
			join(a, r, "eth0", "192.0.2.1/24", "192.0.2.254/24", 1500)
			join(r, b, "eth1", "198.51.100.254/24", "198.51.100.2/24", 1300)
			r.sysctl("ipv4/ip_forward", "1")
			a.route("198.51.100.0/24", "192.0.2.254")
			b.route("192.0.2.0/24", "198.51.100.254")
			s, to, near := a.listen("192.0.2.1:8285", mode.Options), b.listen("198.51.100.2:8285", mode.Options), r.listen("192.0.2.254:8285", mode.Options)

			// The first that does not fit is lost, and that is no error.
			mustSend(t, s, packets(to.Addr(), 1400), nil)
			await(t, "the path MTU", func() bool {
				again := packets(to.Addr(), 1400)
				if err := s.Send(again); err != nil {
					t.Fatal(err)
				}
				return again[0].Err == unix.EMSGSIZE
			})
			const mtu = 1300 - 28
			for _, sizes := range bigAndSmall(mtu) {
				wantTooBig(t, s, to, near, mtu, sizes...)
			}
			wide := packets(near.Addr(), times(20, 1472)...)
			mustSend(t, s, wide, nil)
			wantRecv(t, near, 132, from(s, wide))
			wantGroups(t, s, to, mode.Offload, mtu)
		})
	}
}

// Where the system has path MTU discovery off, the kernel fragments.
func TestPathMTUSwitchedOff(t *testing.T) {
	for _, mode := range sameModes {
		t.Run(mode.name, func(t *testing.T) {
			a, b := newSpace(t), newSpace(t)
			a.sysctl("ipv4/ip_no_pmtu_disc", "1")
			join(a, b, "eth0", "192.0.2.1/24", "192.0.2.2/24", 1300)
			s, to := a.listen("192.0.2.1:8285", mode.Options), b.listen("192.0.2.2:8285", mode.Options)
			greet(t, s, to)
			pkts := packets(to.Addr(), 1400, 1400, 100, 5000, 1272, 1272)
			mustSend(t, s, pkts, nil)
			wantRecv(t, to, 132, from(s, pkts))
		})
	}
}
