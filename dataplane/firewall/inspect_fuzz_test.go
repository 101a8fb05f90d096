package firewall

import (
	"slices"
	"strings"
	"testing"

	"github.com/mdlayher/netlink"
)

// FuzzInspect: whatever iptables prints, of the base chain and of those that it
// jumps to, a rule that is told of was printed, our accept rules count only if
// both were, and no chain is read twice for one rule.
func FuzzInspect(f *testing.F) {
	f.Add("-P FORWARD DROP\n-A FORWARD -j A\n-A FORWARD -s 10.5.0.0/16 -j ACCEPT\n-A FORWARD -d 10.5.0.0/16 -j ACCEPT", "-A A -j B\n-A A -j DROP")
	f.Add("-A FORWARD -m comment --comment \"a \\\" b\" -g A\n-A FORWARD -j REJECT", "-A A -j A\n-A A -j RETURN")
	f.Add("-A FORWARD -s 10.5.0.0/16 -j ACCEPT", "")
	f.Add("-A PREROUTING -d 10.5.34.2/32 ! -i docker0 -j DROP", "")
	f.Fuzz(func(t *testing.T, base, other string) {
		if len(base)+len(other) > 1<<14 {
			return
		}
		lines, others := strings.Split(base, "\n"), strings.Split(other, "\n")
		reads := make(map[string]int)
		got := inspectForward(lines, inspected, func(chain string) []string {
			reads[chain]++
			return others
		})
		if b := got.Blocker; b != "" && !slices.Contains(lines, b) && !slices.Contains(others, b) {
			t.Errorf("blocker %q was not printed", b)
		}
		for chain, n := range reads {
			if n > len(lines) || !strings.Contains(base+other, chain) {
				t.Errorf("chain %q was read %d times", chain, n)
			}
		}
		ours := 0
		for _, want := range inspected.forward() {
			if slices.ContainsFunc(lines, func(line string) bool { _, x, ok := parseRule(line); return ok && x == want }) {
				ours++
			}
		}
		if got.Ours != (ours == len(inspected.forward())) {
			t.Errorf("%d of our rules, but Ours is %v: %q", ours, got.Ours, base)
		}
		if raw := inspectRaw(lines, inspected); raw != "" && (!slices.Contains(lines, raw) || !strings.Contains(raw, "DROP")) {
			t.Errorf("table raw: %q", raw)
		}
		// Words are parts of the line, in order.
		rest := base
		for _, w := range withoutComments(base) {
			at := strings.Index(rest, w)
			if at < 0 || w == "" {
				t.Fatalf("%q: word %q", base, w)
			}
			rest = rest[at+len(w):]
		}
	})
}

// FuzzUnconditional: the attributes of a rule of nftables decide about all
// packets only where they name an expression that does.
func FuzzUnconditional(f *testing.F) {
	f.Add([]byte("\x0b\x00\x01\x00reject\x00\x00"), []byte{})
	f.Add([]byte("\x0e\x00\x01\x00immediate\x00\x00\x00"), []byte{})
	f.Add([]byte("\x0c\x00\x01\x00counter\x00"), []byte("\x0b\x00\x01\x00reject\x00\x00"))
	f.Fuzz(func(t *testing.T, first, second []byte) {
		r := nftRule{exprs: []netlink.Attribute{{Data: first}, {Data: second}}}
		refuses, decides := unconditional(r)
		if refuses && !decides {
			t.Error("refuses without deciding")
		}
		all := string(first) + string(second)
		if decides && !strings.Contains(all, "reject") && !strings.Contains(all, "immediate") {
			t.Errorf("% x decides", all)
		}
		if got := refusesRest([]nftRule{r}); got != refuses {
			t.Errorf("refusesRest %v, unconditional %v", got, refuses)
		}
		verdict(first)
	})
}
