package test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"tweed/subnet"
	"tweed/test/embedetcd"
	"tweed/test/nstest"
)

// suspend stops the daemon as a suspended machine does, and waits until every
// thread of it stands still.
func (n *node) suspend() {
	n.c.t.Helper()
	n.c.must(n.daemon.Signal(syscall.SIGSTOP))
	n.c.eventually("the daemon to stand still", func() error {
		threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", n.daemon.PID))
		if err != nil || len(threads) == 0 {
			return fmt.Errorf("no threads of %s (%v)", n.Name, err)
		}
		for _, path := range threads {
			stat, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			if !bytes.Contains(stat, []byte(") T ")) {
				return fmt.Errorf("it still works: %s", stat)
			}
		}
		return nil
	})
}

// resume undoes suspend.
func (n *node) resume() time.Time {
	n.c.t.Helper()
	n.c.must(n.daemon.Signal(syscall.SIGCONT))
	return time.Now()
}

// TestDaemonSuspended suspends a daemon while the world goes on: peers change,
// more than etcd remembers, its record expires. Soon after it wakes up all is
// right, with the subnet that it had.
func TestDaemonSuspended(t *testing.T) {
	t.Parallel()
	c := newCluster(t, config(`"vxlan"`), 2)
	a, b := c.nodes[0], c.nodes[1]
	a.wantPeers(1)
	before := a.mustOverlay()
	first, stays := stranger("vxlan", 1)
	c.set(first, stays.value(), time.Hour)
	second, leaves := stranger("vxlan", 2)
	c.set(second, leaves.value(), time.Hour)
	a.wantOverlay(slices.Concat(before, stays.entries(), leaves.entries())...)
	record := a.lease()
	calm := c.keepVigil(a, b)
	calm.fickle = true

	a.suspend()
	c.must(c.Etcd.Delete(c.ctx, second))
	stays.mac = "0e:00:00:00:01:77"
	for range 1500 { // etcd remembers a thousand
		c.set(first, stays.value(), time.Hour)
	}
	third, comes := stranger("vxlan", 3)
	c.set(third, comes.value(), time.Hour)
	began := a.resume()
	a.wantOverlay(slices.Concat(before, stays.entries(), comes.entries())...)
	t.Logf("1502 changes while suspended: all is right after %.1f s", time.Since(began).Seconds())
	calm.end("suspended", calmLines)

	// The others are told that the record has expired, and believe it.
	a.suspend()
	c.set(record.Key, record.Value, time.Second)
	c.eventually("the record to expire", func() error {
		_, err := c.Etcd.Get(c.ctx, record.Key)
		if errors.Is(err, embedetcd.ErrNotFound) {
			return nil
		}
		return fmt.Errorf("it has not: %v", err)
	})
	from := a.said()
	began = a.resume()
	a.wantLogFrom(from, "Lease has been revoked. Acquiring it again", "Allocated lease ("+a.env.Subnet.String()+")")
	c.wantRecord(record.Key, record.Value, true)
	t.Logf("record expired while suspended: published again after %.1f s", time.Since(began).Seconds())
	c.wantPing(b.pod.NS, a.pod.Addr)
	env, err := a.SubnetEnv()
	c.must(err)
	a.wantSubnet(env)
}

// TestSubnetTakenWhileSuspended gives the subnet to another node meanwhile: the
// daemon moves to a free one, and never touches the record that is not its own.
func TestSubnetTakenWhileSuspended(t *testing.T) {
	t.Parallel()
	c := newCluster(t, config(`"vxlan"`), 2)
	a, b := c.nodes[0], c.nodes[1]
	c.wantPing(a.pod.NS, b.pod.Addr)
	lost, key := a.env.Subnet, a.key()
	foreign := fakePeer{backend: "vxlan", subnet: lost, ip: "20.0.0.99", mac: "0e:00:00:00:00:99"}

	a.suspend()
	a.forget()
	c.set(key, foreign.value(), subnet.TTL)
	taken, err := c.Etcd.Get(c.ctx, key)
	c.must(err)
	from := a.said()
	began := a.resume()
	a.wantLogFrom(from, "Lease has been revoked. Acquiring it again", "the subnet of this node has changed", "Wrote subnet file to")
	if err := nstest.Await(c.ctx, daemonTime, func() error { return a.carries(foreign, 0) }); err != nil {
		t.Errorf("the new owner of %s is no peer: %v", lost, err)
	}
	t.Logf("subnet taken while suspended: moved after %.1f s", time.Since(began).Seconds())
	if a.env, err = a.SubnetEnv(); err != nil || a.env.Subnet == lost {
		t.Errorf("it has %s (%v), which is another's", a.env.Subnet, err)
	}
	if now, err := c.Etcd.Get(c.ctx, key); err != nil || now.Index != taken.Index || now.Value != taken.Value {
		t.Errorf("the record of the new owner was %+v, is %+v (%v)", taken, now, err)
	}
	a.addPod()
	c.wantPing(a.pod.NS, b.pod.Addr)
	c.wantPing(b.pod.NS, a.pod.Addr)
	a.wantRunning()
	b.wantRunning()
}
