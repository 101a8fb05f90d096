package tun

import (
	"fmt"
	"net"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"tweed/dataplane"
	"tweed/test/nstest"
)

// What waits comes with one Recv, up to the room that there is, and the rest
// with the next.
func TestRecvBatch(t *testing.T) {
	quietNamespace(t)
	d := mustOpen(t, "flannel%d", Options{Offload: true})
	configure(t, d, "10.9.0.1/24")
	conn := listen(t, "10.9.0.1:1000")
	var want [][]byte
	for i := range 300 { // the queue holds 500
		b := text(100, i)
		if _, err := conn.WriteToUDP(b, &net.UDPAddr{IP: net.IPv4(10, 9, 0, 2), Port: 2000}); err != nil {
			t.Fatal(err)
		}
		want = append(want, b)
	}
	pkts := make([]dataplane.Packet, maxMerge)
	var got [][]byte
	for _, n := range []int{132, 132, 36} {
		k, err := d.Recv(pkts)
		if err != nil || k != n {
			t.Fatalf("%d packets, %v, want %d", k, err, n)
		}
		for i := range pkts[:k] {
			got = append(got, parse(pkts[i].Bytes).payload)
		}
	}
	samePackets(t, got, want)
}

// Superpackets that are larger than what a Recv has room for, one behind the
// other, with single packets between.
func TestRecvSupers(t *testing.T) {
	for _, batch := range []int{1, 2, 7, 44, 45, 132, 1000} {
		t.Run(fmt.Sprint(batch), func(t *testing.T) {
			quietNamespace(t)
			d := mustOpen(t, "flannel%d", Options{Offload: true})
			needUSO(t, d)
			configure(t, d, "10.9.0.1/24")
			conn := listen(t, "10.9.0.1:1000")
			var want [][]byte
			for i, tt := range []struct{ size, total int }{
				{1472, 44 * 1472}, {1472, 44*1472 - 7}, {300, 300}, {1, 64}, {1472, 43*1472 + 1}, {1000, 17}, {1472, 44 * 1472}, {100, 6400}, {1472, 44 * 1472},
			} {
				payload := text(tt.total, i)
				sendSegments(t, conn, payload, tt.size, "10.9.0.2:2000")
				want = append(want, pieces(payload, tt.size)...)
			}
			got, calls := recvAll(t, d, len(want), batch)
			samePackets(t, payloads(got), want)
			for _, b := range got {
				checkCodec(t, b)
			}
			if least := (len(want) + batch - 1) / batch; calls < least || batch < 45 && calls > least {
				t.Errorf("%d packets took %d calls, want %d", len(want), calls, least)
			}
			if s := d.Stats(); s.RecvSupers != 7 || s.RecvSegments != uint64(len(want)-2) || s.Recvs != 9 {
				t.Errorf("counted %+v, want 9 reads with 7 superpackets of %d packets", s, len(want)-2)
			}
		})
	}
}

// Large packets fill the memory of a Recv before its slice is full. What does
// not fit comes with the next.
func TestRecvRoom(t *testing.T) {
	quietNamespace(t)
	d := mustOpen(t, "flannel%d", Options{Offload: true})
	needUSO(t, d)
	configure(t, d, "10.9.0.1/24")
	link, err := netlink.LinkByIndex(d.Index())
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkSetMTU(link, 9000); err != nil {
		t.Fatal(err)
	}
	conn := listen(t, "10.9.0.1:1000")
	var want [][]byte
	send := func(size, total int) {
		payload := text(total, len(want))
		sendSegments(t, conn, payload, size, "10.9.0.2:2000")
		want = append(want, pieces(payload, size)...)
	}
	receive := func() {
		t.Helper()
		got, calls := recvAll(t, d, len(want), 1000)
		samePackets(t, payloads(got), want)
		if calls < 2 {
			t.Errorf("%d packets came with one Recv, so nothing was tested", len(want))
		}
		want = nil
	}
	for range 60 {
		send(8972, 8972)
	}
	receive()
	for range 10 {
		send(8000, 8*8000-1)
	}
	receive()
	// The last superpacket has room as it is, but not when it is cut.
	for filler := 1; filler < 2000; filler += 200 {
		for range 3 {
			send(1010, 63*1010)
		}
		send(filler, filler)
		send(1000, 64*1000)
		send(10, 10)
		receive()
	}
}

// IPv6, superpackets too, is handed over as something that the Forwarder
// drops, and nothing breaks.
func TestIPv6(t *testing.T) {
	for _, offload := range []bool{true, false} {
		t.Run(fmt.Sprintf("offload %v", offload), func(t *testing.T) {
			nstest.Enter(t)
			d := mustOpen(t, "flannel%d", Options{Offload: offload})
			configure(t, d, "10.9.0.1/24")
			link, err := netlink.LinkByIndex(d.Index())
			if err != nil {
				t.Fatal(err)
			}
			addr, err := netlink.ParseAddr("fd00:9::1/64")
			if err != nil {
				t.Fatal(err)
			}
			addr.Flags = unix.IFA_F_NODAD
			if err := netlink.AddrAdd(link, addr); err != nil {
				nstest.Missing(t, "IPv6: "+err.Error())
			}
			conn6, err := net.ListenUDP("udp6", &net.UDPAddr{IP: net.ParseIP("fd00:9::1")})
			if err != nil {
				t.Fatal(err)
			}
			defer conn6.Close()
			sendSegments(t, conn6, text(9001, 0), 1000, "[fd00:9::2]:2000")
			conn4 := listen(t, "10.9.0.1:1000")
			sendSegments(t, conn4, text(3001, 0), 1000, "10.9.0.2:2000")

			var v4 [][]byte
			largest, pkts := 0, make([]dataplane.Packet, 8)
			for len(v4) < 4 {
				n, err := d.Recv(pkts)
				if err != nil {
					t.Fatal(err)
				}
				for _, p := range pkts[:n] {
					if p4, reason := dataplane.ParseIPv4(p.Bytes); reason == dataplane.NotDropped {
						v4 = append(v4, parse(p4).payload)
					} else if reason != dataplane.NotIPv4 {
						t.Errorf("dropped for %v, want not_ipv4", reason)
					} else if p.Bytes[6] == 17 {
						largest = max(largest, len(p.Bytes))
					}
				}
			}
			samePackets(t, v4, pieces(text(3001, 0), 1000))
			if largest < 1000 {
				t.Error("no IPv6 datagram came, so nothing was tested")
			}
			t.Logf("largest IPv6 packet: %d bytes", largest)
		})
	}
}
