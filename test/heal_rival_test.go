package test

import (
	"context"
	"strings"
	"testing"
	"time"
)

// A rival wants an entry otherwise than the daemon, and changes it back as soon
// as it sees it changed.
type rival struct {
	name    string
	command string            // what it does about it
	wins    func(string) bool // whether the kernel's state is as the rival wants it
	entry   string            // the log must name it

	other    string            // a fault of something else
	repaired func(string) bool // whether the state shows its repair
}

// has and lacks are about a line of readKernel.
func has(text string) func(string) bool {
	return func(state string) bool { return strings.Contains(state, text) }
}

func lacks(text string) func(string) bool {
	return func(state string) bool { return !strings.Contains(state, text) }
}

// TestRival has another program fight over one entry on each node: the daemon
// tries less and less often and says so once, repairs other things as before,
// and gets its way when the other one gives up.
func TestRival(t *testing.T) {
	t.Parallel()
	const peerRoute, tunRoute = "ip route del LAST/24", "ip route del 10.5.0.0/16"
	peerRouted, tunRouted := has("LAST/24 via"), has("10.5.0.0/16 via")
	for _, tt := range []struct {
		name, backend string
		rivals        []rival
	}{
		{"vxlan", `"vxlan"`, []rival{
			{"route", "ip route replace NEXT/24 via 20.0.0.1", has("NEXT/24 via 20.0.0.1 dev eth0"), "NEXT/24", peerRoute, peerRouted},
			{"route deleted", "ip route del NEXT/24", lacks("NEXT/24 via"), "NEXT/24", peerRoute, peerRouted},
			{"neighbour", "ip neigh replace NEXT lladdr 0e:11:22:33:44:55 dev flannel.1 nud permanent", has("NEXT 0e:11:22:33:44:55"), "NEXT", peerRoute, peerRouted},
			{"FDB entry", "bridge fdb replace NEXTMAC dev flannel.1 dst 20.0.0.99 self", has("20.0.0.99 NEXTMAC"), "NEXTMAC", peerRoute, peerRouted},
			{"MTU", "ip link set flannel.1 mtu 1300", has("flannel.1 vxlan mtu 1300"), "flannel.1", peerRoute, peerRouted},
			{"MAC", "ip link set flannel.1 address 0e:11:22:33:44:56", has("mac 0e:11:22:33:44:56"), "flannel.1", peerRoute, peerRouted},
		}},
		{"host-gw", `"host-gw"`, []rival{
			{"route", "ip route replace NEXT/24 via 20.0.0.1", has("NEXT/24 via 20.0.0.1 dev eth0"), "NEXT/24", peerRoute, peerRouted},
			{"route deleted", "ip route del NEXT/24", lacks("NEXT/24 via"), "NEXT/24", peerRoute, peerRouted},
			{"blackhole", "ip route del blackhole OWN/24", lacks("type 6 OWN/24"), "OWN/24", peerRoute, peerRouted},
		}},
		{"udp", `"udp"`, []rival{
			{"route", "ip route replace 10.5.0.0/16 via 20.0.0.1", has("10.5.0.0/16 via 20.0.0.1 dev eth0"), "10.5.0.0/16", "ip link set flannel0 txqueuelen 777", has("qlen 500")},
			{"address", "ip addr add 10.5.255.1/24 dev flannel0", has("10.5.255.1/24 dev flannel0"), "10.5.255.1", tunRoute, tunRouted},
			{"MTU", "ip link set flannel0 mtu 1300", has("flannel0 tuntap mtu 1300"), "flannel0", tunRoute, tunRouted},
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t, config(tt.backend), max(3, len(tt.rivals)), readyArgs, "-ip-blackhole-route")
			c.wantWell()
			for i, r := range tt.rivals {
				n := c.nodes[i]
				words := c.unfill(i)
				in := func(is func(string) bool) func(string) bool {
					return func(state string) bool { return is(words.Replace(state)) }
				}
				r := rival{r.name, c.fill(r.command, i), in(r.wins), c.fill(r.entry, i), c.fill(r.other, i), in(r.repaired)}
				t.Run(r.name, func(t *testing.T) {
					t.Parallel()
					n.fight(t, r)
				})
			}
		})
	}
}

// unfill returns what undoes fill.
func (c *cluster) unfill(i int) *strings.Replacer {
	var pairs []string
	for j, name := range []string{"OWN", "NEXT", "LAST"} {
		n := c.nodes[(i+j)%len(c.nodes)]
		_, mac, _ := strings.Cut(n.lease().Value, `"VtepMAC":"`)
		if mac, _, ok := strings.Cut(mac, `"`); ok {
			pairs = append(pairs, mac, name+"MAC")
		}
		pairs = append(pairs, n.env.Subnet.Addr().String(), name)
	}
	return strings.NewReplacer(pairs...)
}

func (n *node) fight(t *testing.T, r rival) {
	t.Helper()
	before, from := n.kernelNow(), n.said()
	ctx, cancel := context.WithTimeout(n.c.ctx, 10*time.Second)
	defer cancel()
	actions, repairs := 0, measured{}
	fighting := make(chan error, 1)
	go func() { fighting <- n.rage(ctx, r, &actions) }()

	// Others go on being served.
	for ctx.Err() == nil {
		n.run("%s", r.other)
		d, err := n.awaitState(2*healLimit, before, r.repaired)
		if err != nil {
			t.Errorf("%q is not repaired during the fight: %v", r.other, err)
			break
		}
		repairs = append(repairs, d)
		select {
		case <-time.After(4 * time.Second):
		case <-ctx.Done():
		}
	}
	if err := <-fighting; err != nil {
		t.Fatal(err)
	}
	if actions < 2 || actions > 15 {
		t.Errorf("%q: the rival had to act %d times in 10 s, want 2 to 15", r.command, actions)
	}
	if len(repairs) > 0 && repairs.median() > healTime {
		t.Errorf("repairs of %q during the fight: %s", r.other, repairs)
	}
	lines := n.countLog(from, r.entry)
	if told := n.countLog(from, "another program", r.entry); len(told) != 1 {
		t.Errorf("%d lines tell of the fight about %s, want one: %q", len(told), r.entry, lines)
	}
	if len(lines) < 1 || len(lines) > 6 {
		t.Errorf("%d lines in 10 s about %s: %q", len(lines), r.entry, lines)
	}
	again, err := n.awaitState(time.Minute+healLimit, before, func(state string) bool { return state == before })
	if err != nil {
		t.Errorf("after the rival has given up: %v", err)
	}
	t.Logf("%s: %d actions in 10 s; other repairs: %s; ours again after %s; log: %q", r.name, actions, repairs, again.Round(time.Millisecond), lines)
}

// rage acts each time the state is not as the rival wants it, and counts.
func (n *node) rage(ctx context.Context, r rival, actions *int) error {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		state, err := n.readKernel()
		if err == nil && !r.wins(state) {
			*actions++
			// What has just vanished by itself needs no action.
			if _, err := try(n.NS, strings.Fields(r.command)...); err != nil && *actions == 1 {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}
