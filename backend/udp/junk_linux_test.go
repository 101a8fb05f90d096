package udp

import (
	"math/rand/v2"
	"net"
	"net/netip"
	"testing"

	"golang.org/x/sync/errgroup"

	"tweed/dataplane"
)

// A flood of whatever there is, from a peer's address and from a stranger's,
// while pings and TCP go on.
func TestJunkFlood(t *testing.T) {
	inMixes(t, func(t *testing.T, a, b *host, onA, _ *Backend) {
		mustPing(t, a, b)
		var conns [2]*net.UDPConn
		b.do(func() (err error) {
			if err := b.configure("eth0", "192.0.2.99/24"); err != nil {
				return err
			}
			for i, addr := range []string{"192.0.2.2", "192.0.2.99"} {
				conns[i], err = net.ListenUDP("udp4", &net.UDPAddr{IP: net.ParseIP(addr)})
				if err != nil {
					return err
				}
				t.Cleanup(func() { conns[i].Close() })
			}
			return nil
		})
		before := onA.Stats().FromPeers
		stop := make(chan struct{})
		var flood, work errgroup.Group
		sent := make([]uint64, len(conns))
		for i, conn := range conns {
			flood.Go(func() error {
				r := rand.New(rand.NewPCG(5, uint64(i)))
				to := netip.AddrPortFrom(a.addr, defaultPort)
				for {
					select {
					case <-stop:
						return nil
					default:
					}
					if _, err := conn.WriteToUDPAddrPort(junk(t, r), to); err != nil {
						return err
					}
					sent[i]++
				}
			})
		}
		work.Go(func() error { return transfer(a, b, 3<<20) })
		work.Go(func() error { return transfer(b, a, 3<<20) })
		if err := work.Wait(); err != nil {
			t.Error(err)
		}
		for range 10 {
			mustPing(t, a, b)
			mustPing(t, b, a)
		}
		close(stop)
		if err := flood.Wait(); err != nil {
			t.Error(err)
		}
		all := sent[0] + sent[1]
		// All but those that a full queue of the kernel had no room for.
		await(t, "the junk to be dropped", func() bool {
			s := onA.Stats()
			return 2*(total(s.FromPeers.Dropped)-total(before.Dropped)+s.Socket.Overflows) > all
		})
		after := onA.Stats().FromPeers
		for _, r := range []dataplane.Reason{dataplane.Truncated, dataplane.NotIPv4, dataplane.BadHeader, dataplane.BadChecksum, dataplane.Martian} {
			if after.Dropped[r] == before.Dropped[r] {
				t.Errorf("nothing was dropped as %s: %+v", r, after)
			}
		}
		if got := total(after.Dropped) - total(before.Dropped); got > all {
			t.Errorf("%d dropped of %d", got, all)
		}
		mustPing(t, a, b)
	})
}

// junk is a datagram that no router forwards, of 0 to 65507 bytes.
func junk(t *testing.T, r *rand.Rand) []byte {
	good := udpPacket(t, netip.MustParseAddrPort("10.5.2.2:7"), netip.MustParseAddrPort("10.5.1.2:9"), "junk")
	switch r.IntN(7) {
	case 0: // cut
		return good[:r.IntN(len(good))]
	case 1: // another version
		good[0] = byte(r.IntN(4))<<4 | good[0]&0xf
		return good
	case 2: // header length below 5
		good[0] = 4<<4 | byte(r.IntN(5))
		return good
	case 3: // header checksum
		good[10] ^= byte(1 + r.IntN(255))
		return good
	case 4: // source
		return udpPacket(t, netip.MustParseAddrPort("127.0.0.1:7"), netip.MustParseAddrPort("10.5.1.2:9"), "junk")
	case 5: // anything that is not IPv4
		b := make([]byte, r.IntN(3000))
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		if len(b) > 0 {
			b[0] &= 0x3f
		}
		return b
	default: // as large as can be, rarely
		if r.IntN(20) > 0 {
			return nil
		}
		return make([]byte, 30000+r.IntN(65507-30000+1))
	}
}
