package firewall

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/nftables/userdata"
)

const goldenNFT = `table ip tweed-10.5.0.0-16 {
chain postrouting {
type nat hook postrouting priority srcnat; policy accept;
ip saddr 10.5.0.0/16 ip daddr 10.5.0.0/16 counter packets 0 bytes 0 return
ip saddr 10.5.0.0/16 ip daddr != 224.0.0.0/4 counter packets 0 bytes 0 masquerade
ip saddr != 10.5.0.0/16 ip daddr 10.5.3.0/24 counter packets 0 bytes 0 return
ip saddr != 10.5.0.0/16 ip daddr 10.5.0.0/16 counter packets 0 bytes 0 masquerade
}
chain forward {
type filter hook forward priority filter; policy accept;
ip saddr 10.5.0.0/16 counter packets 0 bytes 0 accept
ip daddr 10.5.0.0/16 counter packets 0 bytes 0 accept
}
}
`

// ruleset lists everything with its handles: an entry that was replaced by an
// equal one has another handle.
func ruleset(t *testing.T) string { return sh(t, "nft -a list ruleset") }

func ownTable(t *testing.T) []string {
	return lines(sh(t, "nft list table ip tweed-10.5.0.0-16"), nil)
}

func TestNFTGolden(t *testing.T) {
	f := enter(t, "nftables")
	if f.Mode() != NFTables {
		t.Fatalf("mode %s", f.Mode())
	}
	ensure(t, f, testRules(), true)
	equalLines(t, "table", ownTable(t), lines(goldenNFT, nil))
	before := ruleset(t)
	ensure(t, f, testRules(), false)
	if after := ruleset(t); after != before {
		t.Errorf("changed from\n%s\nto\n%s", before, after)
	}

	// nft must be able to load what it saved, and then it is still right.
	file := filepath.Join(t.TempDir(), "ruleset")
	sh(t, "nft list ruleset >"+file+"; nft flush ruleset; nft -f "+file)
	ensure(t, f, testRules(), false)
	equalLines(t, "loaded table", ownTable(t), lines(goldenNFT, nil))
}

func TestNFTPrefixLengths(t *testing.T) {
	f := enter(t, "nftables")
	file := filepath.Join(t.TempDir(), "ruleset")
	for _, r := range []Rules{
		{Network: prefix("10.0.0.0/8"), Subnet: prefix("10.0.3.0/25")},
		{Network: prefix("10.32.0.0/11"), Subnet: prefix("10.40.1.16/30")},
		{Network: prefix("128.0.0.0/1"), Subnet: prefix("192.168.7.0/24")},
		{Network: prefix("172.16.9.0/27"), Subnet: prefix("172.16.9.8/29")},
		{Network: prefix("172.16.10.0/32"), Subnet: prefix("172.16.10.0/32")},
	} {
		r.Masquerade, r.Forward = true, true
		ensure(t, f, r, true)
		ensure(t, f, r, false)
		list := sh(t, "nft list table ip "+tableName(r))
		for _, want := range []string{
			"ip saddr != " + short(r.Network) + " ip daddr " + short(r.Subnet) + " counter packets 0 bytes 0 return",
			"ip daddr " + short(r.Network) + " counter packets 0 bytes 0 accept",
		} {
			if !strings.Contains(list, want) {
				t.Errorf("no %q in\n%s", want, list)
			}
		}
		sh(t, "nft list ruleset >"+file+"; nft flush ruleset; nft -f "+file)
		ensure(t, f, r, false)
	}
}

func short(p interface{ String() string }) string { return strings.TrimSuffix(p.String(), "/32") }

func TestNFTRepair(t *testing.T) {
	const table = "ip tweed-10.5.0.0-16"
	for name, damage := range map[string]string{
		"table deleted":       "nft delete table " + table,
		"everything flushed":  "nft flush ruleset",
		"table flushed":       "nft flush table " + table,
		"chain flushed":       "nft flush chain " + table + " forward",
		"chain deleted":       "nft flush chain " + table + " forward; nft delete chain " + table + " forward",
		"table dormant":       "nft add table " + table + " '{ flags dormant; }'",
		"policy drop":         "nft chain " + table + " forward '{ policy drop; }'",
		"rule deleted":        "nft delete rule " + table + " postrouting handle $(handle 'daddr 10.5.3.0')",
		"rule inserted":       "nft insert rule " + table + " postrouting counter",
		"rule appended":       "nft add rule " + table + " forward ip saddr 10.5.0.0/16 counter accept",
		"alien chain":         "nft add chain " + table + " mine",
		"reordered":           "nft delete rule " + table + " forward handle $(handle 'saddr 10.5.0.0/16 counter packets 0 bytes 0 accept'); nft add rule " + table + " forward ip saddr 10.5.0.0/16 counter accept",
		"verdict replaced":    "nft replace rule " + table + " forward handle $(handle 'daddr 10.5.0.0/16 counter packets 0 bytes 0 accept') ip daddr 10.5.0.0/16 counter drop",
		"address replaced":    "nft replace rule " + table + " forward handle $(handle 'daddr 10.5.0.0/16 counter packets 0 bytes 0 accept') ip daddr 10.7.0.0/16 counter accept",
		"source for dest":     "nft replace rule " + table + " forward handle $(handle 'daddr 10.5.0.0/16 counter packets 0 bytes 0 accept') ip saddr 10.5.0.0/16 counter accept",
		"negated":             "nft replace rule " + table + " forward handle $(handle 'daddr 10.5.0.0/16 counter packets 0 bytes 0 accept') ip daddr != 10.5.0.0/16 counter accept",
		"counter gone":        "nft replace rule " + table + " forward handle $(handle 'daddr 10.5.0.0/16 counter packets 0 bytes 0 accept') ip daddr 10.5.0.0/16 accept",
		"other masquerading":  "nft replace rule " + table + " postrouting handle $(handle '224.0.0.0/4') ip saddr 10.5.0.0/16 ip daddr != 224.0.0.0/4 counter masquerade fully-random",
		"other priority":      "nft delete table " + table + "; nft -f - <<X\n" + strings.Replace(goldenNFT, "priority filter", "priority 5", 1) + "X",
		"other hook":          "nft delete table " + table + "; nft -f - <<X\n" + strings.Replace(goldenNFT, "filter hook forward", "filter hook input", 1) + "X",
		"chain without hook":  "nft delete table " + table + "; nft -f - <<X\n" + strings.Replace(goldenNFT, "type filter hook forward priority filter; policy accept;", "", 1) + "X",
		"route type of chain": "nft delete table " + table + "; nft -f - <<X\n" + strings.Replace(goldenNFT, "type nat hook postrouting priority srcnat", "type filter hook postrouting priority srcnat", 1) + "X",
	} {
		if name == "route type of chain" { // masquerade only works in type nat
			damage = strings.ReplaceAll(damage, " masquerade", " accept")
		}
		t.Run(name, func(t *testing.T) {
			f := enter(t, "nftables")
			ensure(t, f, testRules(), true)
			sh(t, `handle() { nft -a list ruleset | sed -n "s|.*$1.*# handle ||p"; }; `+damage)
			ensure(t, f, testRules(), true)
			equalLines(t, "table", ownTable(t), lines(goldenNFT, nil))
			ensure(t, f, testRules(), false)
		})
	}
}

func TestNFTSubnetChangeAndSwitches(t *testing.T) {
	f := enter(t, "nftables")
	other := testRules()
	other.Network, other.Subnet = prefix("10.5.0.0/20"), prefix("10.5.3.0/24")
	ensure(t, f, other, true)
	otherTable := sh(t, "nft -a list table ip tweed-10.5.0.0-20")

	r := testRules()
	ensure(t, f, r, true)
	r.Subnet = prefix("10.5.200.0/24")
	ensure(t, f, r, true)
	equalLines(t, "table", ownTable(t), lines(strings.ReplaceAll(goldenNFT, "10.5.3.0/24", "10.5.200.0/24"), nil))

	r.Masquerade = false
	ensure(t, f, r, true)
	if s := ruleset(t); strings.Contains(s, "10.5.200.0") {
		t.Errorf("masquerade is off, but there is\n%s", s)
	}
	r.Masquerade, r.Forward = true, false
	ensure(t, f, r, true)
	ensure(t, f, r, false)
	ensure(t, f, Rules{Network: r.Network}, true)
	ensure(t, f, Rules{Network: r.Network}, false)
	if s := sh(t, "nft list tables"); s != "table ip tweed-10.5.0.0-20\n" {
		t.Errorf("tables: %s", s)
	}
	if s := sh(t, "nft -a list table ip tweed-10.5.0.0-20"); s != otherTable {
		t.Errorf("the other network's table became\n%s", s)
	}
}

// A foreign base chain with policy drop gets our two rules, once, and must stay
// readable for the programs that own it.
func TestNFTThroughForeignChains(t *testing.T) {
	f := enter(t, "nftables")
	sh(t, `iptables -P FORWARD DROP
		iptables -A FORWARD -p tcp -m conntrack --ctstate NEW -m comment --comment "web -j ACCEPT" -j ACCEPT
		nft add table inet fw
		nft add chain inet fw forward '{ type filter hook forward priority 10; policy drop; }'
		nft add chain inet fw input '{ type filter hook input priority 10; policy drop; }'
		nft add chain inet fw accepting '{ type filter hook forward priority 11; policy accept; }'
		nft add rule inet fw forward ct state established accept comment '"tweed 10.5.0.0/1"'
		nft add table ip6 fw
		nft add chain ip6 fw forward '{ type filter hook forward priority 0; policy drop; }'`)
	ensure(t, f, testRules(), true)

	const golden = `-P FORWARD DROP
		-A FORWARD -s 10.5.0.0/16 -m comment --comment "tweed 10.5.0.0/16" -j ACCEPT
		-A FORWARD -d 10.5.0.0/16 -m comment --comment "tweed 10.5.0.0/16" -j ACCEPT
		-A FORWARD -p tcp -m conntrack --ctstate NEW -m comment --comment "web -j ACCEPT" -j ACCEPT`
	const goldenInet = `table inet fw {
		chain forward {
		type filter hook forward priority filter + 10; policy drop;
		ip saddr 10.5.0.0/16 counter packets 0 bytes 0 accept comment "tweed 10.5.0.0/16"
		ip daddr 10.5.0.0/16 counter packets 0 bytes 0 accept comment "tweed 10.5.0.0/16"
		ct state established accept comment "tweed 10.5.0.0/1"
		}
		}`
	right := func() {
		t.Helper()
		equalLines(t, "iptables -S", lines(listForward(t), nil), lines(golden, nil))
		equalLines(t, "inet", lines(sh(t, "nft list chain inet fw forward"), nil), lines(goldenInet, nil))
		if n := strings.Count(ruleset(t), tag(testRules())+`"`); n != 4 {
			t.Errorf("%d marked rules in all chains, want 4", n)
		}
	}
	right()
	before := ruleset(t)
	ensure(t, f, testRules(), false)
	if ruleset(t) != before {
		t.Error("changed although it was right")
	}

	for name, damage := range map[string]string{
		"one deleted":        "iptables -D FORWARD 2",
		"both deleted":       "iptables -D FORWARD 1; iptables -D FORWARD 1",
		"inet flushed":       "nft flush chain inet fw forward; nft add rule inet fw forward ct state established accept comment '\"tweed 10.5.0.0/1\"'",
		"duplicated":         `iptables -A FORWARD -s 10.5.0.0/16 -m comment --comment "tweed 10.5.0.0/16" -j ACCEPT; nft add rule inet fw forward ip saddr 10.5.0.0/16 counter accept comment '"tweed 10.5.0.0/16"'`,
		"reordered":          `nft delete rule inet fw forward handle $(nft -a list chain inet fw forward | sed -n 's/.*saddr.*# handle //p'); nft add rule inet fw forward ip saddr 10.5.0.0/16 counter accept comment '"tweed 10.5.0.0/16"'`,
		"replaced":           `nft replace rule inet fw forward handle $(nft -a list chain inet fw forward | sed -n 's/.*saddr.*# handle //p') ip saddr 10.5.0.0/24 counter accept comment '"tweed 10.5.0.0/16"'`,
		"all IP versions":    `nft replace rule inet fw forward handle $(nft -a list chain inet fw forward | sed -n 's/.*saddr.*# handle //p') counter accept comment '"tweed 10.5.0.0/16"'`,
		"saved and restored": "iptables-nft-save -t filter | iptables-nft-restore",
		"policy came later":  "iptables -D FORWARD 1; iptables -D FORWARD 1; iptables -P FORWARD ACCEPT; iptables -P FORWARD DROP",
	} {
		sh(t, damage)
		if done, err := f.Ensure(t.Context(), testRules()); err != nil || len(done) == 0 {
			t.Errorf("%s: changed %v, error %v", name, done, err)
		}
		right()
	}

	// Others may insert above; that is no reason to quarrel with them.
	sh(t, "iptables -I FORWARD -s 192.0.2.1 -j DROP")
	ensure(t, f, testRules(), false)
	sh(t, "iptables -D FORWARD 1")

	// The rules go when the policy becomes accept and when they are switched off.
	sh(t, "iptables -P FORWARD ACCEPT")
	ensure(t, f, testRules(), true)
	if s := listForward(t); strings.Contains(s, "tweed") {
		t.Errorf("policy is accept, but there is\n%s", s)
	}
	sh(t, "iptables -P FORWARD DROP")
	ensure(t, f, testRules(), true)
	right()
	ensure(t, f, Rules{Network: testRules().Network}, true)
	mark := func(line string) bool { return strings.Contains(line, tag(testRules())+`"`) }
	equalLines(t, "iptables -S, all off", lines(listForward(t), nil), lines(golden, mark))
	equalLines(t, "inet, all off", lines(sh(t, "nft list chain inet fw forward"), nil), lines(goldenInet, mark))
	if s := sh(t, "nft list tables"); strings.Contains(s, "tweed") {
		t.Errorf("all off, but there is\n%s", s)
	}
}

// Two networks on one host, both let through a chain that drops.
func TestNFTNetworksDoNotQuarrel(t *testing.T) {
	f := enter(t, "nftables")
	sh(t, "iptables -P FORWARD DROP")
	a, b := testRules(), testRules()
	b.Network, b.Subnet = prefix("10.5.0.0/20"), prefix("10.5.3.0/24")
	ensure(t, f, a, true)
	ensure(t, f, b, true)
	for _, r := range []Rules{a, b, a} {
		ensure(t, f, r, false)
	}
	if n := strings.Count(listForward(t), "-A"); n != 4 {
		t.Errorf("%d rules in FORWARD, want 4", n)
	}
}

// FuzzParseNFTRule: whatever a message or its user data holds, reading it does
// not panic, and a rule of ours is only taken for ours.
func FuzzParseNFTRule(f *testing.F) {
	f.Add([]byte{2, 0, 0, 0}, []byte{0, 3, 'a', 'b', 0})
	f.Add([]byte{2, 0, 0, 0, 8, 0, 4, 128, 4, 0, 1, 0}, []byte{1, 200})
	f.Fuzz(func(t *testing.T, message, data []byte) {
		r, err := parseNFTRule(message)
		if err == nil {
			if same, err := sameRules([]nftRule{r}, testRules().forward()[:1], 2); same && len(r.exprs) != 4 || err != nil {
				t.Errorf("%v taken for an accept rule (%v)", r, err)
			}
		}
		comment(data)
		text := strings.ReplaceAll(string(data[:min(len(data), 200)]), "\x00", "")
		if got := comment(userdata.AppendString(nil, userdata.TypeComment, text)); got != text {
			t.Errorf("comment %q read as %q", text, got)
		}
	})
}

func TestModeChoice(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "iptables")
	choose := func(dirs ...string) Mode {
		return withPath(t, "/nonexistent", func() Mode { return open(nil, dirs...).Mode() })
	}
	if m := choose(dir); m != NFTables {
		t.Errorf("no program: mode %s", m)
	}
	if err := os.WriteFile(path, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if m := choose(dir); m != NFTables {
		t.Errorf("file that is not executable: mode %s", m)
	}
	if err := os.Chmod(path, 0o755); err != nil {
		t.Fatal(err)
	}
	if m := choose("/nonexistent", dir); m != IPTables {
		t.Errorf("program in a usual directory: mode %s", m)
	}
	if m := withPath(t, dir, func() Mode { return open(nil).Mode() }); m != IPTables {
		t.Errorf("program in PATH: mode %s", m)
	}
}
