package test

import (
	"context"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"tweed/subnet"
	"tweed/test/lab"
)

// daemonTime bounds how long a daemon may take for one thing.
const daemonTime = 20 * time.Second

// step is t.Run for a part of a test that goes on with the same cluster: what
// goes wrong in f is the subtest's.
func (c *cluster) step(name string, f func()) {
	outer := c.t
	defer func() { c.t = outer }()
	outer.Run(name, func(t *testing.T) {
		c.t = t
		f()
	})
}

// launch starts the daemon and does not wait for anything.
func (n *node) launch(args ...string) {
	n.c.t.Helper()
	var err error
	n.daemon, err = n.StartFlanneld(n.c.ctx, args...)
	n.c.must(err)
}

// launchWith starts the daemon with this environment and with no arguments but
// these.
func (n *node) launchWith(env []string, args ...string) {
	n.c.t.Helper()
	var err error
	n.daemon, err = n.Start(n.c.ctx, lab.Command{Name: "flanneld", Path: binary(n.c.t, "flanneld"), Env: env, Args: args})
	n.c.must(err)
}

// fileArgs adds the flags for the daemon's files to args.
func (n *node) fileArgs(args ...string) []string {
	return append([]string{"-subnet-file=" + n.Path("subnet.env"), "-state-dir=" + n.Path("state")}, args...)
}

// stop ends the daemon by SIGTERM.
func (n *node) stop() {
	n.c.t.Helper()
	n.c.must(n.daemon.Stop())
}

// wantExit waits for the daemon to end by itself and returns all that it said.
func (n *node) wantExit(code int) string {
	n.c.t.Helper()
	ctx, cancel := context.WithTimeout(n.c.ctx, daemonTime)
	defer cancel()
	state, err := n.daemon.Wait(ctx)
	n.c.must(err)
	if state.ExitCode() != code {
		n.c.t.Errorf("the daemon ended with %s, want exit status %d", state, code)
	}
	return n.output()
}

// output is all that the daemon has said so far.
func (n *node) output() string { return strings.Join(n.daemon.Lines(), "\n") }

// wantLog waits until the daemon has logged the texts, each in a line after
// that of the one before.
func (n *node) wantLog(texts ...string) {
	n.c.t.Helper()
	n.wantLogFrom(0, texts...)
}

// wantLogFrom is wantLog from a line number on: what said returned.
func (n *node) wantLogFrom(from int, texts ...string) {
	n.c.t.Helper()
	ctx, cancel := context.WithTimeout(n.c.ctx, daemonTime)
	defer cancel()
	for _, text := range texts {
		var err error
		if from, err = n.daemon.WaitLog(ctx, from, text); err != nil {
			n.c.t.Errorf("%v; it said:\n%s", err, n.output())
			return
		}
	}
}

// said is the number of lines so far.
func (n *node) said() int { return len(n.daemon.Lines()) }

// wantTexts checks that each text is somewhere in what was said.
func wantTexts(t *testing.T, said string, texts ...string) {
	t.Helper()
	for _, text := range texts {
		if !strings.Contains(said, text) {
			t.Errorf("nowhere is %q in:\n%s", text, said)
		}
	}
}

// wantRunning checks that the daemon has not ended.
func (n *node) wantRunning() {
	n.c.t.Helper()
	if !n.daemon.Running() {
		n.c.t.Errorf("the daemon of %s has ended", n.Name)
	}
}

// key is that of the node's lease record.
func (n *node) key() string { return subnetsKey + subnet.Key(n.env.Subnet) }

// wantSubnet checks that the daemon has kept the subnet.
func (n *node) wantSubnet(want subnet.Env) {
	n.c.t.Helper()
	if n.env != want {
		n.c.t.Errorf("subnet.env: %+v, want %+v", n.env, want)
	}
}

// writeFile replaces one of the node's files.
func (n *node) writeFile(name, content string) {
	n.c.t.Helper()
	n.c.must(os.WriteFile(n.Path(name), []byte(content), 0o644))
}

// stateFile is the daemon's private memory.
func (n *node) stateFile() string {
	return subnet.StatePath(n.Path("state"), n.Path("subnet.env"))
}

// forget deletes the lease record.
func (n *node) forget() {
	n.c.t.Helper()
	n.c.must(n.c.Etcd.Delete(n.c.ctx, n.key()))
}

// wantRecord waits until a key holds exactly this value, and checks whether it
// will expire.
func (c *cluster) wantRecord(key, value string, expires bool) {
	c.t.Helper()
	c.eventually(key+" to hold "+value, func() error {
		r, err := c.Etcd.Get(c.ctx, key)
		if err != nil {
			return err
		}
		if r.Value != value || (r.TTL != 0) != expires {
			return recordError(r)
		}
		return nil
	})
}

// subnets lists the keys of the lease records, without their directory.
func (c *cluster) subnets() []string {
	c.t.Helper()
	records, err := c.Leases(c.ctx, lab.DefaultPrefix)
	c.must(err)
	var keys []string
	for _, r := range records {
		keys = append(keys, strings.TrimPrefix(r.Key, subnetsKey))
	}
	slices.Sort(keys)
	return keys
}

// toldReady reports whether the daemon has said READY=1 to systemd.
func (n *node) toldReady() bool {
	done, cancel := context.WithCancel(n.c.ctx)
	cancel()
	return n.daemon.WaitReady(done) == nil
}
