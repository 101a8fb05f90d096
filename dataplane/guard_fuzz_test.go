package dataplane

import (
	"net/netip"
	"testing"
)

// FuzzGuard: whatever comes from whatever address, what goes on to the kernel
// has the addresses of single hosts, is for the network, is not from our own
// subnet, does not go back to where it came from, and keeps to the SourceCheck.
func FuzzGuard(f *testing.F) {
	f.Add([]byte{10, 5, 2, 2}, []byte{10, 5, 1, 2}, []byte{192, 0, 2, 2}, uint8(0))
	f.Add([]byte{10, 5, 1, 2}, []byte{10, 5, 2, 2}, []byte{192, 0, 2, 2}, uint8(2))
	f.Add([]byte{192, 0, 2, 9}, []byte{192, 0, 2, 1}, []byte{192, 0, 2, 9}, uint8(1))
	f.Add([]byte{127, 0, 0, 1}, []byte{224, 0, 0, 1}, []byte{192, 0, 2, 3}, uint8(0))
	own, network := netip.MustParsePrefix("10.5.1.0/24"), netip.MustParsePrefix("10.5.0.0/16")
	subnets := map[netip.Addr]netip.Prefix{
		netip.MustParseAddr("192.0.2.2"): netip.MustParsePrefix("10.5.2.0/24"),
		netip.MustParseAddr("192.0.2.3"): netip.MustParsePrefix("10.5.3.0/24"),
	}
	f.Fuzz(func(t *testing.T, src, dst, outer []byte, kind uint8) {
		if len(src) < 4 || len(dst) < 4 || len(outer) < 4 {
			return
		}
		from := netip.AddrFrom4([4]byte(outer))
		b := guarded(sourceChecks[kind%3])
		b.Guard.Network = network
		p := packet(header{src: netip.AddrFrom4([4]byte(src)).String(), dst: netip.AddrFrom4([4]byte(dst)).String(), ttl: 64})
		b.in.putFrom(from.String(), p)
		b.run(t)
		subnet, isPeer := subnets[from]
		if len(b.in.sent) > 0 {
			t.Errorf("an answer, though no TTL ended")
		}
		for _, sent := range b.out.sent {
			ip := IPv4(sent.Bytes)
			switch s, d := ip.Src(), ip.Dst(); {
			case !s.IsGlobalUnicast() && !s.IsLinkLocalUnicast() || s.As4()[0] == 0 || !network.Contains(d), own.Contains(s),
				subnet.IsValid() && subnet.Contains(d),
				b.Guard.Check >= CheckPeer && !isPeer,
				b.Guard.Check == CheckStrict && s != from && !subnet.Contains(s):
				t.Errorf("%v: %s to %s from %s went on", b.Guard.Check, s, d, from)
			}
		}
	})
}
