package test

import (
	"fmt"
	"net/netip"
	"sync"
	"testing"

	"tweed/subnet"
	"tweed/test/lab"
)

// TestCrowd starts 20 daemons at once on a network with 24 subnets, and then
// uses the other four up.
func TestCrowd(t *testing.T) {
	t.Parallel()
	for _, backend := range []string{"alloc", "host-gw"} {
		t.Run(backend, func(t *testing.T) {
			const nodes, subnets = 20, 24
			c := newLab(t, lab.Options{})
			c.set(configKey, fmt.Sprintf(`{"Network":"10.5.0.0/16","SubnetMin":"10.5.1.0","SubnetMax":"10.5.%d.0","Backend":{"Type":%q}}`, subnets, backend), 0)
			for range nodes {
				c.addHost()
			}
			c.startAll()
			owners := make(map[netip.Prefix]string)
			for _, n := range c.nodes {
				if other, taken := owners[n.env.Subnet]; taken {
					t.Errorf("%s has %s, and so has %s", n.Name, n.env.Subnet, other)
				}
				owners[n.env.Subnet] = n.Name
				wantTexts(t, n.lease().Value, `"PublicIP":"`+n.Addr.String()+`"`)
			}
			if got := c.subnets(); len(got) != nodes {
				t.Errorf("there are %d leases, want %d: %v", len(got), nodes, got)
			}

			var last string // of the four that strangers take
			for i := range subnets {
				sn := overlaySubnet(byte(1 + i))
				if owners[sn] == "" {
					last = subnetsKey + subnet.Key(sn)
					c.set(last, fmt.Sprintf(`{"PublicIP":"20.0.0.%d"}`, 200+i), subnet.TTL)
				}
			}
			late := c.addHost()
			late.launch()
			said := late.wantExit(1)
			wantTexts(t, said, "no free /24 from 10.5.1.0 to 10.5.24.0 in 10.5.0.0/16", "out of subnets")
			if got := c.subnets(); len(got) != subnets {
				t.Errorf("there are %d leases, want %d: %v", len(got), subnets, got)
			}
			for _, n := range c.nodes[:nodes] {
				n.wantRunning()
			}

			c.must(c.Etcd.Delete(c.ctx, last))
			late.start()
			if got := late.key(); got != last {
				t.Errorf("the late node took %s, but only %s was free", got, last)
			}
		})
	}
}

// startAll starts the daemons of all nodes at once and waits for them.
func (c *cluster) startAll() {
	c.t.Helper()
	errs := make([]error, len(c.nodes))
	var wg sync.WaitGroup
	for i, n := range c.nodes {
		wg.Go(func() {
			if n.daemon, errs[i] = n.StartFlanneld(c.ctx); errs[i] != nil {
				return
			}
			if errs[i] = n.daemon.WaitReady(c.ctx); errs[i] == nil {
				n.env, errs[i] = n.SubnetEnv()
			}
		})
	}
	wg.Wait()
	for _, err := range errs {
		c.must(err)
	}
}
