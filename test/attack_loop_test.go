package test

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"tweed/test/lab"
)

// TestLoopOfThree has three nodes believe each that the next one holds a subnet,
// by three prefixes in etcd that contradict each other: a packet ends where it
// comes back to its source, or else when its TTL does.
func TestLoopOfThree(t *testing.T) {
	t.Parallel()
	c := newLab(t, lab.Options{})
	for i := range 3 {
		prefix := fmt.Sprintf("/loop%d", i)
		c.set(prefix+"/config", fmt.Sprintf(`{"Network":"10.5.0.0/16","SubnetMin":"10.5.%d.0","SubnetMax":"10.5.%d.0","Backend":{"Type":"udp"}}`, 10+i, 10+i), 0)
		c.addNode("-healthz-port=8081", "-etcd-prefix="+prefix)
	}
	for i := range c.nodes {
		prefix := fmt.Sprintf("/loop%d/subnets/", i)
		next, before := c.nodes[(i+1)%3], c.nodes[(i+2)%3]
		c.set(prefix+"10.5.200.0-24", fmt.Sprintf(`{"PublicIP":%q}`, next.Addr), time.Hour)
		// The ways to their own pods are right.
		c.set(fmt.Sprintf("%s10.5.%d.0-24", prefix, 10+(i+1)%3), fmt.Sprintf(`{"PublicIP":%q}`, next.Addr), time.Hour)
		c.set(fmt.Sprintf("%s10.5.%d.0-24", prefix, 10+(i+2)%3), fmt.Sprintf(`{"PublicIP":%q}`, before.Addr), time.Hour)
	}
	a, b, third := c.nodes[0], c.nodes[1], c.nodes[2]
	c.wantPing(a.pod.NS, b.pod.Addr)
	c.wantPing(b.pod.NS, third.pod.Addr)
	c.wantPing(third.pod.NS, a.pod.Addr)
	for _, n := range c.nodes {
		n.wantMetric("tweed_peers", exactly(3))
	}
	ended := func(reason string) (sum float64) {
		for _, n := range []*node{a, b, third} {
			m := n.metrics()
			for _, direction := range []string{"to_peers", "from_peers"} {
				sum += m["tweed_udp_dropped_packets_total{direction="+direction+",reason="+reason+"}"]
			}
		}
		return sum
	}
	conn, err := a.pod.NS.ListenPacket(c.ctx, netip.AddrPortFrom(a.pod.Addr, attackPort))
	c.must(err)
	defer conn.Close()
	attacker := c.addHostWith(lab.HostOptions{Outside: true})
	send := c.rawSender(attacker)
	var seen []*capture
	for _, n := range []*node{a, b, third} {
		p := c.captureFrom(n)
		defer p.end()
		seen = append(seen, p)
	}
	pings := []*pinger{c.pinging(a.pod.NS, b.pod.Addr), c.pinging(b.pod.NS, third.pod.Addr)}
	const packets = 20
	for _, tt := range []struct {
		text        string
		send        func(text string) error
		reason      string
		least, most int // crossings of the underlay, of each packet
	}{
		{"back at its source", func(text string) error {
			_, err := conn.WriteToUDPAddrPort([]byte(text), netip.MustParseAddrPort("10.5.200.9:9"))
			return err
		}, "looping", 3, 3},
		{"of a stranger", func(text string) error {
			send(udpInIPv4(attacker.Addr.String(), a.Addr.String(), 64, 8285, string(udpInIPv4("10.5.77.7", "10.5.200.9", 64, 9, text))))
			return nil
		}, "ttl_exceeded", 20, 64},
	} {
		before := ended(tt.reason)
		for range packets {
			if err := tt.send(tt.text); err != nil {
				t.Error(err)
			}
		}
		c.eventually("the packets' end", func() error {
			if n := ended(tt.reason) - before; n < packets {
				return fmt.Errorf("%v of %d have ended", n, packets)
			}
			return nil
		})
		hops := 0
		for _, p := range seen {
			for _, b := range p.packets() {
				hops += carried(b, tt.text)
			}
		}
		t.Logf("%s: %d packets with TTL 64 crossed the underlay %d times, %.1f each", tt.text, packets, hops, float64(hops)/packets)
		if hops < packets*tt.least || hops > packets*tt.most {
			t.Errorf("%s: %d packets crossed the underlay %d times, want %d to %d each", tt.text, packets, hops, tt.least, tt.most)
		}
	}
	for _, p := range pings {
		c.goOn(p, 20)
		if lost := p.lost(); lost > 0 {
			t.Errorf("%d of %d pings lost", lost, p.sent.Load())
		}
	}
}
