package lab

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestDaemon(t *testing.T) {
	t.Setenv("FLANNELD_ETCD_PREFIX", "/must/not/reach/it")
	t.Setenv("HTTP_PROXY", "http://must.not.reach.it")
	t.Setenv("no_proxy", "must.not.reach.it")
	l := newLab(t, Options{})
	ctx := timeout(t, 20*time.Second)
	h := addHost(t, l, "n1", HostOptions{})

	first, err := h.StartFlanneld(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := first.WaitReady(ctx); err != nil {
		t.Fatal(err)
	}
	if next, err := first.WaitLog(ctx, 0, "endpoints http://20.0.0.1:2379"); err != nil || next != 1 {
		t.Errorf("line after the endpoints = %d, %v, want 1", next, err)
	}
	if got, err := h.SubnetEnv(); err != nil || got.Subnet != netip.MustParsePrefix("10.5.3.0/24") || !got.IPMasq {
		t.Errorf("subnet.env = %+v, %v", got, err)
	}
	environ, err := os.ReadFile(filepath.Join("/proc", itoa(first.PID), "environ"))
	if err != nil || strings.Contains(string(environ), "FLANNELD_") || strings.Contains(string(environ), "must.not.reach.it") {
		t.Errorf("environment holds FLANNELD_ or proxy variables, or %v", err)
	}
	want, got := nsOf(t, h.NS), netOf(t, first.PID)
	if got != want {
		t.Errorf("the process is in %s, want %s", got, want)
	}

	second, err := h.StartFlanneld(ctx, "-subnet-file="+h.Path("other.env"))
	if err != nil {
		t.Fatal(err)
	}
	if err := second.WaitReady(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadSubnetEnv(h.Path("other.env")); err != nil {
		t.Error(err)
	}
	if err := second.Kill(); err != nil {
		t.Fatal(err)
	}
	if state, err := second.Wait(ctx); err != nil || state.Sys().(syscall.WaitStatus).Signal() != unix.SIGKILL {
		t.Errorf("after Kill: %v, %v", state, err)
	}
	if !first.Running() {
		t.Error("killing one process ended another")
	}
	if err := first.Stop(); err != nil {
		t.Fatal(err)
	}
	if state, err := first.Wait(ctx); err != nil || state.ExitCode() != 0 {
		t.Errorf("after Stop: %v, %v", state, err)
	}
	if err := errors.Join(first.Stop(), first.Kill()); err != nil {
		t.Errorf("ending it again: %v", err)
	}
	log, err := os.ReadFile(first.Log)
	if err != nil || string(log) != strings.Join(first.Lines(), "\n")+"\n" {
		t.Errorf("log file %q, lines %q, %v", log, first.Lines(), err)
	}
}

func nsOf(t *testing.T, n NS) (name string) {
	t.Helper()
	if err := n.Do(func() error { name = threadNS(t); return nil }); err != nil {
		t.Fatal(err)
	}
	return name
}

func netOf(t *testing.T, pid int) string {
	t.Helper()
	name, err := os.Readlink(filepath.Join("/proc", itoa(pid), "ns/net"))
	if err != nil {
		t.Fatal(err)
	}
	return name
}

func TestDaemonFaults(t *testing.T) {
	l := newLab(t, Options{})
	ctx := timeout(t, 20*time.Second)
	h := addHost(t, l, "n1", HostOptions{})

	ended, err := h.StartFlanneld(ctx, "-mode=exit")
	if err != nil {
		t.Fatal(err)
	}
	err = ended.WaitReady(ctx)
	var perr *ProcessError
	if !errors.As(err, &perr) || !strings.Contains(err.Error(), "exit status 3") {
		t.Errorf("waiting for a process that ends: %v", err)
	} else if tail := strings.Join(perr.Tail, "|"); !strings.HasSuffix(tail, "no reason given") {
		t.Errorf("last lines = %q", tail)
	}
	if _, err := ended.WaitLog(ctx, 0, "never said"); err == nil || ctx.Err() != nil {
		t.Errorf("waiting for a line that cannot come: %v", err)
	}

	mute, err := h.StartFlanneld(ctx, "-mode=mute")
	if err != nil {
		t.Fatal(err)
	}
	short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	if err := mute.WaitReady(short); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("waiting for a mute process: %v", err)
	}

	if _, err := h.Start(ctx, Command{Name: "none", Path: "/no/such/program"}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("start of a program that is not there: %v", err)
	}
	if _, err := h.Start(short, Command{Name: "late", Path: "/bin/true"}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("start after the context ended: %v", err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if mute.Running() {
		t.Error("a process outlives its lab")
	}
	if _, err := h.StartFlanneld(ctx); !errors.Is(err, ErrClosed) {
		t.Errorf("start in a closed lab: %v", err)
	}
	if _, err := l.AddHost(ctx, "n2"); !errors.Is(err, ErrClosed) {
		t.Errorf("host in a closed lab: %v", err)
	}
	if err := h.NS.Do(func() error { return nil }); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("namespace of a closed lab: %v", err)
	}
}

// TestStubborn: a process that ignores SIGTERM is killed, and that is told.
func TestStubborn(t *testing.T) {
	l := newLab(t, Options{})
	ctx := timeout(t, 20*time.Second)
	h := addHost(t, l, "n1", HostOptions{})
	p, err := h.StartFlanneld(ctx, "-mode=stubborn")
	if err != nil {
		t.Fatal(err)
	}
	if err := p.WaitReady(ctx); err != nil {
		t.Fatal(err)
	}
	if err := p.Stop(); err == nil || !strings.Contains(err.Error(), "ignored SIGTERM") {
		t.Errorf("stop of a stubborn process: %v", err)
	}
	if p.Running() {
		t.Error("still runs")
	}
}

// crashEnv makes TestCrash build a lab and die in it.
const crashEnv = "TWEED_LAB_CRASH"

// TestCrash: when the maker of a lab is killed, its daemons die with it, and
// the next lab sweeps up.
func TestCrash(t *testing.T) {
	if os.Getenv(crashEnv) != "" {
		crash(t)
	}
	l := newLab(t, Options{}) // sweeps up what earlier crashes left
	ctx := timeout(t, 30*time.Second)
	dir := t.TempDir()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(ctx, self, "-test.run=^TestCrash$")
	cmd.Env = append(os.Environ(), crashEnv+"=1", "TMPDIR="+dir)
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState.Sys().(syscall.WaitStatus).Signal() != unix.SIGKILL {
		t.Fatalf("the crashing lab ended with %v: %s", err, out)
	}
	dirs := names(dir)
	if len(dirs) != 1 {
		t.Fatalf("directories of the crashed lab: %q", dirs)
	}
	// The kernel kills the daemon after the death of its parent, not with it.
	for len(processes(dirs[0])) > 0 && ctx.Err() == nil {
		time.Sleep(time.Millisecond)
	}
	if left := Leftovers(dirs[0], dir); len(left) < 5 {
		t.Errorf("left of the crashed lab before sweeping: %q, want namespaces and files", left)
	}
	if err := RemoveStale(dir); err != nil {
		t.Fatal(err)
	}
	if left := Leftovers(dirs[0], dir); len(left) > 0 {
		t.Errorf("left of the crashed lab: %q", left)
	}
	if left := Leftovers(l.ID(), ""); len(left) == 0 {
		t.Error("sweeping took a living lab along")
	}
}

func crash(t *testing.T) {
	self, _ := os.Executable()
	ctx := t.Context()
	l, err := New(ctx, Options{Flanneld: self, Env: []string{fakeEnv + "=1"}})
	if err != nil {
		t.Fatal(err)
	}
	h, err := l.AddHost(ctx, "n1")
	if err != nil {
		t.Fatal(err)
	}
	p, err := h.StartFlanneld(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.WaitReady(ctx); err != nil {
		t.Fatal(err)
	}
	unix.Kill(os.Getpid(), unix.SIGKILL)
}

func TestKeepFiles(t *testing.T) {
	l := newLab(t, Options{})
	if err := errors.Join(l.KeepFiles(), l.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(l.Dir(), "etcd.log")); err != nil {
		t.Error(err)
	}
	os.RemoveAll(l.Dir())
}

func TestParseSubnetEnv(t *testing.T) {
	const good = "FLANNEL_NETWORK=10.5.0.0/16\nFLANNEL_SUBNET=10.5.3.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=false\n"
	if _, err := parseSubnetEnv(good); err != nil {
		t.Error(err)
	}
	for _, bad := range []string{
		"",
		"FLANNEL_NETWORK=10.5.0.0/16\n",
		good + "\n",
		good + "MORE=1\n",
		" " + good,
		strings.TrimSuffix(good, "\n"),
		strings.Replace(good, "10.5.3.1", "10.5.3.0", 1),
		strings.Replace(good, "10.5.3.1/24", "10.5.3.1", 1),
		strings.Replace(good, "10.5.0.0/16", "10.5.0.0/33", 1),
		strings.Replace(good, "1450", "+1450", 1),
		strings.Replace(good, "false", "0", 1),
	} {
		if env, err := parseSubnetEnv(bad); err == nil {
			t.Errorf("%q: no error, got %+v", bad, env)
		}
	}
}

func TestNotifyPath(t *testing.T) {
	if _, err := listenNotify("/tmp/" + strings.Repeat("x", 103)); err == nil || !strings.Contains(err.Error(), "temporary directory") {
		t.Errorf("long path: %v", err)
	}
}

// TestSockets: made inside, used outside.
func TestSockets(t *testing.T) {
	l := newLab(t, Options{})
	ctx := timeout(t, 10*time.Second)
	h := addHost(t, l, "n1", HostOptions{})
	server, err := h.NS.ListenPacket(ctx, netip.AddrPortFrom(h.Addr, 0))
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	client, err := l.Switch().DialContext(ctx, "udp4", server.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if _, err := client.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	server.SetReadDeadline(time.Now().Add(5 * time.Second))
	buf := make([]byte, 10)
	n, _, err := server.ReadFromUDPAddrPort(buf)
	if err != nil || string(buf[:n]) != "hello" {
		t.Errorf("received %q, %v", buf[:n], err)
	}
	c, err := h.NS.DialTCP(ctx, netip.MustParseAddrPort("20.0.0.1:2379"))
	if err != nil {
		t.Fatalf("etcd from a host: %v", err)
	}
	c.Close()
}

// TestLeaks: a lab that has closed holds no descriptor and no goroutine.
func TestLeaks(t *testing.T) {
	build := func() {
		l := newLab(t, Options{})
		ctx := timeout(t, 20*time.Second)
		h := addHost(t, l, "n1", HostOptions{})
		p, err := h.StartFlanneld(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if err := p.WaitReady(ctx); err != nil {
			t.Fatal(err)
		}
		addPod(t, h, env("10.5.1.0/24", 1450))
		closeClean(t, l)
	}
	build() // what is made once for all, such as the poller
	count := func() (fds, goroutines int) { return len(names("/proc/self/fd")), runtime.NumGoroutine() }
	fds, goroutines := count()
	build()
	end := time.Now().Add(5 * time.Second)
	for {
		f, g := count()
		if f <= fds && g <= goroutines {
			return
		}
		if time.Now().After(end) {
			stacks := make([]byte, 1<<20)
			t.Fatalf("%d descriptors became %d, %d goroutines became %d:\n%s", fds, f, goroutines, g, stacks[:runtime.Stack(stacks, true)])
		}
		time.Sleep(10 * time.Millisecond)
	}
}
