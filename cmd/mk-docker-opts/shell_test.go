package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"tweed/subnet"
	"tweed/test/nstest"
)

// shells returns the shells of this machine that may read docker's env file.
func shells(t testing.TB) map[string][]string {
	found := make(map[string][]string)
	for name, cmd := range map[string][]string{"sh": {"sh"}, "dash": {"dash"}, "bash": {"bash", "--posix"}, "busybox": {"busybox", "sh"}} {
		if _, err := exec.LookPath(cmd[0]); err == nil {
			found[name] = cmd
		}
	}
	if len(found) == 0 {
		nstest.Missing(t, "a shell")
	}
	return found
}

// sourced returns what a shell has in variable name after it sourced the file.
func sourced(t *testing.T, shell []string, file, name string) string {
	t.Helper()
	script := `. "$1"; printf %s. "$` + name + `"` // the dot keeps a final newline
	cmd := exec.Command(shell[0], append(append([]string(nil), shell[1:]...), "-c", script, "sh", file)...)
	cmd.Env = []string{"HOME=/expanded"}
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v", shell[0], err)
	}
	return strings.TrimSuffix(string(out), ".")
}

var awkward = []string{
	"plain", "a b", "  two  blanks  ", `"quoted"`, "'single'", `back\slash`, `end\`, `\"`, `\$HOME`, "$HOME", "${HOME}", "$(id)",
	"`id`", "a\nb", "a\n", "\ttab", "# no comment", "a;b&c|d>e", "!history", "~", "*", "", "é", "\xff\xfe", `%s\n`, `a\nb`,
}

func TestShellsReadBack(t *testing.T) {
	for name, shell := range shells(t) {
		t.Run(name, func(t *testing.T) {
			for _, value := range awkward {
				file := filepath.Join(t.TempDir(), "out")
				if status := run([]string{"mk-docker-opts", "-f", "/nonexistent", "-d", file}, []string{"DOCKER_OPT_X=" + value}, nil, new(strings.Builder)); status != 0 {
					t.Fatalf("status %d", status)
				}
				if got := sourced(t, shell, file, "DOCKER_OPT_X"); got != value {
					t.Errorf("alone: got %q, want %q", got, value)
				}
				if got := sourced(t, shell, file, "DOCKER_OPTS"); got != " "+value {
					t.Errorf("combined: got %q, want %q", got, " "+value)
				}
			}
		})
	}
}

// What flanneld writes is read by this program as a shell reads it.
func TestEnvFileLikeShell(t *testing.T) {
	for name, shell := range shells(t) {
		for _, text := range []string{sample, "export FLANNEL_MTU=1472", "FLANNEL_MTU='1472'", "FLANNEL_MTU=\"1472\" # bytes\n"} {
			file := filepath.Join(t.TempDir(), "in")
			if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
			env, err := subnet.ReadEnvFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if want := sourced(t, shell, file, "FLANNEL_MTU"); env["FLANNEL_MTU"] != want {
				t.Errorf("%s reads %q from %q, we %q", name, want, text, env["FLANNEL_MTU"])
			}
		}
	}
}

func FuzzShellReadsBack(f *testing.F) {
	for _, value := range awkward {
		f.Add(value)
	}
	shell := shells(f)["sh"]
	file := filepath.Join(f.TempDir(), "out")
	f.Fuzz(func(t *testing.T, value string) {
		if strings.Contains(value, "\x00") || len(value) > 1000 {
			t.Skip("no value of a variable")
		}
		out, err := dockerEnv(options{individual: true, combined: true, key: "K"}, map[string]string{"DOCKER_OPT_X": value})
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, out, 0o600); err != nil {
			t.Fatal(err)
		}
		if got := sourced(t, shell, file, "DOCKER_OPT_X"); got != value {
			t.Errorf("alone: got %q, want %q", got, value)
		}
		if got := sourced(t, shell, file, "K"); got != " "+value {
			t.Errorf("combined: got %q, want %q", got, " "+value)
		}
	})
}

func FuzzOptionsNeverPanic(f *testing.F) {
	f.Add("-ic -k X -f a -d b -m word")
	f.Add("-kX -- -h")
	f.Fuzz(func(t *testing.T, line string) {
		o, err := parseOptions(strings.Split(line, " "))
		if err == nil && (!shellName.MatchString(o.key) || !o.individual && !o.combined || o.dockerEnv == "") {
			t.Errorf("%q gives %+v", line, o)
		}
	})
}
