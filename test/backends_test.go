package test

import (
	"fmt"
	"testing"
)

// TestConnected has every backend carry packets between two and three nodes.
func TestConnected(t *testing.T) {
	for _, backend := range []string{"vxlan", "udp", "host-gw"} {
		for _, nodes := range []int{2, 3} {
			t.Run(fmt.Sprintf("%s/%d nodes", backend, nodes), func(t *testing.T) {
				newCluster(t, config(`"`+backend+`"`), nodes).wantConnected()
			})
		}
	}
}

// TestRestartUnderTraffic restarts daemons while pings and a TCP connection
// go on: the kernel carries them without the daemon, and the next one finds
// nothing to change.
func TestRestartUnderTraffic(t *testing.T) {
	for _, backend := range []string{"vxlan", "host-gw"} {
		t.Run(backend, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t, config(`"`+backend+`"`), 2, "-ip-masq", "-iptables-resync=1", readyArgs)
			a, b := c.nodes[0], c.nodes[1]
			c.wantPing(a.pod.NS, b.pod.Addr)
			a.awaitReady(200)
			lease, kernel, rules := a.lease(), a.kernel(), a.rules()
			watch := a.watchKernel()
			traffic := c.startTraffic(a.pod, b.pod)

			a.restart("-ip-masq", "-iptables-resync=1", readyArgs)
			a.awaitReady(200)
			c.must(a.daemon.Kill())
			traffic.await(10)
			a.start("-ip-masq", "-iptables-resync=1", readyArgs)
			a.awaitReady(200)

			if lost := traffic.stop(); lost > 1 {
				t.Errorf("%d pings were lost", lost)
			}
			if seen := watch.stop("flannel", "10.5."); len(seen) > 0 {
				t.Errorf("the restarts changed something: %q", seen)
			}
			same(t, "kernel state", kernel, a.kernel())
			same(t, "iptables", rules, a.rules())
			if got := a.lease(); got.Key != lease.Key || got.Value != lease.Value {
				t.Errorf("lease %s %s, was %s %s", got.Key, got.Value, lease.Key, lease.Value)
			}
		})
	}
}
