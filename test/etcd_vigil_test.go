package test

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"tweed/test/nstest"
)

// A vigil watches over nodes while something is wrong with etcd: all of them
// ping one another, the kernel reports what is removed, and the lines of the
// logs are counted.
type vigil struct {
	c       *cluster
	nodes   []*node
	pings   []*pinger
	said    []int
	removed []*removals
	pids    []int
	fickle  bool  // strangers come and go, which is no fault
	absent  *node // whose lease etcd itself forgets for a while
}

// ofStranger are the subnets and MACs of strangers.
var ofStranger = regexp.MustCompile(`10\.5\.(1[5-9]|2\d)\d\.|0e:00:00:00:01:`)

func (c *cluster) keepVigil(nodes ...*node) *vigil {
	c.t.Helper()
	v := &vigil{c: c, nodes: nodes}
	for _, a := range nodes {
		for _, b := range nodes {
			if a == b {
				continue
			}
			c.wantPing(a.pod.NS, b.pod.Addr)
			v.pings = append(v.pings, c.pinging(a.pod.NS, b.pod.Addr))
		}
		v.said = append(v.said, a.said())
		v.pids = append(v.pids, a.daemon.PID)
		v.removed = append(v.removed, a.watchRemovals())
	}
	return v
}

// end checks that no ping was lost, no peer removed, no daemon started anew,
// and that no log has more lines than calm. It reports the figures.
func (v *vigil) end(what string, calm int) {
	v.c.t.Helper()
	var sent, lost, lines, removed int64
	for _, p := range v.pings {
		v.c.goOn(p, 5)
		lost += p.lost()
		sent += p.sent.Load()
	}
	for i, n := range v.nodes {
		n.wantRunning()
		if n.daemon.PID != v.pids[i] {
			v.c.t.Errorf("%s: the daemon was started anew", n.Name)
		}
		said := n.said() - v.said[i]
		lines = max(lines, int64(said))
		if said > calm {
			v.c.t.Errorf("%s: %d lines in the log, want at most %d:\n%s", n.Name, said, calm,
				strings.Join(n.daemon.Lines()[v.said[i]:], "\n"))
		}
		gone := v.removed[i].end()
		if v.fickle {
			gone = slices.DeleteFunc(gone, ofStranger.MatchString)
		}
		if v.absent != nil {
			gone = slices.DeleteFunc(gone, v.absent.isNamedIn)
		}
		removed += int64(len(gone))
		if len(gone) > 0 {
			v.c.t.Errorf("%s: removed from the kernel: %v", n.Name, gone)
		}
	}
	if lost > 0 {
		v.c.t.Errorf("%s: %d of %d pings lost", what, lost, sent)
	}
	v.c.t.Logf("%s: %d pings, %d lost; %d peers removed; at most %d lines in a log", what, sent, lost, removed, lines)
}

// removals collects the ways to peers that the kernel removes.
type removals struct {
	done chan struct{}
	wg   sync.WaitGroup
	mu   sync.Mutex
	gone []string // guarded by mu
}

// watchRemovals begins to listen. The kernel reports a route that is replaced
// as a new one only.
func (n *node) watchRemovals() *removals {
	n.c.t.Helper()
	ns, err := netns.GetFromPath(n.NS.Path())
	n.c.must(err)
	defer ns.Close()
	r := &removals{done: make(chan struct{})}
	routes, neighbours := make(chan netlink.RouteUpdate, 64), make(chan netlink.NeighUpdate, 64)
	n.c.must(netlink.RouteSubscribeWithOptions(routes, r.done, netlink.RouteSubscribeOptions{Namespace: &ns}))
	n.c.must(netlink.NeighSubscribeWithOptions(neighbours, r.done, netlink.NeighSubscribeOptions{Namespace: &ns}))
	flannel := -1
	if l, err := n.NS.Link("flannel.1"); err == nil {
		flannel = l.Attrs().Index
	}
	r.wg.Go(func() {
		for u := range routes {
			if u.Type != unix.RTM_DELROUTE || u.Dst == nil || u.Table != unix.RT_TABLE_MAIN {
				continue
			}
			if dst, _ := netip.AddrFromSlice(u.Dst.IP); overlayNetwork.Contains(dst.Unmap()) {
				r.add("route " + u.Dst.String())
			}
		}
	})
	r.wg.Go(func() {
		for u := range neighbours {
			// IPv6 has neighbours of its own, which come and go.
			if u.Type == unix.RTM_DELNEIGH && u.LinkIndex == flannel && u.Family != unix.AF_INET6 && len(u.IP) == net.IPv4len {
				r.add(fmt.Sprintf("neighbour %s %s", u.IP, u.HardwareAddr))
			}
		}
	})
	return r
}

func (r *removals) add(what string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.gone = append(r.gone, what)
}

// end returns what was removed until now.
func (r *removals) end() []string {
	close(r.done)
	r.wg.Wait()
	return r.gone
}

// inForce waits until every node carries packets for the peer, or, with udp,
// says that it knows so many; it returns the time since began.
func (c *cluster) inForce(p fakePeer, peers int, began time.Time, nodes ...*node) time.Duration {
	c.t.Helper()
	if err := nstest.Await(c.ctx, time.Minute, func() error {
		for _, n := range nodes {
			if err := n.carries(p, peers); err != nil {
				return fmt.Errorf("%s: %w", n.Name, err)
			}
		}
		return nil
	}); err != nil {
		c.t.Errorf("waited for the lease of %s: %v", p.subnet, err)
	}
	return time.Since(began)
}

func (n *node) carries(p fakePeer, peers int) error {
	if p.backend == "udp" {
		told := n.daemon.Notified()
		last := told[len(told)-1]
		if want := fmt.Sprintf(" by udp, %d peers", peers); !strings.Contains(last, want) {
			return fmt.Errorf("its status is %q", last)
		}
		return nil
	}
	routes, err := n.NS.Routes()
	if err != nil {
		return err
	}
	for _, r := range routes {
		if r.Dst == p.subnet {
			return nil
		}
	}
	return errors.New("it has no route")
}

// cpuTime is what the process has used, of user and system, in steps of 10 ms
// (proc_pid_stat(5)).
func cpuTime(t *testing.T, pid int) time.Duration {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(b), ") ")
	fields := strings.Fields(rest) // from number 3, the state, on
	user, err1 := strconv.Atoi(fields[11])
	system, err2 := strconv.Atoi(fields[12])
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	return time.Duration(user+system) * 10 * time.Millisecond
}

// isNamedIn reports whether an entry is one of the ways to the node.
func (n *node) isNamedIn(entry string) bool {
	for _, name := range []string{n.env.Subnet.String(), n.env.Subnet.Addr().String() + " ", n.Addr.String() + " "} {
		if strings.Contains(entry+" ", name) {
			return true
		}
	}
	return false
}
