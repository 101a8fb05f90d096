package test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"tweed/subnet"
	"tweed/test/lab"
)

// garbage is what may be found in a file that ought to have our subnet in it.
var garbage = map[string]string{
	"empty":       "",
	"binary":      "\x00\xff\x7fELF\x01\n\x00=\x00",
	"no name":     "=10.5.9.1/24\n",
	"no quote":    "FLANNEL_SUBNET=\"10.5.9.1/24\n",
	"not one":     "FLANNEL_SUBNET=ten\n",
	"half":        "FLANNEL_SUBNET=10.5.9.1/\n",
	"IPv6":        "FLANNEL_SUBNET=2001:db8::1/64\n",
	"other net":   "FLANNEL_SUBNET=192.168.3.1/24\n",
	"other size":  "FLANNEL_SUBNET=10.5.8.1/22\n",
	"half JSON":   `{"Network":"10.5.0.0/16","Sub`,
	"wrong JSON":  `{"Network":7,"Subnet":[]}`,
	"JSON, IPv6":  `{"Subnet":"2001:db8::/64"}`,
	"other JSON":  `{"Network":"192.168.0.0/16","Subnet":"192.168.3.0/24"}`,
	"larger than": strings.Repeat("x", 1<<20),
}

// TestRestartKeepsSubnet takes one of the places after the other away that the
// subnet is remembered in.
func TestRestartKeepsSubnet(t *testing.T) {
	t.Parallel()
	c := newCluster(t, config(`"vxlan"`), 2)
	n := c.nodes[0]
	before := n.env
	remove := func(path string) { c.must(os.RemoveAll(path)) }

	for _, tt := range []struct {
		name     string
		while    func() // the daemon is down
		previous string // subnet that it remembers
		log      string
	}{
		{"lease", func() { remove(n.Path("subnet.env")); remove(n.Path("state")) },
			"None", "Found lease (" + before.Subnet.String() + ") for current IP (" + n.Addr.String() + "), reusing"},
		{"subnet.env", func() { n.forget(); remove(n.Path("state")) }, before.Subnet.String(), "Allocated lease ("},
		{"state file", func() { n.forget(); remove(n.Path("subnet.env")) }, before.Subnet.String(), "Allocated lease ("},
		{"subnet.env overwritten by mk-docker-opts", func() { n.forget(); n.makeDockerOpts() }, before.Subnet.String(), "Allocated lease ("},
	} {
		c.step(tt.name, func() {
			n.stop()
			tt.while()
			n.start()
			n.wantSubnet(before)
			n.wantLog("with Previous Subnet: "+tt.previous, tt.log, "Wrote subnet file to "+n.Path("subnet.env"))
			c.wantPing(c.nodes[1].pod.NS, n.pod.Addr)
			c.wantPing(n.pod.NS, c.nodes[1].pod.Addr)
		})
	}
}

// makeDockerOpts overwrites subnet.env as the common systemd unit does.
func (n *node) makeDockerOpts() {
	n.c.t.Helper()
	file := n.Path("subnet.env")
	out, err := exec.Command(binary(n.c.t, "mk-docker-opts"), "-f", file, "-d", file).CombinedOutput()
	if err != nil {
		n.c.t.Fatalf("mk-docker-opts: %v: %s", err, out)
	}
	b, err := os.ReadFile(file)
	n.c.must(err)
	wantTexts(n.c.t, string(b), "DOCKER_OPTS=")
	if strings.Contains(string(b), "FLANNEL_SUBNET") {
		n.c.t.Errorf("mk-docker-opts left FLANNEL_SUBNET in its output: %s", b)
	}
}

// TestRestartOverGarbage has garbage in subnet.env, in the state file, and in
// both: what is readable, or the lease, still tells the subnet.
func TestRestartOverGarbage(t *testing.T) {
	t.Parallel()
	c := newLab(t, lab.Options{})
	c.set(configKey, config(`"alloc"`), 0)
	n := c.addHost()
	n.start()
	before := n.env
	state, err := os.ReadFile(n.stateFile())
	c.must(err)

	for name, junk := range garbage {
		for _, tt := range []struct {
			where       string
			inEnv, inSt bool
			leaseGone   bool
			kept        bool
		}{
			{"env file", true, false, true, true},
			{"state file", false, true, true, true},
			{"both", true, true, false, true},
			{"both, no lease", true, true, true, false},
		} {
			c.step(name+" in "+tt.where, func() {
				n.stop()
				n.writeFile("subnet.env", string(before.Bytes()))
				c.must(os.WriteFile(n.stateFile(), state, 0o600))
				if tt.inEnv {
					n.writeFile("subnet.env", junk)
				}
				if tt.inSt {
					c.must(os.WriteFile(n.stateFile(), []byte(junk), 0o600))
				}
				if tt.leaseGone {
					n.forget()
				}
				n.start()
				if tt.kept {
					n.wantSubnet(before)
				}
				before = n.env
				state, err = os.ReadFile(n.stateFile())
				c.must(err)
			})
		}
	}
}

// TestRestartOverDirectory has directories where the files ought to be.
func TestRestartOverDirectory(t *testing.T) {
	t.Parallel()
	c := newLab(t, lab.Options{})
	c.set(configKey, config(`"alloc"`), 0)
	n := c.addHost()
	c.must(os.MkdirAll(filepath.Join(n.stateFile(), "x"), 0o755))
	n.start()
	n.wantLog("ignoring the previous state file", "Couldn't remember the subnet")
	before := n.env
	n.restart()
	n.wantSubnet(before)

	n.stop()
	c.must(os.Remove(n.Path("subnet.env")))
	c.must(os.MkdirAll(n.Path("subnet.env", "x"), 0o755))
	n.launch()
	n.wantLog("ignoring the previous subnet file", "Found lease ("+before.Subnet.String()+")", "Couldn't write the subnet file")
	n.wantRunning()
}

// TestPreviousSubnetTaken gives the subnet to another node while the daemon is
// down: it is not stolen back.
func TestPreviousSubnetTaken(t *testing.T) {
	t.Parallel()
	c := newCluster(t, config(`"vxlan"`), 2)
	n, other := c.nodes[0], c.nodes[1]
	before := n.env
	n.stop()
	foreign := fakePeer{backend: "vxlan", subnet: before.Subnet, ip: "20.0.0.99", mac: "0e:00:00:00:00:99"}
	c.set(n.key(), foreign.value(), subnet.TTL)

	n.start()
	n.wantLog("the previous subnet is taken by another node", "Picking subnet in range", "Allocated lease (")
	if n.env.Subnet.Overlaps(before.Subnet) {
		t.Errorf("the node took %s, which is another's", n.env.Subnet)
	}
	c.wantRecord(subnetsKey+subnet.Key(before.Subnet), foreign.value(), true)
	n.addPod()
	c.wantPing(n.pod.NS, other.pod.Addr)
	c.wantPing(other.pod.NS, n.pod.Addr)
}

// TestRestartDropsNothing pings all the time over a restart of the daemon.
func TestRestartDropsNothing(t *testing.T) {
	t.Parallel()
	for _, backend := range []string{"vxlan", "host-gw"} {
		t.Run(backend, func(t *testing.T) {
			c := newCluster(t, config(`"`+backend+`"`), 2)
			a, b := c.nodes[0], c.nodes[1]
			c.wantPing(a.pod.NS, b.pod.Addr)
			p := c.pinging(a.pod.NS, b.pod.Addr)
			for range 3 {
				c.goOn(p, 5)
				a.restart()
				a.wantLog("Running backend.")
			}
			c.goOn(p, 5)
			c.must(a.daemon.Kill())
			a.start()
			c.goOn(p, 10)
			if lost := p.lost(); lost > 0 {
				t.Errorf("%d pings had no answer", lost)
			}
		})
	}
}
