package dataplane

import (
	"bytes"
	"net/netip"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
)

func TestICMPErrorBytes(t *testing.T) {
	offender := packet(header{src: "10.5.1.2", dst: "10.5.9.9", ttl: 63, proto: protoUDP, options: 4, payload: 100})
	for _, tt := range []struct {
		msg  ICMPError
		want layers.ICMPv4TypeCode
		rest uint32
	}{
		{NetUnreachable(), layers.CreateICMPv4TypeCode(3, 0), 0},
		{TimeExceeded(), layers.CreateICMPv4TypeCode(11, 0), 0},
		{FragmentationNeeded(1472), layers.CreateICMPv4TypeCode(3, 4), 1472},
	} {
		buf := bytes.Repeat([]byte{0xee}, MaxICMPError)
		n := tt.msg.Put(buf, netip.MustParseAddr("10.5.1.0"), offender)
		if n != 20+8+24+8 {
			t.Fatalf("%v: %d bytes", tt.want, n)
		}
		if !bytes.Equal(buf[n:], bytes.Repeat([]byte{0xee}, MaxICMPError-n)) {
			t.Errorf("%v: wrote past its end", tt.want)
		}
		// Read by an independent codec, and summed by the slow twin.
		p := gopacket.NewPacket(buf[:n], layers.LayerTypeIPv4, gopacket.Default)
		ip, _ := p.Layer(layers.LayerTypeIPv4).(*layers.IPv4)
		icmp, _ := p.Layer(layers.LayerTypeICMPv4).(*layers.ICMPv4)
		if ip == nil || icmp == nil {
			t.Fatalf("%v: not ICMP: %v", tt.want, p)
		}
		if ip.SrcIP.String() != "10.5.1.0" || ip.DstIP.String() != "10.5.1.2" || ip.TTL != 8 || int(ip.Length) != n {
			t.Errorf("%v: header %+v", tt.want, ip)
		}
		if icmp.TypeCode != tt.want || uint32(icmp.Id)<<16|uint32(icmp.Seq) != tt.rest {
			t.Errorf("message %v, want %v with %d", icmp, tt.want, tt.rest)
		}
		if !bytes.Equal(icmp.Payload, offender[:32]) {
			t.Errorf("%v: quoted % x", tt.want, icmp.Payload)
		}
		if slowSum(0, buf[:20]) != 0xffff || slowSum(0, buf[20:n]) != 0xffff {
			t.Errorf("%v: wrong checksum", tt.want)
		}
	}
}

func TestICMPErrorAbout(t *testing.T) {
	plain := func(change func(h *header)) IPv4 {
		h := header{src: "10.5.1.2", dst: "10.5.9.9", ttl: 64, proto: protoUDP, payload: 8}
		change(&h)
		return packet(h)
	}
	from := netip.MustParseAddr("10.5.1.0")
	tests := []struct {
		name     string
		from     netip.Addr
		offender IPv4
		want     int
	}{
		{"UDP", from, plain(func(h *header) {}), 56},
		{"first fragment", from, plain(func(h *header) { h.frag = 0x2000 }), 56},
		{"less than 8 bytes", from, plain(func(h *header) { h.payload = 3 }), 51},
		{"no payload", from, plain(func(h *header) { h.payload = 0 }), 48},
		{"longest header", from, plain(func(h *header) { h.options, h.payload = 40, 1000 }), MaxICMPError},

		{"ping", from, plain(func(h *header) { h.proto, h.first = protoICMP, 8 }), 56},
		{"answer to a ping", from, plain(func(h *header) { h.proto = protoICMP }), 56},

		{"ICMP unreachable", from, plain(func(h *header) { h.proto, h.first = protoICMP, 3 }), 0},
		{"ICMP source quench", from, plain(func(h *header) { h.proto, h.first = protoICMP, 4 }), 0},
		{"ICMP redirect", from, plain(func(h *header) { h.proto, h.first = protoICMP, 5 }), 0},
		{"ICMP time exceeded", from, plain(func(h *header) { h.proto, h.first = protoICMP, 11 }), 0},
		{"ICMP parameter problem", from, plain(func(h *header) { h.proto, h.first = protoICMP, 12 }), 0},
		{"ICMP behind options", from, plain(func(h *header) { h.proto, h.first, h.options = protoICMP, 3, 8 }), 0},
		{"ICMP without a type", from, plain(func(h *header) { h.proto, h.payload = protoICMP, 0 }), 0},
		{"later fragment", from, plain(func(h *header) { h.frag = 0x2001 }), 0},
		{"last fragment", from, plain(func(h *header) { h.frag = 1 }), 0},
		{"source zero", from, plain(func(h *header) { h.src = "0.0.0.0" }), 0},
		{"source loopback", from, plain(func(h *header) { h.src = "127.0.0.1" }), 0},
		{"source multicast", from, plain(func(h *header) { h.src = "224.0.0.1" }), 0},
		{"source in class E", from, plain(func(h *header) { h.src = "240.0.0.1" }), 56},
		{"source broadcast", from, plain(func(h *header) { h.src = "255.255.255.255" }), 0},
		{"to multicast", from, plain(func(h *header) { h.dst = "239.1.2.3" }), 0},
		{"to broadcast", from, plain(func(h *header) { h.dst = "255.255.255.255" }), 0},
		{"no address of ours", netip.Addr{}, plain(func(h *header) {}), 0},
		{"IPv6 address of ours", netip.MustParseAddr("fd00::1"), plain(func(h *header) {}), 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			buf := make([]byte, MaxICMPError)
			if n := NetUnreachable().Put(buf, tt.from, tt.offender); n != tt.want {
				t.Errorf("%d bytes, want %d", n, tt.want)
			}
		})
	}
}

// Whatever packet gets through ParseIPv4 can be answered or is not, and an
// answer is a right packet that is not answered in turn.
func FuzzICMPError(f *testing.F) {
	f.Add(simple(64), uint8(0), uint16(0))
	f.Fuzz(func(t *testing.T, b []byte, kind uint8, mtu uint16) {
		if len(b) >= minHeader { // let the fuzzer's packets through
			seal(b)
		}
		offender, reason := ParseIPv4(b)
		if reason != NotDropped {
			return
		}
		from := netip.MustParseAddr("10.5.1.0")
		buf := make([]byte, MaxICMPError)
		kinds := []ICMPError{NetUnreachable(), TimeExceeded(), FragmentationNeeded(mtu)}
		n := kinds[int(kind)%len(kinds)].Put(buf, from, offender)
		if n == 0 {
			return
		}
		p, reason := ParseIPv4(buf[:n])
		if reason != NotDropped || len(p) != n || p.Dst() != offender.Src() || slowSum(0, p[minHeader:]) != 0xffff {
			t.Fatalf("%v: answer % x", reason, buf[:n])
		}
		if again := NetUnreachable().Put(make([]byte, MaxICMPError), from, p); again != 0 {
			t.Error("an ICMP error was answered")
		}
	})
}
