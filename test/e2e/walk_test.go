package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestWalk goes through the installation step by step, for each backend.
func TestWalk(t *testing.T) {
	for _, b := range []struct {
		name string
		mtu  int
		keep bool // a restart of flanneld must not lose a packet
	}{
		{"vxlan", 1450, true},
		{"udp", 1472, false},
		{"host-gw", 1500, true},
	} {
		t.Run(b.name, func(t *testing.T) {
			s := newSite(t)
			_ = s.step("certificates and etcd", s.wantHealthyEtcd) &&
				s.step("config", func() { s.writeConfig(b.name) }) &&
				s.step("flanneld", func() { s.installAll(); s.startAll(b.mtu) }) &&
				s.step("docker", func() { s.startDockers() }) &&
				s.step("containers", func() { s.wantConnected(b.mtu) }) &&
				s.step("tweed check", s.checkNodes) &&
				s.step("a restart of flanneld", func() { s.restartUnderTraffic(b.keep) }) &&
				s.step("a start of docker", s.startDockerAlone) &&
				s.step("members lost", s.loseMembers) &&
				s.step("certificates replaced", s.replaceCertificates)
		})
	}
}

// wantHealthyEtcd checks what the guides check after etcd has been installed.
func (s *site) wantHealthyEtcd() {
	s.eventually("healthy members", func() error {
		out, err := s.etcdctl("cluster-health")
		if err != nil {
			return err
		}
		if n := strings.Count(out, "got healthy result from https://20.0.0."); n != len(s.members) {
			return fmt.Errorf("%d members are healthy:\n%s", n, out)
		}
		return contains(out, "cluster is healthy")
	})
}

// writeConfig writes the config of the guides and reads it back.
func (s *site) writeConfig(backend string) {
	s.t.Helper()
	config := fmt.Sprintf(`{"Network":"%s","Backend":{"Type":"%s"}}`, network, backend)
	s.mustEtcdctl("set", configKey, config)
	if got := s.mustEtcdctl("get", configKey); got != config {
		s.t.Errorf("config in etcd: %q, want %q", got, config)
	}
}

// installAll puts certificates and programs on all nodes.
func (s *site) installAll() {
	s.t.Helper()
	for _, n := range s.nodes {
		n.installCerts()
		n.installFlanneld(n.options())
	}
}

// startAll starts flanneld on all nodes and checks what it leaves.
func (s *site) startAll(mtu int) {
	s.t.Helper()
	for _, n := range s.nodes {
		n.startFlanneld()
		if n.mtu != mtu {
			s.t.Errorf("%s: MTU %d, want %d", n.Name, n.mtu, mtu)
		}
		if got := n.show("flanneld", "ActiveState"); got != "active" {
			s.t.Errorf("%s: the unit is %s", n.Name, got)
		}
		if err := contains(n.lease(), `"PublicIP":"`+n.Addr.String()+`"`); err != nil {
			s.t.Error(err)
		}
	}
	a, b := s.nodes[0], s.nodes[1]
	if a.subnet.Overlaps(b.subnet) {
		s.t.Errorf("two nodes have the subnets %s and %s", a.subnet, b.subnet)
	}
	s.wantPeers(1)
}

// startDockers starts docker on all nodes. On the last one forwarding is off
// before, which makes dockerd set the policy of FORWARD to DROP.
func (s *site) startDockers() {
	s.t.Helper()
	last := s.nodes[len(s.nodes)-1]
	last.sh("echo 0 >/proc/sys/net/ipv4/ip_forward")
	for _, n := range s.nodes {
		n.startDocker()
		if err := contains(n.run("ip", "-o", "addr", "show", "docker0"), n.docker0().String()+"/24"); err != nil {
			s.t.Error(err)
		}
		policy := strings.Fields(n.run("iptables", "-S", "FORWARD"))[2]
		want := "ACCEPT"
		if n == last {
			want = "DROP"
		}
		if policy != want {
			s.t.Errorf("%s: the policy of FORWARD is %s, want %s", n.Name, policy, want)
		}
	}
}

// startContainers starts docker and a container on all nodes, and waits until
// these reach each other.
func (s *site) startContainers() {
	s.t.Helper()
	s.startDockers()
	for _, n := range s.nodes {
		n.web()
	}
	s.wantTraffic()
}

// wantConnected starts a container on each node and tries all paths.
func (s *site) wantConnected(mtu int) {
	s.t.Helper()
	var webs []*container
	for _, n := range s.nodes {
		webs = append(webs, n.web())
	}
	asked := s.serveOutside()
	for i, c := range webs {
		other := webs[1-i]
		if !c.n.subnet.Contains(c.addr) {
			s.t.Errorf("the container has %s, want one in %s", c.addr, c.n.subnet)
		}
		link, err := c.exec("/bin/ip", "addr", "show", "eth0")
		if err := errors.Join(err, contains(link, c.addr.String()+"/24", fmt.Sprintf("mtu %d", mtu))); err != nil {
			s.t.Error(err)
		}
		c.wantPing(other.addr)
		c.wantPing(other.n.docker0())

		// Containers see each other's own addresses.
		got, err := c.get(fmt.Sprintf("http://%s/cgi-bin/who", other.addr))
		if err := errors.Join(err, contains(got, c.addr.String())); err != nil {
			s.t.Errorf("HTTP from %s to %s: %v", c.addr, other.addr, err)
		}
		// Others see that of the node.
		got, err = c.get("http://" + asked.String())
		if err := errors.Join(err, contains(got, "you are "+c.n.Addr.String())); err != nil {
			s.t.Errorf("HTTP from %s to an outside host: %v", c.addr, err)
		}
		if err := s.getPublished(c.n.Addr); err != nil {
			s.t.Errorf("published port of %s: %v", c.n.Name, err)
		}
	}
}

// serveOutside runs a web server on the host that is no node, until the test
// ends. It tells who asks.
func (s *site) serveOutside() netip.AddrPort {
	s.t.Helper()
	at := netip.AddrPortFrom(s.outside.Addr, 8000)
	l, err := s.outside.NS.Listen(s.ctx, at)
	s.must(err)
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host, _, _ := net.SplitHostPort(r.RemoteAddr)
		fmt.Fprintln(w, "you are", host)
	})}
	go srv.Serve(l)
	s.t.Cleanup(func() { srv.Close() })
	return at
}

// getPublished asks for the container's page by the node's address.
func (s *site) getPublished(node netip.Addr) error {
	client := http.Client{Transport: &http.Transport{DialContext: s.outside.NS.DialContext, DisableKeepAlives: true}, Timeout: 5 * time.Second}
	resp, err := client.Get(fmt.Sprintf("http://%s:8080/cgi-bin/who", node))
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	return contains(string(body), s.outside.Addr.String())
}

// pingAll begins to ping from each container to the other.
func (s *site) pingAll() []*pings {
	s.t.Helper()
	a, b := s.nodes[0].inspect("web"), s.nodes[1].inspect("web")
	return []*pings{a.startPings(b.addr), b.startPings(a.addr)}
}

// stopPings tells what was lost while something happened, and complains if
// that is more than allowed.
func (s *site) stopPings(all []*pings, what string, allowed int) {
	s.t.Helper()
	for _, p := range all {
		sent, lost := p.stop()
		s.t.Logf("%s: %d of %d pings lost from %s, %.2f s", what, lost, sent, p.c.n.Name, float64(lost)*pingInterval)
		if lost > allowed || sent < 10 {
			s.t.Errorf("%s: %d of %d pings lost from %s, at most %d may be", what, lost, sent, p.c.n.Name, allowed)
		}
	}
}

// checkNodes asks the operator's tool, as it is done on a node: with the
// service's own settings.
func (s *site) checkNodes() {
	s.t.Helper()
	n := s.nodes[0]
	n.copyProgram(binary(s.t, "tweed"), filepath.Join(binDir, "tweed"))
	check := binDir + "/tweed check -env-file /etc/default/flanneld"
	said := n.sh("%s", check)
	if err := contains(said, n.Addr.String(), "this host has "+n.subnet.String(), "certificate"); err != nil {
		s.t.Error(err)
	}
	s.t.Logf("tweed check:\n%s", said)
	var result struct{ OK bool }
	if err := json.Unmarshal([]byte(n.sh("%s", check+" -o json")), &result); err != nil || !result.OK {
		s.t.Errorf("ok is %v, %v", result.OK, err)
	}
	// What is wrong is a failure: docker's bridge is not what was leased.
	n.run("ip", "addr", "add", "10.9.8.1/24", "dev", "docker0")
	n.run("ip", "addr", "del", n.docker0().String()+"/24", "dev", "docker0")
	out, err := n.Run(s.ctx, "sh", "-c", check)
	if err == nil || contains(out, "failure  docker") != nil {
		s.t.Errorf("docker0 has another address: %v\n%s", err, out)
	}
	n.run("ip", "addr", "add", n.docker0().String()+"/24", "dev", "docker0")
	n.run("ip", "addr", "del", "10.9.8.1/24", "dev", "docker0")
}

// restartUnderTraffic restarts flanneld on one node after the other while the
// containers ping each other.
func (s *site) restartUnderTraffic(keep bool) {
	s.t.Helper()
	allowed := 0
	if !keep {
		allowed = int(3 / pingInterval)
	}
	all := s.pingAll()
	for i := range 4 {
		n := s.nodes[i%2]
		before, docker := n.subnet, n.show("docker", "MainPID")
		n.run("systemctl", "restart", "flanneld")
		n.readEnv()
		if n.subnet != before {
			s.t.Errorf("%s: subnet %s became %s", n.Name, before, n.subnet)
		}
		if now := n.show("docker", "MainPID"); now != docker {
			s.t.Errorf("%s: docker was restarted: process %s became %s", n.Name, docker, now)
		}
	}
	s.stopPings(all, "two restarts of each daemon", allowed)
	s.wantTraffic()

	// Neither subnet.env nor etcd knows the subnet any more.
	n := s.nodes[0]
	before := n.subnet
	n.run("systemctl", "stop", "flanneld")
	s.mustEtcdctl("rm", n.leaseKey())
	n.startFlanneld()
	if n.subnet != before {
		s.t.Errorf("%s: subnet %s became %s", n.Name, before, n.subnet)
	}
	s.wantPeers(1)
}

// startDockerAlone starts docker where both were stopped: it brings flanneld,
// and comes up with its options.
func (s *site) startDockerAlone() {
	s.t.Helper()
	n := s.nodes[0]
	n.run("docker", "kill", "web") // at a stop it would be given ten seconds
	n.run("systemctl", "stop", "docker.socket", "docker", "flanneld")
	n.run("systemctl", "start", "docker")
	if got := n.show("flanneld", "ActiveState"); got != "active" {
		s.t.Errorf("flanneld is %s", got)
	}
	n.run("docker", "start", "web")
	if c := n.inspect("web"); !n.subnet.Contains(c.addr) {
		s.t.Errorf("the container has %s, want one in %s", c.addr, n.subnet)
	}
	s.wantTraffic()
}

// wantTraffic checks both ways between the containers.
func (s *site) wantTraffic() {
	s.t.Helper()
	a, b := s.nodes[0].inspect("web"), s.nodes[1].inspect("web")
	a.wantPing(b.addr)
	b.wantPing(a.addr)
}
