package test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tweed/test/lab"
	"tweed/test/nstest"
)

// launchBy starts the daemon by a program that sets limits, such as "prlimit
// --nofile=20:20", and becomes the daemon.
func (n *node) launchBy(program string, args ...string) {
	n.c.t.Helper()
	words := strings.Fields(program)
	path, err := exec.LookPath(words[0])
	if err != nil {
		nstest.Missing(n.c.t, words[0])
	}
	command := append(words[1:], binary(n.c.t, "flanneld"), "-etcd-endpoints=http://"+etcdAddr)
	n.daemon, err = n.Start(n.c.ctx, lab.Command{Name: "flanneld", Path: path, Args: slices.Concat(command, n.fileArgs(args...))})
	n.c.must(err)
}

// fate waits until the daemon is up, has ended, or goes on with complaining about
// what it lacks. Neither of the three is a hang.
func (n *node) fate(lack string) string {
	n.c.t.Helper()
	ctx, cancel := context.WithTimeout(n.c.ctx, daemonTime)
	defer cancel()
	for {
		short, stop := context.WithTimeout(ctx, 50*time.Millisecond)
		_, err := n.daemon.Wait(short)
		stop()
		switch {
		case err == nil:
			return "ended"
		case n.toldReady() && len(n.linesWith("Running backend.")) > 0:
			return "ready"
		case len(n.linesWith(lack)) > 1:
			return "waits"
		case ctx.Err() != nil:
			return "hangs"
		}
	}
}

// TestFewDescriptors starts daemons that may have only so many files open: where
// that is not enough they say so at once, and where it just is, all works.
func TestFewDescriptors(t *testing.T) {
	t.Parallel()
	for _, backend := range []string{"vxlan", "udp", "host-gw"} {
		t.Run(backend, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t, config(`"`+backend+`"`), 1)
			n := c.addHost()
			before := n.kernel()
			for _, limit := range []int{3, 4, 5, 6, 7, 8, 12, 16, 32, 63} {
				n.launchBy(fmt.Sprintf("prlimit --nofile=%d:%d", limit, limit), "-ip-masq")
				if limit == 6 || limit == 7 { // the runtime fails while packages initialise
					wantTexts(t, n.wantExit(2), "failed")
					continue
				}
				said := n.wantExit(1)
				wantTexts(t, said, fmt.Sprintf("this process may have only %d files open: want 64 or more, see ulimit -n, or LimitNOFILE= of its unit", limit))
				if lines := strings.Count(said, "\n"); lines > 0 {
					t.Errorf("it said more:\n%s", said)
				}
			}
			if got := c.subnets(); len(got) != 1 {
				t.Errorf("leases %v, want one", got)
			}
			same(t, "kernel", before, n.kernel())

			n.launchBy("prlimit --nofile=64:64", "-ip-masq", resync, readyArgs)
			n.awaitReady(200)
			var err error
			n.env, err = n.SubnetEnv()
			c.must(err)
			n.addPod()
			c.wantPing(n.pod.NS, c.nodes[0].pod.Addr)
			c.stopEtcd()
			n.wantLog("Couldn't watch the leases")
			c.startEtcd()
			sn := overlaySubnet(177)
			c.set(subnetsKey+"10.5.177.0-24", fakePeer{backend: backend, subnet: sn, ip: "20.0.0.77", mac: "0e:00:00:00:00:77"}.value(), time.Hour)
			n.wantMetric("tweed_peers", exactly(2))
			if text := "too many open files"; strings.Contains(n.output(), text) {
				t.Errorf("it said %q:\n%s", text, n.output())
			}
		})
	}
}

// TestDescriptorsRunOut takes the descriptors away from a running daemon: it may
// open none more, while etcd restarts and a peer joins. It keeps its peers, and
// catches up when it can.
func TestDescriptorsRunOut(t *testing.T) {
	t.Parallel()
	for _, backend := range []string{"vxlan", "udp", "host-gw"} {
		t.Run(backend, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t, config(`"`+backend+`"`), 2, "-ip-masq", resync, readyArgs)
			a, b := c.nodes[0], c.nodes[1]
			c.wantPing(a.pod.NS, b.pod.Addr)
			traffic := c.startTraffic(a.pod, b.pod)
			entries := a.mustOverlay()
			var was unix.Rlimit
			c.must(unix.Prlimit(a.daemon.PID, unix.RLIMIT_NOFILE, nil, &was))
			c.must(unix.Prlimit(a.daemon.PID, unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 3, Max: was.Max}, nil))
			from := a.said()
			c.stopEtcd()
			a.wantLogFrom(from, "too many open files")
			c.startEtcd()
			late := fakePeer{backend: backend, subnet: overlaySubnet(177), ip: "20.0.0.77", mac: "0e:00:00:00:00:77"}
			c.set(subnetsKey+"10.5.177.0-24", late.value(), time.Hour)
			traffic.await(50)
			a.wantRunning()
			if got := a.mustOverlay(); !slices.Equal(got, entries) {
				t.Errorf("the entries were %q, are %q", entries, got)
			}
			before := time.Now()
			c.must(unix.Prlimit(a.daemon.PID, unix.RLIMIT_NOFILE, &was, nil))
			a.wantMetric("tweed_peers", exactly(2))
			t.Logf("%s: caught up %s after there were descriptors again", backend, time.Since(before).Round(100*time.Millisecond))
			a.awaitReady(200)
			c.eventually("the new peer in the kernel", func() error {
				got, err := a.overlay()
				if want := len(entries) + len(late.entries()); err == nil && len(got) != want {
					err = fmt.Errorf("%d entries, want %d: %q", len(got), want, got)
				}
				return err
			})
			if lost := traffic.stop(); lost > 0 {
				t.Errorf("%d pings were lost", lost)
			}
			if lines := len(a.daemon.Lines()); lines > 300 {
				t.Errorf("%d lines in the log", lines)
			}
		})
	}
}

// TestNoNetAdmin takes the capability to change the network from root, as a
// container without --cap-add does.
func TestNoNetAdmin(t *testing.T) {
	t.Parallel()
	for _, backend := range []string{"vxlan", "udp", "host-gw"} {
		c := newLab(t, lab.Options{})
		c.set(configKey, config(`"`+backend+`"`), 0)
		n := c.addHost()
		before := n.kernel()
		n.launchBy("setpriv --bounding-set=-net_admin --inh-caps=-net_admin")
		wantTexts(t, n.wantExit(1), "backend "+backend+": this process may not change the network: run flanneld as root, or with the capability CAP_NET_ADMIN")
		same(t, "kernel", before, n.kernel())
		if got := c.subnets(); got != nil {
			t.Errorf("it left leases behind: %v", got)
		}
		// It has all else, so this alone is enough.
		n.launchBy("setpriv --bounding-set=-all,+net_admin,+net_raw --inh-caps=-all,+net_admin,+net_raw", readyArgs)
		n.awaitReady(200)
		n.stop()
	}
}

// TestLittleMemory starts daemons with an address space too small for them, and
// for some of the programs that they start. Each works, or ends with a message of
// the runtime, and the next one is not disturbed.
func TestLittleMemory(t *testing.T) {
	t.Parallel()
	c := newLab(t, lab.Options{})
	c.set(configKey, config(`"vxlan"`), 0)
	n := c.addHost()
	fates := map[string][]string{}
	for mb := 4; mb <= 4096; mb *= 2 {
		n.launchBy("prlimit --as="+strconv.Itoa(mb<<20), "-ip-masq", readyArgs)
		fate := n.fate("cannot allocate memory")
		fates[fate] = append(fates[fate], fmt.Sprintf("%d MB", mb))
		switch fate {
		case "ended":
			state, err := n.daemon.Wait(c.ctx)
			c.must(err)
			if len(n.daemon.Lines()) == 0 && !strings.Contains(state.String(), "signal") {
				t.Errorf("%d MB: it ended with %s and without a word", mb, state)
			}
			if said := n.output(); !strings.Contains(said, "memory") && !strings.Contains(said, "ulimit") && !strings.Contains(said, "error while loading") {
				t.Logf("%d MB: it ended with %s: %.300s", mb, state, said)
			}
		case "hangs":
			n.c.must(n.daemon.Kill())
			t.Errorf("%d MB: neither ready nor ended; it said:\n%s", mb, n.output())
		default:
			n.stop()
		}
	}
	t.Logf("address space: %v", fates)
	n.start("-ip-masq")
	if got := c.subnets(); len(got) != 1 {
		t.Errorf("leases %v, want one", got)
	}
	for _, dir := range []string{n.Path(), n.Path("state")} {
		left, err := filepath.Glob(filepath.Join(dir, ".*"))
		if err != nil || len(left) > 0 {
			t.Errorf("left over: %v, %v", left, err)
		}
	}
	if _, err := os.Stat(n.stateFile()); err != nil {
		t.Error(err)
	}
}
