package main

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

const sample = "FLANNEL_NETWORK=10.1.0.0/16\nFLANNEL_SUBNET=10.1.74.1/24\nFLANNEL_MTU=1472\nFLANNEL_IPMASQ=false\n"

func TestOutput(t *testing.T) {
	const (
		bip    = "DOCKER_OPT_BIP=\"--bip=10.1.74.1/24\"\n"
		ipmasq = "DOCKER_OPT_IPMASQ=\"--ip-masq=true\"\n"
		mtu    = "DOCKER_OPT_MTU=\"--mtu=1472\"\n"
		all    = " --bip=10.1.74.1/24 --ip-masq=true --mtu=1472"
		line   = "DOCKER_OPTS=\"" + all + "\"\n"
	)
	tests := []struct {
		name string
		args []string
		env  []string
		file string // "-" for none
		want string
	}{
		{name: "both forms", file: sample, want: bip + ipmasq + mtu + line},
		{name: "-i -c is both", args: []string{"-i", "-c"}, file: sample, want: bip + ipmasq + mtu + line},
		{name: "joined letters", args: []string{"-ic"}, file: sample, want: bip + ipmasq + mtu + line},
		{name: "individual", args: []string{"-i"}, file: sample, want: bip + ipmasq + mtu},
		{name: "combined", args: []string{"-c"}, file: sample, want: line},
		{name: "key", args: []string{"-c", "-k", "DOCKER_NETWORK_OPTIONS"}, file: sample, want: `DOCKER_NETWORK_OPTIONS="` + all + "\"\n"},
		{name: "key joined", args: []string{"-ckX"}, file: sample, want: `X="` + all + "\"\n"},
		{name: "last key counts", args: []string{"-kA", "-c", "-kB"}, file: sample, want: `B="` + all + "\"\n"},
		{name: "without ip-masq", args: []string{"-m"}, file: sample, want: bip + mtu + "DOCKER_OPTS=\" --bip=10.1.74.1/24 --mtu=1472\"\n"},
		{name: "-m does not look at the value", args: []string{"-mc"}, file: "FLANNEL_IPMASQ=perhaps\n", want: "DOCKER_OPTS=\"\"\n"},
		{name: "ip-masq is inverted", args: []string{"-c"}, file: "FLANNEL_IPMASQ=true\n", want: "DOCKER_OPTS=\" --ip-masq=false\"\n"},
		{name: "words behind the options", args: []string{"-c", "word", "-i"}, file: sample, want: line},
		{name: "--", args: []string{"-c", "--", "-i"}, file: sample, want: line},
		{name: "-", args: []string{"-c", "-", "-i"}, file: sample, want: line},
		{name: "no file", file: "-", want: "DOCKER_OPTS=\"\"\n"},
		{name: "no file, individual", args: []string{"-i"}, file: "-", want: ""},
		{name: "empty file", file: "", want: "DOCKER_OPTS=\"\"\n"},
		{name: "empty values", args: []string{"-c"}, file: "FLANNEL_SUBNET=\nFLANNEL_MTU=\nFLANNEL_IPMASQ=\n", want: "DOCKER_OPTS=\"\"\n"},
		{name: "dotenv forms", args: []string{"-c"}, file: "# comment\nexport FLANNEL_SUBNET='10.1.74.1/24'\n\nFLANNEL_MTU=\"1472\" # bytes\n",
			want: "DOCKER_OPTS=\" --bip=10.1.74.1/24 --mtu=1472\"\n"},

		{name: "options of the environment", env: []string{"DOCKER_OPT_ZZ=--debug", "DOCKER_OPT_A=--icc=false", "XDOCKER_OPT_B=no", "DOCKER_OPT=no"}, file: "FLANNEL_MTU=1472\n",
			want: "DOCKER_OPT_A=\"--icc=false\"\n" + mtu + "DOCKER_OPT_ZZ=\"--debug\"\nDOCKER_OPTS=\" --icc=false --mtu=1472 --debug\"\n"},
		{name: "flannel wins over the environment", args: []string{"-i"}, env: []string{"DOCKER_OPT_MTU=--mtu=9", "FLANNEL_MTU=8"}, file: "FLANNEL_MTU=1472\n", want: mtu},
		{name: "flannel's variables in the environment", args: []string{"-i"}, env: []string{"FLANNEL_MTU=1472"}, file: "-", want: mtu},
		{name: "existing key", args: []string{"-c"}, env: []string{"DOCKER_OPTS=--debug"}, file: sample, want: "DOCKER_OPTS=\"--debug " + all + "\"\n"},
		{name: "existing key alone", args: []string{"-c"}, env: []string{"DOCKER_OPTS=--debug"}, file: "-", want: "DOCKER_OPTS=\"--debug \"\n"},
		{name: "existing key in the file", args: []string{"-c", "-kX"}, file: "X=--debug\nFLANNEL_MTU=1472\n", want: "X=\"--debug  --mtu=1472\"\n"},
		{name: "another key is not kept", args: []string{"-c", "-kX"}, env: []string{"DOCKER_OPTS=--debug"}, file: "-", want: "X=\"\"\n"},
		{name: "blanks", args: []string{"-i"}, env: []string{"DOCKER_OPT_L=--label=a  b"}, file: "-", want: "DOCKER_OPT_L=\"--label=a  b\"\n"},
		{name: "quoting", args: []string{"-i"}, env: []string{"DOCKER_OPT_L=\"$HOME\" `id` \\ 'x'"}, file: "-", want: "DOCKER_OPT_L=\"\\\"\\$HOME\\\" \\`id\\` \\\\ 'x'\"\n"},
		{name: "no variable's name", args: []string{"-i"}, env: []string{"DOCKER_OPT_A.B=x", "DOCKER_OPT_A-B=x"}, file: "-", want: ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Chdir(t.TempDir())
			if tt.file != "-" {
				write(t, "in", tt.file)
			}
			var stderr bytes.Buffer
			args := append([]string{"mk-docker-opts", "-f", "in", "-dout"}, tt.args...)
			if status := run(args, tt.env, nil, &stderr); status != 0 {
				t.Fatalf("status %d: %s", status, stderr.String())
			}
			if got := read(t, "out"); got != tt.want {
				t.Errorf("got  %q\nwant %q", got, tt.want)
			}
			if told := strings.Contains(stderr.String(), "there is no in"); told != (tt.file == "-") {
				t.Errorf("stderr %q", stderr.String())
			}
		})
	}
}

func TestFailuresLeaveTheOutput(t *testing.T) {
	const usage = "mk-docker-opts [-f FLANNEL-ENV-FILE]"
	tests := []struct {
		name string
		args []string
		file string
		want string
	}{
		{name: "help", args: []string{"-h"}, want: usage},
		{name: "help tells the form of the env file", args: []string{"-h"}, want: "lines NAME=value"},
		{name: "question mark", args: []string{"-?"}, want: usage},
		{name: "help behind others", args: []string{"-ich"}, want: usage},
		{name: "unknown", args: []string{"-x"}, want: "unknown option -x"},
		{name: "unknown shows usage", args: []string{"-x"}, want: usage},
		{name: "long", args: []string{"--help"}, want: "unknown option --"},
		{name: "no value", args: []string{"-k"}, want: "option -k needs a value"},
		{name: "no value, joined", args: []string{"-ik"}, want: "option -k needs a value"},
		{name: "bad key", args: []string{"-k", "A B"}, want: `-k "A B": want the name of a variable`},
		{name: "code as key", args: []string{"-k", "x;id"}, want: `-k "x;id"`},
		{name: "empty key", args: []string{"-k", ""}, want: `-k ""`},
		{name: "key with digit in front", args: []string{"-k1A"}, want: `-k "1A"`},
		{name: "empty output name", args: []string{"-d", ""}, want: `-d ""`},
		{name: "ip-masq", file: "FLANNEL_IPMASQ=maybe\n", want: `invalid value of FLANNEL_IPMASQ: "maybe": want true or false`},
		{name: "ip-masq is case-sensitive", file: "FLANNEL_IPMASQ=True\n", want: `"True"`},
		{name: "input is a folder", args: []string{"-f", "."}, want: "flannel's env file (-f): read .: is a directory"},
		{name: "input below a file", args: []string{"-f", "in/x"}, file: sample, want: "not a directory"},
		{name: "input is no env file", file: "\x7fELF\x00\x01;;;", want: "flannel's env file (-f): read in: "},
		{name: "unterminated quote", file: "FLANNEL_MTU=\"14", want: "unterminated"},
		{name: "huge input", file: strings.Repeat("#\n", 1<<20), want: "larger than"},
		{name: "output is a folder", args: []string{"-d", "."}, want: "write docker's env file . (-d): "},
		{name: "output in no folder", args: []string{"-d", "no/out"}, want: "write docker's env file no/out (-d): "},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Chdir(t.TempDir())
			write(t, "in", tt.file)
			write(t, "out", "precious\n")
			var stderr bytes.Buffer
			args := append([]string{"mk-docker-opts", "-f", "in", "-d", "out"}, tt.args...)
			if status := run(args, nil, nil, &stderr); status != 1 {
				t.Errorf("status %d, want 1", status)
			}
			if !strings.Contains(stderr.String(), tt.want) {
				t.Errorf("stderr %q, want %q", stderr.String(), tt.want)
			}
			if got := read(t, "out"); got != "precious\n" {
				t.Errorf("the output has become %q", got)
			}
			if entries, err := os.ReadDir("."); err != nil || len(entries) != 2 {
				t.Errorf("left behind: %v (%v)", entries, err)
			}
		})
	}
}

func TestUnreadableInput(t *testing.T) {
	if os.Geteuid() == 0 {
		// Root reads everything but a file that is not one.
		t.Chdir(t.TempDir())
		if err := syscall.Symlink("in", "in"); err != nil {
			t.Fatal(err)
		}
	} else {
		t.Chdir(t.TempDir())
		write(t, "in", sample)
		if err := os.Chmod("in", 0); err != nil {
			t.Fatal(err)
		}
	}
	var stderr bytes.Buffer
	if status := run([]string{"mk-docker-opts", "-f", "in", "-d", "out"}, nil, nil, &stderr); status != 1 || !strings.Contains(stderr.String(), "open in: ") {
		t.Errorf("status %d, stderr %q", status, stderr.String())
	}
}

// The common unit writes docker's options over flannel's own file.
func TestInputIsOutput(t *testing.T) {
	t.Chdir(t.TempDir())
	write(t, "subnet.env", sample)
	if err := os.Chmod("subnet.env", 0o640); err != nil {
		t.Fatal(err)
	}
	args := []string{"mk-docker-opts", "-f", "subnet.env", "-d", "subnet.env", "-c"}
	if status := run(args, nil, nil, os.Stderr); status != 0 {
		t.Fatalf("status %d", status)
	}
	const want = "DOCKER_OPTS=\" --bip=10.1.74.1/24 --ip-masq=true --mtu=1472\"\n"
	if got := read(t, "subnet.env"); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := mode(t, "subnet.env"); got != 0o640 {
		t.Errorf("mode %o, want the former 640", got)
	}
}

func TestNothingIsExecuted(t *testing.T) {
	t.Chdir(t.TempDir())
	write(t, "in", "A=$(touch executed)\nB=`touch executed`\nFLANNEL_MTU=1472\n")
	var out bytes.Buffer
	if status := run([]string{"mk-docker-opts", "-f", "in", "-c", "-d-"}, nil, &out, os.Stderr); status != 0 || out.String() != "DOCKER_OPTS=\" --mtu=1472\"\n" {
		t.Errorf("status %d, got %q", status, out.String())
	}
	if _, err := os.Stat("executed"); err == nil {
		t.Error("the env file was executed")
	}
}

func TestOutputFile(t *testing.T) {
	args := func(out string) []string { return []string{"mk-docker-opts", "-f", "in", "-ci", "-d", out} }
	setup := func(t *testing.T) {
		t.Chdir(t.TempDir())
		write(t, "in", "FLANNEL_MTU=1472\n")
	}
	const want = "DOCKER_OPT_MTU=\"--mtu=1472\"\nDOCKER_OPTS=\" --mtu=1472\"\n"
	t.Run("mode by umask", func(t *testing.T) {
		setup(t)
		defer syscall.Umask(syscall.Umask(0o027))
		run(args("out"), nil, nil, os.Stderr)
		if got := mode(t, "out"); got != 0o640 {
			t.Errorf("mode %o, want 640", got)
		}
	})
	t.Run("standard output", func(t *testing.T) {
		for _, name := range []string{"-", "/dev/stdout"} {
			setup(t)
			var out bytes.Buffer
			if run(args(name), nil, &out, os.Stderr); out.String() != want {
				t.Errorf("got %q, want %q", out.String(), want)
			}
		}
	})
	t.Run("symbolic link", func(t *testing.T) {
		setup(t)
		write(t, "target", "old")
		if err := os.Symlink("target", "link"); err != nil {
			t.Fatal(err)
		}
		run(args("link"), nil, nil, os.Stderr)
		if got := read(t, "target"); got != want {
			t.Errorf("behind the link is %q", got)
		}
		if i, err := os.Lstat("link"); err != nil || i.Mode().Type() != fs.ModeSymlink {
			t.Errorf("the link has become %v (%v)", i.Mode(), err)
		}
	})
	t.Run("symbolic link to a file that is not there yet", func(t *testing.T) {
		setup(t)
		for _, dir := range []string{"etc", "run", "real"} {
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		for link, to := range map[string]string{"etc/docker": "../run/link", "run/link": "dir/../target", "run/dir": "../real/sub"} {
			if err := os.Symlink(to, link); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Mkdir("real/sub", 0o755); err != nil {
			t.Fatal(err)
		}
		if status := run(args("etc/docker"), nil, nil, os.Stderr); status != 0 {
			t.Fatalf("status %d", status)
		}
		if got := read(t, "real/target"); got != want {
			t.Errorf("behind the links is %q", got)
		}
		if i, err := os.Lstat("etc/docker"); err != nil || i.Mode().Type() != fs.ModeSymlink {
			t.Errorf("the link has become %v (%v)", i.Mode(), err)
		}
	})
	t.Run("pipe", func(t *testing.T) {
		setup(t)
		if err := syscall.Mkfifo("pipe", 0o600); err != nil {
			t.Fatal(err)
		}
		// Open both ways, so that neither side waits for the other.
		pipe, err := os.OpenFile("pipe", os.O_RDWR|syscall.O_NONBLOCK, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer pipe.Close()
		pipe.SetReadDeadline(time.Now().Add(5 * time.Second))
		if status := run(args("pipe"), nil, nil, os.Stderr); status != 0 {
			t.Fatalf("status %d", status)
		}
		b := make([]byte, 1000)
		if n, err := pipe.Read(b); string(b[:n]) != want {
			t.Errorf("got %q (%v)", b[:n], err)
		}
	})
}

func write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func mode(t *testing.T, name string) fs.FileMode {
	t.Helper()
	i, err := os.Stat(filepath.Clean(name))
	if err != nil {
		t.Fatal(err)
	}
	return i.Mode().Perm()
}
