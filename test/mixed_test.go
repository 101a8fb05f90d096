package test

import (
	"fmt"
	"strings"
	"testing"

	"tweed/subnet"
	"tweed/test/lab"
)

// A second is another daemon, of another network, beside that of a node.
type second struct {
	*node
	daemon *lab.Process
	env    subnet.Env
	pod    *lab.Pod
}

const (
	otherPrefix  = "/other/network"
	otherNetwork = "10.6.0.0/16"
)

func (n *node) startSecond() *second {
	n.c.t.Helper()
	s := &second{node: n}
	s.start()
	var err error
	s.pod, err = n.AddPod(n.c.ctx, s.env)
	n.c.must(err)
	return s
}

func (s *second) start() {
	s.c.t.Helper()
	var err error
	s.daemon, err = s.StartFlanneld(s.c.ctx, "-ip-masq", "-iptables-resync=1",
		"-etcd-prefix="+otherPrefix, "-subnet-file="+s.Path("other.env"), "-state-dir="+s.Path("other"))
	s.c.must(err)
	s.c.must(s.daemon.WaitReady(s.c.ctx))
	s.env, err = lab.ReadSubnetEnv(s.Path("other.env"))
	s.c.must(err)
}

// TestTwoNetworks runs two daemons on each host, of different networks and
// backends. Each network has its own way, and the restart of one daemon leaves
// the other network alone.
func TestTwoNetworks(t *testing.T) {
	tests := []struct {
		first, second string // types
		by, otherBy   string // devices
		nodes         int
	}{
		{"vxlan", "host-gw", "flannel.1", "eth0", 3},
		{"udp", "vxlan", "flannel0", "flannel.1", 2},
	}
	for _, tt := range tests {
		t.Run(tt.first+" and "+tt.second, func(t *testing.T) {
			t.Parallel()
			c := newLab(t, lab.Options{})
			c.set(configKey, config(`"`+tt.first+`"`), 0)
			c.set(otherPrefix+"/config", `{"Network":"`+otherNetwork+`","Backend":{"Type":"`+tt.second+`"}}`, 0)
			var seconds []*second
			for range tt.nodes {
				n := c.addNode("-ip-masq", "-iptables-resync=1")
				seconds = append(seconds, n.startSecond())
			}
			a, b := c.nodes[0], c.nodes[1]
			a2, b2 := seconds[0], seconds[1]
			for i, n := range c.nodes {
				to, to2 := c.nodes[(i+1)%tt.nodes], seconds[(i+1)%tt.nodes]
				c.wantPing(n.pod.NS, to.pod.Addr)
				c.wantPing(seconds[i].pod.NS, to2.pod.Addr)
			}
			if tt.otherBy == "eth0" { // which carries the encapsulated packets as well
				c.wantPath(a, a2.pod, b2.pod, "eth0", tt.by)
				c.wantPath(a, a.pod, b.pod, tt.by, "docker1")
			} else {
				c.wantPath(a, a.pod, b.pod, tt.by, tt.otherBy)
				c.wantPath(a, a2.pod, b2.pod, tt.otherBy, tt.by)
			}

			// The daemon of the first network goes, and comes back.
			before, rules := a.about("10.6."), a.rules()
			watch := a.watchKernel()
			traffic := c.startTraffic(a2.pod, b2.pod)
			c.must(a.daemon.Stop())
			traffic.await(5)
			a.start("-ip-masq", "-iptables-resync=1")
			c.wantPing(a.pod.NS, b.pod.Addr)
			if lost := traffic.stop(); lost > 0 {
				t.Errorf("%d pings of the second network were lost", lost)
			}
			if seen := watch.stop("10.6."); len(seen) > 0 {
				t.Errorf("the restart of the first daemon changed the second network: %q", seen)
			}
			same(t, "second network", before, a.about("10.6."))
			same(t, "iptables", rules, a.rules())

			// And that of the second.
			before = a.about("10.5.")
			watch = a.watchKernel()
			c.must(a2.daemon.Stop())
			a2.start()
			c.wantPing(a2.pod.NS, b2.pod.Addr)
			if seen := watch.stop("10.5."); len(seen) > 0 {
				t.Errorf("the restart of the second daemon changed the first network: %q", seen)
			}
			same(t, "first network", before, a.about("10.5."))
			same(t, "iptables", rules, a.rules())
		})
	}
}

// about returns the lines of the kernel state that contain the text.
func (n *node) about(text string) string {
	n.c.t.Helper()
	var b strings.Builder
	for line := range strings.Lines(n.kernel()) {
		if strings.Contains(line, text) {
			b.WriteString(line)
		}
	}
	return b.String()
}

// TestRecordsOfOtherBackends: vxlan and host-gw tell which peers they cannot
// serve, even if the record has all they need. (udp sends to every peer, see
// TestUDPOnTheWire.)
func TestRecordsOfOtherBackends(t *testing.T) {
	records := map[string]string{
		"udp":     `{"PublicIP":"20.0.0.77"}`,
		"vxlan":   `{"PublicIP":"20.0.0.78","BackendType":"vxlan","BackendData":{"VtepMAC":"0e:00:00:00:00:78"}}`,
		"host-gw": `{"PublicIP":"20.0.0.79","BackendType":"host-gw"}`,
		"ipip":    `{"PublicIP":"20.0.0.80","BackendType":"ipip","BackendData":{"VtepMAC":"0e:00:00:00:00:80"}}`,
	}
	subnets := map[string]string{"udp": "10.5.77.0", "vxlan": "10.5.78.0", "host-gw": "10.5.79.0", "ipip": "10.5.80.0"}
	for _, backend := range []string{"vxlan", "host-gw"} {
		t.Run(backend, func(t *testing.T) {
			t.Parallel()
			c := newLab(t, lab.Options{})
			c.set(configKey, config(`"`+backend+`"`), 0)
			for typ, record := range records {
				c.set(subnetsKey+subnets[typ]+"-24", record, 0)
			}
			n := c.addHost()
			n.start(readyArgs)
			n.awaitReady(200)
			for typ := range records {
				if typ != backend {
					published := typ
					if typ == "udp" {
						published = ""
					}
					n.wantLog(fmt.Sprintf(`peer ignored subnet=%s/24 peer=20.0.0.%s err="BackendType \"%s\": this node runs \"%s\""`,
						subnets[typ], strings.Split(subnets[typ], ".")[2], published, backend))
				}
				if have := strings.Contains(n.kernel(), subnets[typ]); have != (typ == backend) {
					t.Errorf("%s peer is in the kernel: %v\n%s", typ, have, n.kernel())
				}
			}
		})
	}
}
