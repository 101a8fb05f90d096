package udp

import (
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"tweed/dataplane"
)

// udpPacket is an IPv4 packet with a UDP datagram in it.
func udpPacket(t testing.TB, src, dst netip.AddrPort, payload string) []byte {
	t.Helper()
	ip := &layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocolUDP, SrcIP: src.Addr().AsSlice(), DstIP: dst.Addr().AsSlice()}
	u := &layers.UDP{SrcPort: layers.UDPPort(src.Port()), DstPort: layers.UDPPort(dst.Port())}
	u.SetNetworkLayerForChecksum(ip)
	buf := gopacket.NewSerializeBuffer()
	err := gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, ip, u, gopacket.Payload(payload))
	if err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// What each SourceCheck makes of packets with whatever outer and inner source.
func TestSourceCheck(t *testing.T) {
	const (
		peer, third, stranger = "192.0.2.2", "192.0.2.3", "192.0.2.99"
		pass                  = dataplane.NotDropped
		martian, looping      = dataplane.Martian, dataplane.Looping
		unknown, foreign      = dataplane.UnknownPeer, dataplane.ForeignSource
	)
	cases := []struct {
		outer, src, dst string
		always          dataplane.Reason // it is dropped whatever the check
		strict          dataplane.Reason // it is dropped by strict, and suspect otherwise
	}{
		{outer: peer, src: "10.5.2.2"},
		{outer: peer, src: "10.5.2.255"},
		{outer: peer, src: "10.5.2.0"},
		{outer: peer, src: peer}, // the host itself
		{outer: third, src: "10.5.3.3"},
		{outer: peer, src: "10.5.2.2", dst: "192.0.2.1", always: dataplane.Outside},
		{outer: peer, src: "10.5.2.2", dst: "198.51.100.1", always: dataplane.Outside},
		{outer: peer, src: "10.5.3.3", strict: foreign},
		{outer: third, src: "10.5.2.2", strict: foreign},
		{outer: peer, src: third, strict: foreign},
		{outer: peer, src: "172.16.0.9", strict: foreign},
		{outer: peer, src: "10.5.77.3", strict: foreign},
		{outer: stranger, src: "10.5.2.2", strict: unknown},
		{outer: stranger, src: stranger, strict: unknown},
		{outer: stranger, src: "172.16.0.9", strict: unknown},
		{outer: peer, src: "10.5.1.9", always: looping}, // our own subnet
		{outer: stranger, src: "10.5.1.0", always: looping},
		{outer: peer, src: "10.5.2.2", dst: "10.5.2.9", always: looping}, // back to the sender
		{outer: peer, src: "127.0.0.1", always: martian},
		{outer: stranger, src: "127.0.0.1", always: martian},
		{outer: peer, src: "0.0.0.0", always: martian},
		{outer: peer, src: "224.0.0.5", always: martian},
		{outer: peer, src: "255.255.255.255", always: martian},
		{outer: peer, src: "10.5.2.2", dst: "127.0.0.1", always: martian},
		{outer: peer, src: "10.5.2.2", dst: "224.0.0.1", always: martian},
		{outer: peer, src: "10.5.2.2", dst: "255.255.255.255", always: martian},
	}
	for _, mix := range mixes[1:3] { // both kinds of receivers
		for _, check := range []dataplane.SourceCheck{dataplane.CheckOff, dataplane.CheckPeer, dataplane.CheckStrict} {
			t.Run(fmt.Sprintf("%s/%s", mix.name, check), func(t *testing.T) {
				a, b := newHosts(t)
				a.backend = fmt.Sprintf(`{"Type":"udp","Offload":%t,"SourceCheck":"%s"}`, mix.a == withOffload, check)
				b.backend = mix.b
				onA, onB := a.open(), b.open()
				c := *b
				c.addr, c.sn = netip.MustParseAddr(third), netip.MustParsePrefix("10.5.3.0/24")
				syncPeers(t, onA, b, &c)
				syncPeers(t, onB, a)
				run(t, onA)
				run(t, onB)
				mustPing(t, a, b)

				conns := make(map[string]*net.UDPConn)
				for _, addr := range []string{peer, third, stranger} {
					b.do(func() (err error) {
						if addr != peer {
							if err := b.configure("eth0", addr+"/24"); err != nil {
								return err
							}
						}
						conns[addr], err = net.ListenUDP("udp4", &net.UDPAddr{IP: net.ParseIP(addr)})
						return err
					})
					defer conns[addr].Close()
				}
				var pod *net.UDPConn // at all addresses of the host
				a.do(func() (err error) {
					pod, err = net.ListenUDP("udp4", &net.UDPAddr{})
					return err
				})
				defer pod.Close()
				port := pod.LocalAddr().(*net.UDPAddr).AddrPort().Port()
				send := func(outer, src, dst, payload string) {
					t.Helper()
					if dst == "" {
						dst = a.pod().String()
					}
					p := udpPacket(t, netip.AddrPortFrom(netip.MustParseAddr(src), 7), netip.AddrPortFrom(netip.MustParseAddr(dst), port), payload)
					if _, err := conns[outer].WriteToUDPAddrPort(p, netip.AddrPortFrom(a.addr, defaultPort)); err != nil {
						t.Fatal(err)
					}
				}
				buf := make([]byte, 100)
				wantNext := func(payload, src string) {
					t.Helper()
					pod.SetReadDeadline(time.Now().Add(patience))
					n, from, err := pod.ReadFromUDPAddrPort(buf)
					if err != nil || string(buf[:n]) != payload || from.Addr().String() != src {
						t.Fatalf("received %q from %s, %v, want %q from %s", buf[:n], from, err, payload, src)
					}
				}

				before := onA.Stats().FromPeers
				var dropped, suspect dataplane.Reasons
				for i, tt := range cases {
					drop := tt.always
					switch {
					case drop != pass:
					case tt.strict == unknown && check >= dataplane.CheckPeer, tt.strict == foreign && check == dataplane.CheckStrict:
						drop = tt.strict
					case tt.strict != pass:
						suspect[tt.strict]++
					}
					payload := fmt.Sprintf("case %d", i)
					send(tt.outer, tt.src, tt.dst, payload)
					if drop == pass {
						wantNext(payload, tt.src)
					} else {
						dropped[drop]++
					}
					// What is allowed goes on, and nothing else has come before it.
					send(peer, "10.5.2.2", "", "good")
					wantNext("good", "10.5.2.2")
				}
				// What a round did is counted at its end.
				await(t, "the last drop to be counted", func() bool {
					return total(onA.Stats().FromPeers.Dropped)-total(before.Dropped) >= total(dropped)
				})
				after := onA.Stats().FromPeers
				for r := range dropped {
					if got := after.Dropped[r] - before.Dropped[r]; got != dropped[r] {
						t.Errorf("%d dropped as %s, want %d", got, dataplane.Reason(r), dropped[r])
					}
					if got := after.Suspect[r] - before.Suspect[r]; got != suspect[r] {
						t.Errorf("%d suspect as %s, want %d", got, dataplane.Reason(r), suspect[r])
					}
				}
				if after.Replies != before.Replies {
					t.Errorf("%d ICMP errors", after.Replies-before.Replies)
				}
				mustPing(t, a, b)
				mustPing(t, b, a)
				if err := transfer(b, a, 1<<20); err != nil {
					t.Error(err)
				}
			})
		}
	}
}
