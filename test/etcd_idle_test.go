package test

import (
	"testing"
	"time"

	"tweed/subnet"
	"tweed/test/lab"
)

// TestIdleCPU measures what daemons use that have nothing to do: one with a
// hundred peers, one with udp, and two that etcd has left, with a refusal and
// without a word.
func TestIdleCPU(t *testing.T) {
	t.Parallel()
	const strangers = 100
	const span, limit = 20 * time.Second, 20 * time.Second / 100
	c := newLab(t, lab.Options{})
	c.set(configKey, config(`"vxlan"`), 0)
	c.set("/udp/config", `{"Network":"10.6.0.0/16","Backend":{"Type":"udp"}}`, 0)
	for i := range byte(strangers) {
		key, p := stranger("vxlan", i)
		c.set(key, p.value(), subnet.TTL)
	}
	idle, udp, refused, dropped := c.addHost(), c.addHost(), c.addHost(), c.addHost()
	udp.start("-etcd-prefix=/udp")
	for i, n := range []*node{idle, refused, dropped} {
		n.start()
		n.wantPeers(strangers + i)
	}
	refuse := "add table ip cut; add chain ip cut out { type filter hook output priority 0; }; add rule ip cut out tcp dport 2379 "
	c.in(refused.NS, "nft", refuse+"reject with tcp reset")
	c.in(dropped.NS, "nft", refuse+"drop")
	for _, n := range []*node{refused, dropped} {
		n.wantLog("Couldn't watch the leases")
	}

	nodes := map[string]*node{"idle, vxlan with 102 peers": idle, "idle, udp": udp, "etcd refuses": refused, "etcd is silent": dropped}
	used := func() map[string]time.Duration {
		all := make(map[string]time.Duration)
		for what, n := range nodes {
			all[what] = cpuTime(t, n.daemon.PID)
		}
		time.Sleep(span)
		for what, n := range nodes {
			all[what] = cpuTime(t, n.daemon.PID) - all[what]
		}
		return all
	}
	first := used()
	over := false
	for _, d := range first {
		over = over || d > limit
	}
	if over { // something else on this machine may have disturbed it
		for what, d := range used() {
			first[what] = min(first[what], d)
		}
	}
	for what, d := range first {
		t.Logf("%s: %.2f %% CPU", what, 100*d.Seconds()/span.Seconds())
		if d > limit {
			t.Errorf("%s: %v of CPU in %v, want at most %v", what, d, span, limit)
		}
	}
	for _, n := range nodes {
		n.wantRunning()
	}
}
