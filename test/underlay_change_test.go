package test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"tweed/test/lab"
	"tweed/test/nstest"
)

// changeAddr gives eth0 another address of its segment, in the order of a DHCP
// client, or the other way round.
func (n *node) changeAddr(was, is string, addFirst bool) {
	n.c.t.Helper()
	// With it a second address outlives the first, as under systemd.
	n.c.must(n.NS.Sysctl("ipv4/conf/eth0/promote_secondaries", "1"))
	add := func() { n.run("ip addr add %s/24 dev eth0", is) }
	if addFirst {
		add()
	}
	n.run("ip addr del %s/24 dev eth0", was)
	if !addFirst {
		add()
	}
	n.addDefault()
}

// TestUnderlayAddress changes the address of a node while pods talk: it keeps
// its subnet and MAC address, publishes the new one, and peers follow.
func TestUnderlayAddress(t *testing.T) {
	t.Parallel()
	for _, backend := range []string{`"vxlan"`, `"vxlan","DirectRouting":true`, `"host-gw"`, `"udp"`} {
		t.Run(backend, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t, config(backend), 2, readyArgs)
			c.wantWell()
			a, b := c.nodes[0], c.nodes[1]
			was, env, record := a.Addr.String(), a.env, a.lease()
			for i, addFirst := range []bool{true, false} {
				c.step(fmt.Sprintf("add first %t", addFirst), func() {
					t := c.t
					is := fmt.Sprintf("20.0.0.%d", 102+i)
					traffic := c.startTraffic(a.pod, b.pod)
					traffic.await(5)
					from := a.said()
					start := time.Now()
					a.changeAddr(was, is, addFirst)
					want := strings.Replace(record.Value, a.Addr.String(), is, 1)
					err := nstest.Await(c.ctx, 4*healLimit, func() error {
						r, err := c.Etcd.Get(c.ctx, record.Key)
						if err == nil && (r.Value != want || r.TTL == 0) {
							err = recordError(r)
						}
						return err
					})
					published := time.Since(start)
					switch {
					case err != nil:
						t.Fatalf("not published after %s, want %s: %v", published, want, err)
					case published > underlayLimit:
						t.Errorf("published after %s", published)
					}
					traffic.await(20)
					flows := time.Since(start)
					lost := traffic.stop()
					switch {
					case strings.HasPrefix(backend, `"vxlan"`):
						dev := a.vxlan("flannel.1")
						if dev.SrcAddr.String() != is || !strings.Contains(record.Value, dev.HardwareAddr.String()) {
							t.Errorf("device sends from %s with %s, want %s; lease %s", dev.SrcAddr, dev.HardwareAddr, is, record.Value)
						}
						if !strings.Contains(backend, "Direct") {
							b.wantEntries("flannel.1", a)
						}
					case backend == `"host-gw"`:
						b.wantRoute(env.Subnet, "via "+is+" dev eth0")
					case backend == `"udp"`:
						if got := a.udpSocket(); !strings.HasPrefix(got, is+":") {
							t.Errorf("the socket is %q, want %s", got, is)
						}
					}
					now, err := a.SubnetEnv()
					c.must(err)
					if now != env || len(c.subnets()) != 2 {
						t.Errorf("subnet.env %+v, was %+v; leases %v", now, env, c.subnets())
					}
					if lines := a.countLog(from, was, is); len(lines) < 1 || len(lines) > 3 {
						t.Errorf("%d lines with %s and %s, want one to three: %q", len(lines), was, is, a.daemon.Lines()[from:])
					}
					if lines := a.countLog(from, "revoked"); len(lines) > 0 {
						t.Errorf("the lease was lost: %q", lines)
					}
					c.wantWell()
					t.Logf("%s: add first %t: published after %s, 20 pings answered after %s, %d lost", backend, addFirst,
						published.Round(time.Millisecond), flows.Round(time.Millisecond), lost)
					was = is
				})
			}
			if strings.HasPrefix(backend, `"vxlan"`) {
				// After a reboot peers still have the MAC address, too.
				a.stop()
				a.run("ip link del flannel.1")
				a.start(readyArgs)
				if mac := a.vxlan("flannel.1").HardwareAddr.String(); !strings.Contains(record.Value, mac) {
					t.Errorf("after a reboot the MAC address is %s, it was published as %s", mac, record.Value)
				}
				c.wantWell()
			}
		})
	}
}

// udpSocket is the local address of the udp backend's socket.
func (n *node) udpSocket() string {
	n.c.t.Helper()
	fields := strings.Fields(n.run("ss -Hlnu sport = :8285"))
	if len(fields) < 4 {
		return ""
	}
	return fields[3]
}

// TestUnderlayAddressFixed: a public IP that was given by flag stays, and only
// the local side follows; an address that was given by -iface is waited for.
func TestUnderlayAddressFixed(t *testing.T) {
	t.Parallel()
	const public, is = "20.9.9.9", "20.0.0.102"
	local := map[string]func(*node) string{
		"vxlan": func(n *node) string {
			l, _ := n.NS.Link("flannel.1") // nil while it is made anew
			if dev, ok := l.(*netlink.Vxlan); ok {
				return dev.SrcAddr.String()
			}
			return ""
		},
		"udp": func(n *node) string { return strings.TrimSuffix(n.udpSocket(), ":8285") },
	}
	for backend, localOf := range local {
		t.Run("public-ip/"+backend, func(t *testing.T) {
			t.Parallel()
			c := newLab(t, lab.Options{})
			c.set(configKey, config(`"`+backend+`"`), 0)
			n := c.addHost()
			n.start(readyArgs, "-public-ip="+public)
			n.awaitReady(200)
			record := n.lease()
			n.changeAddr(n.Addr.String(), is, false)
			c.eventually("the new local address", func() error {
				if got := localOf(n); got != is {
					return fmt.Errorf("it is %s, want %s", got, is)
				}
				return nil
			})
			n.awaitReady(200)
			if got := n.lease(); got.Value != record.Value {
				t.Errorf("the lease is %s, was %s", got.Value, record.Value)
			}
		})
		t.Run("iface/"+backend, func(t *testing.T) {
			t.Parallel()
			c := newLab(t, lab.Options{})
			c.set(configKey, config(`"`+backend+`"`), 0)
			n := c.addHost()
			was := n.Addr.String()
			n.start(readyArgs, "-iface="+was)
			n.addPod()
			peer := c.addNode(readyArgs)
			c.wantWell()
			record, from := n.lease(), n.said()
			n.changeAddr(was, is, true)
			n.wantLogFrom(from, was)
			c.wantNoPing(n.pod.NS, peer.pod.Addr)
			if got := n.lease(); got.Value != record.Value {
				t.Errorf("the lease is %s, was %s", got.Value, record.Value)
			}
			n.wantRunning()
			if lines := n.countLog(from, was); len(lines) > 4 {
				t.Errorf("%d lines about %s: %q", len(lines), was, lines)
			}
			n.changeAddr(is, was, true)
			if d, err := c.returns(n.pod, peer.pod, 4*healLimit); err != nil {
				t.Errorf("no traffic %s after the address is back: %v", d, err)
			}
			c.wantWell()
		})
	}
}
