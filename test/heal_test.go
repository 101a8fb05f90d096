package test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"tweed/test/lab"
)

// healTime is the pace of repairs, 10 s, and some time for a busy machine.
const healTime = 15 * time.Second

// TestHeal damages what the daemons keep in the kernel of three nodes, in a
// different way on each, and wants it back as it was, MAC addresses included.
func TestHeal(t *testing.T) {
	// The words in capitals are filled in by fill.
	type damage []string
	tests := []struct {
		backend string
		nodes   [3]damage
	}{
		{`"vxlan"`, [3]damage{
			{"ip route del NEXT/24", "ip neigh del LAST dev flannel.1"},
			{"bridge fdb del NEXTMAC dev flannel.1 dst NEXTIP self", "ip addr del OWN/32 dev flannel.1", "ip route replace LAST/24 via 20.0.0.1"},
			{"ip link del flannel.1"},
		}},
		{`"vxlan","VNI":9`, [3]damage{
			{"ip link set flannel.9 down"},
			{"ip link set flannel.9 address 0e:11:22:33:44:55"},
			{"ip neigh replace NEXT lladdr 0e:11:22:33:44:55 dev flannel.9 nud permanent", "bridge fdb replace NEXTMAC dev flannel.9 dst 20.0.0.99 self",
				"ip addr add 10.5.255.1/24 dev flannel.9", "ip route add 10.5.254.0/24 via 10.5.254.0 dev flannel.9 onlink"},
		}},
		{`"vxlan","DirectRouting":true`, [3]damage{
			{"ip route del NEXT/24", "ip route replace LAST/24 via 20.0.0.1 proto 84"},
			{"ip link del flannel.1"},
			{"ip link set eth0 down", "ip link set eth0 up", "ip route add default via 20.0.0.1"},
		}},
		{`"host-gw"`, [3]damage{
			{"ip route del NEXT/24", "ip route add 10.5.254.0/24 via 20.0.0.1 proto 84"},
			{"ip route replace NEXT/24 via 20.0.0.1"},
			{"ip link set eth0 down", "ip link set eth0 up", "ip route add default via 20.0.0.1"},
		}},
		{`"udp"`, [3]damage{
			{"ip link set flannel0 down"},
			{"ip addr del OWN/32 dev flannel0", "ip link set flannel0 mtu 1400"},
			{"ip route del 10.5.0.0/16"},
		}},
	}
	// They all wait for the same time together.
	t.Parallel()
	var all []*healing
	for _, tt := range tests {
		h := &healing{cluster: newCluster(t, config(tt.backend), 3, readyArgs), before: make(map[*node]string)}
		all = append(all, h)
		h.wantWell()
		for _, n := range h.nodes {
			h.before[n] = n.kernel()
		}
	}
	for i, tt := range tests {
		h := all[i]
		h.start = time.Now()
		for i, n := range h.nodes {
			for _, command := range tt.nodes[i] {
				n.run("%s", h.fill(command, i))
			}
			if n.kernel() == h.before[n] {
				t.Fatalf("%q does no damage", tt.nodes[i])
			}
		}
	}
	for i, tt := range tests {
		t.Run(tt.backend, func(t *testing.T) {
			h := all[i]
			h.t = t
			for _, n := range h.nodes {
				n.awaitKernel(h.before[n])
			}
			if d := time.Since(h.start); d > healTime {
				t.Errorf("took %s", d)
			}
		})
	}
	for _, h := range all {
		h.t = t
		h.wantWell()
	}
}

// A healing is a cluster that was damaged.
type healing struct {
	*cluster
	before map[*node]string // kernel state
	start  time.Time
}

// wantWell checks that every pod reaches every other one, and that the daemons
// have nothing to complain about.
func (h *healing) wantWell() {
	h.t.Helper()
	for _, n := range h.nodes {
		for _, p := range h.nodes {
			if n != p {
				h.wantPing(n.pod.NS, p.pod.Addr)
			}
		}
		n.awaitReady(200)
	}
}

// fill replaces OWN, NEXT and LAST by the first address of the subnets of node
// i, of the next one, and of the one after that, and NEXTMAC and NEXTIP by what
// the next one's lease says.
func (c *cluster) fill(command string, i int) string {
	own, next, last := c.nodes[i], c.nodes[(i+1)%3], c.nodes[(i+2)%3]
	_, mac, _ := strings.Cut(next.lease().Value, `"VtepMAC":"`)
	mac, _, _ = strings.Cut(mac, `"`)
	return strings.NewReplacer(
		"NEXTMAC", mac,
		"NEXTIP", next.Addr.String(),
		"OWN", own.env.Subnet.Addr().String(),
		"NEXT", next.env.Subnet.Addr().String(),
		"LAST", last.env.Subnet.Addr().String(),
	).Replace(command)
}

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
