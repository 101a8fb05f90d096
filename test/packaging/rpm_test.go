package packaging

import (
	"slices"
	"strings"
	"testing"
)

// rpm runs rpm on the root's own database. --force-debian: Debian's rpm
// otherwise refuses, to protect its host.
func (r root) rpm(t *testing.T, args ...string) string {
	t.Helper()
	return command{}.must(t, "rpm", append([]string{"--root=" + string(r), "--dbpath=/var/lib/rpm"}, args...)...)
}

// testRPM installs, upgrades and erases.
func testRPM(t *testing.T, rpm, next string) {
	need(t, "rpm")
	settings, state := "etc/default/flanneld", "var/lib/flanneld"

	t.Run("life", func(t *testing.T) {
		r := newRoot(t)
		r.enable(t) // another flanneld, whose unit this package overwrites
		if out := r.rpm(t, "--force-debian", "-i", rpm); !strings.Contains(out, hint) {
			t.Errorf("the first installation does not say how to go on:\n%s", out)
		}
		r.wantInstalled(t)
		r.wantCalls(t, "install", atInstall...)

		const edited = "FLANNEL_OPTIONS=\"-ip-masq\"\n"
		write(t, r.path(settings), edited, 0o600)
		write(t, r.path(state, "subnet.json"), "{}", 0o600)
		if out := r.rpm(t, "--force-debian", "-U", next); strings.Contains(out, hint) {
			t.Errorf("the upgrade tells to enable what is running:\n%s", out)
		}
		r.wantCalls(t, "upgrade", atUpgrade...)
		wantEqual(t, "flanneld after the upgrade", read(t, r.path("usr/bin/flanneld")), "9.0.0\n")
		wantEqual(t, "settings after the upgrade", read(t, r.path(settings)), edited)

		r.rpm(t, "-e", "tweed")
		r.wantCalls(t, "erase", atRemove...)
		r.wantRemoved(t)
		wantEqual(t, "settings after the removal", read(t, r.path(settings+".rpmsave")), edited)
		if !exists(r.path(state, "subnet.json")) {
			t.Error("the subnet was forgotten")
		}
	})
	t.Run("unit of the operator", func(t *testing.T) {
		r := newRoot(t)
		r.ownUnit(t)
		r.rpm(t, "--force-debian", "-i", rpm)
		r.rpm(t, "--force-debian", "-U", next)
		r.wantCalls(t, "installation and upgrade", slices.Concat(atInstall, atInstall)...)
		r.rpm(t, "-e", "tweed")
		r.wantCalls(t, "erase", "daemon-reload")
	})
	t.Run("systemctl fails", func(t *testing.T) {
		r := newRoot(t)
		write(t, r.path("broken"), "", 0o644)
		r.enable(t)
		for _, step := range []struct {
			args  []string
			calls []string
		}{
			{[]string{"--force-debian", "-i", rpm}, atInstall},
			{[]string{"--force-debian", "-U", next}, atUpgrade},
			{[]string{"-e", "tweed"}, atRemove},
		} {
			out := r.rpm(t, step.args...)
			if got := strings.Count(out, failed); got != len(step.calls) {
				t.Errorf("rpm %s tells %d failures, want %d:\n%s", step.args, got, len(step.calls), out)
			}
			r.wantCalls(t, strings.Join(step.args, " "), step.calls...)
		}
		r.wantRemoved(t)
	})
	t.Run("without systemd", func(t *testing.T) {
		r := newRoot(t)
		r.runSystemd(t, false)
		r.rpm(t, "--force-debian", "-i", rpm)
		r.rpm(t, "--force-debian", "-U", next)
		r.rpm(t, "-e", "tweed")
		r.wantCalls(t, "a whole life without systemd")
		r.wantRemoved(t)
	})
	for query, want := range map[string]string{
		"--provides":   "flannel\ntweed = 0.4.0+3.gabc1234-1",
		"--conflicts":  "flannel\nsystemd < 239",
		"--recommends": "iptables",
		"--obsoletes":  "", // no update of a host swaps its daemon unasked
	} {
		out := strings.TrimSpace(command{}.must(t, "rpm", "-qp", query, rpm))
		wantEqual(t, "rpm "+query, out, want)
	}
}
