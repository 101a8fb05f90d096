package e2e

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"
)

// TestUnitWaits starts the unit where there is no etcd yet, then no config: it
// waits, says what for, and docker waits for it.
func TestUnitWaits(t *testing.T) {
	s := newSite(t)
	n := s.nodes[0]
	for _, m := range s.members {
		m.kill()
	}
	n.installCerts()
	n.installFlanneld(n.options())
	n.run("systemctl", "start", "--no-block", "docker")
	n.wantStatus("activating", "waiting for etcd since")
	for _, m := range s.members {
		m.start()
	}
	s.wantHealthyEtcd()
	n.wantStatus("activating", "waiting for a network config", configKey)
	if got := n.show("docker", "ActiveState"); got != "inactive" {
		t.Errorf("docker is %s before flanneld has a subnet", got)
	}
	s.mustEtcdctl("set", configKey, `{"Network":"172.17.0.0/33"}`)
	n.wantStatus("activating", "172.17.0.0/33")
	s.writeConfig("vxlan")
	n.wantStatus("active", " by vxlan, 0 peers")
	n.readEnv()
	s.eventually("docker", func() error {
		if got := n.show("docker", "ActiveState"); got != "active" {
			return errors.New(got)
		}
		return contains(n.run("ip", "-o", "addr", "show", "docker0"), n.docker0().String()+"/24")
	})

	// On the way out it says so, too: the journal of systemd has no status, but
	// what ends by SIGTERM ends well, and leaves subnet.env for docker.
	n.run("systemctl", "stop", "flanneld")
	if got := n.show("flanneld", "Result"); got != "success" {
		t.Errorf("result of the stopped unit: %s", got)
	}
	n.readEnv()
}

// wantStatus waits until the unit is in that state and its status has the
// parts.
func (n *node) wantStatus(state string, parts ...string) {
	n.s.t.Helper()
	n.s.eventually("flanneld of "+n.Name+" to be "+state, func() error {
		if got := n.show("flanneld", "ActiveState"); got != state {
			return fmt.Errorf("it is %s: %s", got, n.Journal(n.s.ctx, "flanneld"))
		}
		return contains(n.show("flanneld", "StatusText"), parts...)
	})
}

// TestUnitWatchdog stops the daemon's process: systemd notices and starts
// another, and containers have lost nothing.
func TestUnitWatchdog(t *testing.T) {
	s := newSite(t)
	s.writeConfig("vxlan")
	s.installAll()
	n := s.nodes[0]
	n.s.must(n.Write("/etc/systemd/system/flanneld.service.d/test.conf", "[Service]\nWatchdogSec=5s\nRestartSec=100ms\n", 0o644))
	n.run("systemctl", "daemon-reload")
	s.startAll(1450)

	if got := s.nodes[1].show("flanneld", "WatchdogUSec"); got != "1min" {
		t.Errorf("WatchdogSec of the packaged unit: %s", got)
	}

	// Good for longer than an interval, as long as it lives.
	first := n.show("flanneld", "MainPID")
	begin := n.lastPing()
	s.eventually("pings of the watchdog for two intervals", func() error {
		if d := n.lastPing() - begin; d < 10*time.Second {
			return fmt.Errorf("for %s", d)
		}
		return nil
	})
	if now := n.show("flanneld", "MainPID"); now != first {
		t.Fatalf("a daemon that works was ended: %s", n.Journal(s.ctx, "flanneld"))
	}
	n.run("kill", "-STOP", first)
	s.eventually("another daemon", func() error {
		if now := n.show("flanneld", "MainPID"); now == first || now == "0" {
			return errors.New(now)
		}
		return nil
	})
	n.wantStatus("active", " by vxlan, 1 peer")
	if got := n.show("flanneld", "NRestarts"); got != "1" {
		t.Errorf("%s restarts, want 1", got)
	}
}

// lastPing is when flanneld pinged systemd last, since the machine's boot.
func (n *node) lastPing() time.Duration {
	n.s.t.Helper()
	us, err := strconv.ParseInt(n.show("flanneld", "WatchdogTimestampMonotonic"), 10, 64)
	n.s.must(err)
	return time.Duration(us) * time.Microsecond
}

// TestUnitFails checks that what waiting cannot mend is told by the unit, and
// tried again.
func TestUnitFails(t *testing.T) {
	s := newSite(t)
	s.writeConfig("vxlan")
	n := s.nodes[0]
	n.installCerts()
	n.installFlanneld(n.options("-iface=eth7"))
	n.s.must(n.Write("/etc/systemd/system/flanneld.service.d/test.conf", "[Service]\nRestartSec=100ms\n", 0o644))
	n.run("systemctl", "daemon-reload")
	if out, err := n.Systemctl(s.ctx, "start", "flanneld"); err == nil {
		t.Errorf("the unit starts without its interface: %s", out)
	}
	n.journalSays("-iface=eth7", "eth0")
	n.writeOptions(n.options("-iface=eth0"))
	n.wantStatus("active", " by vxlan, 0 peers")
	n.readEnv()
}

// TestSubnetTaken gives the subnet of a node to another one, as two clusters on
// one etcd prefix would: the node takes another, and what the log says then
// brings the containers back.
func TestSubnetTaken(t *testing.T) {
	s := newSite(t)
	s.writeConfig("vxlan")
	s.installAll()
	s.startAll(1450)
	s.startContainers()

	n := s.nodes[0]
	before := n.subnet
	s.mustEtcdctl("set", n.leaseKey(), `{"PublicIP":"20.0.0.99","BackendType":"vxlan","BackendData":{"VtepMAC":"02:00:00:00:00:99"}}`)
	n.journalSays("the subnet of this node has changed: run mk-docker-opts again")
	n.run("docker", "kill", "web") // at a stop it would be given ten seconds
	n.run("systemctl", "restart", "flanneld", "docker")
	n.readEnv()
	if n.subnet == before {
		t.Errorf("the node still has %s", n.subnet)
	}
	n.run("docker", "start", "web")
	if c := n.inspect("web"); !n.subnet.Contains(c.addr) {
		t.Errorf("the container has %s, want one in %s", c.addr, n.subnet)
	}
	s.wantTraffic()
}

// TestUnitConfined checks what the unit does not let flanneld do.
func TestUnitConfined(t *testing.T) {
	s := newSite(t)
	s.writeConfig("udp")
	n := s.nodes[0]
	n.installCerts()
	n.installFlanneld(n.options())
	n.startFlanneld()
	pid := n.show("flanneld", "MainPID")
	status := n.read(n.Root("proc", pid, "status"))
	if err := contains(status, "NoNewPrivs:\t1", "CapBnd:\t0000000000003000", "Seccomp:\t2"); err != nil {
		t.Error(err)
	}
	for _, dir := range []string{"/etc", "/usr", "/opt", "/run"} {
		if out, err := n.Run(s.ctx, "nsenter", "-t", pid, "-m", "sh", "-c", "touch "+dir+"/x"); err == nil || !strings.Contains(err.Error(), "Read-only") {
			t.Errorf("%s can be written: %s, %v", dir, out, err)
		}
	}
}
