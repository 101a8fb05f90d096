package test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"tweed/test/lab"
	"tweed/test/nstest"
)

// resync is the pace of the firewall checks in these tests.
const resync = "-iptables-resync=1"

// rules lists the chains that the daemon changes.
func (n *node) rules() string {
	n.c.t.Helper()
	return n.run("iptables -w 10 -t nat -S POSTROUTING") + n.run("iptables -w 10 -S FORWARD")
}

// wantRules is what flannel v0.10 has in these chains, with -ip-masq or not.
func (n *node) wantRules(masquerade bool) string {
	const network = "10.5.0.0/16"
	own := n.env.Subnet.String()
	nat := "-P POSTROUTING ACCEPT\n"
	if masquerade {
		nat += strings.NewReplacer("NETWORK", network, "OWN", own).Replace(
			`-A POSTROUTING -s NETWORK -d NETWORK -j RETURN
-A POSTROUTING -s NETWORK ! -d 224.0.0.0/4 -j MASQUERADE
-A POSTROUTING ! -s NETWORK -d OWN -j RETURN
-A POSTROUTING ! -s NETWORK -d NETWORK -j MASQUERADE
`)
	}
	return nat + "-P FORWARD ACCEPT\n-A FORWARD -s " + network + " -j ACCEPT\n-A FORWARD -d " + network + " -j ACCEPT\n"
}

func needIPTables(t *testing.T) {
	t.Helper()
	if _, err := exec.LookPath("iptables"); err != nil {
		nstest.Missing(t, "iptables")
	}
}

// TestMasquerade: with -ip-masq an outside host sees the node, and pods see
// each other; without it nothing is masqueraded.
func TestMasquerade(t *testing.T) {
	needIPTables(t)
	for _, backend := range []string{"vxlan", "udp"} {
		t.Run(backend, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t, config(`"`+backend+`"`), 2, "-ip-masq", resync)
			for _, n := range c.nodes {
				same(t, "iptables", n.wantRules(true), n.rules())
			}
			c.wantMasquerade()
		})
	}
	t.Run("without", func(t *testing.T) {
		t.Parallel()
		c := newCluster(t, config(`"vxlan"`), 2, resync)
		a, b := c.nodes[0], c.nodes[1]
		c.wantPing(a.pod.NS, b.pod.Addr)
		same(t, "iptables", a.wantRules(false), a.rules())
		outside := c.addHostWith(lab.HostOptions{Outside: true})
		outside.run("ip route add default via %s", a.Addr)
		if got := c.source(a.pod.NS, outside.NS, outside.Addr); got != a.pod.Addr {
			t.Errorf("an outside host sees %s, want the pod itself, %s", got, a.pod.Addr)
		}
	})
}

// wantMasquerade looks at who is seen as the source by whom.
func (c *cluster) wantMasquerade() {
	c.t.Helper()
	a, b := c.nodes[0], c.nodes[1]
	c.wantPing(a.pod.NS, b.pod.Addr)
	c.wantPing(b.pod.NS, a.pod.Addr)
	outside := c.addHostWith(lab.HostOptions{Outside: true})
	if got := c.source(a.pod.NS, outside.NS, outside.Addr); got != a.Addr {
		c.t.Errorf("an outside host sees %s, want the node, %s", got, a.Addr)
	}
	if got := c.source(a.pod.NS, b.pod.NS, b.pod.Addr); got != a.pod.Addr {
		c.t.Errorf("a pod sees %s, want the other pod, %s", got, a.pod.Addr)
	}
	// To a pod of the node it comes through, the client is visible; to others
	// it is the node, so that answers come back the same way.
	outside.run("ip route add 10.5.0.0/16 via %s", a.Addr)
	if got := c.source(outside.NS, a.pod.NS, a.pod.Addr); got != outside.Addr {
		c.t.Errorf("a pod sees %s, want the outside host, %s", got, outside.Addr)
	}
	if got := c.source(outside.NS, b.pod.NS, b.pod.Addr); got != a.env.Subnet.Addr() {
		c.t.Errorf("a pod of another node sees %s, want the first node, %s", got, a.env.Subnet.Addr())
	}
}

// TestForwardPolicyDrop: as docker sets it, before the daemon starts.
func TestForwardPolicyDrop(t *testing.T) {
	t.Parallel()
	needIPTables(t)
	c := newLab(t, lab.Options{})
	c.set(configKey, config(`"vxlan"`), 0)
	for range 2 {
		n := c.addHost()
		n.run("iptables -w 10 -P FORWARD DROP")
		n.start(resync)
		n.addPod()
	}
	a, b := c.nodes[0], c.nodes[1]
	c.wantPing(a.pod.NS, b.pod.Addr)
	c.wantPing(b.pod.NS, a.pod.Addr)

	// Switched off, rules of an earlier run are left alone, but none made.
	for _, n := range c.nodes {
		c.must(n.daemon.Stop())
		n.run("iptables -w 10 -F FORWARD")
		n.start("-iptables-forward-rules=false", "-iptables-resync=1", readyArgs)
		n.awaitReady(200)
	}
	c.wantPing(a.NS, b.gateway())
	if _, err := a.pod.NS.Ping(c.ctx, b.pod.Addr); err == nil {
		t.Error("pods are forwarded without a rule")
	}
	if got := a.run("iptables -S FORWARD"); got != "-P FORWARD DROP\n" {
		t.Errorf("rules:\n%s", got)
	}
}

// TestRulesAreRepaired damages the rules and wants them back as they were. A
// foreign rule stays where it is.
func TestRulesAreRepaired(t *testing.T) {
	t.Parallel()
	needIPTables(t)
	c := newCluster(t, config(`"vxlan"`), 1, "-ip-masq", resync)
	n := c.nodes[0]
	n.run("iptables -w 10 -I FORWARD -s 10.99.0.0/16 -j DROP")
	n.run("iptables -w 10 -t nat -I POSTROUTING -s 10.99.0.0/16 -j MASQUERADE")
	want := n.rules()
	for _, damage := range [][]string{
		{"-D FORWARD -s 10.5.0.0/16 -j ACCEPT"},
		{"-D FORWARD -d 10.5.0.0/16 -j ACCEPT", "-t nat -D POSTROUTING 2"},
		{"-t nat -D POSTROUTING 3", "-t nat -A POSTROUTING -s 10.5.0.0/16 ! -d 224.0.0.0/4 -j MASQUERADE"}, // order
		{"-A FORWARD -s 10.5.0.0/16 -j ACCEPT", "-t nat -I POSTROUTING 2 -s 10.5.0.0/16 -d 10.5.0.0/16 -j RETURN"},
		{"-t nat -A POSTROUTING ! -s 10.5.0.0/16 -d 10.5.253.0/24 -j RETURN"}, // of an earlier subnet
		{"-t nat -F POSTROUTING", "-t nat -A POSTROUTING -s 10.99.0.0/16 -j MASQUERADE"},
		{"-F FORWARD", "-A FORWARD -s 10.99.0.0/16 -j DROP"},
	} {
		n.freeze(func() {
			for _, args := range damage {
				n.run("iptables -w 10 %s", args)
			}
			if n.rules() == want {
				t.Fatalf("%q does no damage", damage)
			}
		})
		c.eventually(fmt.Sprintf("repair of %q", damage), func() error {
			if have := n.rules(); have != want {
				return fmt.Errorf("have\n%swant\n%s", have, want)
			}
			return nil
		})
	}

	// They stay at the end, and the next start changes nothing.
	c.must(n.daemon.Stop())
	same(t, "iptables at the end", want, n.rules())
	n.start("-ip-masq", resync, readyArgs)
	n.awaitReady(200)
	same(t, "iptables after the start", want, n.rules())
	for _, line := range n.daemon.Lines() {
		if strings.Contains(strings.ToLower(line), "firewall rules") {
			t.Errorf("the second start changed the rules: %s", line)
		}
	}
}

// TestFailingIPTables: an error in the log and in readiness, no more, and the
// rules come once it works.
func TestFailingIPTables(t *testing.T) {
	t.Parallel()
	needIPTables(t)
	real, err := exec.LookPath("iptables")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	script := filepath.Join(dir, "iptables")
	fake := "#!/bin/sh\ncase $* in *version*) echo 'iptables v1.8.9 (nf_tables)';; *) echo 'the disk is on fire' >&2; exit 4;; esac\n"
	if err := os.WriteFile(script, []byte(fake), 0o755); err != nil {
		t.Fatal(err)
	}
	c := newLab(t, lab.Options{Env: []string{"PATH=" + dir + ":" + os.Getenv("PATH")}})
	c.set(configKey, config(`"vxlan"`), 0)
	a, b := c.addNode("-ip-masq", resync, readyArgs), c.addNode("-ip-masq", resync, readyArgs)
	a.wantLog("the disk is on fire")
	a.awaitReady(503, "firewall: ", "the disk is on fire")
	c.wantPing(a.pod.NS, b.pod.Addr)
	if !a.daemon.Running() {
		t.Error("the daemon has ended")
	}

	c.must(errors.Join(os.Symlink(real, script+".new"), os.Rename(script+".new", script)))
	a.awaitReady(200)
	same(t, "iptables", a.wantRules(true), a.rules())
}

// withoutIPTables returns a program that runs flanneld where no iptables is to
// be found: without PATH, and with nothing in the directories of system
// programs.
func withoutIPTables(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	empty := filepath.Join(dir, "empty")
	if err := os.Mkdir(empty, 0o755); err != nil {
		t.Fatal(err)
	}
	inner := "set -e; for d in /usr/local/sbin /usr/sbin /sbin; do test ! -e $d || mount --bind " + empty + " $d; done; " +
		"export PATH=/nonexistent; exec " + binary(t, "flanneld") + ` "$@"`
	script := filepath.Join(dir, "flanneld")
	text := "#!/bin/sh\nexec unshare -m sh -c '" + inner + `' flanneld "$@"` + "\n"
	if err := os.WriteFile(script, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	return script
}

// TestWithoutIPTables: nftables by netlink does the same, also where another
// program's rules drop what is forwarded.
func TestWithoutIPTables(t *testing.T) {
	t.Parallel()
	needIPTables(t)
	c := newLab(t, lab.Options{Flanneld: withoutIPTables(t)})
	c.set(configKey, config(`"vxlan"`), 0)
	for range 2 {
		n := c.addHost()
		n.run("iptables -w 10 -P FORWARD DROP")
		n.start("-ip-masq", resync, readyArgs)
		n.addPod()
		n.awaitReady(200)
		n.wantLog("nftables")
	}
	a := c.nodes[0]
	if got := a.run("iptables -t nat -S POSTROUTING"); got != "-P POSTROUTING ACCEPT\n" {
		t.Errorf("iptables:\n%s", got)
	}
	if _, err := exec.LookPath("nft"); err != nil {
		nstest.Missing(t, "nft")
	}
	const table = "tweed-10.5.0.0-16"
	want := a.run("nft -s list table ip %s", table)
	a.run("nft flush chain ip %s postrouting", table)
	c.eventually("repair of the table", func() error {
		if have := a.run("nft -s list table ip %s", table); have != want {
			return fmt.Errorf("have\n%swant\n%s", have, want)
		}
		return nil
	})
	c.wantMasquerade()

	c.must(a.daemon.Stop())
	same(t, "table at the end", want, a.run("nft -s list table ip %s", table))
	a.start("-ip-masq", resync, readyArgs)
	a.awaitReady(200)
	same(t, "table after the start", want, a.run("nft -s list table ip %s", table))
}
