package test

import (
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"tweed/test/lab"
	"tweed/test/nstest"
)

// TestCalm looks for 25 s, two periodic comparisons and five of the firewall,
// at nodes where nothing happens: nobody changes anything.
func TestCalm(t *testing.T) {
	t.Parallel()
	needIPTables(t)
	for _, backend := range []string{`"vxlan"`, `"vxlan","DirectRouting":true`, `"host-gw"`, `"udp"`} {
		t.Run(backend, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t, config(backend), 3, "-ip-masq", "-ip-blackhole-route", readyArgs)
			stop := make(map[*node]func() []string)
			for _, n := range c.nodes {
				n.awaitReady(200)
				n.wantLog("Running backend.")
			}
			said := make(map[*node]int)
			for _, n := range c.nodes {
				// The lists that brought the other nodes in are behind us.
				state := n.kernelNow()
				c.eventually("two equal states", func() error {
					was := state
					state = n.kernelNow()
					if was != state {
						return errorDifference(state, was)
					}
					return nil
				})
				links, rules := n.watchKernel(), n.watchRules()
				said[n] = n.said()
				stop[n] = func() []string {
					return append(links.stop("flannel", "10.5.", "eth0@"), rules.stop()...)
				}
			}
			time.Sleep(25 * time.Second)
			for _, n := range c.nodes {
				if seen := stop[n](); len(seen) > 0 {
					t.Errorf("%s: something has changed: %q", n.Name, seen)
				}
				if lines := n.daemon.Lines()[said[n]:]; len(lines) > 0 {
					t.Errorf("%s: has something to say: %q", n.Name, lines)
				}
			}
			c.wantWell()
		})
	}
}

// ruleChanges is a record of what happens to a node's firewall.
type ruleChanges struct {
	n       *node
	process *lab.Process
}

func (n *node) watchRules() ruleChanges {
	n.c.t.Helper()
	nft, err := exec.LookPath("nft")
	if err != nil {
		nstest.Missing(n.c.t, "nft")
	}
	p, err := n.Start(n.c.ctx, lab.Command{Name: "nftmonitor", Path: nft, Args: []string{"monitor"}})
	n.c.must(err)
	w := ruleChanges{n, p}
	w.mark("mark1")
	return w
}

// mark makes a change of its own and waits until that was recorded.
func (w ruleChanges) mark(table string) {
	w.n.c.t.Helper()
	w.n.c.eventually("nft monitor to see "+table, func() error {
		w.n.run("nft add table ip %s", table)
		w.n.run("nft delete table ip %s", table)
		for _, line := range w.process.Lines() {
			if strings.Contains(line, table) {
				return nil
			}
		}
		return fmt.Errorf("recorded %q", w.process.Lines())
	})
}

// stop returns the records so far.
func (w ruleChanges) stop() []string {
	w.n.c.t.Helper()
	w.mark("mark2")
	w.n.c.must(w.process.Kill())
	return slices.DeleteFunc(w.process.Lines(), func(line string) bool {
		return strings.Contains(line, "mark") || strings.HasPrefix(line, "# new generation")
	})
}
