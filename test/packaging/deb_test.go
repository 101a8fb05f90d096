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
		r.enable(t) // another flanneld, whose unit this package overwrites
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

		// For dpkg this is an upgrade; for the operator it is a new start.
		if out := r.dpkg(t, "-i", next); !strings.Contains(out, hint) {
			t.Errorf("the installation after a removal does not say how to go on:\n%s", out)
		}
		r.wantCalls(t, "install again", atInstall...)
		r.dpkg(t, "-r", "tweed")
		r.wantCalls(t, "remove again", atRemove...)

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
		r.ownUnit(t)
		for _, file := range []string{deb, next} {
			if out := r.dpkg(t, "-i", file); !strings.Contains(out, hidden) || strings.Contains(out, hint) {
				t.Errorf("the package does not say whose unit is in use:\n%s", out)
			}
			r.wantCalls(t, "installation of "+file, atInstall...) // theirs is not restarted
		}
		r.dpkg(t, "-r", "tweed")
		r.wantCalls(t, "remove", "daemon-reload") // nor stopped
	})
	t.Run("in use", func(t *testing.T) {
		for _, c := range []struct {
			enabled bool
			active  string
			calls   []string
		}{
			{false, "inactive", atInstall},
			{false, "failed", atInstall},
			{false, "active", atUpgrade},
			{false, "activating", atUpgrade}, // waits for etcd
			{true, "inactive", atUpgrade},
		} {
			r := newDebRoot(t)
			r.dpkg(t, "-i", deb)
			r.wantCalls(t, "install", atInstall...)
			if c.enabled {
				write(t, r.path("enabled"), "", 0o644)
			}
			write(t, r.path("active"), c.active+"\n", 0o644)
			out := r.dpkg(t, "-i", next)
			if got, want := strings.Contains(out, hint), len(c.calls) == len(atInstall); got != want {
				t.Errorf("upgrade, enabled %v, %s: the hint is there: %v, want %v:\n%s", c.enabled, c.active, got, want, out)
			}
			r.wantCalls(t, "upgrade of one that is "+c.active, c.calls...)
		}
	})
	t.Run("systemctl fails", func(t *testing.T) {
		r := newDebRoot(t)
		write(t, r.path("broken"), "", 0o644)
		for _, step := range []struct {
			args  []string
			calls []string
		}{
			{[]string{"-i", deb}, atInstall},
			{[]string{"-i", next}, atUpgrade},
			{[]string{"-r", "tweed"}, atRemove},
			{[]string{"-P", "tweed"}, nil},
		} {
			args := append([]string{"-c", `exec "$@" 2>&1 >/dev/null`, "sh", "dpkg", "--root=" + string(r)}, step.args...)
			stderr := command{}.must(t, "sh", args...)
			if got := strings.Count(stderr, failed); got != len(step.calls) {
				t.Errorf("dpkg %s tells %d failures, want %d:\n%s", step.args, got, len(step.calls), stderr)
			}
			r.wantCalls(t, step.args[0], step.calls...)
			r.enable(t)
		}
		r.wantRemoved(t)
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
