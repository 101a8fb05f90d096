package firewall

import (
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"tweed/test/nstest"
)

// variants are the three ways that Ensure may work.
var variants = []string{"iptables-nft", "iptables-legacy", "nftables"}

// enter moves the test into a new namespace and opens a Firewall there that
// works by the variant. PATH then leads to the same program as `iptables`; in
// variant nftables that is the nft variant, which only the test uses.
func enter(t *testing.T, variant string) *Firewall {
	t.Helper()
	nstest.Enter(t)
	needProgram(t, "nft", "nftables")
	t.Setenv("XTABLES_LOCKFILE", filepath.Join(t.TempDir(), "lock")) // not the host's
	if variant == "nftables" {
		f := withPath(t, "", func() *Firewall { return open(slog.New(slog.DiscardHandler)) })
		usePath(t, "iptables-nft")
		return f
	}
	usePath(t, variant)
	return Open(slog.New(slog.DiscardHandler))
}

// usePath puts the program first into PATH under the name iptables.
func usePath(t *testing.T, program string) {
	t.Helper()
	real := needProgram(t, program, "iptables")
	dir := t.TempDir()
	if err := os.Symlink(real, filepath.Join(dir, "iptables")); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
}

func needProgram(t *testing.T, name, debian string) string {
	t.Helper()
	for _, dir := range append(filepath.SplitList(os.Getenv("PATH")), "/usr/sbin", "/sbin") {
		if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return path
		}
	}
	nstest.Missing(t, name+" (apt-get install "+debian+")")
	return ""
}

// withPath calls fn with another PATH.
func withPath[T any](t *testing.T, path string, fn func() T) T {
	t.Helper()
	old := os.Getenv("PATH")
	os.Setenv("PATH", path)
	defer os.Setenv("PATH", old)
	return fn()
}

// sh runs shell commands in the test's namespace and returns what they print.
func sh(t *testing.T, script string) string {
	t.Helper()
	cmd := exec.Command("/bin/sh", "-ec", script)
	cmd.Env = append(os.Environ(), "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin:/usr/bin:/bin")
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v\n%s%s", script, err, out, &stderr)
	}
	return string(out)
}

// ensure calls Ensure, which must succeed, and compares what it reports.
func ensure(t *testing.T, f *Firewall, r Rules, wantChanged bool) {
	t.Helper()
	done, err := f.Ensure(t.Context(), r)
	if err != nil {
		t.Fatalf("Ensure: %v", err)
	}
	if changed := len(done) > 0; changed != wantChanged {
		t.Errorf("Ensure says that it changed %v, want a change: %v", done, wantChanged)
	}
}

// lines returns the lines of a listing without outer blanks, without empty
// ones and remarks, and without those that drop says.
func lines(s string, drop func(string) bool) []string {
	var ls []string
	for line := range strings.Lines(s) {
		if line = strings.TrimSpace(line); line != "" && line[0] != '#' && (drop == nil || !drop(line)) {
			ls = append(ls, line)
		}
	}
	return ls
}

func equalLines(t *testing.T, what string, got, want []string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s: got\n%s\nwant\n%s", what, strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}
