package test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"tweed/test/lab"
)

// TestHugeRecords has values of a megabyte among the leases: nonsense, and a
// lease with too much in it. Nothing of their size gets into the log.
func TestHugeRecords(t *testing.T) {
	t.Parallel()
	c := newCluster(t, config(`"vxlan"`), 2)
	a, b := c.nodes[0], c.nodes[1]
	a.wantPeers(1)
	before := a.mustOverlay()
	calm := c.keepVigil(a, b)
	megabyte := strings.Repeat("x", 1<<20)
	c.set(subnetsKey+"10.5.160.0-24", megabyte, time.Hour)
	c.set(subnetsKey+"10.5.161.0-24", fmt.Sprintf(`{"PublicIP":%q}`, megabyte), time.Hour)
	c.set(subnetsKey+megabyte[:4000], "x", time.Hour)
	key, p := stranger("vxlan", 1)
	c.set(key, strings.TrimSuffix(p.value(), "}")+fmt.Sprintf(`,"Comment":%q}`, megabyte), time.Hour)
	a.wantOverlay(slices.Concat(before, p.entries())...)
	c.must(a.daemon.Stop())
	a.launch()
	c.must(a.daemon.WaitReady(c.ctx))
	a.wantOverlay(slices.Concat(before, p.entries())...)
	calm.pids[0], calm.said[0] = a.daemon.PID, 0
	calm.end("values of a megabyte", 3*calmLines)
	for _, n := range c.nodes {
		for _, line := range n.daemon.Lines() {
			if len(line) > 5000 {
				t.Errorf("%s logs a line of %d bytes: %.200s...", n.Name, len(line), line)
			}
		}
	}
}

// TestGarbageKeys has ten thousand keys that are no leases arrive: peers that
// come after them are found, the log stays readable, and so does the start of
// a daemon that finds them all there.
func TestGarbageKeys(t *testing.T) {
	t.Parallel()
	const keys = 10_000
	c := newCluster(t, config(`"vxlan"`), 2)
	a, b := c.nodes[0], c.nodes[1]
	calm := c.keepVigil(a, b)
	cpu := cpuTime(t, a.daemon.PID)
	for i := range keys {
		c.set(fmt.Sprintf("%sgarbage-%d", subnetsKey, i), "x", time.Hour)
	}
	key, p := stranger("vxlan", 1)
	began := time.Now()
	c.set(key, p.value(), time.Hour)
	took := c.inForce(p, 0, began, a, b)
	t.Logf("%d garbage keys: a lease behind them in force after %.1f s; %v of CPU", keys, took.Seconds(), cpuTime(t, a.daemon.PID)-cpu)
	calm.end("garbage keys", 200)

	began = time.Now()
	third := c.addNode()
	t.Logf("%d garbage keys: ready %.1f s after the start, with %d lines in the log", keys, time.Since(began).Seconds(), third.said())
	c.wantPing(third.pod.NS, a.pod.Addr)
	if third.said() > 200 {
		t.Errorf("the log has %d lines, want at most 200", third.said())
	}
}

// TestRecordsMoved renames the record of a node, by hand, and then puts a
// directory in the place of another: both are leased and reachable afterwards.
func TestRecordsMoved(t *testing.T) {
	t.Parallel()
	c := newCluster(t, config(`"vxlan"`), 2)
	a, b := c.nodes[0], c.nodes[1]
	c.wantPing(a.pod.NS, b.pod.Addr)

	record, old := a.lease(), a.env.Subnet
	moved := overlaySubnet(150)
	c.set(subnetsKey+"10.5.150.0-24", record.Value, time.Hour)
	c.must(c.Etcd.Delete(c.ctx, record.Key))
	c.eventually("one lease of each node", func() error {
		env, err := a.SubnetEnv()
		if err != nil {
			return err
		}
		a.env = env
		if got := c.leasesOf(a); len(got) != 1 || got[0] != a.key() {
			return fmt.Errorf("subnet.env has %s, leases are %v", env.Subnet, got)
		}
		return nil
	})
	t.Logf("key renamed from %s to %s: the node has %s", old, moved, a.env.Subnet)
	if a.env.Subnet != old {
		a.addPod()
	}
	c.wantPing(b.pod.NS, a.pod.Addr)

	// A directory cannot be overwritten: it is another's now.
	from := b.said()
	c.must(c.Etcd.Delete(c.ctx, b.key()))
	c.must(c.Etcd.Mkdir(c.ctx, b.key(), 0))
	lost := b.env.Subnet
	b.wantLogFrom(from, "Lease has been revoked", "Wrote subnet file to")
	var err error
	b.env, err = b.SubnetEnv()
	c.must(err)
	if b.env.Subnet == lost {
		t.Errorf("%s has %s, the place of a directory", b.Name, lost)
	}
	if got := c.leasesOf(b); len(got) != 1 || got[0] != b.key() {
		t.Errorf("leases of %s are %v, want %s", b.Name, got, b.key())
	}
	b.addPod()
	c.wantPing(a.pod.NS, b.pod.Addr)
}

// leasesOf lists the keys of the records with the node's public IP.
func (c *cluster) leasesOf(n *node) (keys []string) {
	c.t.Helper()
	records, err := c.Leases(c.ctx, lab.DefaultPrefix)
	c.must(err)
	for _, r := range records {
		if strings.Contains(r.Value, fmt.Sprintf("%q", n.Addr)) {
			keys = append(keys, r.Key)
		}
	}
	return keys
}
