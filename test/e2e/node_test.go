package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"tweed/test/machine"
)

// Where the guides put things.
const (
	binDir  = "/opt/kubernetes/bin"
	certDir = "/opt/etcd/ssl"
	envFile = "/run/flannel/subnet.env"
)

// A node is a machine with flanneld and docker.
type node struct {
	*machine.Machine
	s      *site
	subnet netip.Prefix // leased
	mtu    int
}

// installCerts copies what flanneld needs to talk to etcd.
func (n *node) installCerts() {
	n.s.t.Helper()
	for _, f := range []string{"ca.pem", "client.pem", "client-key.pem"} {
		mode := os.FileMode(0o644)
		if strings.HasSuffix(f, "-key.pem") {
			mode = 0o600
		}
		n.replace(filepath.Join(certDir, f), n.s.pki.read(f), mode)
	}
}

// replace writes a file of the machine at once, as `mv` does.
func (n *node) replace(path, content string, mode os.FileMode) {
	n.s.t.Helper()
	n.s.must(n.Write(path+".new", content, mode))
	n.s.must(os.Rename(n.Root(path+".new"), n.Root(path)))
}

// options are those of flanneld in this site.
func (n *node) options(more ...string) string {
	words := append([]string{"-etcd-endpoints=" + n.s.endpoints()}, flannelTLS(certDir)...)
	return strings.Join(append(append(words, "--ip-masq"), more...), " ")
}

// installFlanneld puts our programs where the guides have them, with the
// packaged unit, its options file, and the drop-in for docker.
func (n *node) installFlanneld(options string) {
	n.s.t.Helper()
	for _, name := range []string{"flanneld", "mk-docker-opts"} {
		n.copyProgram(binary(n.s.t, name), filepath.Join(binDir, name))
	}
	unit := strings.ReplaceAll(n.read(repo(n.s.t, "packaging", "systemd", "flanneld.service")), "/usr/bin/", binDir+"/")
	n.s.must(n.Write("/etc/systemd/system/flanneld.service", unit, 0o644))
	dropIn := n.read(repo(n.s.t, "packaging", "systemd", "docker.service.d", "flannel.conf"))
	n.s.must(n.Write("/etc/systemd/system/docker.service.d/flannel.conf", dropIn, 0o644))
	n.writeOptions(options)
	n.run("systemctl", "daemon-reload")
}

var optionsLine = regexp.MustCompile(`(?m)^#?FLANNEL_OPTIONS=.*$`)

// writeOptions sets FLANNEL_OPTIONS in the packaged options file.
func (n *node) writeOptions(options string) {
	n.s.t.Helper()
	file := n.read(repo(n.s.t, "packaging", "default", "flanneld"))
	line := fmt.Sprintf("FLANNEL_OPTIONS=%q", options)
	if !optionsLine.MatchString(file) {
		n.s.t.Fatalf("the options file has no line FLANNEL_OPTIONS=:\n%s", file)
	}
	n.s.must(n.Write("/etc/default/flanneld", optionsLine.ReplaceAllLiteralString(file, line), 0o644))
}

func (n *node) read(path string) string {
	n.s.t.Helper()
	b, err := os.ReadFile(path)
	n.s.must(err)
	return string(b)
}

// copyProgram copies from the outside.
func (n *node) copyProgram(from, to string) {
	n.s.t.Helper()
	n.replace(to, n.read(from), 0o755)
}

// run runs a program on the node, which has to succeed.
func (n *node) run(name string, args ...string) string {
	n.s.t.Helper()
	out, err := n.Run(n.s.ctx, name, args...)
	n.s.must(err)
	return out
}

// sh is run by a shell.
func (n *node) sh(format string, args ...any) string {
	n.s.t.Helper()
	return n.run("sh", "-c", fmt.Sprintf(format, args...))
}

// show returns one property of a unit.
func (n *node) show(unit, property string) string {
	n.s.t.Helper()
	return n.run("systemctl", "show", unit, "--value", "--property="+property)
}

// startFlanneld starts the unit, which returns when flanneld has said READY=1
// and mk-docker-opts has run.
func (n *node) startFlanneld() {
	n.s.t.Helper()
	n.run("systemctl", "start", "flanneld")
	n.readEnv()
}

// dockerLines is what mk-docker-opts leaves in subnet.env.
var dockerLines = regexp.MustCompile(`^DOCKER_OPT_BIP="--bip=([0-9./]+)"
DOCKER_OPT_IPMASQ="--ip-masq=false"
DOCKER_OPT_MTU="--mtu=([0-9]+)"
DOCKER_NETWORK_OPTIONS=" --bip=([0-9./]+) --ip-masq=false --mtu=([0-9]+)"
$`)

// readEnv checks that subnet.env holds exactly the four lines of docker, and
// takes subnet and MTU from it.
func (n *node) readEnv() {
	n.s.t.Helper()
	text := n.read(n.Root(envFile))
	m := dockerLines.FindStringSubmatch(text)
	if m == nil || m[1] != m[3] || m[2] != m[4] {
		n.s.t.Fatalf("%s: %s holds:\n%s", n.Name, envFile, text)
	}
	bip, err := netip.ParsePrefix(m[1])
	n.s.must(err)
	if bip.Bits() != 24 || bip.Addr() != bip.Masked().Addr().Next() || !netip.MustParsePrefix(network).Contains(bip.Addr()) {
		n.s.t.Errorf("%s: bip %s, want the first address of a /24 in %s", n.Name, bip, network)
	}
	n.subnet = bip.Masked()
	n.mtu, err = strconv.Atoi(m[2])
	n.s.must(err)
}

// docker0 is the address of the bridge.
func (n *node) docker0() netip.Addr { return n.subnet.Addr().Next() }

// startDocker starts the distribution's docker.service with our drop-in.
func (n *node) startDocker() {
	n.s.t.Helper()
	n.run("systemctl", "start", "docker")
	n.importBusybox()
}

// importBusybox makes the image busybox:local.
func (n *node) importBusybox() {
	n.s.t.Helper()
	cmd := n.Command(n.s.ctx, "docker", "import", "-", "busybox:local")
	cmd.Stdin = busyboxTar(n.s.t)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		n.s.t.Fatalf("docker import: %v: %s", err, out.String())
	}
}

// journalSays waits until flanneld has logged all parts.
func (n *node) journalSays(parts ...string) {
	n.s.t.Helper()
	n.s.eventually("the journal of flanneld on "+n.Name, func() error {
		return contains(n.Journal(n.s.ctx, "flanneld"), parts...)
	})
}

// wantPeers waits until every node knows so many others, and has a route to
// each where the backend has such routes.
func (s *site) wantPeers(peers int) {
	s.t.Helper()
	for _, n := range s.nodes {
		s.eventually(fmt.Sprintf("%d peers of %s", peers, n.Name), func() error {
			status := n.show("flanneld", "StatusText")
			err := contains(status, fmt.Sprintf("%s by ", n.subnet), fmt.Sprintf(", %d peer", peers))
			routes := strings.Split(n.run("ip", "route", "show", "proto", "84"), "\n")
			if len(routes) != peers && !strings.Contains(status, " by udp") {
				err = errors.Join(err, fmt.Errorf("routes: %q", routes))
			}
			return err
		})
	}
}
