package test

import (
	"testing"

	"tweed/test/lab"
)

// TestFirstSubnet leases the first subnet of the network, whose own address
// 10.5.0.0 a TUN with the network's prefix length would take for a broadcast.
func TestFirstSubnet(t *testing.T) {
	for _, backend := range []string{"udp", "vxlan"} {
		t.Run(backend, func(t *testing.T) {
			t.Parallel()
			c := newLab(t, lab.Options{})
			c.set(configKey, `{"Network":"10.5.0.0/16","SubnetMin":"10.5.0.0","SubnetMax":"10.5.1.0","Backend":{"Type":"`+backend+`"}}`, 0)
			a, b := c.addNode(), c.addNode()
			if a.env.Subnet.Addr().String() != "10.5.0.0" && b.env.Subnet.Addr().String() != "10.5.0.0" {
				t.Fatalf("the subnets are %s and %s", a.env.Subnet, b.env.Subnet)
			}
			for _, way := range [][2]*node{{a, b}, {b, a}} {
				from, to := way[0], way[1]
				c.wantPing(from.NS, to.env.Subnet.Addr()) // from host to host
				c.wantPing(from.NS, to.pod.Addr)
				c.wantPing(from.pod.NS, to.env.Subnet.Addr())
				c.wantPing(from.pod.NS, to.pod.Addr)
			}
		})
	}
}

// TestVXLANPortDefault takes Port out of the config again: the devices then have
// the kernel's port, as that of a node that comes later does.
func TestVXLANPortDefault(t *testing.T) {
	t.Parallel()
	c := newCluster(t, config(`"vxlan","Port":4790`), 2)
	c.set(configKey, config(`"vxlan"`), 0)
	for _, n := range c.nodes {
		n.restart()
	}
	c.addNode()
	for _, n := range c.nodes {
		if port := n.vxlan("flannel.1").Port; port != 8472 {
			t.Fatalf("%s has port %d, want 8472", n.Name, port)
		}
	}
	for _, n := range c.nodes {
		for _, p := range c.nodes {
			if n != p {
				c.wantPing(n.pod.NS, p.pod.Addr)
			}
		}
	}
}
