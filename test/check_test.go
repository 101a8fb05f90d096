package test

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"tweed/test/lab"
	"tweed/test/nstest"
)

// checkReport is what `tweed check -o json` prints.
type checkReport struct {
	OK       bool
	Failures int
	Warnings int
	Checks   []struct {
		Name, Result, Found, Advice string
		Data                        map[string]any
	}
}

// check runs `tweed check` on the node with the flags that flanneld has there.
func (n *node) check(args ...string) (checkReport, int) {
	n.c.t.Helper()
	defaults := []string{"check", "-o=json", "-etcd-endpoints=http://" + etcdAddr, "-subnet-file=" + n.Path("subnet.env"), "-state-dir=" + n.Path("state")}
	return n.tweed(slices.Concat([]string{binary(n.c.t, "tweed")}, defaults, args)...)
}

// tweed runs a command on the node that prints a report.
func (n *node) tweed(words ...string) (checkReport, int) {
	n.c.t.Helper()
	p, err := n.Start(n.c.ctx, lab.Command{Name: "check", Path: words[0], Args: words[1:]})
	n.c.must(err)
	state, err := p.Wait(n.c.ctx)
	n.c.must(err)
	text := strings.Join(p.Lines(), "\n")
	var r checkReport
	if err := json.Unmarshal([]byte(text), &r); err != nil {
		n.c.t.Fatalf("%q: %v: %s", words, err, text)
	}
	return r, state.ExitCode()
}

// want looks for a check of that result whose text has the words.
func (r checkReport) want(t *testing.T, name, result string, words ...string) {
	t.Helper()
next:
	for _, c := range r.Checks {
		if c.Name != name || c.Result != result {
			continue
		}
		for _, w := range words {
			if !strings.Contains(c.Found+" -> "+c.Advice, w) {
				continue next
			}
		}
		return
	}
	t.Errorf("no %s of %s with %q in %+v", result, name, words, r.Checks)
}

// state is all of the node's network that a check could change.
func (n *node) state() string {
	var all strings.Builder
	for _, command := range []string{"ip -o link", "ip -4 -o addr", "ip -4 route show table all", "ip neigh show nud permanent", "nft -s list ruleset", "sysctl net.ipv4.ip_forward"} {
		all.WriteString(n.run("%s", command))
	}
	return all.String()
}

// TestCheck follows a node from its first day on, for each backend.
func TestCheck(t *testing.T) {
	needIPTables(t)
	for _, backend := range []string{"vxlan", "udp", "host-gw"} {
		t.Run(backend, func(t *testing.T) {
			t.Parallel()
			c := newLab(t, lab.Options{})
			n, peer := c.addHost(), c.addHost()

			r, status := n.check()
			r.want(t, "config", "failure", "/coreos.com/network/config does not exist", "etcdctl")
			if status != 1 || r.OK {
				t.Errorf("without a config: status %d, ok %t", status, r.OK)
			}

			c.set(configKey, config(`"`+backend+`"`), 0)
			before := n.state()
			r, status = n.check("-healthz-port=8081", "-ip-masq", "-v=2")
			if status != 0 || !r.OK || r.Warnings > 0 {
				t.Errorf("before the first start: status %d, %+v", status, r)
			}
			r.want(t, "leases", "ok", "this host has none")
			r.want(t, "healthz-port", "ok", "8081 is free")
			if after := n.state(); after != before {
				t.Errorf("it changed\n%s\nto\n%s", before, after)
			}
			if _, err := os.Stat(n.Path("state")); err == nil {
				t.Error("it made the state folder")
			}

			n.start("-healthz-port=8081", "-ip-masq")
			n.addPod()
			peer.start()
			peer.addPod()
			c.wantPing(n.pod.NS, peer.pod.Addr)
			before = n.state()
			r, status = n.check("-healthz-port=8081", "-ip-masq")
			if status != 0 || !r.OK || r.Warnings > 0 {
				t.Errorf("while it runs: status %d, %+v", status, r)
			}
			r.want(t, "leases", "ok", "2 leases", "this host has "+n.env.Subnet.String())
			r.want(t, "healthz-port", "ok", "flanneld itself")
			r.want(t, "subnet-file", "ok", n.env.Subnet.String())
			r.want(t, "docker", "ok", n.gateway().String())
			r.want(t, "mtu", "ok", fmt.Sprint(n.env.MTU, " for pods"))
			r.want(t, "overlap", "ok")
			switch backend {
			case "vxlan":
				r.want(t, "port", "ok", "flannel.1 itself")
			case "udp":
				r.want(t, "port", "ok", "flanneld itself")
			}
			if after := n.state(); after != before {
				t.Errorf("it changed\n%s\nto\n%s", before, after)
			}
			c.wantPing(n.pod.NS, peer.pod.Addr)

			// A config of another backend, before it is written.
			other := map[string]string{"vxlan": "udp", "udp": "vxlan", "host-gw": "vxlan"}[backend]
			file := n.Path("new.json")
			c.must(os.WriteFile(file, []byte(config(`"`+other+`"`)), 0o644))
			r, status = n.check(file)
			r.want(t, "config", "note", "etcd has another config")
			if status != 0 {
				t.Errorf("another backend: status %d, %+v", status, r)
			}

			// docker that was not restarted with the new subnet.
			n.run("ip addr add 172.17.0.1/16 dev docker0")
			n.run("ip addr del %s/24 dev docker0", n.gateway())
			r, status = n.check()
			r.want(t, "docker", "failure", "172.17.0.1/16", n.env.Subnet.String(), "restart docker")
			if status != 1 {
				t.Errorf("docker0 does not fit: status %d", status)
			}
		})
	}
}

// TestCheckWithoutRoot: what may not be seen is skipped, with the reason.
func TestCheckWithoutRoot(t *testing.T) {
	t.Parallel()
	setpriv, err := exec.LookPath("setpriv")
	if err != nil {
		nstest.Missing(t, "setpriv (util-linux)")
	}
	c := newLab(t, lab.Options{})
	n := c.addHost()
	c.set(configKey, config(`"vxlan"`), 0)
	// A copy where that user can get at it.
	b, err := os.ReadFile(binary(t, "tweed"))
	c.must(err)
	dir, err := os.MkdirTemp("/tmp", "tweed-check-")
	c.must(err)
	defer os.RemoveAll(dir)
	c.must(os.Chmod(dir, 0o755))
	program := dir + "/tweed"
	c.must(os.WriteFile(program, b, 0o755))
	r, status := n.tweed(setpriv, "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all",
		program, "check", "-o=json", "-etcd-endpoints=http://"+etcdAddr)
	if status != 0 || !r.OK {
		t.Errorf("status %d, %+v", status, r)
	}
	r.want(t, "privileges", "skipped", "user 65534", "as root")
	r.want(t, "firewall", "skipped", "root")
	r.want(t, "kernel", "skipped", "root")
	r.want(t, "interface", "ok", "eth0")
	r.want(t, "endpoint", "ok", etcdAddr)
	r.want(t, "config", "ok", "vxlan")
	r.want(t, "port", "ok", "8472 is free")
}

// TestCheckTaken: another program has the port.
func TestCheckTaken(t *testing.T) {
	t.Parallel()
	c := newLab(t, lab.Options{})
	n := c.addHost()
	c.set(configKey, config(`"udp"`), 0)
	p, err := n.NS.ListenPacket(c.ctx, netip.AddrPortFrom(n.Addr, 8285))
	c.must(err)
	defer p.Close()
	r, status := n.check()
	r.want(t, "port", "failure", "UDP port 8285 is in use by test.test", fmt.Sprintf("pid %d", os.Getpid()))
	if status != 1 {
		t.Errorf("status %d", status)
	}
	c.stopEtcd()
	r, _ = n.check("-timeout=3s")
	r.want(t, "endpoint", "failure", etcdAddr)
	r.want(t, "config", "skipped", "endpoint")
}

// TestCheckRefusesLikeFlanneld: what the daemon ends for at once, before it
// looks at anything, is a failure of the check, with the same words.
func TestCheckRefusesLikeFlanneld(t *testing.T) {
	file := t.TempDir() + "/flanneld"
	for _, options := range []string{
		"-kube-api-url=http://192.0.2.1", "-net-config-path=/x", "-set-node-network-unavailable=false", "-public-ipv6=fd00::1", "-etcd-endpoints=,",
		"-etcd-certfile=c", "-subnet-lease-renew-margin=0", "-iptables-resync=-1", "-healthz-port=65536",
		"-vmodule=a", "-log_backtrace_at=a", "-ip-mask", "-iface", "-v=x",
	} {
		said, err := exec.Command(binary(t, "flanneld"), options).CombinedOutput()
		lines := strings.Split(strings.TrimSpace(string(said)), "\n")
		_, why, found := strings.Cut(lines[len(lines)-1], "] ")
		if !found {
			_, why, found = strings.Cut(lines[len(lines)-1], "flanneld: ")
		}
		if usage := strings.HasPrefix(string(said), "Usage: "); !found || (err == nil) != usage {
			t.Fatalf("flanneld %s: %v: %s", options, err, said)
		}
		if err := os.WriteFile(file, []byte("FLANNEL_OPTIONS='"+options+"'\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(binary(t, "tweed"), "check", "-o=json", "-timeout=1s", "-env-file="+file, "-")
		cmd.Stdin = strings.NewReader(config(`"vxlan"`))
		out, err := cmd.Output()
		var r checkReport
		if jsonErr := json.Unmarshal(out, &r); jsonErr != nil || err == nil {
			t.Fatalf("tweed check with %s: %v, %v: %s", options, err, jsonErr, out)
		}
		r.want(t, "flags", "failure", why)
	}
}
