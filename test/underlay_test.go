package test

import (
	"errors"
	"strings"
	"testing"
	"time"
)

// underlayLimit is what following the underlay may take beside other tests. Alone
// it is between one and two seconds.
const underlayLimit = 4 * time.Second

// An outage is a loss of the underlay of one node, and its return.
type outage struct {
	name       string
	lose, back func(n *node)
}

// addDefault brings back what the kernel takes away with a link, as dhclient
// or systemd-networkd would.
func (n *node) addDefault() {
	n.c.t.Helper()
	if !strings.Contains(n.run("ip route show default"), "20.0.0.1") {
		n.run("ip route add default via 20.0.0.1")
	}
}

var outages = []outage{
	{"cable",
		func(n *node) { n.c.must(n.Unplug()) },
		func(n *node) { n.c.must(n.Plug(n.c.ctx)) }},
	{"link down",
		func(n *node) { n.run("ip link set eth0 down") },
		func(n *node) { n.run("ip link set eth0 up"); n.addDefault() }},
	{"interface removed",
		func(n *node) { n.run("ip link del eth0") },
		func(n *node) { n.newEth0(); n.run("ip addr add %s/24 dev eth0", n.Addr); n.addDefault() }},
	{"address removed",
		func(n *node) { n.run("ip addr del %s/24 dev eth0", n.Addr) },
		func(n *node) { n.run("ip addr add %s/24 dev eth0", n.Addr); n.addDefault() }},
}

// newEth0 connects the node to the switch by a new cable.
func (n *node) newEth0() {
	n.c.t.Helper()
	port := "p-" + n.Name
	n.c.in(n.c.Switch(), "ip", "link", "add", port, "mtu", "1500", "master", "br0", "type", "veth", "peer", "name", "eth0", "mtu", "1500", "netns", string(n.NS))
	n.c.in(n.c.Switch(), "ip", "link", "set", port, "up")
	n.run("ip link set eth0 txqueuelen 0 up")
}

// complaints are the warnings and errors in the log from a line number on.
func (n *node) complaints(from int) (lines []string) {
	for _, line := range n.daemon.Lines()[from:] {
		if strings.HasPrefix(line, "W") || strings.HasPrefix(line, "E") {
			lines = append(lines, line)
		}
	}
	return lines
}

// TestUnderlayLost takes the underlay away for a second or two in every way:
// the daemon gives nothing up, says a line about it, and traffic flows again
// once the underlay is back.
func TestUnderlayLost(t *testing.T) {
	t.Parallel()
	for _, backend := range []string{`"vxlan"`, `"vxlan","DirectRouting":true`, `"host-gw"`, `"udp"`} {
		t.Run(backend, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t, config(backend), 2, readyArgs)
			c.wantWell()
			a, b := c.nodes[0], c.nodes[1]
			record := a.lease()
			before := []string{a.kernelNow(), b.kernelNow()}
			for _, o := range outages {
				c.step(o.name, func() {
					t := c.t
					from := a.said()
					o.lose(a)
					c.wantNoPing(a.pod.NS, b.pod.Addr)
					time.Sleep(2 * time.Second) // for the daemon to go wrong
					a.wantRunning()
					if got := a.lease(); got.Value != record.Value {
						t.Errorf("the lease is %s during the outage, was %s", got.Value, record.Value)
					}
					if got := b.kernelNow(); got != before[1] {
						t.Errorf("the peer gave something up:%s", differences(got, before[1]))
					}
					start := time.Now()
					o.back(a)
					_, err := c.returns(a.pod, b.pod, 4*healLimit)
					d := time.Since(start)
					switch {
					case err != nil:
						t.Errorf("no traffic after %s: %v", d, err)
					case d > underlayLimit:
						t.Errorf("traffic after %s", d)
					}
					if _, err := c.returns(b.pod, a.pod, healLimit); err != nil {
						t.Errorf("no traffic from the peer: %v", err)
					}
					c.eventually("the state of before", func() error {
						if have := a.kernelNow(); have != before[0] {
							return errors.New(differences(have, before[0]))
						}
						return nil
					})
					c.wantWell()
					a.wantLogFrom(from, "the interface is in order again")
					lines := a.complaints(from)
					if len(lines) < 1 || len(lines) > 5 {
						t.Errorf("%d complaints, want 1 to 5: %q", len(lines), lines)
					}
					t.Logf("%s: %s: traffic %s after the return began: %q", backend, o.name, d.Round(time.Millisecond), lines)
				})
			}
		})
	}
}

// TestUnderlayFlaps has an interface go down and up ten times in a row, and more
// routes with it than a rival would take away: that is no reason to be slow.
func TestUnderlayFlaps(t *testing.T) {
	t.Parallel()
	for _, backend := range []string{`"vxlan"`, `"vxlan","DirectRouting":true`, `"host-gw"`, `"udp"`} {
		t.Run(backend, func(t *testing.T) {
			c := newCluster(t, config(backend), 2, readyArgs)
			c.wantWell()
			a, b := c.nodes[0], c.nodes[1]
			var took measured
			for range 10 {
				a.run("ip link set eth0 down")
				c.wantNoPing(a.pod.NS, b.pod.Addr)
				a.run("ip link set eth0 up")
				a.addDefault()
				d, err := c.returns(a.pod, b.pod, 4*healLimit)
				if took = append(took, d); err != nil || d > underlayLimit {
					t.Fatalf("after %d times traffic is back after %s: %v; %q", len(took), d, err, a.complaints(0))
				}
			}
			if lines := a.countLog(0, "another program"); len(lines) > 0 {
				t.Errorf("it takes that for a fight: %q", lines)
			}
			t.Logf("%s: ten times down and up: traffic after %s", backend, took)
			c.wantWell()
		})
	}
}
