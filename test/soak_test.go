package test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"tweed/subnet"
)

// holdings is what a daemon has of the machine.
type holdings struct {
	fds, threads, goroutines int
	rss                      int // bytes
}

func (h holdings) String() string {
	return fmt.Sprintf("%d descriptors, %d threads, %d goroutines, %.1f MB", h.fds, h.threads, h.goroutines, float64(h.rss)/(1<<20))
}

// holdings looks at the daemon's process. It must run with readyArgs.
func (n *node) holdings() (h holdings) {
	n.c.t.Helper()
	h.goroutines = int(n.metrics()["go_goroutines"])
	proc := filepath.Join("/proc", strconv.Itoa(n.daemon.PID))
	fds, err := os.ReadDir(filepath.Join(proc, "fd"))
	n.c.must(err)
	threads, err := os.ReadDir(filepath.Join(proc, "task"))
	n.c.must(err)
	status, err := os.ReadFile(filepath.Join(proc, "status"))
	n.c.must(err)
	_, rss, ok := strings.Cut(string(status), "VmRSS:")
	if !ok {
		n.c.t.Fatalf("no VmRSS in %s", status)
	}
	kb, err := strconv.Atoi(strings.Fields(rss)[0])
	n.c.must(err)
	h.fds, h.threads, h.rss = len(fds), len(threads), kb<<10
	return h
}

// TestSoak has peers join and leave, in no order, at a daemon that runs: in the
// end it holds no more of the machine than before, and the kernel has what it had.
func TestSoak(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		backend string
		events  int
	}{{"vxlan", 2000}, {"udp", 500}, {"host-gw", 500}} {
		t.Run(tt.backend, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t, config(`"`+tt.backend+`"`), 2, "-ip-masq", resync, readyArgs)
			n := c.nodes[0]
			c.wantPing(n.pod.NS, c.nodes[1].pod.Addr)
			const least = 1.0 // peers, of which the other node is one
			churn := func(events int) {
				t.Helper()
				there := map[int]bool{}
				for i := range events {
					third := 101 + rand.IntN(100)
					if len(there) >= events-i { // time for all to go
						for third = range there {
							break
						}
					}
					p := fakePeer{backend: tt.backend, subnet: overlaySubnet(byte(third)), ip: fmt.Sprintf("20.0.0.%d", third),
						mac: fmt.Sprintf("0e:00:00:00:%02x:%02x", rand.IntN(256), third)}
					key := subnetsKey + subnet.Key(p.subnet)
					if there[third] {
						c.must(c.Etcd.Delete(c.ctx, key))
						delete(there, third)
					} else {
						c.set(key, p.value(), subnet.TTL)
						there[third] = true
					}
				}
				for third := range there {
					c.must(c.Etcd.Delete(c.ctx, subnetsKey+subnet.Key(overlaySubnet(byte(third)))))
				}
				// Events come in their order: who has seen this peer has seen all.
				last := fakePeer{backend: tt.backend, subnet: overlaySubnet(250), ip: "20.0.0.250", mac: "0e:00:00:00:00:fa"}
				c.set(subnetsKey+subnet.Key(last.subnet), last.value(), subnet.TTL)
				n.wantMetric("tweed_peers", exactly(least+1))
				c.must(c.Etcd.Delete(c.ctx, subnetsKey+subnet.Key(last.subnet)))
				n.wantMetric("tweed_peers", exactly(least))
			}
			churn(200) // what is made once for all
			kernel, entries, before := n.kernel(), n.mustOverlay(), n.holdings()
			began := time.Now()
			churn(tt.events)
			took := time.Since(began)
			c.eventually("the kernel to have what it had", func() error {
				if now := n.kernel(); now != kernel {
					return fmt.Errorf("it has\n%snot\n%s", now, kernel)
				}
				return nil
			})
			var after holdings
			c.eventually("the daemon to hold what it held", func() error { // requests and iptables come and go
				after = n.holdings()
				if after.fds > before.fds || after.goroutines > before.goroutines || after.threads > before.threads+4 || after.rss > before.rss+10<<20 {
					return fmt.Errorf("it has %s, had %s", after, before)
				}
				return nil
			})
			t.Logf("%s: %d events in %s; before: %s; after: %s; %d entries", tt.backend, tt.events, took.Round(time.Millisecond), before, after, len(entries))
			n.wantAlone()
			c.wantPing(n.pod.NS, c.nodes[1].pod.Addr)
			if complaints := append(n.linesWith(" err="), n.linesWith("Couldn't")...); len(complaints) > 0 {
				t.Errorf("it complained: %q", complaints)
			}
		})
	}
}
