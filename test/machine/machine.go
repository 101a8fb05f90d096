// Package machine makes a host of a lab into a whole Linux machine: with a root
// file system, a systemd as process 1, and cgroups of its own, on which the
// real packages, units, dockerd and containers run as on a server.
//
//	outside                          inside
//	network namespace of the host    the same: eth0, what flanneld makes, docker0
//	/                                a copy-on-write view of it, kept in memory
//	PATH of the lab                  the same files, at the same path
//	/run, /tmp, /dev, /opt, /var/log,
//	/var/lib/docker                  its own, empty
//	units of the distribution        docker.service, docker.socket, containerd.service, journald
//	/proc/sys                        readable, and writable below net
//
// Nothing of the outside can be changed from inside but by a program that sets
// out to do so. The end of the process that booted it, however it comes, ends
// the machine; but for its cgroups, which the next Boot removes, nothing is
// left then.
package machine

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"tweed/test/lab"
)

//go:embed boot.sh
var bootScript string

// join puts the shell into the machine's cgroups before it unshares: what is
// then mounted has the machine's cgroup for its root (cgroup_namespaces(7)).
const join = `set -eu
for dir in $CGROUPS; do echo $$ >"$dir/cgroup.procs"; done
unset CGROUPS
exec unshare --mount --pid --uts --ipc --cgroup --fork --kill-child sh -c "$0"
`

// A Machine is a host that has been booted.
type Machine struct {
	*lab.Host
	boot    *lab.Process // unshare, the parent of process 1
	init    int          // process 1, as the outside numbers it
	cgroups []string
}

// Boot starts systemd on a host of l and waits until it is up.
func Boot(ctx context.Context, l *lab.Lab, h *lab.Host) (_ *Machine, err error) {
	removeStaleCgroups()
	m := &Machine{Host: h}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("boot %s: %w", h.Name, err), m.Halt())
		}
	}()
	if m.cgroups, err = makeCgroups(l.ID() + "-" + h.Name); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(h.Path("machine"), 0o755); err != nil {
		return nil, err
	}
	m.boot, err = h.Start(ctx, lab.Command{
		Name: "machine",
		Path: "/bin/sh",
		Args: []string{"-c", join, bootScript},
		Env: []string{
			"NAME=" + h.Name,
			"DIR=" + h.Path("machine"),
			"SHARE=" + l.Dir(),
			"CGROUPS=" + strings.Join(m.cgroups, " "),
			"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		},
	})
	if err != nil {
		return nil, err
	}
	// Process 1 of a container tells its manager as any unit does.
	if err := m.boot.WaitReady(ctx); err != nil {
		return nil, err
	}
	m.init, err = child(m.boot.PID)
	return m, err
}

// child returns the only child process of pid.
func child(pid int) (int, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(b)))
}

// Root is the root directory of the machine, seen from outside. Absolute
// symbolic links below it lead to the outside: name what they point to.
func (m *Machine) Root(elem ...string) string {
	return filepath.Join(append([]string{fmt.Sprintf("/proc/%d/root", m.init)}, elem...)...)
}

// Write writes a file inside the machine, and its directory.
func (m *Machine) Write(path, content string, mode os.FileMode) error {
	path = m.Root(path)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(path, []byte(content), mode); err != nil {
		return err
	}
	return os.Chmod(path, mode)
}

// Command is a program that will run inside the machine.
func (m *Machine) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	enter := []string{"--target", strconv.Itoa(m.init), "--mount", "--pid", "--uts", "--ipc", "--cgroup", "--net", "--", name}
	cmd := exec.CommandContext(ctx, "nsenter", append(enter, args...)...)
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LC_ALL=C.UTF-8"}
	cmd.Dir = "/"
	cmd.WaitDelay = time.Second
	return cmd
}

// Run runs a program inside the machine and returns what it printed, standard
// error behind standard output. The error has its last lines.
func (m *Machine) Run(ctx context.Context, name string, args ...string) (string, error) {
	var stdout, stderr strings.Builder
	cmd := m.Command(ctx, name, args...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	out := strings.TrimSpace(stdout.String() + stderr.String())
	if err != nil {
		return out, fmt.Errorf("%s: %s %s: %w: %s", m.Name, name, strings.Join(args, " "), err, out)
	}
	return out, nil
}

// Systemctl runs systemctl with these arguments.
func (m *Machine) Systemctl(ctx context.Context, args ...string) (string, error) {
	return m.Run(ctx, "systemctl", append([]string{"--no-pager", "--full"}, args...)...)
}

// Journal returns the log of a unit.
func (m *Machine) Journal(ctx context.Context, unit string) string {
	out, err := m.Run(ctx, "journalctl", "--no-pager", "--output=cat", "--unit="+unit)
	if err != nil {
		return err.Error()
	}
	return out
}

// Halt ends the machine as pulling its plug does, and waits until all of it is
// gone. A second call does nothing.
func (m *Machine) Halt() error {
	var err error
	if m.boot != nil {
		err = m.boot.Kill()
	}
	return errors.Join(err, removeCgroups(m.cgroups))
}
