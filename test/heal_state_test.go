package test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"tweed/test/lab"
	"tweed/test/nstest"
)

// healTime is what the repair of anything in the kernel may take. That of one
// fault may take healLimit once, because other tests run beside this one; the
// periodic comparison alone, every 10 s, is too slow for both.
const (
	healTime  = time.Second
	healLimit = 3 * time.Second
)

// readKernel describes what the daemon keeps in the kernel, as kernel does, but by
// netlink alone, which takes less than a millisecond: it can be asked all the
// time. Indexes of interfaces are left out.
func (n *node) readKernel() (text string, err error) {
	err = n.NS.Netlink(func(h *netlink.Handle) error {
		text, err = stateOf(h)
		return err
	})
	return text, err
}

func stateOf(h *netlink.Handle) (string, error) {
	links, err := h.LinkList()
	if err != nil {
		return "", fmt.Errorf("list links: %w", err)
	}
	names := make(map[int]string, len(links))
	var all []string
	for _, l := range links {
		a := l.Attrs()
		names[a.Index] = a.Name
		text := fmt.Sprintf("link %s %s mtu %d qlen %d up %t alias %q", a.Name, l.Type(), a.MTU, a.TxQLen, a.Flags&net.FlagUp != 0, a.Alias)
		if v, ok := l.(*netlink.Vxlan); ok {
			text += fmt.Sprintf(" mac %s id %d local %s port %d gbp %t learning %t", a.HardwareAddr, v.VxlanId, v.SrcAddr, v.Port, v.GBP, v.Learning)
		}
		all = append(all, text)
	}
	addrs, err := h.AddrList(nil, netlink.FAMILY_V4)
	if err != nil {
		return "", fmt.Errorf("list addresses: %w", err)
	}
	for _, a := range addrs {
		all = append(all, fmt.Sprintf("address %s dev %s scope %d", a.IPNet, names[a.LinkIndex], a.Scope))
	}
	routes, err := h.RouteList(nil, netlink.FAMILY_V4)
	if err != nil {
		return "", fmt.Errorf("list routes: %w", err)
	}
	for _, r := range routes {
		all = append(all, fmt.Sprintf("route type %d %s via %s dev %s proto %d scope %d src %s metric %d onlink %t", r.Type, r.Dst, r.Gw,
			names[r.LinkIndex], r.Protocol, r.Scope, r.Src, r.Priority, r.Flags&unix.RTNH_F_ONLINK != 0))
	}
	for what, family := range map[string]int{"neighbour": unix.AF_INET, "fdb": unix.AF_BRIDGE} {
		entries, err := h.NeighList(0, family)
		if err != nil {
			return "", fmt.Errorf("list %s entries: %w", what, err)
		}
		for _, e := range entries {
			// The bridges of the pods have databases of their own.
			if name := names[e.LinkIndex]; e.State&unix.NUD_PERMANENT != 0 && (family == unix.AF_INET || strings.HasPrefix(name, "flannel")) {
				all = append(all, fmt.Sprintf("%s %s %s dev %s", what, e.IP, e.HardwareAddr, name))
			}
		}
	}
	slices.Sort(all)
	return strings.Join(all, "\n"), nil
}

// kernelNow is readKernel where nothing is wrong.
func (n *node) kernelNow() string {
	n.c.t.Helper()
	text, err := n.readKernel()
	n.c.must(err)
	return text
}

// differences shows what is only in one of two states.
func differences(have, want string) string {
	h, w := strings.Split(have, "\n"), strings.Split(want, "\n")
	var b strings.Builder
	for _, line := range h {
		if !slices.Contains(w, line) {
			b.WriteString("\n\ttoo much: " + line)
		}
	}
	for _, line := range w {
		if !slices.Contains(h, line) {
			b.WriteString("\n\tmissing:  " + line)
		}
	}
	return b.String()
}

// freeze suspends the daemon while f runs, so that nobody repairs meanwhile
// what f damages.
func (n *node) freeze(f func()) {
	n.c.t.Helper()
	n.suspend()
	defer n.resume()
	n.c.eventually("suspension of "+n.Name, func() error {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", n.daemon.PID))
		if err != nil {
			return err
		}
		if _, rest, _ := strings.Cut(string(stat), ") "); !strings.HasPrefix(rest, "T") {
			return errors.New("state " + rest[:1])
		}
		return nil
	})
	f()
}

// heals measures how long it takes from the end of the damage until the state
// is want. After limit it gives up and says what is not as wanted.
func (n *node) heals(want string, limit time.Duration, damage func()) (time.Duration, error) {
	n.c.t.Helper()
	n.freeze(func() {
		damage()
		if n.kernelNow() == want {
			n.c.t.Fatal("that is no damage")
		}
	})
	return n.awaitState(limit, want, func(state string) bool { return state == want })
}

// awaitState measures how long it takes until the kernel's state is right. After
// limit it gives up and says how the state differs from want.
func (n *node) awaitState(limit time.Duration, want string, right func(state string) bool) (time.Duration, error) {
	start := time.Now()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		// A link that vanishes between two lists is no trouble of ours.
		have, err := n.readKernel()
		if d := time.Since(start); err == nil && right(have) {
			return d, nil
		} else if d > limit {
			return d, fmt.Errorf("%s: not as before after %s (%v):%s", n.Name, limit, err, differences(have, want))
		}
		<-tick.C
	}
}

// measured are durations of one kind.
type measured []time.Duration

func (m measured) String() string {
	s := slices.Sorted(slices.Values(m))
	ms := func(d time.Duration) string { return fmt.Sprintf("%.1f", float64(d.Microseconds())/1000) }
	if len(s) == 0 {
		return "none"
	}
	return fmt.Sprintf("min %s, median %s, max %s ms of %d", ms(s[0]), ms(m.median()), ms(s[len(s)-1]), len(s))
}

func (m measured) median() time.Duration {
	s := slices.Sorted(slices.Values(m))
	return s[len(s)/2]
}

// countLog counts the lines from number from on that have all the texts,
// whatever the case of their letters.
func (n *node) countLog(from int, texts ...string) (lines []string) {
	for _, line := range n.daemon.Lines()[from:] {
		has := func(text string) bool { return strings.Contains(strings.ToLower(line), strings.ToLower(text)) }
		if !slices.ContainsFunc(texts, func(text string) bool { return !has(text) }) {
			lines = append(lines, line)
		}
	}
	return lines
}

// returns measures how long it takes until a ping from one pod to another is
// answered. The pings do not wait for each other's answer for long.
func (c *cluster) returns(from, to *lab.Pod, limit time.Duration) (time.Duration, error) {
	start := time.Now()
	err := nstest.Await(c.ctx, limit, func() error {
		ctx, cancel := context.WithTimeout(c.ctx, 100*time.Millisecond)
		defer cancel()
		_, err := from.NS.Ping(ctx, to.Addr)
		return err
	})
	return time.Since(start), err
}

func errorDifference(have, want string) error { return errors.New(differences(have, want)) }
