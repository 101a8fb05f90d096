package test

import (
	"fmt"
	"testing"
	"time"

	"tweed/test/nstest"
)

// TestUnderlayMTU changes the MTU of the interface: device and subnet.env
// follow, also while etcd is down, and the log says that docker has to.
func TestUnderlayMTU(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		backend  string
		overhead int
		etcdDown bool
	}{{"vxlan", 50, false}, {"vxlan", 50, true}, {"host-gw", 0, false}, {"udp", 28, false}, {"udp", 28, true}} {
		t.Run(fmt.Sprintf("%s/etcd down %t", tt.backend, tt.etcdDown), func(t *testing.T) {
			t.Parallel()
			c := newCluster(t, config(`"`+tt.backend+`"`), 2, readyArgs)
			c.wantWell()
			a, b := c.nodes[0], c.nodes[1]
			mac := ""
			if tt.backend == "vxlan" {
				mac = a.vxlan("flannel.1").HardwareAddr.String()
			}
			if tt.etcdDown {
				c.stopEtcd()
			}
			for _, mtu := range []int{1400, 9000, 1500} {
				from, start := a.said(), time.Now()
				a.run("ip link set eth0 mtu %d", mtu)
				want := a.env
				want.MTU = mtu - tt.overhead
				err := nstest.Await(c.ctx, 4*healLimit, func() error {
					env, err := a.SubnetEnv()
					if err == nil && env != want {
						err = fmt.Errorf("subnet.env has %+v, want %+v", env, want)
					}
					if dev := map[string]string{"vxlan": "flannel.1", "udp": "flannel0"}[tt.backend]; err == nil && dev != "" {
						l, linkErr := a.NS.Link(dev)
						if c.must(linkErr); l.Attrs().MTU != want.MTU {
							err = fmt.Errorf("%s has MTU %d, want %d", dev, l.Attrs().MTU, want.MTU)
						}
					}
					return err
				})
				d := time.Since(start)
				switch {
				case err != nil:
					t.Fatalf("MTU %d: after %s: %v", mtu, d, err)
				case d > underlayLimit:
					t.Errorf("MTU %d: after %s", mtu, d)
				}
				a.wantLogFrom(from, "ocker")
				lines := a.countLog(from, "mtu", "docker", fmt.Sprint(want.MTU))
				if len(lines) != 1 {
					t.Errorf("MTU %d: %d lines with mtu, docker and %d, want one: %q", mtu, len(lines), want.MTU, a.daemon.Lines()[from:])
				}
				if _, err := a.pod.NS.PingSize(c.ctx, b.pod.Addr, min(1400-tt.overhead, want.MTU)); err != nil {
					t.Errorf("MTU %d: %v", mtu, err)
				}
				t.Logf("%s: MTU %d, etcd down %t: followed after %s: %q", tt.backend, mtu, tt.etcdDown, d.Round(time.Millisecond), lines)
			}
			if mac != "" && a.vxlan("flannel.1").HardwareAddr.String() != mac {
				t.Errorf("the MAC address was %s and is %s", mac, a.vxlan("flannel.1").HardwareAddr)
			}
			if tt.etcdDown {
				c.startEtcd()
			}
			c.wantWell()
		})
	}
}
