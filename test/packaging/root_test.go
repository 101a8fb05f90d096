package packaging

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"tweed/test/nstest"
)

// A root is a folder that dpkg and rpm install into instead of this host. The
// packages' scripts run in it by chroot, with a busybox as their shell.
type root string

// systemctl writes down how it is called to change something. The file enabled
// stands for flanneld's links, active holds its state, and broken makes it fail.
const systemctl = `#!/bin/sh
case "$*" in
*is-enabled*) [ -e /enabled ]; exit ;;
*is-active*) [ -e /active ] && read -r state </active && echo "$state"; exit ;;
esac
echo "systemctl $*" >>/calls
[ ! -e /broken ] || exit 1
case "$*" in
*disable*) rm -f /enabled /active ;;
esac
`

func newRoot(t *testing.T) root {
	t.Helper()
	nstest.NeedRoot(t)
	need(t, "busybox")
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		t.Fatal(err)
	}
	r := root(t.TempDir())
	write(t, r.path("bin/busybox"), read(t, busybox), 0o755)
	for _, applet := range []string{"sh", "rm"} {
		if err := os.Symlink("busybox", r.path("bin", applet)); err != nil {
			t.Fatal(err)
		}
	}
	write(t, r.path("bin/systemctl"), systemctl, 0o755)
	write(t, r.path("dev/null"), "", 0o666) // good enough for scripts
	write(t, r.path("calls"), "", 0o644)
	r.runSystemd(t, true)
	return r
}

func (r root) path(elem ...string) string {
	return filepath.Join(append([]string{string(r)}, elem...)...)
}

// runSystemd says whether the root looks as if systemd were running.
func (r root) runSystemd(t *testing.T, yes bool) {
	t.Helper()
	dir := r.path("run/systemd/system")
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if yes {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
}

// enable does what the hint of the first installation says.
func (r root) enable(t *testing.T) {
	t.Helper()
	write(t, r.path("enabled"), "", 0o644)
	write(t, r.path("active"), "active\n", 0o644)
}

// ownUnit makes a unit of the operator's own, enabled and running.
func (r root) ownUnit(t *testing.T) {
	t.Helper()
	write(t, r.path("etc/systemd/system/flanneld.service"), "[Service]\n", 0o644)
	r.enable(t)
}

// wantCalls compares what systemctl was told since the last time.
func (r root) wantCalls(t *testing.T, when string, want ...string) {
	t.Helper()
	var text strings.Builder
	for _, w := range want {
		text.WriteString("systemctl " + w + "\n")
	}
	wantEqual(t, "calls at "+when, read(t, r.path("calls")), text.String())
	write(t, r.path("calls"), "", 0o644)
}

// The calls of each occasion, the same for both kinds of packages.
var (
	atInstall = []string{"daemon-reload"}
	atUpgrade = []string{"daemon-reload", "--no-block try-restart flanneld.service"}
	atRemove  = []string{"--no-reload disable --now flanneld.service", "daemon-reload"}
)

// What the packages' scripts say.
const (
	hint   = "systemctl enable --now flanneld"
	hidden = "/etc/systemd/system/flanneld.service hides the unit of this package"
	failed = "tweed: systemctl "
)

// installed are files of the package, with their modes.
var installed = map[string]os.FileMode{
	"usr/bin/flanneld":                                           0o755,
	"usr/bin/mk-docker-opts":                                     0o755,
	"usr/bin/tweed":                                              0o755,
	"usr/lib/systemd/system/flanneld.service":                    0o644,
	"etc/default/flanneld":                                       0o600,
	"usr/share/doc/tweed/README.md":                              0o644,
	"usr/share/doc/tweed/CHANGELOG.md":                           0o644,
	"usr/share/doc/tweed/copyright":                              0o644,
	"usr/share/doc/tweed/docs/compatibility.md":                  0o644,
	"usr/share/doc/tweed/docs/performance/cpu.svg":               0o644,
	"usr/share/doc/tweed/examples/docker.service.d/flannel.conf": 0o644,
}

func (r root) wantInstalled(t *testing.T) {
	t.Helper()
	for name, mode := range installed {
		info, err := os.Lstat(r.path(name))
		if err != nil || info.Mode() != mode {
			t.Errorf("/%s: want mode %v, got %v, %v", name, mode, info, err)
		}
	}
	if exists(r.path("etc/systemd/system/docker.service.d")) {
		t.Error("installing changed the docker of the host")
	}
}

func (r root) wantRemoved(t *testing.T) {
	t.Helper()
	for name := range installed {
		if name != "etc/default/flanneld" && exists(r.path(name)) {
			t.Errorf("/%s is still there", name)
		}
	}
}

// nextVersion makes packages of version 9.0.0 out of the built .deb: with other
// programs and with other settings in the file that operators edit.
func nextVersion(t *testing.T, src string) (deb, rpm string) {
	t.Helper()
	stage, out := t.TempDir(), t.TempDir()
	arch := arches()[0]
	command{}.must(t, "dpkg-deb", "-x", filepath.Join(src, "dist", debFile(arch)), filepath.Join(stage, "root"))
	for _, p := range []string{"flanneld", "mk-docker-opts", "tweed"} {
		write(t, filepath.Join(stage, "root/usr/bin", p), "9.0.0\n", 0o755)
	}
	write(t, filepath.Join(stage, "root/etc/default/flanneld"), "FLANNEL_OPTIONS=\"\"\n# 9.0.0\n", 0o600)
	for _, s := range []string{"postinst.sh", "prerm.sh", "postrm.sh"} {
		write(t, filepath.Join(stage, "scripts", s), read(t, filepath.Join(src, "packaging/scripts", s)), 0o755)
	}
	nfpm := strings.TrimSpace(command{dir: src}.must(t, "go", "tool", "-modfile=packaging/tools.mod", "-n", "nfpm"))
	for _, format := range []string{"deb", "rpm"} {
		command{stage, []string{"NFPM_VERSION=9.0.0", "NFPM_ARCH=" + arch}}.must(t, nfpm, "package",
			"--config", filepath.Join(src, "packaging/nfpm.yaml"), "--packager", format, "--target", out)
	}
	return filepath.Join(out, "tweed_9.0.0-1_"+machines[arch].deb+".deb"),
		filepath.Join(out, "tweed-9.0.0-1."+machines[arch].rpm+".rpm")
}
