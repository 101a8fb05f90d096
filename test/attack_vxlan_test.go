package test

import (
	endian "encoding/binary"
	"net"
	"net/netip"
	"testing"

	"tweed/test/lab"
)

// TestAttackVXLAN has a stranger send frames to the VXLAN port, as a peer would.
// The kernel asks for no more than the VNI and the MAC of the device (ip-link(8),
// vxlan), so what has both reaches a pod, as with flannel; but nobody's entries
// change by it, and no ping is lost.
func TestAttackVXLAN(t *testing.T) {
	t.Parallel()
	c := newCluster(t, config(`"vxlan"`), 2)
	a, b := c.nodes[0], c.nodes[1]
	attacker := c.addHostWith(lab.HostOptions{Outside: true})
	send := c.rawSender(attacker)
	c.wantPing(a.pod.NS, b.pod.Addr)
	pod, err := a.pod.NS.ListenPacket(c.ctx, netip.AddrPortFrom(a.pod.Addr, attackPort))
	c.must(err)
	defer pod.Close()
	mac := func(n *node) net.HardwareAddr {
		l, err := n.NS.Link("flannel.1")
		c.must(err)
		return l.Attrs().HardwareAddr
	}
	ours, theirs := mac(a), mac(b)
	before := a.mustOverlay()
	pings := c.pinging(a.pod.NS, b.pod.Addr)

	frame := func(vni byte, dst net.HardwareAddr, etherType uint16, inner []byte) {
		t.Helper()
		f := []byte{8, 0, 0, 0, 0, 0, vni, 0} // RFC 7348, 5
		f = append(append(f, dst...), theirs...)
		f = append(endian.BigEndian.AppendUint16(f, etherType), inner...)
		send(udpInIPv4(attacker.Addr.String(), a.Addr.String(), 64, 8472, string(f)))
	}
	packet := func(text string) []byte {
		return udpInIPv4(b.pod.Addr.String(), a.pod.Addr.String(), 64, attackPort, text)
	}
	const rounds = 10
	gratuitous := append([]byte{0, 1, 8, 0, 6, 4, 0, 1}, attackMAC...) // RFC 826: the next hop to b is at attackMAC
	gratuitous = append(gratuitous, b.env.Subnet.Addr().AsSlice()...)
	gratuitous = append(append(gratuitous, make([]byte, 6)...), b.env.Subnet.Addr().AsSlice()...)
	for range rounds {
		frame(1, ours, 0x0800, packet("attack"))
		frame(2, ours, 0x0800, packet("other VNI"))
		frame(1, attackMAC, 0x0800, packet("other MAC"))
		frame(1, net.HardwareAddr{255, 255, 255, 255, 255, 255}, 0x0806, gratuitous)
		frame(1, ours, 0x0806, gratuitous)
		send(udpInIPv4(attacker.Addr.String(), a.Addr.String(), 64, 8472, "junk"))
	}
	wantReads(t, pod, "attack", rounds)
	c.goOn(pings, 20)
	if lost := pings.lost(); lost > 0 {
		t.Errorf("%d of %d pings lost", lost, pings.sent.Load())
	}
	a.wantOverlay(before...) // nothing was learned
}

var attackMAC = net.HardwareAddr{0x0e, 0, 0, 0, 3, 1}
