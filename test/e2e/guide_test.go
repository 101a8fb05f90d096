package e2e

import (
	"os"
	"testing"
)

// The units as the guides write them, with their drawback: RequiredBy= lets
// docker stop when flanneld does.
const (
	guideFlanneld = `[Unit]
Description=Flanneld overlay network
After=network-online.target network.target
Before=docker.service

[Service]
Type=notify
EnvironmentFile=/opt/kubernetes/cfg/flanneld
ExecStart=/opt/kubernetes/bin/flanneld --ip-masq $FLANNEL_OPTIONS
ExecStartPost=/opt/kubernetes/bin/mk-docker-opts.sh -k DOCKER_NETWORK_OPTIONS -d /run/flannel/subnet.env
Restart=on-failure

[Install]
WantedBy=multi-user.target
RequiredBy=docker.service
`
	guideDocker = `[Unit]
Description=Docker Application Container Engine
After=network-online.target
Wants=network-online.target

[Service]
Type=notify
EnvironmentFile=/run/flannel/subnet.env
ExecStart=dockerd $DOCKER_NETWORK_OPTIONS
ExecReload=/bin/kill -s HUP $MAINPID
LimitNOFILE=infinity
TimeoutStartSec=0
Delegate=yes
KillMode=process
Restart=on-failure

[Install]
WantedBy=multi-user.target
`
)

// TestGuideUnits runs a node by the guides' own units beside one by ours, puts
// another binary in, and then changes to our unit, as docs/install.md says:
// containers notice nothing.
func TestGuideUnits(t *testing.T) {
	s := newSite(t)
	s.writeConfig("vxlan")
	n, other := s.nodes[0], s.nodes[1]
	n.installCerts()
	n.copyProgram(binary(t, "flanneld"), "/opt/kubernetes/bin/flanneld")
	n.copyProgram(binary(t, "mk-docker-opts"), "/opt/kubernetes/bin/mk-docker-opts.sh")
	s.must(n.Write("/etc/systemd/system/flanneld.service", guideFlanneld, 0o644))
	s.must(n.Write("/etc/systemd/system/docker.service", guideDocker, 0o644))
	s.must(n.Write("/opt/kubernetes/cfg/flanneld", `FLANNEL_OPTIONS="`+n.options()+"\"\n", 0o644))
	n.run("systemctl", "daemon-reload")
	n.run("systemctl", "enable", "flanneld", "docker")
	n.startFlanneld()
	other.installCerts()
	other.installFlanneld(other.options())
	other.startFlanneld()
	s.startContainers()

	subnet, docker, pid := n.subnet, n.show("docker", "MainPID"), n.show("flanneld", "MainPID")
	unchanged := func(what string) {
		t.Helper()
		if n.readEnv(); n.subnet != subnet {
			t.Errorf("%s: subnet %s became %s", what, subnet, n.subnet)
		}
		if now := n.show("docker", "MainPID"); now != docker {
			t.Errorf("%s: docker was restarted: process %s became %s", what, docker, now)
		}
		now := n.show("flanneld", "MainPID")
		if now == pid || n.show("flanneld", "ActiveState") != "active" {
			t.Errorf("%s: flanneld was process %s, is %s", what, pid, now)
		}
		pid = now
	}

	all := s.pingAll()
	n.run("rm", "-f", "/etc/systemd/system/docker.service.requires/flanneld.service")
	n.run("systemctl", "daemon-reload")
	n.copyProgram(binary(t, "flanneld"), "/opt/kubernetes/bin/flanneld")
	n.run("systemctl", "restart", "flanneld")
	unchanged("another binary")
	s.stopPings(all, "another binary", 0)

	all = s.pingAll()
	n.run("systemctl", "disable", "flanneld")
	s.must(os.Remove(n.Root("etc/systemd/system/flanneld.service")))
	n.copyProgram(binary(t, "flanneld"), "/usr/bin/flanneld")
	n.copyProgram(binary(t, "mk-docker-opts"), "/usr/bin/mk-docker-opts")
	unit := n.read(repo(t, "packaging", "systemd", "flanneld.service"))
	s.must(n.Write("/usr/lib/systemd/system/flanneld.service", unit, 0o644))
	n.writeOptions(n.options())
	n.run("systemctl", "daemon-reload")
	n.run("systemctl", "enable", "flanneld")
	n.run("systemctl", "restart", "flanneld")
	unchanged("our unit")
	n.wantStatus("active", " by vxlan, 1 peer")
	s.stopPings(all, "our unit", 0)
}
