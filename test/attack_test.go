package test

import (
	endian "encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"tweed/test/lab"
)

// An attack is an inner packet, and what comes of it where SourceCheck is off.
type attack struct {
	name     string
	src, dst string
	ttl      byte
	change   func([]byte) []byte
	reason   string // counted as dropped; "" if it is not dropped by the daemon
	relayed  bool   // to the third node, once
	arrives  bool   // at our pod
}

func (c *cluster) attacks(a, b, third *node) []attack {
	nobody := "10.5.250.9"
	return []attack{
		{name: "a pod of another node", src: third.pod.Addr.String(), dst: a.pod.Addr.String(), arrives: true},
		{name: "a subnet that nobody has", src: nobody, dst: a.pod.Addr.String(), arrives: true},
		{name: "to another node's pod", src: b.pod.Addr.String(), dst: third.pod.Addr.String(), relayed: true},
		{name: "our own pod", src: a.pod.Addr.String(), dst: a.pod.Addr.String(), reason: "looping"},
		{name: "loopback", src: "127.0.0.1", dst: a.pod.Addr.String(), reason: "martian"},
		{name: "no address", src: "0.0.0.0", dst: a.pod.Addr.String(), reason: "martian"},
		{name: "multicast", src: "224.0.0.1", dst: a.pod.Addr.String(), reason: "martian"},
		{name: "broadcast", src: "255.255.255.255", dst: a.pod.Addr.String(), reason: "martian"},
		{name: "class E, which Linux routes", src: "240.0.0.1", dst: a.pod.Addr.String(), arrives: true},
		{name: "to loopback", src: third.pod.Addr.String(), dst: "127.0.0.1", reason: "martian"},
		{name: "to multicast", src: third.pod.Addr.String(), dst: "239.1.1.1", reason: "martian"},
		{name: "to our underlay address", src: third.pod.Addr.String(), dst: a.Addr.String(), reason: "outside"},
		{name: "to another's underlay address", src: third.pod.Addr.String(), dst: b.Addr.String(), reason: "outside"},
		{name: "to etcd", src: third.pod.Addr.String(), dst: "20.0.0.1", reason: "outside"},
		{name: "far away", src: third.pod.Addr.String(), dst: "198.51.100.7", reason: "outside"},
		{name: "our underlay address", src: a.Addr.String(), dst: a.pod.Addr.String()}, // the kernel's martian
		{name: "the last hop", src: third.pod.Addr.String(), dst: a.pod.Addr.String(), ttl: 1, reason: "ttl_exceeded"},
		{name: "cut", src: third.pod.Addr.String(), dst: a.pod.Addr.String(), change: func(p []byte) []byte { return p[:len(p)-1] }, reason: "truncated"},
		{name: "IPv6", src: third.pod.Addr.String(), dst: a.pod.Addr.String(), change: func(p []byte) []byte { p[0] = 0x65; return p }, reason: "not_ipv4"},
		{name: "checksum", src: third.pod.Addr.String(), dst: a.pod.Addr.String(), change: func(p []byte) []byte { p[10]++; return p }, reason: "bad_checksum"},
		{name: "header of 16 bytes", src: third.pod.Addr.String(), dst: a.pod.Addr.String(), change: func(p []byte) []byte { p[0] = 0x44; return p }, reason: "bad_header"},
	}
}

const attackPort = 9999

// TestAttackUDP has a stranger send what no peer would, with its own address and
// with that of a peer, while the pods ping each other: each kind is in the
// metrics, and nothing leaves the node that should not.
func TestAttackUDP(t *testing.T) {
	t.Parallel()
	c := newCluster(t, config(`"udp"`), 3, "-healthz-port=8081")
	a, b, third := c.nodes[0], c.nodes[1], c.nodes[2]
	attacker := c.addHostWith(lab.HostOptions{Outside: true})
	send := c.rawSender(attacker)
	c.wantPing(a.pod.NS, b.pod.Addr)
	c.wantPing(b.pod.NS, third.pod.Addr)
	c.wantPing(third.pod.NS, a.pod.Addr)
	pod, err := a.pod.NS.ListenPacket(c.ctx, netip.AddrPortFrom(a.pod.Addr, attackPort))
	c.must(err)
	defer pod.Close()
	other, err := third.pod.NS.ListenPacket(c.ctx, netip.AddrPortFrom(third.pod.Addr, attackPort))
	c.must(err)
	defer other.Close()

	pings := []*pinger{c.pinging(a.pod.NS, b.pod.Addr), c.pinging(b.pod.NS, a.pod.Addr), c.pinging(third.pod.NS, a.pod.Addr)}
	seen := c.captureFrom(a)
	defer seen.end()
	before := a.metrics()

	const rounds = 5
	outers := []string{attacker.Addr.String(), b.Addr.String()}
	all := c.attacks(a, b, third)
	want := make(map[string]float64)
	arrive, relayed, sent := 0, 0, 0
	for range rounds {
		for _, x := range all {
			for _, outer := range outers {
				ttl := x.ttl
				if ttl == 0 {
					ttl = 64
				}
				inner := udpInIPv4(x.src, x.dst, ttl, attackPort, "attack "+x.name)
				if x.change != nil {
					inner = x.change(inner)
				}
				datagram := udpInIPv4(outer, a.Addr.String(), 64, 8285, string(inner))
				endian.BigEndian.PutUint16(datagram[20:], 8285)
				send(datagram)
				sent++
				if x.reason != "" {
					want[x.reason]++
				}
				if x.arrives {
					arrive++
				}
				if x.relayed {
					relayed++
				}
			}
		}
	}
	dropped := func(reason string) string {
		return "tweed_udp_dropped_packets_total{direction=from_peers,reason=" + reason + "}"
	}
	for reason, n := range want {
		a.wantMetric(dropped(reason), exactly(before[dropped(reason)]+n))
	}
	for _, reason := range []string{"unknown_peer", "foreign_source"} { // let in, but told
		name := "tweed_udp_suspect_packets_total{direction=from_peers,reason=" + reason + "}"
		a.wantMetric(name, atLeast(before[name]+3*rounds))
	}
	wantReads(t, pod, "attack ", arrive)
	wantReads(t, other, "attack to another node's pod", relayed)
	for _, p := range pings {
		c.goOn(p, 20)
		if lost := p.lost(); lost > 0 {
			t.Errorf("%d of %d pings lost", lost, p.sent.Load())
		}
	}

	// What left: news from and to etcd, packets to peers' port for their own pods.
	stray, onward := 0, 0
	for _, p := range seen.packets() {
		why := c.strayed(a, p, b, third)
		if why != "" {
			stray++
			if stray <= 10 {
				t.Errorf("left the node: %s: % x", why, p[:min(len(p), 80)])
			}
		}
		onward += carried(p, "attack ")
	}
	t.Logf("%d attacks of %d kinds: %d let in and %d sent on to the owner of the pod, as SourceCheck is off; %d packets of the node on the underlay, %d of them stray, %d with an attack inside",
		sent, len(all), arrive, relayed, len(seen.packets()), stray, onward)
	if onward != relayed {
		t.Errorf("%d packets with an attack inside left, want %d", onward, relayed)
	}
	a.wantRunning()
	if n := a.said(); n > 100 {
		t.Errorf("%d lines in the log", n)
	}
}

// strayed says why a packet should not have left the node n, whose peers are
// given; "" for what may.
func (c *cluster) strayed(n *node, p []byte, peers ...*node) string {
	src, dst := netip.AddrFrom4([4]byte(p[12:16])), netip.AddrFrom4([4]byte(p[16:20]))
	header := int(p[0]&15) * 4
	switch {
	case src != n.Addr:
		return fmt.Sprintf("source %s", src)
	case p[9] == unix.IPPROTO_TCP && dst.String() == "20.0.0.1":
		return ""
	case p[9] != unix.IPPROTO_UDP || len(p) < header+8+20:
		return fmt.Sprintf("protocol %d, %d bytes, to %s", p[9], len(p), dst)
	}
	for _, inner := range inners(p) {
		to := netip.AddrFrom4([4]byte(inner[16:20]))
		mayGo := func(peer *node) bool {
			// The error about a TTL goes back to who seems to have sent the packet.
			expired := inner[9] == unix.IPPROTO_ICMP && len(inner) > 20 && inner[20] == 11
			return dst == peer.Addr && endian.BigEndian.Uint16(p[header+2:]) == 8285 && (peer.env.Subnet.Contains(to) || expired)
		}
		if !slices.ContainsFunc(peers, mayGo) {
			return fmt.Sprintf("to %s with a packet for %s", dst, to)
		}
	}
	return ""
}
