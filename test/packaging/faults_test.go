package packaging

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestDistFaults: whatever is wrong is named at once, and dist/ stays as it was.
func TestDistFaults(t *testing.T) {
	need(t, "gzip", "sha256sum", "tar")
	src := copySources(t, t.TempDir())
	write(t, filepath.Join(src, "dist/tweed-v0.1.0-linux-amd64.tar.gz"), "old", 0o644)
	path := os.Getenv("PATH")
	for _, c := range []struct {
		name, path, want string
		env              []string
	}{
		{name: "no version", path: path, want: "VERSION is not set and this is no git checkout"},
		{name: "short version", path: path, want: "VERSION 1.2: want such as v1.2.3", env: []string{"VERSION=1.2"}},
		{name: "word", path: path, want: "VERSION latest: want", env: []string{"VERSION=latest"}},
		{name: "path", path: path, want: "VERSION v1.2.3/../x: want", env: []string{"VERSION=v1.2.3/../x"}},
		{name: "blank", path: path, want: "want such as", env: []string{"VERSION=v1.2.3 x"}},
		{name: "two lines", path: path, want: "want such as", env: []string{"VERSION=v1.2.3\nv1.2.4"}},
		{name: "quote", path: path, want: "want such as", env: []string{"VERSION=v1.2.3-'x'"}},
		{name: "architecture", path: path, want: "architecture x86_64: want Go's name", env: []string{"VERSION=v1.2.3", "ARCHES=x86_64"}},
		{name: "time", path: path, want: "SOURCE_DATE_EPOCH today: want seconds", env: []string{"VERSION=v1.2.3", "SOURCE_DATE_EPOCH=today"}},
		{name: "no gzip", path: pathWithout(t, "gzip"), want: "gzip is missing", env: []string{"VERSION=v1.2.3"}},
		{name: "no go", path: pathWithout(t, "go"), want: "go is missing", env: []string{"VERSION=v1.2.3"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			// No git above the temporary folder may answer either.
			env := append([]string{"PATH=" + c.path, "VERSION=", "SOURCE_DATE_EPOCH=", "GIT_CEILING_DIRECTORIES=/"}, c.env...)
			out, code := command{src, env}.run(t, filepath.Join(src, "packaging/dist.sh"))
			if code != 1 || !strings.HasPrefix(out, "dist.sh: ") || !strings.Contains(out, c.want) {
				t.Errorf("exit status %d, want 1 and %q; it said:\n%s", code, c.want, out)
			}
			wantFiles(t, filepath.Join(src, "dist"), []string{"tweed-v0.1.0-linux-amd64.tar.gz"})
		})
	}
}

// TestDistInterrupted has a signal, and a fault, arrive when one architecture of
// two is done: dist/ stays as it was, without what was made so far.
func TestDistInterrupted(t *testing.T) {
	need(t, "gzip", "sha256sum", "tar")
	// In place of go: its programs are empty, and its nfpm makes empty packages.
	const program = `#!/bin/sh
case "$*" in
*list*) printf 'linux/amd64\nlinux/arm64\n' ;;
*nfpm*) echo fakenfpm ;;
env*) ;;
*)
	while [ "$1" != -o ]; do shift; done
	: >"$2"
	[ "$GOARCH" = amd64 ] || `
	for _, c := range []struct {
		name, then, want string
	}{
		{"INT", "kill -INT $PPID", ""},
		{"TERM", "kill -TERM $PPID", ""},
		{"HUP", "kill -HUP $PPID", ""},
		{"fault", "exit 1", "dist.sh: cannot build flanneld for arm64"},
	} {
		t.Run(c.name, func(t *testing.T) {
			src, bin := copySources(t, t.TempDir()), t.TempDir()
			write(t, filepath.Join(src, "dist/old.deb"), "old", 0o644)
			write(t, filepath.Join(bin, "go"), program+c.then+" ;;\nesac\n", 0o755)
			write(t, filepath.Join(bin, "fakenfpm"), "#!/bin/sh\nfor dir; do :; done\n: >$dir/$NFPM_ARCH.$5\n", 0o755)
			env := []string{"PATH=" + bin + ":" + os.Getenv("PATH"), "VERSION=v1.2.3", "SOURCE_DATE_EPOCH=1700000000"}
			script := filepath.Join(src, "packaging/dist.sh")
			out, code := command{src, append(env, "ARCHES=amd64 arm64")}.run(t, script)
			if code != 1 || !strings.Contains(out, c.want) || !strings.Contains(out, "for arm64") {
				t.Errorf("exit status %d, want 1 while it works for arm64; it said:\n%s", code, out)
			}
			wantFiles(t, filepath.Join(src, "dist"), []string{"old.deb"})

			command{src, append(env, "ARCHES=amd64")}.must(t, script)
			wantFiles(t, filepath.Join(src, "dist"), []string{"SHA256SUMS", "amd64.deb", "amd64.rpm", "tweed-v1.2.3-linux-amd64.tar.gz"})
		})
	}
}

// pathWithout returns a PATH with what dist.sh uses but one program.
func pathWithout(t *testing.T, missing string) string {
	t.Helper()
	dir := t.TempDir()
	for _, p := range []string{"sh", "dirname", "go", "git", "gzip", "tar", "install", "sha256sum", "stat", "sed", "grep", "mktemp", "rm"} {
		if p == missing {
			continue
		}
		found, err := exec.LookPath(p)
		if err != nil {
			continue
		}
		if err := os.Symlink(found, filepath.Join(dir, p)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// TestVersions goes through the forms of git describe in their order of time.
func TestVersions(t *testing.T) {
	need(t, "dpkg", "rpm")
	steps := []struct{ version, want string }{
		{"abc1234", "0.0.0~20231114221320.gabc1234"},
		{"v0.4.0-rc.1", "0.4.0~rc.1"},
		{"v0.4.0-rc.1-5-gabc1234", "0.4.0~rc.1+5.gabc1234"},
		{"v0.4.0-rc.2", "0.4.0~rc.2"},
		{"0.4.0", "0.4.0"},
		{"v0.4.0-3-g1bc1234", "0.4.0+3.g1bc1234"},
		{"v0.4.0-3-g1bc1234-dirty", "0.4.0+3.g1bc1234.dirty"},
		{"v0.4.0-12-gabc1234", "0.4.0+12.gabc1234"},
		{"v0.4.1", "0.4.1"},
		{"v0.4.1-dirty", "0.4.1+dirty"},
		{"v0.10.0", "0.10.0"},
	}
	before := ""
	for _, s := range steps {
		env := []string{"VERSION=" + s.version, "SOURCE_DATE_EPOCH=1700000000"}
		got := strings.TrimSpace(command{sources, env}.must(t, "sh", "-c", ". packaging/build.sh; find_version; package_version"))
		wantEqual(t, "package version of "+s.version, got, s.want)
		if before != "" {
			if _, code := (command{}).run(t, "dpkg", "--compare-versions", before, "lt", got); code != 0 {
				t.Errorf("dpkg does not sort %s before %s", before, got)
			}
			order := command{}.must(t, "rpm", "--eval", `%{lua: print(rpm.vercmp("`+before+`", "`+got+`"))}`)
			wantEqual(t, "rpm's order of "+before+" and "+got, strings.TrimSpace(order), "-1")
		}
		before = got
	}
}
