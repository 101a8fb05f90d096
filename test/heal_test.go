package test

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"tweed/test/lab"
	"tweed/test/nstest"
)

// A fault is what someone does to the kernel's state by commands of ip and
// bridge. The words in capitals are filled in by fill.
type fault struct {
	name     string
	commands []string
}

// Faults of each backend; DEV is its device.
var (
	routeFaults = []fault{
		{"route deleted", []string{"ip route del NEXT/24"}},
		{"route replaced", []string{"ip route replace LAST/24 via 20.0.0.1"}},
		{"route of ours too much", []string{"ip route add 10.5.254.0/24 via 20.0.0.1 proto 84"}},
		{"all routes flushed", []string{"ip route flush proto 84 type unicast"}},
	}
	entryFaults = []fault{
		{"neighbour deleted", []string{"ip neigh del NEXT dev DEV"}},
		{"neighbour changed", []string{"ip neigh replace LAST lladdr 0e:11:22:33:44:55 dev DEV nud permanent"}},
		{"neighbour that ages", []string{"ip neigh replace NEXT lladdr NEXTMAC dev DEV nud stale"}},
		{"neighbour too much", []string{"ip neigh add 10.5.254.0 lladdr 0e:11:22:33:44:56 dev DEV nud permanent"}},
		{"all neighbours flushed", []string{"ip neigh flush dev DEV nud permanent"}},
		{"FDB entry deleted", []string{"bridge fdb del NEXTMAC dev DEV dst NEXTIP self"}},
		{"FDB entry changed", []string{"bridge fdb replace LASTMAC dev DEV dst 20.0.0.99 self"}},
		{"FDB entry too much", []string{"bridge fdb add 0e:11:22:33:44:57 dev DEV dst 20.0.0.99 self"}},
	}
	deviceFaults = []fault{
		{"address deleted", []string{"ip addr del OWN/32 dev DEV"}},
		{"address of the network added", []string{"ip addr add 10.5.255.1/24 dev DEV"}},
		{"MTU", []string{"ip link set DEV mtu 1300"}},
		{"txqueuelen", []string{"ip link set DEV txqueuelen 777"}},
	}
	macFaults = []fault{
		{"MAC", []string{"ip link set DEV address 0e:11:22:33:44:58"}},
	}
	linkFaults = []fault{
		{"link down", []string{"ip link set DEV down"}},
		{"link deleted", []string{"ip link del DEV"}},
	}
	tunFaults = []fault{
		{"route deleted", []string{"ip route del 10.5.0.0/16"}},
		{"route replaced", []string{"ip route replace 10.5.0.0/16 via 20.0.0.1"}},
		{"route of ours too much", []string{"ip route add 10.5.254.0/24 via 20.0.0.1 proto 84"}},
	}
	directFaults = []fault{
		{"link deleted", []string{"ip link del DEV"}},
		{"link down", []string{"ip link set DEV down"}},
	}
	blackholeFaults = []fault{
		{"blackhole deleted", []string{"ip route del blackhole OWN/24"}},
		{"blackhole too much", []string{"ip route add blackhole 10.5.253.0/24 proto 84 metric 2147483647"}},
	}
)

// TestHeal damages what the daemons keep in the kernel, one thing after the
// other on each of three nodes, and wants it back as it was within a second:
// a link with its MAC address and everything that was on it.
func TestHeal(t *testing.T) {
	t.Parallel()
	// More than four faults of one thing would count as a fight about it.
	for _, tt := range []struct {
		name, backend, dev string
		faults             []fault
	}{
		{"vxlan routes", `"vxlan"`, "flannel.1", slices.Concat(routeFaults, blackholeFaults)},
		{"vxlan entries", `"vxlan"`, "flannel.1", entryFaults},
		{"vxlan device", `"vxlan"`, "flannel.1", slices.Concat(deviceFaults, macFaults)},
		{"vxlan link", `"vxlan"`, "flannel.1", linkFaults},
		{"vxlan with DirectRouting", `"vxlan","DirectRouting":true`, "flannel.1", slices.Concat(routeFaults, directFaults)},
		{"host-gw", `"host-gw"`, "eth0", slices.Concat(routeFaults, blackholeFaults)},
		{"udp device", `"udp"`, "flannel0", slices.Concat(tunFaults, deviceFaults, blackholeFaults)},
		{"udp link", `"udp"`, "flannel0", linkFaults},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := newCluster(t, config(tt.backend), 3, readyArgs, "-ip-blackhole-route")
			c.wantWell()
			before := make(map[*node]string)
			took := make(map[string]measured)
			for _, n := range c.nodes {
				before[n] = n.kernel()
			}
			for _, f := range tt.faults {
				for i, n := range c.nodes {
					d, err := n.heals(n.kernelNow(), 4*healLimit, func() { n.damage(f, i, tt.dev) })
					took[f.name] = append(took[f.name], d)
					switch {
					case err != nil:
						t.Fatalf("%s: %v", f.name, err)
					case d > healLimit:
						t.Errorf("%s: %s was back after %s", f.name, n.Name, d)
					}
				}
				if m := took[f.name]; m.median() > healTime {
					t.Errorf("%s: %s, want a median below %s", f.name, m, healTime)
				} else {
					t.Logf("%s: %s: %s", tt.name, f.name, m)
				}
			}
			for _, n := range c.nodes {
				same(t, "kernel state of "+n.Name, before[n], n.kernel())
			}
			c.wantWell()
		})
	}
}

func (n *node) damage(f fault, i int, dev string) {
	n.c.t.Helper()
	for _, command := range f.commands {
		n.run("%s", n.c.fill(strings.ReplaceAll(command, "DEV", dev), i))
	}
}

// wantWell checks that every pod reaches every other one, and that the daemons
// have nothing to complain about.
func (c *cluster) wantWell() {
	c.t.Helper()
	for _, n := range c.nodes {
		for _, p := range c.nodes {
			if n != p {
				c.wantPing(n.pod.NS, p.pod.Addr)
			}
		}
		n.awaitReady(200)
	}
}

// fill replaces OWN, NEXT and LAST by the first address of the subnets of node
// i, of the next one, and of the one after that, and the same with MAC or IP
// behind by what the lease of that one says.
func (c *cluster) fill(command string, i int) string {
	var pairs []string
	for j, name := range []string{"OWN", "NEXT", "LAST"} {
		n := c.nodes[(i+j)%len(c.nodes)]
		// The longer words come first.
		if strings.Contains(command, name+"MAC") {
			_, mac, _ := strings.Cut(n.lease().Value, `"VtepMAC":"`)
			mac, _, _ = strings.Cut(mac, `"`)
			pairs = append(pairs, name+"MAC", mac)
		}
		pairs = append(pairs, name+"IP", n.Addr.String(), name, n.env.Subnet.Addr().String())
	}
	return strings.NewReplacer(pairs...).Replace(command)
}

// TestHealWithoutEtcd: what the daemon knows is enough to repair.
func TestHealWithoutEtcd(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ backend, dev, entry string }{
		{"vxlan", "flannel.1", "ip neigh del NEXT dev DEV"},
		{"host-gw", "eth0", "ip route del NEXT/24"},
		{"udp", "flannel0", "ip addr del OWN/32 dev DEV"},
	} {
		t.Run(tt.backend, func(t *testing.T) {
			c := newCluster(t, config(`"`+tt.backend+`"`), 3)
			n, peer := c.nodes[0], c.nodes[1]
			c.wantPing(n.pod.NS, peer.pod.Addr)
			c.wantPing(n.pod.NS, c.nodes[2].pod.Addr)
			faults := []fault{{"entry", []string{c.fill(tt.entry, 0)}}}
			if tt.backend != "host-gw" {
				faults = append(faults, fault{"link deleted", []string{"ip link del DEV"}})
			}
			c.stopEtcd()
			for _, f := range faults {
				d, err := n.heals(n.kernelNow(), healLimit, func() {
					for _, command := range f.commands {
						n.run("%s", strings.ReplaceAll(command, "DEV", tt.dev))
					}
				})
				if err != nil {
					t.Errorf("%s: %v", f.name, err)
				}
				t.Logf("%s: %s without etcd: back after %s", tt.backend, f.name, d.Round(time.Millisecond/10))
			}
			c.wantPing(n.pod.NS, peer.pod.Addr)
			n.wantRunning()
			c.startEtcd()
		})
	}
}

// TestHealRules damages the firewall rules of a node, wherever they are kept, and
// wants them back within a second, not only after -iptables-resync.
func TestHealRules(t *testing.T) {
	t.Parallel()
	needIPTables(t)
	const table = "ip tweed-10.5.0.0-16"
	inChains := []string{"IPTABLES -D FORWARD 1", "IPTABLES -t nat -D POSTROUTING 2", "IPTABLES -t nat -F POSTROUTING",
		"IPTABLES -R FORWARD 2 -s 10.5.0.0/16 -j ACCEPT"}
	for _, tt := range []struct {
		name, program, list string
		damage              []string
	}{
		{"iptables-nft", "iptables-nft", "iptables-nft -t nat -S POSTROUTING; iptables-nft -S FORWARD", inChains},
		{"iptables-legacy", "iptables-legacy", "iptables-legacy -t nat -S POSTROUTING; iptables-legacy -S FORWARD", inChains},
		{"nftables", "", "nft -s list ruleset", []string{"nft delete table " + table, "nft flush chain " + table + " forward",
			"nft flush chain " + table + " postrouting", "nft delete chain " + table + " forward"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			o := lab.Options{Flanneld: withoutIPTables(t)}
			if tt.program != "" {
				o = lab.Options{Env: []string{"PATH=" + iptablesIs(t, tt.program) + ":" + os.Getenv("PATH")}}
			}
			c := newLab(t, o)
			c.set(configKey, config(`"vxlan"`), 0)
			n := c.addNode("-ip-masq", readyArgs)
			n.awaitReady(200)
			rules := func() string { return c.in(n.NS, "sh", "-ec", tt.list) }
			want := rules()
			var took measured
			for _, damage := range tt.damage {
				n.freeze(func() {
					c.in(n.NS, "sh", "-ec", strings.ReplaceAll(damage, "IPTABLES", tt.program+" -w 10"))
					if rules() == want {
						t.Fatalf("%s: that is no damage", damage)
					}
				})
				start := time.Now()
				c.eventually("the rules", func() error {
					if have := rules(); have != want {
						return errorDifference(have, want)
					}
					return nil
				})
				took = append(took, time.Since(start))
			}
			if slices.Max(took) > healLimit || took.median() > healTime {
				t.Errorf("the rules were back after %s, want a median below %s", took, healTime)
			}
			t.Logf("firewall rules by %s: %s", tt.name, took)
		})
	}
}

// iptablesIs returns a folder where iptables is the program.
func iptablesIs(t *testing.T, program string) (dir string) {
	t.Helper()
	path, err := exec.LookPath(program)
	if err != nil {
		nstest.Missing(t, program)
	}
	dir = t.TempDir()
	if err := os.Symlink(path, filepath.Join(dir, "iptables")); err != nil {
		t.Fatal(err)
	}
	return dir
}
