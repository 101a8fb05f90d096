package test

import (
	"strings"
	"testing"
	"time"
)

// TestRenamed gives our device another name. The vxlan device gets its own back,
// as everybody knows it by that; the udp backend holds its own by the hand.
func TestRenamed(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ backend, dev string }{{"vxlan", "flannel.1"}, {"udp", "flannel0"}} {
		t.Run(tt.backend, func(t *testing.T) {
			c := newCluster(t, config(`"`+tt.backend+`"`), 2, readyArgs)
			c.wantWell()
			a, b := c.nodes[0], c.nodes[1]
			want := a.kernelNow()
			rename := func() {
				a.run("ip link set %s down", tt.dev)
				a.run("ip link set %s name stolen0", tt.dev)
				a.run("ip link set stolen0 up")
			}
			if tt.backend == "vxlan" {
				d, err := a.heals(want, healLimit, rename)
				if err != nil {
					t.Fatal(err)
				}
				t.Logf("renamed: back after %s", d)
			} else {
				a.freeze(rename)
			}
			if d, err := c.returns(a.pod, b.pod, healLimit); err != nil {
				t.Errorf("no traffic %s after the change: %v", d, err)
			}
			c.wantWell()
		})
	}
}

// TestNameTaken has another device with the name of ours, which is somebody
// else's to remove. Until then the log and /readyz tell of it; udp takes
// another name.
func TestNameTaken(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ backend, dev string }{{"vxlan", "flannel.1"}, {"udp", "flannel0"}} {
		t.Run(tt.backend, func(t *testing.T) {
			c := newCluster(t, config(`"`+tt.backend+`"`), 2, readyArgs)
			c.wantWell()
			a, b := c.nodes[0], c.nodes[1]
			want, from := a.kernelNow(), a.said()
			a.freeze(func() {
				a.run("ip link del %s", tt.dev)
				a.run("ip link add %s type bridge", tt.dev)
			})
			if tt.backend == "vxlan" {
				const fault = "flannel.1 is a link of kind bridge: want a vxlan device; remove or rename it"
				a.wantLogFrom(from, fault)
				a.awaitReady(503, fault)
				if lines := a.countLog(from, fault); len(lines) > 2 {
					t.Errorf("it says so %d times: %q", len(lines), lines)
				}
			} else if d, err := c.returns(a.pod, b.pod, healLimit); err != nil {
				t.Errorf("no traffic after %s: %v", d, err)
			}
			if kind := a.run("ip -d link show %s", tt.dev); !strings.Contains(kind, "bridge") {
				t.Errorf("the other device has become %s", kind)
			}
			a.run("ip link del %s", tt.dev)
			if tt.backend == "vxlan" {
				d, err := a.awaitState(healLimit, want, func(state string) bool { return state == want })
				if err != nil {
					t.Errorf("the name is free again: %v", err)
				}
				t.Logf("name free again: ours is back after %s", d.Round(time.Millisecond))
			}
			c.wantWell()
			a.wantRunning()
		})
	}
}
