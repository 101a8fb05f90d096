package firewall

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

// testRules are the rules of most tests.
func testRules() Rules {
	return Rules{
		Network:    netip.MustParsePrefix("10.5.0.0/16"),
		Subnet:     netip.MustParsePrefix("10.5.3.0/24"),
		Masquerade: true,
		Forward:    true,
	}
}

func TestRuleTexts(t *testing.T) {
	want := `nat POSTROUTING
-s 10.5.0.0/16 -d 10.5.0.0/16 -j RETURN
-s 10.5.0.0/16 ! -d 224.0.0.0/4 -j MASQUERADE
! -s 10.5.0.0/16 -d 10.5.3.0/24 -j RETURN
! -s 10.5.0.0/16 -d 10.5.0.0/16 -j MASQUERADE
filter FORWARD
-s 10.5.0.0/16 -j ACCEPT
-d 10.5.0.0/16 -j ACCEPT
`
	var got strings.Builder
	for _, s := range testRules().sets() {
		fmt.Fprintln(&got, s.table, s.chain)
		for _, x := range s.rules {
			fmt.Fprintln(&got, x)
		}
	}
	if got.String() != want {
		t.Errorf("got\n%swant\n%s", &got, want)
	}
	if sets := (Rules{Network: testRules().Network}).sets(); len(sets) != 0 {
		t.Errorf("everything off, but got %v", sets)
	}
}

func TestCheckRules(t *testing.T) {
	tests := []struct {
		network, subnet string
		masquerade      bool
		err             string
	}{
		{network: "10.5.0.0/16", subnet: "10.5.3.0/24", masquerade: true},
		{network: "10.5.7.7/16", subnet: "10.5.3.1/24", masquerade: true}, // masked
		{network: "10.5.0.0/16"},
		{network: "", err: "network"},
		{network: "fd00::/48", err: "network fd00::/48"},
		{network: "0.0.0.0/0", err: "network 0.0.0.0/0"},
		{network: "10.5.0.0/16", subnet: "", masquerade: true, err: "subnet"},
		{network: "10.5.0.0/16", subnet: "10.6.3.0/24", masquerade: true, err: "subnet 10.6.3.0/24: want a part of network 10.5.0.0/16"},
		{network: "10.5.0.0/16", subnet: "10.0.0.0/8", masquerade: true, err: "subnet 10.0.0.0/8"},
		{network: "10.5.0.0/16", subnet: "::ffff:10.5.3.0/120", masquerade: true, err: "subnet ::ffff:10.5.3.0/120"},
		{network: "10.5.0.0/16", subnet: "fd00::/64", masquerade: true, err: "subnet fd00::/64"},
	}
	for _, tt := range tests {
		r, err := Rules{prefix(tt.network), prefix(tt.subnet), tt.masquerade, true}.check()
		switch {
		case tt.err == "" && err != nil:
			t.Errorf("%+v: %v", tt, err)
		case tt.err == "" && (r.Network != r.Network.Masked() || r.Subnet != r.Subnet.Masked()):
			t.Errorf("%+v: %v %v are not masked", tt, r.Network, r.Subnet)
		case tt.err != "" && (err == nil || !strings.Contains(err.Error(), tt.err)):
			t.Errorf("%+v: error %v, want %q", tt, err, tt.err)
		}
	}
}

func TestParseRule(t *testing.T) {
	fromNet, toNet := "-s 10.5.0.0/16", "-d 10.5.0.0/16"
	tests := []struct{ line, want string }{
		{"-A FORWARD -s 10.5.0.0/16 -j ACCEPT", fromNet + " -j ACCEPT"},
		{"-A FORWARD -d 10.5.0.0/16 -s 10.5.0.0/16 -j RETURN", fromNet + " " + toNet + " -j RETURN"},
		{"-A FORWARD ! -s 10.5.0.0/16 -j MASQUERADE ", "! " + fromNet + " -j MASQUERADE"},
		{"-A FORWARD -s ! 10.5.0.0/16 -j MASQUERADE", "! " + fromNet + " -j MASQUERADE"},
		{"-A FORWARD -s 10.5.0.0/255.255.0.0 -j ACCEPT", fromNet + " -j ACCEPT"},
		{"-A FORWARD -s 10.5.1.2/255.255.0.0 -j ACCEPT", fromNet + " -j ACCEPT"},
		{"-A FORWARD -d 10.5.3.7 -j ACCEPT", "-d 10.5.3.7/32 -j ACCEPT"},
		{"-A FORWARD -d 10.5.3.7/32 -j ACCEPT", "-d 10.5.3.7/32 -j ACCEPT"},
		{"-A FORWARD -d 0.0.0.0/0 -j ACCEPT", "-j ACCEPT"},
		{"-A FORWARD -d 0.0.0.0/0.0.0.0 -j ACCEPT", "-j ACCEPT"},
		{"-A FORWARD -j ACCEPT", "-j ACCEPT"},
		{"-A FORWARD -s 10.5.0.0/16 -c 12 3456 -j ACCEPT", fromNet + " -j ACCEPT"},
		{"-A FORWARD -s 10.5.0.0/16 -j ACCEPT -c 12 3456", fromNet + " -j ACCEPT"},
		{"[12:3456] -A FORWARD -s 10.5.0.0/16 -j ACCEPT", fromNet + " -j ACCEPT"},
	}
	for _, tt := range tests {
		chain, x, ok := parseRule(tt.line)
		if !ok || chain != "FORWARD" || x.String() != tt.want {
			t.Errorf("%q: got %q in %q (%v), want %q", tt.line, x, chain, ok, tt.want)
		}
	}
	for _, line := range []string{
		"", " ", "-", "!", "[", "[0:0]",
		"-P FORWARD ACCEPT", "-P FORWARD ACCEPT -c 0 0", "-N DOCKER", "# comment", "COMMIT",
		"-A", "-A FORWARD", "-A FORWARD -s", "-A FORWARD -s 10.5.0.0/16", "-A FORWARD -j", "-A FORWARD !",
		"-A FORWARD -s 10.5.0.0/16 -j DROP",
		"-A FORWARD -s 10.5.0.0/16 -j DOCKER-USER",
		"-A FORWARD -s 10.5.0.0/16 -g ACCEPT",
		"-A FORWARD -s 10.5.0.0/16 -j MASQUERADE --random-fully",
		"-A FORWARD -s 10.5.0.0/16 -j ACCEPT -j ACCEPT",
		"-A FORWARD -s 10.5.0.0/16 -s 10.5.0.0/16 -j ACCEPT",
		"-A FORWARD -s 10.5.0.0/16 ! -j ACCEPT",
		"-A FORWARD ! ! -s 10.5.0.0/16 -j ACCEPT",
		"-A FORWARD ! -s ! 10.5.0.0/16 -j ACCEPT",
		"-A FORWARD -s 10.5.0.0/16 ! -c 1 2 -j ACCEPT",
		"-A FORWARD -s 10.5.0.0/16 -p tcp -j ACCEPT",
		"-A FORWARD -i eth0 -s 10.5.0.0/16 -j ACCEPT",
		`-A FORWARD -m comment --comment "-s 10.5.0.0/16" -j ACCEPT`,
		`-A FORWARD -s 10.5.0.0/16 -m comment --comment "flanneld forward" -j ACCEPT`,
		"-A FORWARD -s 10.5.0.0/33 -j ACCEPT",
		"-A FORWARD -s 10.5.0.0/ -j ACCEPT",
		"-A FORWARD -s 10.5.0.0/-1 -j ACCEPT",
		"-A FORWARD -s 10.5.0.0/255.0.255.0 -j ACCEPT",
		"-A FORWARD -s 10.5/16 -j ACCEPT",
		"-A FORWARD -s fd00::/16 -j ACCEPT",
		"-A FORWARD -s localhost -j ACCEPT",
		"-A FORWARD ! -s 0.0.0.0/0 -j ACCEPT",
	} {
		if chain, x, ok := parseRule(line); ok {
			t.Errorf("%q was taken for our rule %q in %q", line, x, chain)
		}
	}
}

// FuzzParseRule: what is understood can be written and read back unchanged, and
// names nothing that the line does not.
func FuzzParseRule(f *testing.F) {
	for _, s := range testRules().sets() {
		for _, x := range s.rules {
			f.Add("-A " + s.chain + " " + x.String())
		}
	}
	f.Add(`[1:2] -A FORWARD -s ! 10.5.0.0/255.255.0.0 -c 1 2 -j ACCEPT`)
	f.Add(`-A FORWARD -m comment --comment "a \" b" -j ACCEPT`)
	f.Fuzz(func(t *testing.T, line string) {
		chain, x, ok := parseRule(line)
		if !ok {
			return
		}
		if !slices.Contains(strings.Fields(line), string(x.target)) || !strings.Contains(line, chain) {
			t.Errorf("%q: read as %q in %q", line, x, chain)
		}
		again := "-A " + chain + " " + x.String()
		if c, y, ok := parseRule(again); !ok || c != chain || y != x {
			t.Errorf("%q: read as %q, which reads as %q in %q (%v)", line, again, y, c, ok)
		}
	})
}

func TestOwned(t *testing.T) {
	nat := testRules().sets()[0]
	listing := strings.Split(`-P POSTROUTING ACCEPT
-A POSTROUTING -s 10.5.0.0/16 -d 10.5.0.0/16 -j RETURN
-A POSTROUTING ! -s 10.5.0.0/16 -d 10.5.9.0/24 -j RETURN
-A POSTROUTING ! -s 10.5.0.0/16 -d 10.5.3.0/25 -j RETURN
-A POSTROUTING ! -s 10.5.0.0/16 -d 10.5.3.0/24 -j RETURN
-A PREROUTING -s 10.5.0.0/16 -d 10.5.0.0/16 -j RETURN
-A POSTROUTING ! -s 10.5.0.0/16 ! -d 10.5.9.0/24 -j RETURN
-A POSTROUTING ! -s 10.5.0.0/16 -d 10.5.9.0/24 -j ACCEPT
-A POSTROUTING ! -s 10.5.0.0/16 -d 10.5.0.0/16 -j RETURN
-A POSTROUTING ! -s 10.5.0.0/16 -d 10.0.0.0/8 -j RETURN
-A POSTROUTING ! -s 10.5.0.0/16 -d 10.6.9.0/24 -j RETURN
-A POSTROUTING ! -s 10.6.0.0/16 -d 10.6.9.0/24 -j RETURN
-A POSTROUTING -s 10.5.0.0/16 -d 10.5.9.0/24 -j RETURN
-A POSTROUTING ! -s 10.5.0.0/16 -j RETURN
-A POSTROUTING -s 10.5.0.0/16 -d 10.5.0.0/16 -j RETURN`, "\n")
	want := []string{
		"-s 10.5.0.0/16 -d 10.5.0.0/16 -j RETURN",
		"! -s 10.5.0.0/16 -d 10.5.9.0/24 -j RETURN",
		"! -s 10.5.0.0/16 -d 10.5.3.0/25 -j RETURN",
		"! -s 10.5.0.0/16 -d 10.5.3.0/24 -j RETURN",
		"-s 10.5.0.0/16 -d 10.5.0.0/16 -j RETURN",
	}
	var got []string
	for _, x := range nat.owned(listing) {
		got = append(got, x.String())
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func prefix(s string) netip.Prefix {
	if s == "" {
		return netip.Prefix{}
	}
	return netip.MustParsePrefix(s)
}
