package test

import (
	"fmt"
	"net/netip"
	"testing"

	"tweed/test/lab"
)

// twoSegments is an underlay of two Ethernets with a router between them.
func twoSegments() lab.Options {
	return lab.Options{Segments: []netip.Prefix{netip.MustParsePrefix("20.0.0.0/24"), netip.MustParsePrefix("20.0.1.0/24")}}
}

// TestDirectRouting has two nodes on one segment and a third one behind a
// router, first with DirectRouting, then without, then with it again.
func TestDirectRouting(t *testing.T) {
	t.Parallel()
	c := newLab(t, twoSegments())
	c.set(configKey, config(`"vxlan","DirectRouting":true`), 0)
	a, b := c.addNode(readyArgs), c.addNode(readyArgs)
	far := c.addHostWith(lab.HostOptions{Segment: 1})
	far.start(readyArgs)
	far.addPod()

	wantDirect := func() {
		t.Helper()
		for _, n := range c.nodes {
			n.awaitReady(200)
		}
		c.eventually("all peers", func() error {
			for _, n := range c.nodes {
				for _, p := range c.nodes {
					if n != p && len(n.routesTo(p.env.Subnet)) == 0 {
						return fmt.Errorf("%s has no route to %s", n.Name, p.Name)
					}
				}
			}
			return nil
		})
		a.wantRoute(b.env.Subnet, fmt.Sprintf("via %s dev eth0", b.Addr))
		b.wantRoute(a.env.Subnet, fmt.Sprintf("via %s dev eth0", a.Addr))
		a.wantEntries("flannel.1", far)
		b.wantEntries("flannel.1", far)
		far.wantEntries("flannel.1", a, b)
	}
	wantDirect()
	c.wantConnected()
	c.wantPath(a, a.pod, b.pod, "eth0", "flannel.1")
	c.wantPath(a, a.pod, far.pod, "flannel.1", "docker0")
	c.wantPath(far, far.pod, a.pod, "flannel.1", "docker0")

	restartAll := func(backend string) {
		t.Helper()
		c.set(configKey, config(backend), 0)
		for _, n := range c.nodes {
			n.restart(readyArgs)
			n.awaitReady(200)
		}
	}
	restartAll(`"vxlan"`)
	a.wantEntries("flannel.1", b, far)
	b.wantEntries("flannel.1", a, far)
	far.wantEntries("flannel.1", a, b)
	c.wantPing(a.pod.NS, b.pod.Addr)
	c.wantPath(a, a.pod, b.pod, "flannel.1", "docker0")

	restartAll(`"vxlan","DirectRouting":true`)
	wantDirect()
	c.wantPing(a.pod.NS, b.pod.Addr)
	c.wantPath(a, a.pod, b.pod, "eth0", "flannel.1")
}
