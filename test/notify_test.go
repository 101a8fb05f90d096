package test

import (
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"tweed/test/lab"
)

// wantTold waits until systemd is told text, after message number from, and
// returns the number of the message after.
func (n *node) wantTold(from int, text string) int {
	n.c.t.Helper()
	ctx, cancel := context.WithTimeout(n.c.ctx, daemonTime)
	defer cancel()
	next, err := n.daemon.WaitNotified(ctx, from, text)
	n.c.must(err)
	return next
}

// TestNotify follows all that the daemon tells systemd: STATUS= in each state,
// once, READY=1 when subnet.env is there, not once more when it has lost its
// lease meanwhile, and STOPPING=1 at the end.
func TestNotify(t *testing.T) {
	t.Parallel()
	c := newLab(t, lab.Options{})
	n := c.addHost()
	n.launch("-etcd-username=root", "-etcd-password=s3cr3t")
	at := n.wantTold(0, "STATUS=waiting for a network config: read "+configKey+" at http://"+etcdAddr+": no network config: write one by")
	c.stopEtcd()
	at = n.wantTold(at, "STATUS=waiting for etcd since ")
	c.startEtcd()
	at = n.wantTold(at, "STATUS=waiting for a network config: ")
	if _, err := os.Stat(n.Path("subnet.env")); err == nil {
		t.Error("there is a subnet.env before there is a config")
	}
	c.set(configKey, config(`"alloc"`), 0)
	at = n.wantTold(at, "READY=1")
	var err error
	n.env, err = n.SubnetEnv() // which ExecStartPost= reads now
	c.must(err)
	state := "STATUS=" + n.env.Subnet.String() + " by alloc, 0 peers"
	at = n.wantTold(at, state)
	c.set(subnetsKey+"10.5.177.0-24", fakePeer{backend: "alloc", ip: "20.0.0.77"}.value(), time.Hour)
	at = n.wantTold(at, "STATUS="+n.env.Subnet.String()+" by alloc, 1 peer")

	from := n.said()
	n.forget()
	n.wantLogFrom(from, "Lease has been revoked. Acquiring it again", "Running backend.")
	c.stopEtcd()
	at = n.wantTold(at, " by alloc, 1 peer; etcd does not answer since ")
	c.startEtcd()
	at = n.wantTold(at, " by alloc, 1 peer")
	c.must(n.daemon.Signal(syscall.SIGTERM))
	n.wantTold(at, "STOPPING=1\nSTATUS=stopping")
	n.wantGone(5*time.Second, 0)

	all := n.daemon.Notified()
	if last := all[len(all)-1]; last != "STOPPING=1\nSTATUS=stopping" {
		t.Errorf("systemd was told %q at last", last)
	}
	ready := 0
	for i, m := range all {
		if m == "READY=1" {
			ready++
		}
		if i > 0 && m == all[i-1] {
			t.Errorf("systemd was told twice: %q", m)
		}
		if strings.Contains(m, "WATCHDOG") || strings.Contains(m, "s3cr3t") || len(m) > 400 {
			t.Errorf("systemd was told %q", m)
		}
	}
	if ready != 1 {
		t.Errorf("systemd was told READY=1 %d times, want once", ready)
	}
}

// TestNotifyStoppingIsLast has a daemon that cannot end, because its subnet file
// is a FIFO that nobody writes to: it gives up after 5 s, and until then systemd
// hears no more of its state, which it had not been told yet.
func TestNotifyStoppingIsLast(t *testing.T) {
	t.Parallel()
	c := newLab(t, lab.Options{})
	n := c.addHost()
	c.must(syscall.Mkfifo(n.Path("subnet.env"), 0o600))
	n.launch()
	n.wantLog("Using interface with name eth0")
	c.must(n.daemon.Signal(syscall.SIGTERM))
	n.wantExit(1)
	n.wantLog("Waiting for all goroutines to exit", "still busy 5s after the signal, exiting anyway")
	if all := n.daemon.Notified(); len(all) == 0 || all[len(all)-1] != "STOPPING=1\nSTATUS=stopping" {
		t.Errorf("systemd was told %q, want STOPPING=1 at last", all)
	}
}

// TestWatchdog has the daemon ping, also while etcd is down, and not while it
// is stuck: its main loop in a write to a log that nobody reads.
func TestWatchdog(t *testing.T) {
	t.Parallel()
	c := newLab(t, lab.Options{})
	c.set(configKey, config(`"alloc"`), 0)
	n := c.addHost()
	// The lab reads all output; a FIFO in its place can be left alone.
	fifo := filepath.Join(t.TempDir(), "stderr")
	c.must(syscall.Mkfifo(fifo, 0o600))
	stderr, err := os.OpenFile(fifo, os.O_RDWR, 0)
	c.must(err)
	defer stderr.Close()
	sh, err := exec.LookPath("sh")
	c.must(err)
	words := append([]string{"-c", `fifo=$1; shift; exec "$@" 2>"$fifo"`, "sh", fifo, binary(t, "flanneld"), "-etcd-endpoints=http://" + etcdAddr}, n.fileArgs()...)
	n.daemon, err = n.Start(c.ctx, lab.Command{Name: "flanneld", Path: sh, Args: words, Env: []string{"WATCHDOG_USEC=150000"}})
	c.must(err)
	pings := func(from int) int {
		t.Helper()
		for range 5 {
			from = n.wantTold(from, "WATCHDOG=1")
		}
		return from
	}
	at := pings(n.wantTold(0, "READY=1"))
	c.stopEtcd()
	at = pings(n.wantTold(at, "etcd does not answer"))
	c.startEtcd()
	pings(at)

	// It logs its state at each signal, until the FIFO is full.
	silence := func() bool {
		before := len(n.daemon.Notified())
		select {
		case <-time.After(time.Second): // 20 intervals
		case <-c.ctx.Done():
		}
		return len(n.daemon.Notified()) == before
	}
	fill := func() {
		for range 3000 {
			c.must(n.daemon.Signal(syscall.SIGUSR1))
			time.Sleep(100 * time.Microsecond) // signals that come too fast become one
		}
	}
	quiet := false
	for range 10 {
		fill()
		if quiet = silence(); quiet {
			break
		}
	}
	if !quiet {
		t.Fatal("it pings on, although its main loop cannot go on")
	}
	at = len(n.daemon.Notified())
	go io.Copy(io.Discard, stderr) // until it is closed
	pings(at)
	if all := n.daemon.Notified(); slices.ContainsFunc(all, func(m string) bool { return strings.HasPrefix(m, "STATUS=stuck") }) {
		t.Errorf("no loop of the daemon was stuck, but it said so: %q", all)
	}
}

// TestWatchdogOfAnother has WATCHDOG_ variables that are not for it, or no good.
func TestWatchdogOfAnother(t *testing.T) {
	t.Parallel()
	c := newLab(t, lab.Options{})
	c.set(configKey, config(`"alloc"`), 0)
	n := c.addHost()
	for _, tt := range []struct{ env, warning string }{
		{"WATCHDOG_USEC=30000\nWATCHDOG_PID=1", ""},
		{"WATCHDOG_USEC=0", "ignoring the watchdog of systemd: want microseconds in WATCHDOG_USEC"},
		{"WATCHDOG_USEC=1 min", "ignoring the watchdog of systemd"},
	} {
		c.step(tt.env, func() {
			n.launchWith(strings.Split(tt.env, "\n"), append(n.fileArgs(), "-etcd-endpoints=http://"+etcdAddr)...)
			n.wantTold(0, " by alloc, 0 peers")
			n.stop()
			for _, m := range n.daemon.Notified() {
				if strings.Contains(m, "WATCHDOG") {
					c.t.Errorf("systemd was told %q", m)
				}
			}
			if got := len(n.linesWith("watchdog")); (got > 0) != (tt.warning != "") {
				c.t.Errorf("the log is not as wanted:\n%s", n.output())
			}
			wantTexts(c.t, n.output(), tt.warning)
		})
	}
}
