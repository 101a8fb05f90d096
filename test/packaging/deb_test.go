package packaging

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// dpkg runs dpkg on the root's own database. It never asks about settings: as
// by default, edited ones stay.
func (r root) dpkg(t *testing.T, args ...string) string {
	t.Helper()
	return command{}.must(t, "dpkg", append([]string{"--root=" + string(r), "--force-confold"}, args...)...)
}

func newDebRoot(t *testing.T) root {
	t.Helper()
	need(t, "dpkg")
	r := newRoot(t)
	for _, dir := range []string{"info", "updates", "triggers"} {
		if err := os.MkdirAll(r.path("var/lib/dpkg", dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	write(t, r.path("var/lib/dpkg/status"), "", 0o644)
	return r
}

// testDeb installs, upgrades, removes and purges, with an operator's edits.
func testDeb(t *testing.T, deb, next string) {
	settings, state := "etc/default/flanneld", "var/lib/flanneld"

	t.Run("life", func(t *testing.T) {
		r := newDebRoot(t)
		if out := r.dpkg(t, "-i", deb); !strings.Contains(out, hint) {
			t.Errorf("the first installation does not say how to go on:\n%s", out)
		}
		r.wantInstalled(t)
		r.wantCalls(t, "install", atInstall...)

		const edited = "FLANNEL_OPTIONS=\"-ip-masq\"\n"
		write(t, r.path(settings), edited, 0o640)
		write(t, r.path(state, "subnet.json"), "{}", 0o600)
		if out := r.dpkg(t, "-i", next); strings.Contains(out, hint) {
			t.Errorf("the upgrade tells to enable what may be running:\n%s", out)
		}
		// Not stopped in between: the old daemon runs until the new one is there.
		r.wantCalls(t, "upgrade", atUpgrade...)
		wantEqual(t, "flanneld after the upgrade", read(t, r.path("usr/bin/flanneld")), "9.0.0\n")
		wantEqual(t, "settings after the upgrade", read(t, r.path(settings)), edited)

		r.dpkg(t, "-r", "tweed")
		r.wantCalls(t, "remove", atRemove...)
		r.wantRemoved(t)
		wantEqual(t, "settings after the removal", read(t, r.path(settings)), edited)
		if !exists(r.path(state, "subnet.json")) {
			t.Error("the subnet was forgotten with a mere removal")
		}

		r.dpkg(t, "-P", "tweed")
		r.wantCalls(t, "purge")
		for _, gone := range []string{settings, state} {
			if exists(r.path(gone)) {
				t.Errorf("/%s is still there after the purge", gone)
			}
		}
	})
	t.Run("settings as shipped are replaced", func(t *testing.T) {
		r := newDebRoot(t)
		r.dpkg(t, "-i", deb)
		r.dpkg(t, "-i", next)
		if got := read(t, r.path(settings)); !strings.Contains(got, "9.0.0") {
			t.Errorf("settings after the upgrade: %q", got)
		}
	})
	t.Run("without systemd", func(t *testing.T) {
		r := newDebRoot(t)
		r.runSystemd(t, false)
		if out := r.dpkg(t, "-i", deb); strings.Contains(out, hint) {
			t.Errorf("systemctl is recommended where there is no systemd:\n%s", out)
		}
		r.dpkg(t, "-i", next)
		write(t, r.path(state, "subnet.json"), "{}", 0o600)
		r.dpkg(t, "-P", "tweed")
		r.wantCalls(t, "a whole life without systemd")
		r.wantRemoved(t)
		if exists(r.path(state)) {
			t.Error("the purge left the state")
		}
	})
	t.Run("unit of the operator", func(t *testing.T) {
		r := newDebRoot(t)
		write(t, r.path("etc/systemd/system/flanneld.service"), "[Service]\n", 0o644)
		r.dpkg(t, "-i", deb)
		r.wantCalls(t, "install", atInstall...)
		r.dpkg(t, "-r", "tweed")
		r.wantCalls(t, "remove", "daemon-reload") // theirs is not stopped
	})
	t.Run("replaces flannel", func(t *testing.T) {
		r := newDebRoot(t)
		old := filepath.Join(t.TempDir(), "flannel")
		write(t, filepath.Join(old, "DEBIAN/control"),
			"Package: flannel\nVersion: 0.10.0\nArchitecture: all\nMaintainer: x <x@localhost>\nDescription: x\n", 0o644)
		write(t, filepath.Join(old, "usr/bin/flanneld"), "old\n", 0o755)
		command{}.must(t, "dpkg-deb", "-Znone", "-b", old, old+".deb")
		r.dpkg(t, "-i", old+".deb")
		r.dpkg(t, "-B", "-i", deb) // as apt does
		r.wantInstalled(t)
		if out := r.dpkg(t, "-l"); strings.Contains(out, "ii  flannel ") {
			t.Errorf("flannel is still there:\n%s", out)
		}
	})
}
