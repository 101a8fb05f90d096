// Package packaging tests what is published: units, scripts, tarballs, packages
// and the image tree, with the programs that read them on a host.
package packaging

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"tweed/test/nstest"
)

// sources is the root of the repository, seen from this folder.
const sources = "../.."

// need skips the test unless the programs are there, and returns their paths.
func need(t *testing.T, programs ...string) {
	t.Helper()
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			nstest.Missing(t, "the program "+p)
		}
	}
}

// A command is a program to run in a folder; env is added to ours.
type command struct {
	dir string
	env []string
}

// run returns what the program printed, both outputs, and its exit status.
func (c command) run(t *testing.T, name string, args ...string) (string, int) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Dir = c.dir
	cmd.Env = append(os.Environ(), c.env...)
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("run %s: %v", name, err)
	}
	return string(out), cmd.ProcessState.ExitCode()
}

// must is run for a program that has to succeed.
func (c command) must(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, code := c.run(t, name, args...)
	if code != 0 {
		t.Fatalf("%s %q: exit status %d:\n%s", name, args, code, out)
	}
	return out
}

// copySources copies the sources to a new folder below dir, without what git
// ignores: a tarball of the sources has neither that nor a .git.
func copySources(t *testing.T, dir string) string {
	t.Helper()
	ignored := []string{".git", "bin", "dist", "bench-results"}
	err := filepath.WalkDir(sources, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(sources, path)
		switch {
		case err != nil:
			return err
		case slices.Contains(ignored, rel) && d.IsDir():
			return fs.SkipDir
		case d.IsDir():
			return os.MkdirAll(filepath.Join(dir, rel), 0o755)
		case !d.Type().IsRegular():
			return nil
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(dir, rel), b, info.Mode())
	})
	if err != nil {
		t.Fatalf("copy the sources: %v", err)
	}
	return dir
}

// write makes a file and its folders.
func write(t *testing.T, path, text string, mode fs.FileMode) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil { // whatever the umask
		t.Fatal(err)
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

func wantEqual(t *testing.T, what, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("%s:\n got %q\nwant %q", what, got, want)
	}
}

// TestShell has shellcheck read all scripts.
func TestShell(t *testing.T) {
	need(t, "shellcheck")
	var scripts []string
	for _, pattern := range []string{"packaging/*.sh", "packaging/scripts/*.sh", "test/*.sh", "test/*/*.sh", ".ci/run"} {
		found, err := filepath.Glob(filepath.Join(sources, pattern))
		if err != nil {
			t.Fatal(err)
		}
		if found == nil {
			t.Errorf("no script matches %s", pattern)
		}
		scripts = append(scripts, found...)
	}
	for i := range scripts {
		scripts[i] = strings.TrimPrefix(scripts[i], sources+"/")
	}
	out, code := command{dir: sources}.run(t, "shellcheck", append([]string{"-x"}, scripts...)...)
	if code != 0 || len(bytes.TrimSpace([]byte(out))) > 0 {
		t.Errorf("shellcheck, status %d:\n%s", code, out)
	}
}
