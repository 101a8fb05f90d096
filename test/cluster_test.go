package test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"tweed/subnet"
	"tweed/test/embedetcd"
	"tweed/test/lab"
	"tweed/test/nstest"
)

const (
	configKey  = lab.DefaultPrefix + "/config"
	subnetsKey = lab.DefaultPrefix + "/subnets/"
)

// config returns a network config with the given backend, such as
// `"vxlan","VNI":7`.
func config(backend string) string {
	return fmt.Sprintf(`{"Network":"10.5.0.0/16","Backend":{"Type":%s}}`, backend)
}

// binary returns the path of one of our programs, which `make build` made.
func binary(t *testing.T, name string) string {
	t.Helper()
	p, err := filepath.Abs(filepath.Join("..", "bin", name))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(p); err != nil {
		nstest.Missing(t, p+" (run make build)")
	}
	return p
}

// A cluster is a lab with nodes whose daemons and pods are up.
type cluster struct {
	*lab.Lab
	t     *testing.T
	ctx   context.Context
	nodes []*node
}

type node struct {
	*lab.Host
	c      *cluster
	daemon *lab.Process
	env    subnet.Env
	pod    *lab.Pod
}

// newLab makes a lab that is gone, without leftovers, when the test ends. The
// daemons' logs are shown if it failed.
func newLab(t *testing.T, o lab.Options) *cluster {
	t.Helper()
	nstest.NeedRoot(t)
	if o.Flanneld == "" {
		o.Flanneld = binary(t, "flanneld")
	}
	o.TempDir = t.TempDir()
	// Parallel subtests may have to wait for their turn.
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	l, err := lab.New(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	c := &cluster{Lab: l, t: t, ctx: ctx}
	t.Cleanup(func() {
		cancel()
		if t.Failed() {
			c.showLogs()
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		if left := lab.Leftovers(l.ID(), l.Dir()); len(left) > 0 {
			t.Errorf("left over: %v", left)
		}
	})
	return c
}

// newCluster makes a lab with the network config and n nodes.
func newCluster(t *testing.T, config string, n int, args ...string) *cluster {
	t.Helper()
	c := newLab(t, lab.Options{})
	c.set(configKey, config, 0)
	for range n {
		c.addNode(args...)
	}
	return c
}

func (c *cluster) showLogs() {
	logs, _ := filepath.Glob(filepath.Join(c.Dir(), "*", "*.log"))
	for _, f := range logs {
		b, err := os.ReadFile(f)
		c.t.Logf("%s (%v):\n%s", strings.TrimPrefix(f, c.Dir()+"/"), err, b)
	}
}

func (c *cluster) must(err error) {
	c.t.Helper()
	if err != nil {
		c.t.Fatal(err)
	}
}

func (c *cluster) set(key, value string, ttl time.Duration) {
	c.t.Helper()
	c.must(c.Etcd.Set(c.ctx, key, value, ttl))
}

// addHost adds the next node without starting anything on it.
func (c *cluster) addHost() *node {
	c.t.Helper()
	return c.addHostWith(lab.HostOptions{})
}

func (c *cluster) addHostWith(o lab.HostOptions) *node {
	c.t.Helper()
	h, err := c.AddHostWith(c.ctx, fmt.Sprintf("n%d", len(c.nodes)+1), o)
	c.must(err)
	n := &node{Host: h, c: c}
	c.nodes = append(c.nodes, n)
	return n
}

// addNode adds a node with a running daemon and a pod.
func (c *cluster) addNode(args ...string) *node {
	c.t.Helper()
	n := c.addHost()
	n.start(args...)
	n.addPod()
	return n
}

// start starts the daemon and waits until it has told systemd that it is
// ready.
func (n *node) start(args ...string) {
	n.c.t.Helper()
	var err error
	n.daemon, err = n.StartFlanneld(n.c.ctx, args...)
	n.c.must(err)
	ctx, cancel := context.WithTimeout(n.c.ctx, 30*time.Second)
	defer cancel()
	n.c.must(n.daemon.WaitReady(ctx))
	n.env, err = n.SubnetEnv()
	n.c.must(err)
}

func (n *node) restart(args ...string) {
	n.c.t.Helper()
	n.c.must(n.daemon.Stop())
	n.start(args...)
}

func (n *node) addPod() {
	n.c.t.Helper()
	var err error
	n.pod, err = n.AddPod(n.c.ctx, n.env)
	n.c.must(err)
}

// lease returns the record of the node's subnet.
func (n *node) lease() embedetcd.Record {
	n.c.t.Helper()
	r, err := n.c.Etcd.Get(n.c.ctx, subnetsKey+subnet.Key(n.env.Subnet))
	n.c.must(err)
	return r
}

// gateway is the address of the node's docker0.
func (n *node) gateway() netip.Addr { return n.env.Subnet.Addr().Next() }

// wantPing waits for an answer to come.
func (c *cluster) wantPing(from lab.NS, to netip.Addr) lab.Reply {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.ctx, 15*time.Second)
	defer cancel()
	r, err := from.AwaitPing(ctx, to)
	if err != nil {
		c.t.Errorf("ping %s from %s: %v", to, from, err)
	}
	return r
}

// wantNoPing waits until no answer comes any more.
func (c *cluster) wantNoPing(from lab.NS, to netip.Addr) {
	c.t.Helper()
	c.eventually(fmt.Sprintf("no answer to pings of %s from %s", to, from), func() error {
		if _, err := from.Ping(c.ctx, to); err == nil {
			return errors.New("it answers")
		}
		return nil
	})
}

// eventually waits up to 20 s until check finds nothing to complain about.
func (c *cluster) eventually(what string, check func() error) {
	c.t.Helper()
	if err := nstest.Await(c.ctx, 20*time.Second, check); err != nil {
		c.t.Errorf("waited for %s: %v", what, err)
	}
}

// wantConnected checks every path there is between the nodes: pings and 10 MB
// by TCP between pods, both ways, host to pod, pod to host.
func (c *cluster) wantConnected() {
	c.t.Helper()
	const size = 10 << 20
	for _, a := range c.nodes {
		for _, b := range c.nodes {
			if a == b {
				continue
			}
			c.wantPing(a.pod.NS, b.pod.Addr)
			c.wantPing(a.NS, b.pod.Addr)
			c.wantPing(a.pod.NS, b.gateway())
			c.wantPing(a.pod.NS, b.Addr)
			if err := lab.SendBytes(c.ctx, a.pod.NS, b.pod.NS, b.pod.Addr, size); err != nil {
				c.t.Error(err)
			}
		}
	}
}
