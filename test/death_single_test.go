package test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"tweed/test/lab"
)

// TestSecondDaemon starts a second daemon beside the first, for the same network
// or for the same subnet file: it says so, ends with status 1, and has touched
// nothing, on the host and in etcd.
func TestSecondDaemon(t *testing.T) {
	t.Parallel()
	for _, backend := range []string{"vxlan", "udp", "alloc"} {
		t.Run(backend, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t, config(`"`+backend+`"`), 2)
			c.set(otherPrefix+"/config", `{"Network":"`+otherNetwork+`","Backend":{"Type":"host-gw"}}`, 0)
			a := c.nodes[0]
			if backend != "alloc" {
				c.wantPing(a.pod.NS, c.nodes[1].pod.Addr)
			}
			first := a.daemon
			pid := fmt.Sprintf("another flanneld (pid %d) ", first.PID)
			for _, tt := range []struct {
				name string
				args []string
				want string
			}{
				{"same network", []string{"-subnet-file=" + a.Path("other", "subnet.env"), "-state-dir=" + a.Path("other-state")},
					pid + "carries network 10.5.0.0/16 on this host already: stop it first, "},
				{"same network by another prefix", []string{"-etcd-prefix=/copy", "-subnet-file=" + a.Path("other", "subnet.env"), "-state-dir=" + a.Path("other-state")},
					pid + "carries network 10.5.0.0/16 on this host already"},
				{"same file", []string{"-etcd-prefix=" + otherPrefix, "-state-dir=" + a.Path("other-state")},
					pid + "writes the subnet file " + a.Path("subnet.env") + " on this host already: stop it first, or choose another file with -subnet-file"},
				{"same file by another path", []string{"-etcd-prefix=" + otherPrefix, "-subnet-file=../" + a.Name + "/subnet.env", "-state-dir=" + a.Path("other-state")},
					pid + "writes the subnet file ../" + a.Name + "/subnet.env "},
				{"all the same", nil, pid + "carries network"},
			} {
				c.step(tt.name, func() {
					c.set("/copy/config", config(`"`+backend+`"`), 0)
					kernel, records, files := a.kernel(), c.allLeases(), a.files()
					watch := a.watchKernel()
					a.launch(tt.args...)
					wantTexts(c.t, a.wantExit(1), tt.want)
					for _, line := range watch.stop("10.5.", "10.6.", "flannel") {
						if !strings.Contains(line, " dev docker0 lladdr ") { // the kernel's own look at a pod
							c.t.Errorf("it changed %q", line)
						}
					}
					same(c.t, "kernel", kernel, a.kernel())
					same(c.t, "leases", records, c.allLeases())
					same(c.t, "files", files, a.files())
					a.daemon = first
					a.wantRunning()
				})
			}
			if backend != "alloc" {
				c.wantPing(a.pod.NS, c.nodes[1].pod.Addr)
			}

			// A holder that goes in time is waited for, however it goes.
			before := a.env
			c.must(first.Signal(syscall.SIGSTOP))
			a.launch()
			a.wantLog("Found network config")
			c.must(first.Kill())
			c.must(a.daemon.WaitReady(c.ctx))
			a.wantLog("Running backend.")
			var err error
			a.env, err = a.SubnetEnv()
			c.must(err)
			a.wantSubnet(before)
		})
	}
}

// allLeases lists the records of all networks that these tests use, but for what
// renewals change.
func (c *cluster) allLeases() string {
	c.t.Helper()
	var b strings.Builder
	for _, prefix := range []string{lab.DefaultPrefix, otherPrefix, "/copy"} {
		records, err := c.Leases(c.ctx, prefix)
		c.must(err)
		for _, r := range records {
			fmt.Fprintf(&b, "%s %s %d\n", r.Key, r.Value, r.Index)
		}
	}
	return b.String()
}

// files lists what is in the directory of the node, with the time of its last
// change; logs and sockets of the lab are left out.
func (n *node) files() string {
	n.c.t.Helper()
	var b strings.Builder
	n.c.must(filepath.WalkDir(n.Path(), func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if ext := filepath.Ext(path); ext == ".log" || ext == ".notify" || path == n.Path() {
			return nil
		}
		info, err := d.Info()
		if err == nil {
			fmt.Fprintf(&b, "%s %s %d %s\n", path, info.Mode(), info.Size(), info.ModTime().Format(time.RFC3339Nano))
		}
		return err
	}))
	return b.String()
}
