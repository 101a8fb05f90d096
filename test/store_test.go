package test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"tweed/test/embedetcd"
	"tweed/test/lab"
)

const noConfig = "Couldn't fetch network config: "

// TestEtcdDown starts the daemon without an etcd: it waits and says why, but
// not every second, and goes on when there is one.
func TestEtcdDown(t *testing.T) {
	t.Parallel()
	c := newLab(t, lab.Options{})
	c.set(configKey, config(`"vxlan"`), 0)
	n := c.addHost()
	c.stopEtcd()
	n.launchWith(nil, n.fileArgs("-healthz-port=8081", "-etcd-endpoints=http://"+etcdAddr)...)
	n.wantLog(noConfig + "read " + configKey + ": http://" + etcdAddr + ": dial tcp " + etcdAddr)
	n.wantHealth("/healthz", 200, "flanneld is running")
	n.wantHealth("/readyz", 503, "flanneld is not ready yet")

	time.Sleep(4 * time.Second) // in which it asks three times or more
	if lines := n.linesWith(noConfig); len(lines) > 2 {
		t.Errorf("the log is flooded:\n%s", strings.Join(lines, "\n"))
	}
	n.wantRunning()

	c.startEtcd()
	n.wantLog("Found network config - Backend type: vxlan", "Running backend.")
	n.wantHealth("/readyz", 200, "flanneld is ready")
}

func (n *node) linesWith(text string) []string {
	var found []string
	for _, line := range n.daemon.Lines() {
		if strings.Contains(line, text) {
			found = append(found, line)
		}
	}
	return found
}

// TestBadConfig has every fault of the network config, each in a network of
// its own, and then corrects it under the waiting daemon.
func TestBadConfig(t *testing.T) {
	t.Parallel()
	c := newLab(t, lab.Options{})
	n := c.addHost()
	tests := []struct {
		config string // "" for none
		want   []string
	}{
		{"", []string{"no network config: write one by: ", "etcdctl --endpoints http://" + etcdAddr + " set ", "/config '{\"Network\":"}},
		{" ", []string{"/config is invalid: empty: want a JSON object"}},
		{`{"Network":"10.5.0.0/16"`, []string{"/config is invalid: not JSON at byte 24"}},
		{`"10.5.0.0/16"`, []string{"want a JSON object, not a JSON string"}},
		{`{}`, []string{`Network "": want an IPv4 network in CIDR form`}},
		{`{"Network":7}`, []string{"Network: want a text in quotes, not a JSON number"}},
		{`{"Network":"10.5.0.0"}`, []string{`Network "10.5.0.0": want an IPv4 network in CIDR form`}},
		{`{"Network":"fd00::/48"}`, []string{"Network fd00::/48: want an IPv4 network"}},
		{`{"Network":"10.5.0.0/29"}`, []string{"Network 10.5.0.0/29: want a prefix length of 28 or less"}},
		{`{"Network":"10.5.0.0/16","SubnetLen":17}`, []string{"SubnetLen 17: want a prefix length from 18 to 30"}},
		{`{"Network":"10.5.0.0/16","SubnetLen":-1}`, []string{"SubnetLen: want a whole number of 0 or more"}},
		{`{"Network":"10.5.0.0/16","SubnetMin":"10.6.0.0"}`, []string{"SubnetMin 10.6.0.0: want the first address of a /24 subnet, from 10.5.0.0 to 10.5.255.0"}},
		{`{"Network":"10.5.0.0/16","SubnetMax":"10.5.3.7"}`, []string{"SubnetMax 10.5.3.7: want the first address"}},
		{`{"Network":"10.5.0.0/16","SubnetMin":"x"}`, []string{`SubnetMin "x": want an IPv4 address`}},
		{`{"Network":"10.5.0.0/16","SubnetMin":"10.5.9.0","SubnetMax":"10.5.3.0"}`, []string{"SubnetMin 10.5.9.0: want no more than SubnetMax 10.5.3.0"}},
		{`{"Network":"10.5.0.0/16","Backend":"vxlan"}`, []string{"in Backend: ", "want a JSON object, not a JSON string"}},
		{`{"Network":"10.5.0.0/16","Backend":{"Type":7}}`, []string{"in Backend: Type: want a text in quotes"}},
	}
	// All at once, so that nobody has to wait for seventeen of them in turn.
	daemons := make([]*node, len(tests))
	for i, tt := range tests {
		prefix := fmt.Sprintf("/net%d", i)
		if tt.config != "" {
			c.set(prefix+"/config", tt.config, 0)
		}
		d := *n
		d.launch("-etcd-prefix="+prefix, "-subnet-file="+n.Path(prefix+".env"))
		daemons[i] = &d
	}
	for i, tt := range tests {
		c.step(tt.config, func() {
			daemons[i].wantLog(noConfig)
			key := fmt.Sprintf("/net%d/config", i)
			wantTexts(c.t, strings.Join(daemons[i].linesWith(noConfig), "\n"), append(tt.want, key)...)
		})
	}
	for i := range tests {
		// A network of its own for each: there is one daemon for a network.
		c.set(fmt.Sprintf("/net%d/config", i), fmt.Sprintf(`{"Network":"10.%d.0.0/16","Backend":{"Type":"alloc"}}`, 5+i), 0)
	}
	for _, d := range daemons {
		d.wantLog("Found network config - Backend type: alloc", "Running backend.")
	}
}

// TestConfigIsDirectory has a directory where the config ought to be.
func TestConfigIsDirectory(t *testing.T) {
	t.Parallel()
	c := newLab(t, lab.Options{})
	n := c.addHost()
	c.set(configKey+"/Network", "10.5.0.0/16", 0)
	n.launch()
	n.wantLog("read " + configKey + ": it is a directory: want a plain key with the network config")
	c.must(c.Etcd.Delete(c.ctx, configKey))
	c.set(configKey, config(`"alloc"`), 0)
	n.wantLog("Running backend.")
}

// TestEtcdRestarts stops etcd under running daemons: packets flow on, and what
// changes after it came back is seen.
func TestEtcdRestarts(t *testing.T) {
	t.Parallel()
	for _, backend := range []string{"vxlan", "udp"} {
		t.Run(backend, func(t *testing.T) {
			c := newCluster(t, config(`"`+backend+`"`), 2)
			a, b := c.nodes[0], c.nodes[1]
			c.wantPing(a.pod.NS, b.pod.Addr)
			p := c.pinging(a.pod.NS, b.pod.Addr)
			c.stopEtcd()
			a.wantLog("Couldn't watch the leases, trying again", "http://"+etcdAddr)
			c.goOn(p, 50)
			c.startEtcd()
			third := c.addNode()
			for _, n := range []*node{a, b} {
				c.wantPing(n.pod.NS, third.pod.Addr)
				c.wantPing(third.pod.NS, n.pod.Addr)
				n.wantRunning()
			}
			if lost := p.lost(); lost > 0 {
				t.Errorf("%d pings had no answer", lost)
			}
			if lines := a.linesWith("Couldn't"); len(lines) > 5 {
				t.Errorf("the log is flooded:\n%s", strings.Join(lines, "\n"))
			}
		})
	}
}

// TestDeadEndpoints lists endpoints that do not work beside one that does.
func TestDeadEndpoints(t *testing.T) {
	t.Parallel()
	c := newLab(t, lab.Options{})
	c.set(configKey, config(`"vxlan"`), 0)
	const live = "http://" + etcdAddr
	for _, list := range []string{
		"http://20.0.0.1:1," + live, // refuses connections
		live + ",http://20.0.0.1:1,http://20.0.0.1:2",
		"http://20.0.0.250:2379," + live, // is not there
		"http://no-such-host.invalid:2379," + live,
		"https://" + etcdAddr + "," + live, // does not speak TLS
	} {
		c.step(list, func() {
			n := c.addHost()
			n.start("-etcd-endpoints=" + list)
			n.wantRunning()
			n.wantPeers(len(c.nodes) - 1)
			if failed := n.linesWith("Couldn't"); failed != nil {
				c.t.Errorf("one good endpoint was not enough:\n%s", strings.Join(failed, "\n"))
			}
		})
	}
}

// TestV2Off meets an etcd whose v2 API is off.
func TestV2Off(t *testing.T) {
	t.Parallel()
	c := newLab(t, lab.Options{})
	c.serve("20.0.0.1:2400", embedetcd.Options{NoV2: true})
	n := c.addHost()
	n.launch("-etcd-endpoints=http://20.0.0.1:2400")
	n.wantLog(noConfig)
	wantTexts(t, n.output(), "http://20.0.0.1:2400: ", "the v2 API of this etcd is switched off", "--enable-v2")
	n.wantRunning()
}
