package test

import (
	"net"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"tweed/test/lab"
)

// TestNotify reads all that the daemon tells systemd: READY=1 when subnet.env
// is there, not once more when it has lost its lease meanwhile, and STOPPING=1
// at the end.
func TestNotify(t *testing.T) {
	t.Parallel()
	c := newLab(t, lab.Options{})
	n := c.addHost()
	socket := n.Path("systemd")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	c.must(err)
	defer conn.Close()
	// The lab has a socket of its own, which env(1) hides from the daemon.
	env, err := exec.LookPath("env")
	c.must(err)
	args := append([]string{"NOTIFY_SOCKET=" + socket, binary(t, "flanneld"), "-etcd-endpoints=http://" + etcdAddr}, n.fileArgs()...)
	n.daemon, err = n.Start(c.ctx, lab.Command{Name: "flanneld", Path: env, Args: args})
	c.must(err)
	told := func() string {
		t.Helper()
		c.must(conn.SetReadDeadline(time.Now().Add(daemonTime)))
		buf := make([]byte, 4096)
		size, err := conn.Read(buf)
		c.must(err)
		return string(buf[:size])
	}

	n.wantLog(noConfig)
	if _, err := os.Stat(n.Path("subnet.env")); err == nil {
		t.Error("there is a subnet.env before there is a config")
	}
	c.set(configKey, config(`"alloc"`), 0)
	if got := told(); got != "READY=1" {
		t.Errorf("systemd was told %q first, want READY=1", got)
	}
	n.env, err = n.SubnetEnv() // which ExecStartPost= reads now
	c.must(err)

	from := n.said()
	n.forget()
	n.wantLogFrom(from, "Lease has been revoked. Acquiring it again", "Running backend.")
	c.must(n.daemon.Signal(syscall.SIGTERM))
	if got := told(); got != "STOPPING=1" {
		t.Errorf("systemd was then told %q, want STOPPING=1", got)
	}
	n.wantGone(5*time.Second, 0)
}
