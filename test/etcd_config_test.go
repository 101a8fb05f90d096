package test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"tweed/test/lab"
	"tweed/test/nstest"
)

// newNetwork is what someone writes over the config of running daemons.
const newNetwork = `{"Network":"10.7.0.0/16","SubnetLen":26,"Backend":{"Type":"vxlan"}}`

// TestConfigChanges changes the network config under running daemons in every
// way, and back: each time they say once what it means, and go on as before.
func TestConfigChanges(t *testing.T) {
	t.Parallel()
	good := config(`"vxlan"`)
	c := newCluster(t, good, 2)
	a, b := c.nodes[0], c.nodes[1]
	calm := c.keepVigil(a, b)
	set := func(value string) func() { return func() { c.set(configKey, value, 0) } }
	tests := []struct {
		name string
		do   func()
		says []string // in one line
	}{
		{"another network", set(newNetwork), []string{"Network", "10.5.0.0/16", "10.7.0.0/16", "SubnetLen", "24", "26", "restart"}},
		{"back", set(good), []string{"config"}},
		{"another backend", set(config(`"udp"`)), []string{"vxlan", "udp", "restart"}},
		{"deleted", func() { c.must(c.Etcd.Delete(c.ctx, configKey)) }, []string{"was deleted", "write it again"}},
		{"not JSON", set(`{"Network":`), []string{"not JSON"}},
		{"no network", set(`{}`), []string{"Network"}},
		{"back again", set(good), []string{"config"}},
		{"the same in other words", set(`{ "Backend": {"Type" : "vxlan"}, "SubnetLen": 24, "Network":"10.5.0.0/16" }`), nil},
	}
	for i, tt := range tests {
		c.step(tt.name, func() {
			from := []int{a.said(), b.said()}
			tt.do()
			for k, n := range []*node{a, b} {
				n.wantConfigLine(from[k], tt.says)
			}
			key, p := stranger("vxlan", byte(1+i)) // the watch goes on
			c.set(key, p.value(), time.Hour)
			c.inForce(p, 0, time.Now(), a, b)
			for k, n := range []*node{a, b} {
				want := 1
				if tt.says == nil {
					want = 0
				}
				if said := n.said() - from[k]; said != want {
					c.t.Errorf("%s said %d lines, want %d: %q", n.Name, said, want, n.daemon.Lines()[from[k]:])
				}
			}
		})
	}
	calm.end("the network config changed", len(tests))
	for _, n := range c.nodes {
		env, err := n.SubnetEnv()
		c.must(err)
		n.wantSubnet(env)
	}
}

// wantConfigLine waits for one line, from number from on, with all the texts.
func (n *node) wantConfigLine(from int, texts []string) {
	n.c.t.Helper()
	if texts == nil {
		return
	}
	n.c.eventually(fmt.Sprintf("a line with %q of %s", texts, n.Name), func() error {
		lines := n.daemon.Lines()[from:]
		for _, line := range lines {
			missing := 0
			for _, text := range texts {
				if !strings.Contains(line, text) {
					missing++
				}
			}
			if missing == 0 {
				return nil
			}
		}
		return fmt.Errorf("it said %q", lines)
	})
}

// TestExitOnConfigChange has a daemon that is told to end for another config: it
// does so, with status 1 and the reason, for one that it could start with, and
// for no other. Started again, it is in the new network.
func TestExitOnConfigChange(t *testing.T) {
	t.Parallel()
	c := newLab(t, lab.Options{})
	c.set(configKey, config(`"vxlan"`), 0)
	n := c.addHost()
	n.start("-exit-on-config-change")
	for _, bad := range []string{"", "{}", `{"Network":`} {
		from := n.said()
		if bad == "" {
			c.must(c.Etcd.Delete(c.ctx, configKey))
		} else {
			c.set(configKey, bad, 0)
		}
		n.wantConfigLine(from, []string{"config"})
		n.wantRunning()
	}
	from := n.said()
	c.set(configKey, config(`"vxlan"`), 0)
	n.wantConfigLine(from, []string{"config"})
	n.wantRunning()

	c.set(configKey, newNetwork, 0)
	n.wantExit(1)
	last := n.daemon.Lines()[n.said()-1]
	if !strings.HasPrefix(last, "E") || !strings.Contains(last, "the network config was changed: Network 10.5.0.0/16 -> 10.7.0.0/16, SubnetLen 24 -> 26") {
		t.Errorf("the last line does not say why: %q", last)
	}
	n.start("-exit-on-config-change") // as a supervisor does
	if n.env.Network.String() != "10.7.0.0/16" || n.env.Subnet.Bits() != 26 {
		t.Errorf("subnet.env after the restart: %+v", n.env)
	}
	if err := nstest.Await(c.ctx, daemonTime, func() error {
		if got := c.leasesOf(n); len(got) != 1 || got[0] != n.key() {
			return fmt.Errorf("leases are %v, want %s", got, n.key())
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
}
