package e2e

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// sources copies this repository to a folder of the test, so that what is made
// there disturbs nobody.
func sources(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	cmd := exec.Command("sh", "-c", `tar -C "$0" --exclude=./.git --exclude=./bin --exclude=./dist --exclude=./bench-results -cf - . | tar -C "$1" -xf -`, repo(t), dir)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("copy the sources: %v: %s", err, out)
	}
	return dir
}

// makeIn runs a script of packaging/ in a copy of the sources.
func makeIn(t *testing.T, dir, script, version string, env ...string) {
	t.Helper()
	cmd := exec.Command(filepath.Join(dir, "packaging", script))
	cmd.Env = append(append(os.Environ(), "VERSION="+version, "SOURCE_DATE_EPOCH=1700000000"), env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v: %s", script, err, out)
	}
}

// TestPackage installs, upgrades and removes the .deb on a node that runs by
// it, while containers ping each other.
func TestPackage(t *testing.T) {
	need(t, "dpkg")
	src := sources(t)
	var debs []string
	for _, version := range []string{"v1.0.0", "v1.0.1"} {
		makeIn(t, src, "dist.sh", version, "ARCHES="+runtime.GOARCH)
		found, err := filepath.Glob(filepath.Join(src, "dist", "*.deb"))
		if err != nil || len(found) != 1 {
			t.Fatalf("packages: %q, %v", found, err)
		}
		debs = append(debs, filepath.Join(src, filepath.Base(found[0])))
		if err := os.Rename(found[0], debs[len(debs)-1]); err != nil {
			t.Fatal(err)
		}
	}

	s := newSite(t)
	s.writeConfig("vxlan")
	n, other := s.nodes[0], s.nodes[1]
	n.installCerts()
	for _, deb := range debs {
		n.replace(filepath.Join("/root", filepath.Base(deb)), n.read(deb), 0o644)
	}
	install := func(i int) string { return n.run("dpkg", "-i", filepath.Join("/root", filepath.Base(debs[i]))) }

	said := install(0)
	if err := contains(said, "/etc/default/flanneld", "systemctl enable --now flanneld"); err != nil {
		t.Error(err)
	}
	if got := n.show("flanneld", "ActiveState"); got != "inactive" {
		t.Errorf("after the installation flanneld is %s", got)
	}
	if got := n.run("/usr/bin/flanneld", "-version"); got != "v1.0.0" {
		t.Errorf("version %q", got)
	}
	n.writeOptions(n.options())
	n.run("mkdir", "-p", "/etc/systemd/system/docker.service.d")
	n.run("cp", "/usr/share/doc/tweed/examples/docker.service.d/flannel.conf", "/etc/systemd/system/docker.service.d/")
	n.run("systemctl", "daemon-reload")
	n.run("systemctl", "enable", "--now", "flanneld")
	n.readEnv()
	other.installCerts()
	other.installFlanneld(other.options())
	other.startFlanneld()
	s.startContainers()

	options := n.read(n.Root("etc/default/flanneld"))
	before, pid, docker := n.subnet, n.show("flanneld", "MainPID"), n.show("docker", "MainPID")
	all := s.pingAll()
	install(1)
	s.eventually("the new daemon", func() error {
		if now := n.show("flanneld", "MainPID"); now == pid || now == "0" {
			return errors.New("process " + now)
		}
		return nil
	})
	n.wantStatus("active", " by vxlan, 1 peer")
	s.stopPings(all, "upgrade of the package", 0)
	if got := n.run("/usr/bin/flanneld", "-version"); got != "v1.0.1" {
		t.Errorf("version %q", got)
	}
	if got := n.show("docker", "MainPID"); got != docker {
		t.Errorf("the upgrade has restarted docker: process %s became %s", docker, got)
	}
	if got := n.read(n.Root("etc/default/flanneld")); got != options {
		t.Errorf("the upgrade has changed the settings:\n%s", got)
	}
	if n.readEnv(); n.subnet != before {
		t.Errorf("subnet %s became %s", before, n.subnet)
	}

	// Removal ends the daemon and leaves the settings; the containers go on.
	all = s.pingAll()
	n.run("dpkg", "--remove", "tweed")
	if got := n.show("flanneld", "ActiveState"); got != "inactive" {
		t.Errorf("after the removal flanneld is %s", got)
	}
	s.stopPings(all, "removal of the package", 0)
	if got := n.read(n.Root("etc/default/flanneld")); got != options {
		t.Errorf("the removal has changed the settings:\n%s", got)
	}
	n.run("dpkg", "--purge", "tweed")
	for _, path := range []string{"/etc/default/flanneld", "/var/lib/flanneld", "/usr/bin/flanneld"} {
		if _, err := os.Stat(n.Root(path)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("purged, but %s is there: %v", path, err)
		}
	}
}

// TestImage builds the container image on a node and runs flanneld from it.
func TestImage(t *testing.T) {
	src := sources(t)
	makeIn(t, src, "image.sh", "v1.0.0", "ARCH="+runtime.GOARCH)
	for _, b := range []struct {
		name    string
		allowed int // pings lost at a restart
	}{
		{"vxlan", 0},
		{"udp", int(3 / pingInterval)},
	} {
		t.Run(b.name, func(t *testing.T) {
			s := newSite(t)
			s.writeConfig(b.name)
			s.runImage(filepath.Join(src, "dist", "image", runtime.GOARCH), b.allowed)
		})
	}
}

// runImage has one node as usual and one whose flanneld is a container.
func (s *site) runImage(tree string, allowed int) {
	host, n := s.nodes[0], s.nodes[1]
	host.installCerts()
	host.installFlanneld(host.options())
	host.startFlanneld()
	host.startDocker()
	web := host.web()

	n.installCerts()
	// No bridge yet: its address comes with the lease.
	s.must(n.Write("/etc/docker/daemon.json", `{"bridge":"none"}`, 0o644))
	n.run("systemctl", "start", "docker")
	// In a folder that the node sees, too.
	s.must(os.CopyFS(n.Path("image"), os.DirFS(tree)))
	s.must(os.WriteFile(n.Path("Dockerfile"), []byte(n.read(repo(s.t, "packaging", "Dockerfile"))), 0o644))
	said := n.run("docker", "build", "-t", "tweed", "-f", n.Path("Dockerfile"), n.Path("image"))
	if err := contains(said, "Successfully built"); err != nil {
		s.t.Error(err)
	}
	n.sh(`tar -C %s -c . | docker import -c 'ENTRYPOINT ["/opt/bin/flanneld"]' - tweed:imported`, n.Path("image"))
	for _, image := range []string{"tweed", "tweed:imported"} {
		if got := n.run("docker", "run", "--rm", "--network=host", image, "-version"); got != "v1.0.0" {
			s.t.Errorf("version in %s: %q", image, got)
		}
	}
	args := []string{"run", "-d", "--name=flanneld", "--restart=on-failure", "--network=host",
		"--cap-drop=ALL", "--cap-add=NET_ADMIN", "--device=/dev/net/tun",
		"-v", "/run/flannel:/run/flannel", "-v", "/var/lib/flanneld:/var/lib/flanneld", "-v", certDir + ":" + certDir + ":ro",
		"tweed"}
	n.run("docker", append(args, strings.Fields(n.options())...)...)
	s.eventually("flanneld in the container", func() error {
		return contains(n.run("docker", "logs", "flanneld"), "Wrote subnet file to "+envFile, "Set the firewall rules mode=nftables")
	})
	n.run("docker", "exec", "flanneld", "/opt/bin/mk-docker-opts.sh", "-k", "DOCKER_NETWORK_OPTIONS", "-d", envFile)
	n.readEnv()

	// Packets of containers reach the node that runs it, also while it restarts.
	web.wantPing(n.subnet.Addr())
	flow := web.startPings(n.subnet.Addr())
	before := n.subnet
	n.run("docker", "restart", "flanneld")
	s.eventually("the daemon after a restart", func() error {
		return contains(n.run("docker", "logs", "flanneld"), "Found lease ("+before.String()+") for current IP")
	})
	web.wantPing(n.subnet.Addr())
	s.stopPings([]*pings{flow}, "restart of the container", allowed)
}
