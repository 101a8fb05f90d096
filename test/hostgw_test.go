package test

import (
	"fmt"
	"strings"
	"testing"

	"tweed/test/lab"
)

// TestHostGWBehindRouter: a peer on another segment cannot be a gateway. That
// is told, and the others are served.
func TestHostGWBehindRouter(t *testing.T) {
	t.Parallel()
	c := newLab(t, twoSegments())
	c.set(configKey, config(`"host-gw"`), 0)
	a, b := c.addNode(readyArgs), c.addNode(readyArgs)
	a.awaitReady(200)
	b.awaitReady(200)
	far := c.addHostWith(lab.HostOptions{Segment: 1})
	far.start(readyArgs)
	far.addPod()

	for _, n := range []*node{a, b} {
		fault := fmt.Sprintf("add route %s via %s dev eth0: network is unreachable", far.env.Subnet, far.Addr)
		n.wantLog(fault)
		n.awaitReady(503, "peers: ", fault)
	}
	for _, n := range []*node{a, b} {
		far.wantLog(fmt.Sprintf("add route %s via %s dev eth0", n.env.Subnet, n.Addr))
		far.awaitReady(503, "peers: ", n.env.Subnet.String())
	}
	c.wantPing(a.pod.NS, b.pod.Addr)
	c.wantPing(b.pod.NS, a.pod.Addr)
	a.wantRoute(b.env.Subnet, fmt.Sprintf("via %s dev eth0", b.Addr))
	if have := a.routesTo(far.env.Subnet); len(have) > 0 {
		t.Errorf("routes to the far node: %v", have)
	}

	// Gone again, all is well.
	c.must(far.daemon.Stop())
	c.must(c.Etcd.Delete(c.ctx, far.lease().Key))
	a.awaitReady(200)
	b.awaitReady(200)
}

// TestHostGWRefusesPublicIP: peers could not use it as a gateway.
func TestHostGWRefusesPublicIP(t *testing.T) {
	t.Parallel()
	c := newLab(t, lab.Options{})
	c.set(configKey, config(`"host-gw"`), 0)
	n := c.addHost()
	n.wantExit1([]string{"-public-ip=20.9.9.9"}, "20.9.9.9", n.Addr.String(), "eth0")
}

// wantExit1 starts a daemon that must end with status 1, with all the texts in
// its last line but the goodbye, and with nothing left in etcd.
func (n *node) wantExit1(args []string, texts ...string) {
	n.c.t.Helper()
	p, err := n.StartFlanneld(n.c.ctx, args...)
	n.c.must(err)
	state, err := p.Wait(n.c.ctx)
	n.c.must(err)
	if state.ExitCode() != 1 {
		n.c.t.Errorf("exit status %d, want 1", state.ExitCode())
	}
	lines := p.Lines()
	last := lines[len(lines)-1]
	for _, s := range texts {
		if !strings.Contains(last, s) {
			n.c.t.Errorf("no %q in %q", s, last)
		}
	}
	leases, err := n.c.Leases(n.c.ctx, lab.DefaultPrefix)
	n.c.must(err)
	if len(leases) > 0 {
		n.c.t.Errorf("leases left behind: %v", leases)
	}
}
