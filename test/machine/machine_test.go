package machine_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"tweed/test/lab"
	"tweed/test/machine"
	"tweed/test/nstest"
)

// boot makes a machine that is gone when the test ends.
func boot(t *testing.T) (context.Context, *machine.Machine) {
	t.Helper()
	nstest.NeedRoot(t)
	if _, err := os.Stat("/lib/systemd/systemd"); err != nil {
		nstest.Missing(t, "systemd")
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	l, err := lab.New(ctx, lab.Options{NoEtcd: true, TempDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		if left := lab.Leftovers(l.ID(), l.Dir()); len(left) > 0 {
			t.Errorf("left over: %v", left)
		}
		for _, where := range []string{"/sys/fs/cgroup/", "/sys/fs/cgroup/*/"} { // version 2 alone, and 1
			if left, _ := filepath.Glob(where + l.ID() + "*"); len(left) > 0 {
				t.Errorf("left over: %v", left)
			}
		}
	})
	h, err := l.AddHost(ctx, "m1")
	if err != nil {
		t.Fatal(err)
	}
	m, err := machine.Boot(ctx, l, h)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Halt(); err != nil {
			t.Error(err)
		}
	})
	return ctx, m
}

func TestMachine(t *testing.T) {
	ctx, m := boot(t)
	run := func(name string, args ...string) string {
		t.Helper()
		out, err := m.Run(ctx, name, args...)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}

	if got := run("hostname"); got != "m1" {
		t.Errorf("host name %q, want m1", got)
	}
	if got := run("cat", "/proc/1/comm"); got != "systemd" {
		t.Errorf("process 1 is %q, want systemd", got)
	}
	if got := run("ip", "-br", "addr", "show", "eth0"); !strings.Contains(got, m.Addr.String()) {
		t.Errorf("eth0: %q, want %s", got, m.Addr)
	}

	// A unit of Type=notify is up when it says so, with its journal, its
	// capabilities and its own view of the file system.
	unit := `[Service]
Type=notify
NotifyAccess=all
ExecStart=/bin/sh -c 'grep CapEff /proc/self/status; touch /usr/x; systemd-notify --ready --status=good; exec sleep 1000'
CapabilityBoundingSet=CAP_NET_ADMIN
ProtectSystem=strict
`
	if err := m.Write("/etc/systemd/system/probe.service", unit, 0o644); err != nil {
		t.Fatal(err)
	}
	run("systemctl", "daemon-reload")
	run("systemctl", "start", "probe")
	if got := run("systemctl", "show", "probe", "--property=StatusText,ActiveState"); got != "StatusText=good\nActiveState=active" && got != "ActiveState=active\nStatusText=good" {
		t.Errorf("unit: %q", got)
	}
	journal := m.Journal(ctx, "probe")
	for _, want := range []string{"0000000000001000", "Read-only file system"} {
		if !strings.Contains(journal, want) {
			t.Errorf("journal has no %q: %s", want, journal)
		}
	}

	// What is written inside is not outside, but for the files of the lab.
	run("touch", "/inside", "/tmp/inside", m.Path("inside"))
	for _, path := range []string{"/inside", "/tmp/inside", "/etc/systemd/system/probe.service"} {
		if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is outside, too: %v", path, err)
		}
	}
	if _, err := os.Stat(m.Path("inside")); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(m.Root("inside")); err != nil {
		t.Error(err)
	}
	if out, err := m.Run(ctx, "sh", "-c", "echo 1 >/proc/sys/kernel/panic"); err == nil {
		t.Errorf("the kernel's variables can be written: %s", out)
	}
	run("sh", "-c", "echo 0 >/proc/sys/net/ipv4/ip_forward")

	// A machine that its lab takes down has no time to say goodbye.
	if err := m.Halt(); err != nil {
		t.Error(err)
	}
	if out, err := m.Run(ctx, "true"); err == nil {
		t.Errorf("a halted machine runs a program: %s", out)
	}
}

func TestRunError(t *testing.T) {
	ctx, m := boot(t)
	_, err := m.Run(ctx, "sh", "-c", "echo told >&2; exit 3")
	if err == nil || !strings.Contains(err.Error(), "told") || !strings.Contains(err.Error(), "m1") {
		t.Errorf("error %v, want the machine's name and what the program said", err)
	}
}
