package test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"tweed/test/lab"
)

// TestStaleRoutes: what an earlier run left inside the network goes at the
// start, what others made stays.
func TestStaleRoutes(t *testing.T) {
	for _, backend := range []string{"vxlan", "host-gw", "udp"} {
		t.Run(backend, func(t *testing.T) {
			t.Parallel()
			c := newLab(t, lab.Options{})
			c.set(configKey, config(`"`+backend+`"`), 0)
			n := c.addHost()
			// The node's own subnet is among the first hundred.
			foreign := []string{
				"10.5.178.0/24 via 20.0.0.9 proto static",
				"10.5.179.0/24 via 20.0.0.9 proto 84 table 100", // of another table
				"blackhole 10.5.180.0/24 proto static",
				"10.5.181.0/24 via 20.0.0.9",                      // proto boot, as `ip route` makes them
				"10.9.77.0/24 via 20.0.0.9 proto 84",              // of another network
				"10.0.0.0/8 via 20.0.0.9 proto 84",                // larger than the network
				"10.5.182.0/24 via 20.0.0.9 proto 84 table local", // of the kernel's own
			}
			for _, r := range foreign {
				n.run("ip route add %s", r)
			}
			want := n.run("ip route show table all")
			n.run("ip route add 10.5.177.0/24 via 20.0.0.9 proto 84")
			n.run("ip route add 10.5.183.0/24 via 20.0.0.10 proto 84 metric 5")
			n.start(readyArgs)
			n.awaitReady(200)
			have := slices.Collect(strings.Lines(n.run("ip route show table all")))
			for line := range strings.Lines(want) {
				if !slices.Contains(have, line) {
					t.Errorf("the route %q is gone", line)
				}
			}
			for _, line := range have {
				if strings.Contains(line, "10.5.177.0") || strings.Contains(line, "10.5.183.0") {
					t.Errorf("the stale route %q is still there", line)
				}
			}
		})
	}
}

// TestStaleEntries has nodes leave while the daemon is down: what it knew of
// them goes at its start. What others made stays, then and after a repair.
func TestStaleEntries(t *testing.T) {
	t.Parallel()
	c := newCluster(t, config(`"vxlan"`), 3, readyArgs)
	c.wantWell()
	n, stays, leaves := c.nodes[0], c.nodes[1], c.nodes[2]
	base, mac := leaves.env.Subnet.Addr(), leaves.vxlan("flannel.1").HardwareAddr

	n.stop()
	c.must(leaves.daemon.Kill())
	leaves.forget()
	for _, command := range []string{
		"ip neigh add 10.5.250.1 lladdr 0e:00:00:00:00:01 dev flannel.1 nud stale", // as the kernel learns them
		"bridge fdb add 0e:00:00:00:00:02 dev flannel.1 dst 20.0.0.92 self dynamic",
		"ip neigh add 20.0.0.93 lladdr 0e:00:00:00:00:03 dev eth0 nud permanent",
		"bridge fdb add 0e:00:00:00:00:04 dev docker0 self permanent",
		"ip link add other.7 type vxlan id 7 dev eth0 dstport 4799 nolearning",
		"ip link set other.7 up",
		"ip addr add 10.77.0.1/24 dev other.7",
		"ip neigh add 10.77.0.5 lladdr 0e:00:00:00:00:05 dev other.7 nud permanent",
		"bridge fdb add 0e:00:00:00:00:05 dev other.7 dst 20.0.0.95 self permanent",
		"ip route add 10.78.0.0/24 via 10.77.0.5 dev other.7",
		"ip route add 10.5.240.0/24 via 10.77.0.5 dev other.7 proto static",
		"ip route add 10.5.241.0/24 dev flannel.1 table 77 proto 84",
		"ip rule add from 10.5.0.0/16 lookup 77 priority 1077",
		"ip -6 addr add fd00:5::1/64 dev flannel.1 nodad",
		"ip -6 route add fd00:6::/64 dev flannel.1",
	} {
		n.run("%s", command)
	}
	foreign := n.foreign()
	n.start(readyArgs)
	n.awaitReady(200)
	check := func(when string) {
		t.Helper()
		n.wantEntries("flannel.1", stays)
		if have := n.kernel(); strings.Contains(have, base.String()) || strings.Contains(have, mac.String()) {
			t.Errorf("%s: of the node that left is still there:\n%s", when, have)
		}
		same(t, "what others made "+when, foreign, n.foreign())
	}
	check("at the start")
	for _, command := range []string{"ip route flush proto 84", "ip neigh flush dev flannel.1 nud permanent", "ip link set flannel.1 mtu 1300"} {
		if _, err := n.heals(n.kernelNow(), 4*healLimit, func() { n.run("%s", command) }); err != nil {
			t.Errorf("%s: %v", command, err)
		}
	}
	check("after repairs")
	c.wantPing(n.pod.NS, stays.pod.Addr)
}

// foreign lists what TestStaleEntries made in the name of others.
func (n *node) foreign() string {
	n.c.t.Helper()
	var b strings.Builder
	for _, list := range []string{
		"ip -4 neigh show dev other.7", "bridge fdb show dev other.7", "ip -4 route show table all", "ip -4 neigh show 10.5.250.1", "ip -4 neigh show 20.0.0.93",
		"bridge fdb show dev docker0", "bridge fdb show dev flannel.1", "ip rule show", "ip -6 addr show dev flannel.1", "ip -6 route show", "ip -o addr show dev other.7",
	} {
		for line := range strings.Lines(n.run("%s", list)) {
			marks := []string{"0e:00:00:00:00:0", "10.77.0", "10.78.0", "10.5.240.", "10.5.241.", "lookup 77", "fd00:5:", "fd00:6:"}
			if slices.ContainsFunc(marks, func(m string) bool { return strings.Contains(line, m) }) {
				fmt.Fprintln(&b, list, ":", strings.TrimSpace(line))
			}
		}
	}
	return sorted(b.String())
}
