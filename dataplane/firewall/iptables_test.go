package firewall

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// What flannel v0.10 with -ip-masq leaves in the built-in chains.
const (
	goldenNAT = `-P POSTROUTING ACCEPT
-A POSTROUTING -s 10.5.0.0/16 -d 10.5.0.0/16 -j RETURN
-A POSTROUTING -s 10.5.0.0/16 ! -d 224.0.0.0/4 -j MASQUERADE
-A POSTROUTING ! -s 10.5.0.0/16 -d 10.5.3.0/24 -j RETURN
-A POSTROUTING ! -s 10.5.0.0/16 -d 10.5.0.0/16 -j MASQUERADE
`
	goldenForward = `-P FORWARD ACCEPT
-A FORWARD -s 10.5.0.0/16 -j ACCEPT
-A FORWARD -d 10.5.0.0/16 -j ACCEPT
`
)

func listNAT(t *testing.T) string     { return sh(t, "iptables -t nat -S POSTROUTING") }
func listForward(t *testing.T) string { return sh(t, "iptables -S FORWARD") }

// eachIPTables runs a test with both variants of the program.
func eachIPTables(t *testing.T, fn func(*testing.T, *Firewall)) {
	for _, v := range []string{"iptables-nft", "iptables-legacy"} {
		t.Run(v, func(t *testing.T) {
			f := enter(t, v)
			if f.Mode() != IPTables {
				t.Fatalf("mode %s", f.Mode())
			}
			fn(t, f)
		})
	}
}

func TestIPTablesGolden(t *testing.T) {
	eachIPTables(t, func(t *testing.T, f *Firewall) {
		ensure(t, f, testRules(), true)
		ensure(t, f, testRules(), false)
		equalLines(t, "nat", lines(listNAT(t), nil), lines(goldenNAT, nil))
		equalLines(t, "filter", lines(listForward(t), nil), lines(goldenForward, nil))

		// A second daemon of the same network finds everything in place.
		ensure(t, Open(slog.New(slog.DiscardHandler)), testRules(), false)
	})
}

func TestIPTablesSwitchesAndOddPrefixes(t *testing.T) {
	eachIPTables(t, func(t *testing.T, f *Firewall) {
		r := Rules{Network: prefix("10.32.0.0/11"), Subnet: prefix("10.40.1.16/30")}
		ensure(t, f, r, false)
		r.Forward = true
		ensure(t, f, r, true)
		if s := listNAT(t); strings.Contains(s, "-A") {
			t.Errorf("masquerade is off, but nat has\n%s", s)
		}
		r.Masquerade = true
		ensure(t, f, r, true)
		ensure(t, f, r, false)

		// As in flannel, switching off leaves alone what is there.
		nat, forward := listNAT(t), listForward(t)
		ensure(t, f, Rules{Network: r.Network}, false)
		if listNAT(t) != nat || listForward(t) != forward {
			t.Error("rules were changed although everything is off")
		}
	})
}

// With each of these something is wrong and must be repaired. Foreign rules
// contain 192.0.2 and must survive in their order.
func TestIPTablesRepair(t *testing.T) {
	const (
		rule1 = "POSTROUTING -s 10.5.0.0/16 -d 10.5.0.0/16 -j RETURN"
		rule2 = "POSTROUTING -s 10.5.0.0/16 ! -d 224.0.0.0/4 -j MASQUERADE"
		rule3 = "POSTROUTING ! -s 10.5.0.0/16 -d 10.5.3.0/24 -j RETURN"
	)
	foreign := func(line string) bool { return strings.Contains(line, "192.0.2.") }
	ours := func(line string) bool { return !foreign(line) }
	for name, damage := range map[string]string{
		"first deleted":           "iptables -t nat -D " + rule1,
		"third deleted":           "iptables -t nat -D " + rule3,
		"all but one deleted":     "iptables -t nat -F POSTROUTING; iptables -t nat -A " + rule2,
		"duplicate at the end":    "iptables -t nat -A " + rule2,
		"duplicate at the start":  "iptables -t nat -I " + rule2,
		"triplicate":              "iptables -t nat -A " + rule3 + "; iptables -t nat -A " + rule3,
		"reordered":               "iptables -t nat -D " + rule1 + "; iptables -t nat -A " + rule1,
		"flushed":                 "iptables -t nat -F; iptables -F",
		"only nat flushed":        "iptables -t nat -F",
		"only forward flushed":    "iptables -F FORWARD",
		"forward reordered":       "iptables -D FORWARD -s 10.5.0.0/16 -j ACCEPT; iptables -A FORWARD -s 10.5.0.0/16 -j ACCEPT",
		"forward duplicated":      "iptables -I FORWARD -d 10.5.0.0/16 -j ACCEPT",
		"left by another subnet":  "iptables -t nat -I POSTROUTING ! -s 10.5.0.0/16 -d 10.5.77.0/24 -j RETURN",
		"deleted among foreign":   "iptables -t nat -I POSTROUTING 2 -s 192.0.2.1 -j ACCEPT; iptables -t nat -A POSTROUTING -s 192.0.2.2 -j ACCEPT; iptables -t nat -D " + rule3,
		"reordered among foreign": "iptables -I FORWARD 2 -s 192.0.2.1 -j DROP; iptables -D FORWARD -s 10.5.0.0/16 -j ACCEPT; iptables -A FORWARD -s 10.5.0.0/16 -j ACCEPT",
	} {
		t.Run(name, func(t *testing.T) {
			eachIPTables(t, func(t *testing.T, f *Firewall) {
				ensure(t, f, testRules(), true)
				sh(t, damage)
				others := lines(listNAT(t)+listForward(t), ours)
				ensure(t, f, testRules(), true)
				ensure(t, f, testRules(), false)
				equalLines(t, "nat", lines(listNAT(t), foreign), lines(goldenNAT, nil))
				equalLines(t, "filter", lines(listForward(t), foreign), lines(goldenForward, nil))
				equalLines(t, "foreign rules", lines(listNAT(t)+listForward(t), ours), others)
			})
		})
	}
}

// Nothing is wrong with these, so nothing may be touched: the program is only
// asked for one listing per table.
func TestIPTablesLeavesAlone(t *testing.T) {
	for name, foreign := range map[string]string{
		"nothing":        "true",
		"in front":       "iptables -t nat -I POSTROUTING -s 192.0.2.1 -j ACCEPT; iptables -I FORWARD -j DROP",
		"between":        "iptables -t nat -I POSTROUTING 3 -s 192.0.2.1 -j ACCEPT; iptables -I FORWARD 2 -s 192.0.2.1 -j DROP",
		"behind":         "iptables -t nat -A POSTROUTING -j RETURN; iptables -A FORWARD -j DROP",
		"policy":         "iptables -P FORWARD DROP",
		"other network":  "iptables -t nat -A POSTROUTING ! -s 10.6.0.0/16 -d 10.6.9.0/24 -j RETURN",
		"similar":        `iptables -t nat -A POSTROUTING -s 10.5.0.0/16 -o lo ! -d 224.0.0.0/4 -j MASQUERADE; iptables -I FORWARD -s 10.5.0.0/16 -m comment --comment "-j ACCEPT" -j ACCEPT`,
		"wider, tighter": "iptables -A FORWARD -s 10.5.0.0/15 -j ACCEPT; iptables -A FORWARD -s 10.5.0.0/17 -j ACCEPT",
	} {
		t.Run(name, func(t *testing.T) {
			eachIPTables(t, func(t *testing.T, f *Firewall) {
				ensure(t, f, testRules(), true)
				sh(t, foreign)
				nat, forward := listNAT(t), listForward(t)
				calls := spy(t, f, "")
				ensure(t, f, testRules(), false)
				equalLines(t, "calls", calls(), []string{"-w 5 -t nat -S POSTROUTING", "-w 5 -t filter -S FORWARD"})
				if listNAT(t) != nat || listForward(t) != forward {
					t.Error("the listing has changed")
				}
			})
		})
	}
}

// spy puts a script before the program of f that notes its arguments, then
// runs the given lines, then the program. The returned function tells the
// calls so far.
func spy(t *testing.T, f *Firewall, script string) func() []string {
	t.Helper()
	dir := t.TempDir()
	log, fake := filepath.Join(dir, "calls"), filepath.Join(dir, "iptables")
	writeScript(t, fake, fmt.Sprintf("echo \"$*\" >>%s\n%s\nexec %s \"$@\"\n", log, script, f.iptables.path))
	f.iptables.path = fake
	return func() []string {
		b, err := os.ReadFile(log)
		if err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		return lines(string(b), nil)
	}
}

func writeScript(t *testing.T, path, body string) {
	t.Helper()
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+body), 0o755); err != nil {
		t.Fatal(err)
	}
}

// While a set is repaired or its subnet changes, there is always a whole one:
// every rule is added before the first is deleted.
func TestIPTablesSubnetChangeWithoutGap(t *testing.T) {
	eachIPTables(t, func(t *testing.T, f *Firewall) {
		r := testRules()
		ensure(t, f, r, true)
		r.Subnet = prefix("10.5.200.0/24")
		calls := spy(t, f, "")
		ensure(t, f, r, true)
		want := strings.ReplaceAll(goldenNAT, "10.5.3.0/24", "10.5.200.0/24")
		equalLines(t, "nat", lines(listNAT(t), nil), lines(want, nil))

		var ops string
		for _, c := range calls() {
			ops += strings.Fields(c)[4]
		}
		if want := "-S" + "-A-A-A-A" + "-S" + "-D-D-D-D" + "-S"; ops != want {
			t.Errorf("operations %s, want %s", ops, want)
		}
	})
}

func TestIPTablesNetworksDoNotMeet(t *testing.T) {
	eachIPTables(t, func(t *testing.T, f *Firewall) {
		a, b := testRules(), testRules()
		b.Network, b.Subnet = prefix("10.5.0.0/20"), prefix("10.5.3.0/24") // even one inside the other
		ensure(t, f, a, true)
		ensure(t, f, b, true)
		for _, r := range []Rules{a, b, a} {
			ensure(t, f, r, false)
		}
		sh(t, "iptables -t nat -D POSTROUTING -s 10.5.0.0/20 -d 10.5.0.0/20 -j RETURN")
		ensure(t, f, a, false)
		ensure(t, f, b, true)
		ensure(t, f, a, false)
	})
}

// A host where iptables was installed after a time without it.
func TestIPTablesRemovesNFTablesRemnants(t *testing.T) {
	native := enter(t, "nftables")
	sh(t, "iptables -P FORWARD DROP")
	other := testRules()
	other.Network, other.Subnet = prefix("10.6.0.0/16"), prefix("10.6.1.0/24")
	ensure(t, native, testRules(), true)
	ensure(t, native, other, true)

	f := Open(slog.New(slog.DiscardHandler))
	ensure(t, f, testRules(), true)
	if s := sh(t, "nft list tables"); !slices.Equal(lines(s, nil), []string{"table ip filter", "table ip tweed-10.6.0.0-16", "table ip nat"}) {
		t.Errorf("tables:\n%s", s)
	}
	if s := listForward(t); strings.Contains(s, "tweed 10.5.0.0/16") || !strings.Contains(s, "tweed 10.6.0.0/16") {
		t.Errorf("forward:\n%s", s)
	}
	ensure(t, f, testRules(), false)
}
