package test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"tweed/test/lab"
)

// udpKinds are network configs for both datapaths of the udp backend.
var udpKinds = map[string]string{"offload": `"udp"`, "plain": `"udp","Offload":false`}

// TestUDPRestart restarts a daemon, gently and by SIGKILL, while pings and a TCP
// connection go on: the interface stays, the connection lasts, and only what is
// sent while no daemon is there gets lost.
func TestUDPRestart(t *testing.T) {
	for name, kind := range udpKinds {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t, config(kind), 2, readyArgs)
			a, b := c.nodes[0], c.nodes[1]
			c.wantPing(a.pod.NS, b.pod.Addr)
			a.awaitReady(200)
			index, lease, kernel := a.linkIndex("flannel0"), a.lease(), a.besidesTUN()
			watch := a.watchKernel()
			traffic := c.startTraffic(a.pod, b.pod)
			traffic.await(10)
			// A ping waits for a second before it is lost.
			wantLost := func(what string, least, most int64) {
				t.Helper()
				if lost := traffic.lost.Load(); lost < least || lost > most {
					t.Errorf("%s: %d pings were lost, want %d to %d", what, lost, least, most)
				}
			}
			wantLost("before", 0, 0)

			a.restart(readyArgs)
			a.wantLog("took over the tun interface of an earlier run", "flannel0")
			a.awaitReady(200)
			traffic.await(20)
			after := traffic.lost.Load()
			wantLost("restart", 0, 3)
			traffic.await(20)
			wantLost("later", after, after)

			c.must(a.daemon.Kill())
			// Nothing gets through while it is away, and nothing is unreachable.
			if _, err := a.pod.NS.Ping(c.ctx, b.pod.Addr); err == nil || !strings.Contains(err.Error(), lab.ErrNoReply.Error()) {
				t.Errorf("a ping without the daemon: %v, want %v", err, lab.ErrNoReply)
			}
			a.start(readyArgs)
			a.wantLog("took over the tun interface of an earlier run", "flannel0")
			a.awaitReady(200)
			traffic.await(20)
			after = traffic.lost.Load()
			traffic.await(20)
			wantLost("after SIGKILL", after, after)

			traffic.stop()
			// Without a daemon the interface has no carrier, but all that it has stays.
			if seen := watch.stop("Deleted 10.5.", "Deleted 3: flannel0", "inet 10.5.", "10.5.0.0/16"); len(seen) > 0 {
				t.Errorf("the restarts changed something: %q", seen)
			}
			if got := a.linkIndex("flannel0"); got != index {
				t.Errorf("flannel0 is number %d, was %d", got, index)
			}
			same(t, "kernel state", kernel, a.besidesTUN())
			wantTexts(t, a.run("ip -d link show flannel0"), "LOWER_UP", "mtu 1472", "qdisc noqueue", "persist on", "alias flanneld udp 10.5.0.0/16 port 8285")
			if got := a.lease(); got.Key != lease.Key || got.Value != lease.Value {
				t.Errorf("lease %s %s, was %s %s", got.Key, got.Value, lease.Key, lease.Value)
			}
		})
	}
}

// besidesTUN is the kernel state without the flags of flannel0, whose operational
// state is UNKNOWN until the carrier was lost once.
func (n *node) besidesTUN() string {
	n.c.t.Helper()
	lines := slices.Collect(strings.Lines(n.kernel()))
	lines = slices.DeleteFunc(lines, func(l string) bool { return strings.HasPrefix(l, "flannel0: <") })
	return strings.Join(lines, "")
}

// linkIndex is the number of an interface of the node.
func (n *node) linkIndex(name string) int {
	n.c.t.Helper()
	link, err := n.NS.Link(name)
	n.c.must(err)
	return link.Attrs().Index
}

// TestUDPOtherBackend changes the network config from udp to another backend
// and back: each finds nothing of the other in its way.
func TestUDPOtherBackend(t *testing.T) {
	t.Parallel()
	c := newCluster(t, config(`"udp"`), 2)
	nodes := c.nodes
	ping := func() {
		t.Helper()
		c.wantPing(nodes[0].pod.NS, nodes[1].pod.Addr)
		c.wantPing(nodes[1].pod.NS, nodes[0].pod.Addr)
	}
	ping()
	change := func(backend string) {
		t.Helper()
		for _, n := range nodes {
			n.stop()
		}
		c.set(configKey, config(backend), 0)
		for _, n := range nodes {
			before := n.env.Subnet
			n.start()
			if n.env.Subnet != before {
				t.Fatalf("%s has %s, had %s", n.Name, n.env.Subnet, before)
			}
		}
	}
	wantTUN := func(want bool) {
		t.Helper()
		for _, n := range nodes {
			_, err := n.NS.Link("flannel0")
			if _, missing := err.(netlink.LinkNotFoundError); missing == want || err != nil && !missing {
				t.Errorf("flannel0 on %s: %v, want it there: %t", n.Name, err, want)
			}
		}
	}
	for _, backend := range []string{`"vxlan"`, `"host-gw"`} {
		change(backend)
		wantTUN(false)
		ping()
		change(`"udp"`)
		wantTUN(true)
		ping()
	}
	// Of another port.
	index := nodes[0].linkIndex("flannel0")
	change(`"udp","Port":9285`)
	ping()
	if got := nodes[0].run("ip -o link show type tun"); strings.Count(got, "\n") > 2 {
		t.Errorf("interfaces pile up; flannel0 was number %d: %s", index, got)
	}
}

// TestUDPOffloadSwitch turns the offloads of a running network off and on, one
// node after the other: in between the nodes differ.
func TestUDPOffloadSwitch(t *testing.T) {
	t.Parallel()
	c := newCluster(t, config(`"udp"`), 2)
	a, b := c.nodes[0], c.nodes[1]
	index := a.linkIndex("flannel0")
	for i, step := range []struct {
		kind string
		n    *node
		log  string
	}{
		{udpKinds["plain"], a, `offload=off`},
		{udpKinds["plain"], b, `offload=off`},
		{udpKinds["offload"], a, `udp_segment`},
		{udpKinds["offload"], b, `udp_segment`},
	} {
		c.step(fmt.Sprintf("%d", i), func() {
			c.set(configKey, config(step.kind), 0)
			step.n.restart()
			step.n.wantLog("opened udp backend", "Running backend.")
			wantTexts(c.t, step.n.output(), step.log)
			for _, way := range [][2]*node{{a, b}, {b, a}} {
				c.wantPing(way[0].pod.NS, way[1].pod.Addr)
				if err := lab.SendBytes(c.ctx, way[0].pod.NS, way[1].pod.NS, way[1].pod.Addr, 4<<20); err != nil {
					c.t.Error(err)
				}
			}
		})
	}
	if got := a.linkIndex("flannel0"); got != index {
		t.Errorf("flannel0 is number %d, was %d", got, index)
	}
}
