package test

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"tweed/test/lab"
)

// tweedProtocol marks the routes that the daemon made; "proto 84" to `ip route`.
const tweedProtocol = 84

// in runs a program inside a namespace and returns what it prints.
func (c *cluster) in(ns lab.NS, command ...string) string {
	c.t.Helper()
	out, err := try(ns, command...)
	c.must(err)
	return out
}

// try is in, for what may fail. A child inherits the namespace of the thread
// that starts it.
func try(ns lab.NS, command ...string) (string, error) {
	var out []byte
	err := ns.Do(func() (err error) {
		out, err = exec.Command(command[0], command[1:]...).CombinedOutput()
		return err
	})
	if err != nil {
		err = fmt.Errorf("%s in %s: %w: %s", strings.Join(command, " "), ns, err, out)
	}
	return string(out), err
}

// run runs a command without quoting, such as "ip link show", on the node.
func (n *node) run(format string, args ...any) string {
	n.c.t.Helper()
	return n.c.in(n.NS, strings.Fields(fmt.Sprintf(format, args...))...)
}

// kernel describes what the daemon keeps in the kernel: the vxlan and TUN
// devices, their addresses and entries, and all routes. Indexes of interfaces
// are left out; those who mind compare them.
func (n *node) kernel() string {
	n.c.t.Helper()
	var b strings.Builder
	for _, line := range n.objects("ip -o -d link show") {
		name, _, _ := strings.Cut(line, ":")
		if !strings.HasPrefix(name, "flannel") {
			continue
		}
		// The operational state of a TUN is unknown until it has lost its carrier
		// once, with a daemon; the flags tell whether it is up.
		if strings.Contains(line, " tun type tun ") {
			line = strings.Replace(line, " state UNKNOWN ", " state UP ", 1)
		}
		b.WriteString(line)
		if strings.Contains(line, " vxlan ") {
			b.WriteString(sorted(n.run("bridge fdb show dev %s", name)))
		}
	}
	b.WriteString(strings.Join(n.objects("ip -o -4 addr show"), ""))
	b.WriteString(sorted(n.run("ip -4 neigh show nud permanent")))
	b.WriteString(sorted(n.run("ip -4 route show table all")))
	return b.String()
}

// objects returns the lines of a command of ip without their indexes, sorted.
func (n *node) objects(command string) []string {
	n.c.t.Helper()
	var list []string
	for line := range strings.Lines(n.run("%s", command)) {
		_, line, _ = strings.Cut(line, ": ")
		list = append(list, strings.TrimLeft(line, " "))
	}
	slices.Sort(list)
	return list
}

func sorted(lines string) string {
	return strings.Join(slices.Sorted(strings.Lines(lines)), "")
}

// awaitKernel waits until the node's kernel state is want.
func (n *node) awaitKernel(want string) {
	n.c.t.Helper()
	n.c.eventually("kernel state of "+n.Name, func() error {
		if have := n.kernel(); have != want {
			return fmt.Errorf("have\n%swant\n%s", have, want)
		}
		return nil
	})
}

// routesTo returns the routes of the main table to exactly this destination.
func (n *node) routesTo(dst netip.Prefix) []lab.Route {
	n.c.t.Helper()
	all, err := n.NS.Routes()
	n.c.must(err)
	return slices.DeleteFunc(all, func(r lab.Route) bool { return r.Dst != dst })
}

// wantRoute checks that the only route to dst reads so.
func (n *node) wantRoute(dst netip.Prefix, want string) {
	n.c.t.Helper()
	want = dst.String() + " " + want
	if have := n.routesTo(dst); len(have) != 1 || have[0].String() != want || have[0].Protocol != tweedProtocol {
		n.c.t.Errorf("%s: routes %+v, want %s by protocol %d", n.Name, have, want, tweedProtocol)
	}
}

// vxlan returns the device of that name.
func (n *node) vxlan(name string) *netlink.Vxlan {
	n.c.t.Helper()
	l, err := n.NS.Link(name)
	n.c.must(err)
	dev, ok := l.(*netlink.Vxlan)
	if !ok {
		n.c.t.Fatalf("%s: %s is a %s", n.Name, name, l.Type())
	}
	return dev
}

// sent returns how many bytes have left by a device.
func (n *node) sent(dev string) uint64 {
	n.c.t.Helper()
	l, err := n.NS.Link(dev)
	n.c.must(err)
	return l.Attrs().Statistics.TxBytes
}

// wantPath sends data from one pod to another, and checks that it leaves the
// sending node by the device used and not by the other one.
func (c *cluster) wantPath(n *node, from, to *lab.Pod, used, other string) {
	c.t.Helper()
	const size = 1 << 20
	was, wasOther := n.sent(used), n.sent(other)
	if err := lab.SendBytes(c.ctx, from.NS, to.NS, to.Addr, size); err != nil {
		c.t.Error(err)
		return
	}
	if d := n.sent(used) - was; d < size {
		c.t.Errorf("%s: of %d bytes to %s only %d went out by %s", n.Name, size, to.Name, d, used)
	}
	if d := n.sent(other) - wasOther; d > size/4 {
		c.t.Errorf("%s: of %d bytes to %s %d went out by %s", n.Name, size, to.Name, d, other)
	}
}

// A changes is a record of what happens to a node's links, addresses, routes,
// neighbours and FDB.
type changes struct {
	n       *node
	process *lab.Process
}

// watchKernel begins to record.
func (n *node) watchKernel() changes {
	n.c.t.Helper()
	ip, err := exec.LookPath("ip")
	n.c.must(err)
	p, err := n.Start(n.c.ctx, lab.Command{Name: "monitor", Path: ip, Args: []string{"monitor", "link", "address", "route", "neigh"}})
	n.c.must(err)
	w := changes{n, p}
	w.mark("198.51.100.1/32")
	return w
}

// mark makes a change of its own and waits until that was recorded.
func (w changes) mark(addr string) {
	w.n.c.t.Helper()
	// ip needs a moment before it listens.
	w.n.c.eventually("ip monitor to see "+addr, func() error {
		w.n.run("ip addr replace %s dev lo", addr)
		w.n.run("ip addr del %s dev lo", addr)
		for _, line := range w.process.Lines() {
			if strings.Contains(line, addr) {
				return nil
			}
		}
		return fmt.Errorf("recorded %q", w.process.Lines())
	})
}

// stop returns the records so far that contain one of the texts. What the
// kernel does by itself about IPv6 does not count.
func (w changes) stop(texts ...string) []string {
	w.n.c.t.Helper()
	w.mark("198.51.100.2/32")
	w.n.c.must(w.process.Kill())
	return slices.DeleteFunc(w.process.Lines(), func(line string) bool {
		return strings.Contains(line, "fe80::") || !slices.ContainsFunc(texts, func(s string) bool { return strings.Contains(line, s) })
	})
}

// getReady asks a daemon for /readyz. It must run with readyArgs.
func (n *node) getReady() (code int, body string, err error) {
	client := http.Client{Transport: &http.Transport{DialContext: n.NS.DialContext, DisableKeepAlives: true}}
	r, err := client.Get("http://127.0.0.1:8081/readyz")
	if err != nil {
		return 0, "", err
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	return r.StatusCode, string(b), err
}

const readyArgs = "-healthz-port=8081"

// awaitReady waits until /readyz answers so, with all the texts.
func (n *node) awaitReady(code int, texts ...string) {
	n.c.t.Helper()
	n.c.eventually(fmt.Sprintf("%d from /readyz of %s", code, n.Name), func() error {
		have, body, err := n.getReady()
		for _, s := range texts {
			if !strings.Contains(body, s) {
				have = 0
			}
		}
		if err != nil || have != code {
			return fmt.Errorf("got %d %q (%v), want %d and %q", have, body, err, code, texts)
		}
		return nil
	})
}

// source connects from one namespace to an address in another, and returns
// who the other end says it is talking to.
func (c *cluster) source(from, to lab.NS, dst netip.Addr) netip.Addr {
	c.t.Helper()
	l, err := to.Listen(c.ctx, netip.AddrPortFrom(dst, 0))
	c.must(err)
	defer l.Close()
	client, err := from.DialTCP(c.ctx, l.Addr().(*net.TCPAddr).AddrPort())
	c.must(err)
	defer client.Close()
	conn, err := l.Accept()
	c.must(err)
	defer conn.Close()
	return conn.RemoteAddr().(*net.TCPAddr).AddrPort().Addr()
}

// same complains if something has changed.
func same(t *testing.T, what, before, after string) {
	t.Helper()
	if before != after {
		t.Errorf("%s has changed from\n%sto\n%s", what, before, after)
	}
}
