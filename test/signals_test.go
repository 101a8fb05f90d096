package test

import (
	"context"
	"net/netip"
	"os"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"tweed/test/lab"
)

// TestSignals ends the daemon by SIGTERM and SIGINT in each phase of its life:
// within 5 s, with status 0.
func TestSignals(t *testing.T) {
	t.Parallel()
	c := newLab(t, lab.Options{})
	n := c.addHost()
	for i, phase := range []struct {
		name   string
		config string
		args   []string
		log    string
	}{
		{"waiting for etcd", "", []string{"-etcd-endpoints=http://20.0.0.1:1"}, noConfig},
		{"waiting for an etcd that is silent", "", []string{"-etcd-endpoints=http://20.0.0.250:2379"}, "Created subnet manager"},
		{"waiting for the config", "", nil, noConfig},
		{"waiting for a valid config", "{}", nil, noConfig},
		{"running alloc", config(`"alloc"`), nil, "Running backend."},
		{"running udp", config(`"udp"`), []string{"-healthz-port=8081"}, "Waiting for 22h59m"},
		{"running vxlan", config(`"vxlan"`), []string{"-ip-masq"}, "Waiting for 22h59m"},
		{"running host-gw", config(`"host-gw"`), nil, "Waiting for 22h59m"},
	} {
		for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
			c.step(phase.name+", "+sig.String(), func() {
				prefix := "/phase" + strconv.Itoa(i)
				if phase.config != "" {
					c.set(prefix+"/config", phase.config, 0)
				}
				n.launch(append(phase.args, "-etcd-prefix="+prefix)...)
				n.wantLog(phase.log)
				c.must(n.daemon.Signal(sig))
				n.wantGone(5*time.Second, 0)
				n.wantLog(phase.log, "Waiting for all goroutines to exit", "Exiting cleanly...")
				if n.linesWith("while shutting down") != nil {
					c.t.Errorf("the end was not clean:\n%s", n.output())
				}
			})
		}
	}
}

// wantGone checks that the daemon ends within d.
func (n *node) wantGone(d time.Duration, code int) {
	n.c.t.Helper()
	ctx, cancel := context.WithTimeout(n.c.ctx, d)
	defer cancel()
	state, err := n.daemon.Wait(ctx)
	if err != nil {
		n.daemon.Kill()
		n.c.t.Fatalf("%v; it said:\n%s", err, n.output())
	}
	if state.ExitCode() != code {
		n.c.t.Errorf("it ended with %s, want exit status %d", state, code)
	}
}

// TestSecondSignal keeps the daemon busy, by a request that is never finished,
// so that the second signal finds it still there.
func TestSecondSignal(t *testing.T) {
	t.Parallel()
	c := newLab(t, lab.Options{})
	c.set(configKey, config(`"alloc"`), 0)
	n := c.addHost()
	n.start("-healthz-port=8081")
	conn, err := n.NS.DialTCP(c.ctx, netip.MustParseAddrPort("127.0.0.1:8081"))
	c.must(err)
	defer conn.Close()
	_, err = conn.Write([]byte("GET /hea"))
	c.must(err)
	n.health("/healthz") // connections are accepted in their order

	c.must(n.daemon.Signal(syscall.SIGTERM))
	n.wantLog("Waiting for all goroutines to exit")
	c.eventually("the second signal to kill", func() error {
		n.daemon.Signal(syscall.SIGTERM)
		ctx, cancel := context.WithTimeout(c.ctx, 10*time.Millisecond)
		defer cancel()
		_, err := n.daemon.Wait(ctx)
		return err
	})
	state, err := n.daemon.Wait(c.ctx)
	c.must(err)
	if ws := state.Sys().(syscall.WaitStatus); !ws.Signaled() || ws.Signal() != syscall.SIGTERM {
		t.Errorf("it ended with %s, want to see it killed:\n%s", state, n.output())
	}
}

// TestOtherSignals: SIGHUP kills, as there is nothing to reload, and SIGQUIT
// shows the stacks.
func TestOtherSignals(t *testing.T) {
	t.Parallel()
	c := newLab(t, lab.Options{})
	c.set(configKey, config(`"alloc"`), 0)
	n := c.addHost()
	stack := regexp.MustCompile(`(?m)^goroutine 1 .*\[`)
	for _, sig := range []syscall.Signal{syscall.SIGHUP, syscall.SIGQUIT} {
		n.start()
		record := n.lease()
		c.must(n.daemon.Signal(sig))
		state, err := n.daemon.Wait(c.ctx)
		c.must(err)
		if ws := state.Sys().(syscall.WaitStatus); sig == syscall.SIGHUP && (!ws.Signaled() || ws.Signal() != sig) {
			t.Errorf("%s: it ended with %s, want to see it killed", sig, state)
		}
		if has := stack.MatchString(n.output()); has != (sig == syscall.SIGQUIT) {
			t.Errorf("%s: stacks in the output: %t", sig, has)
		}
		c.wantRecord(record.Key, record.Value, true)
	}
}

// TestSignalWithoutNetwork has the node lose its network, and with it etcd,
// before the end: packets into nowhere are not waited for.
func TestSignalWithoutNetwork(t *testing.T) {
	t.Parallel()
	c := newLab(t, lab.Options{})
	c.set(configKey, config(`"vxlan"`), 0)
	n := c.addHost()
	n.start()
	n.wantLog("Waiting for 22h59m")
	c.must(n.Unplug())
	c.must(n.daemon.Signal(syscall.SIGTERM))
	n.wantGone(5*time.Second, 0)
	n.wantLog("Exiting cleanly...")
}

// glogLine is the header of every line.
var glogLine = regexp.MustCompile(`^[IWEF](\d{4}) \d\d:\d\d:\d\d\.\d{6} ([ \d]{7,}) [\w.]+\.go:\d+\] \S`)

// TestLog checks the form of every line, and that those that scripts search
// for are there in order.
func TestLog(t *testing.T) {
	t.Parallel()
	c := newCluster(t, config(`"vxlan"`), 1, "-ip-masq", "-healthz-port=8081")
	n := c.nodes[0]
	own := n.env.Subnet.String()
	c.set(subnetsKey+"hello", "line 1\nI1123 00:00:00.000000       1 fake.go:1] line 2\x1b[31m", 0)
	n.wantLog("skipping a bad record")
	n.wantLog("Waiting for 22h59m") // the lease is kept beside the rest
	n.stop()
	n.wantLog(
		"Using interface with name eth0 and address 20.0.0.2",
		"Defaulting external address to interface address (20.0.0.2)",
		"Created subnet manager: Etcd Local Manager with Previous Subnet: None",
		"Found network config - Backend type: vxlan",
		"Picking subnet in range 10.5.1.0 ... 10.5.255.0",
		"Allocated lease ("+own+") to current node (20.0.0.2) ",
		"Wrote subnet file to "+n.Path("subnet.env"),
		"Running backend.",
		"Waiting for all goroutines to exit",
		"Exiting cleanly...",
	)
	n.checkGlog()

	n.start("-public-ip=20.0.0.3")
	n.stop()
	n.wantLog(
		"Using 20.0.0.3 as external address",
		"with Previous Subnet: "+own,
		"Wrote subnet file to",
		"Exiting cleanly...",
	)
	n.checkGlog()
}

func (n *node) checkGlog() {
	n.c.t.Helper()
	pid := strconv.Itoa(n.daemon.PID)
	pid = strings.Repeat(" ", max(0, 7-len(pid))) + pid
	today := time.Now().Format("0102")
	for _, line := range n.daemon.Lines() {
		m := glogLine.FindStringSubmatch(line)
		if m == nil || m[1] != today || m[2] != pid {
			n.c.t.Errorf("not in the form of glog, with the date %s and the pid %q: %q", today, pid, line)
		}
	}
	b, err := os.ReadFile(n.daemon.Log)
	n.c.must(err)
	if strings.ContainsAny(string(b), "\x00\x1b\r") {
		n.c.t.Errorf("the log has control characters in it: %q", b)
	}
}
