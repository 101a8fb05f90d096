package firewall

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

var inspected = Rules{Network: netip.MustParsePrefix("10.5.0.0/16"), Forward: true}

func TestInspectListing(t *testing.T) {
	const ours = "-A FORWARD -s 10.5.0.0/16 -j ACCEPT\n-A FORWARD -d 10.5.0.0/16 -j ACCEPT\n"
	for _, tt := range []struct {
		listing string
		want    Forwarding
	}{
		{"-P FORWARD ACCEPT\n", Forwarding{}},
		{"", Forwarding{}},
		{"-P FORWARD DROP\n", Forwarding{Drops: []string{"ip filter FORWARD"}}},
		{"-P FORWARD DROP\n-A FORWARD -j DOCKER-USER\n" + ours, Forwarding{Drops: []string{"ip filter FORWARD"}, Ours: true}},
		{"-P FORWARD ACCEPT\n-A FORWARD -s 10.5.0.0/16 -j ACCEPT\n", Forwarding{}},
		{"-A FORWARD -s 10.6.0.0/16 -j ACCEPT\n-A FORWARD -d 10.6.0.0/16 -j ACCEPT\n", Forwarding{}},
		{"-A FORWARD -j REJECT --reject-with icmp-host-prohibited\n" + ours, Forwarding{Ours: true, Blocker: "-A FORWARD -j REJECT --reject-with icmp-host-prohibited"}},
		{"-A FORWARD -j DROP\n", Forwarding{Blocker: "-A FORWARD -j DROP"}},
		{ours + "-A FORWARD -j DROP\n", Forwarding{Ours: true}},
		{"-A FORWARD -s 10.5.0.0/16 -j ACCEPT\n-A FORWARD -j DROP\n-A FORWARD -d 10.5.0.0/16 -j ACCEPT\n", Forwarding{Ours: true, Blocker: "-A FORWARD -j DROP"}},
		{"-A FORWARD -j ACCEPT\n-A FORWARD -j DROP\n", Forwarding{}},
		{"-A FORWARD -i lo -j ACCEPT\n-A FORWARD -j DROP\n", Forwarding{Blocker: "-A FORWARD -j DROP"}},
		{"-A FORWARD -m comment --comment \"all \\\" -i x\" -j DROP\n", Forwarding{Blocker: "-A FORWARD -m comment --comment \"all \\\" -i x\" -j DROP"}},
		{"-A FORWARD -m comment --comment all -j REJECT --reject-with icmp-port-unreachable\n", Forwarding{Blocker: "-A FORWARD -m comment --comment all -j REJECT --reject-with icmp-port-unreachable"}},
		{"-A FORWARD -j DOCKER-USER\n", Forwarding{}},
		{"-A FORWARD -j CLOSED\n" + ours, Forwarding{Ours: true, Blocker: "-A CLOSED -j DROP"}},
		{ours + "-A FORWARD -j CLOSED\n", Forwarding{Ours: true}},
		{"-A FORWARD -i eth0 -j CLOSED\n", Forwarding{}},
		{"-A FORWARD -j OPEN\n-A FORWARD -j DROP\n", Forwarding{}},
		{"-A FORWARD -g DOCKER-USER\n-A FORWARD -j DROP\n", Forwarding{}},
		{"-A FORWARD -j DOCKER-USER\n-A FORWARD -j DROP\n", Forwarding{Blocker: "-A FORWARD -j DROP"}},
		{"-A FORWARD -i eth0 -j DROP\n-A FORWARD -s 10.9.0.0/16 -j REJECT\n", Forwarding{}},
	} {
		tt.want.Mode = IPTables
		got := inspectForward(strings.Split(tt.listing, "\n"), inspected, func(chain string) []string {
			return strings.Split(map[string]string{
				"DOCKER-USER": "-N DOCKER-USER\n-A DOCKER-USER -j RETURN\n-A DOCKER-USER -j DROP",
				"CLOSED":      "-N CLOSED\n-A CLOSED -i lo -j ACCEPT\n-A CLOSED -j LOOP\n-A CLOSED -j DROP",
				"OPEN":        "-N OPEN\n-A OPEN -j ACCEPT",
				"LOOP":        "-N LOOP\n-A LOOP -j CLOSED",
			}[chain], "\n")
		})
		if fmt.Sprintf("%+v", got) != fmt.Sprintf("%+v", tt.want) {
			t.Errorf("%s: got %+v, want %+v", tt.listing, got, tt.want)
		}
	}
}

func TestInspectRaw(t *testing.T) {
	for line, want := range map[string]bool{
		"-A PREROUTING -d 10.5.34.2/32 ! -i docker0 -j DROP":                                  true, // Docker 28
		"-A PREROUTING -m comment --comment \"-i eth0\" -d 10.5.34.2/32 ! -i docker0 -j DROP": true,
		"-A PREROUTING -d 10.0.0.0/8 -j DROP":                                                 true,
		"-A PREROUTING -d 172.18.0.2/32 ! -i br0 -j DROP":                                     false,
		"-A PREROUTING ! -d 10.5.34.2/32 -j DROP":                                             false,
		"-A PREROUTING -d 10.5.34.2/32 ! -i docker0 -j ACCEPT":                                false,
		"-A PREROUTING -d 10.5.0.0/16 -i eth0 -j DROP":                                        false,
		"-A PREROUTING -s 10.5.34.2/32 -j DROP":                                               false,
		"-A PREROUTING -j DROP":                                                               false,
		"-P PREROUTING DROP":                                                                  false,
	} {
		if got := inspectRaw([]string{"-P PREROUTING ACCEPT", line, ""}, inspected); got != map[bool]string{true: line}[want] {
			t.Errorf("%s: got %q", line, got)
		}
	}
}

// TestInspectRules: what ends a chain, and what Docker 28 puts into table raw.
func TestInspectRules(t *testing.T) {
	for _, variant := range variants {
		t.Run(variant, func(t *testing.T) {
			f := enter(t, variant)
			inspect := func() Forwarding {
				t.Helper()
				got, err := f.Inspect(t.Context(), inspected)
				if err != nil {
					t.Fatal(err)
				}
				return got
			}
			sh(t, "iptables -N USER; iptables -A FORWARD -m comment --comment 'a b' -j USER; iptables -A USER -m comment --comment 'c d' -j DROP")
			if got := inspect(); (got.Blocker != "") != (variant != "nftables") || got.Raw != "" {
				t.Errorf("got %+v", got)
			}
			if tables := sh(t, "nft list tables; cat /proc/thread-self/net/ip_tables_names 2>/dev/null || true"); strings.Contains(tables, "raw") {
				t.Errorf("tables %q: raw was made by looking", tables)
			}
			sh(t, "iptables -t raw -A PREROUTING -d 10.5.34.2/32 ! -i docker0 -j DROP")
			if got := inspect(); (got.Raw != "") != (variant != "nftables") {
				t.Errorf("got %+v", got)
			}
			if variant == "iptables-legacy" {
				return
			}
			sh(t, `nft 'add table inet fw; add chain inet fw open { type filter hook forward priority 10; }; add chain inet fw sub
				add rule inet fw open ct state established accept; add rule inet fw open jump sub; add rule inet fw open counter accept; add rule inet fw open drop
				add chain inet fw closed { type filter hook forward priority 10; }
				add rule inet fw closed ct state established accept; add rule inet fw closed jump sub; add rule inet fw closed counter log reject with icmpx admin-prohibited
				add chain inet fw dropped { type filter hook forward priority 10; }
				add rule inet fw dropped iifname "x" drop; add rule inet fw dropped counter drop
				add chain inet fw some { type filter hook forward priority 10; }
				add rule inet fw some iifname "x" drop; add rule inet fw some ip saddr 10.5.0.0/16 reject'`)
			if got, want := inspect().Beyond, []string{"inet fw closed", "inet fw dropped"}; !slices.Equal(slices.Sorted(slices.Values(got)), want) {
				t.Errorf("beyond %q, want %q", got, want)
			}
		})
	}
}

// TestInspect: what Ensure makes is seen, what drops too, and nothing changes.
func TestInspect(t *testing.T) {
	for _, variant := range variants {
		t.Run(variant, func(t *testing.T) {
			f := enter(t, variant)
			inspect := func(wantOurs bool, wantDrops ...string) {
				t.Helper()
				before := sh(t, "nft list ruleset; cat /proc/thread-self/net/ip_tables_names 2>/dev/null || true")
				got, err := f.Inspect(t.Context(), inspected)
				if err != nil || got.Ours != wantOurs || !slices.Equal(got.Drops, wantDrops) || got.Mode != f.Mode() || got.Blocker != "" {
					t.Errorf("got %+v, %v, want ours %t, drops %q", got, err, wantOurs, wantDrops)
				}
				if after := sh(t, "nft list ruleset; cat /proc/thread-self/net/ip_tables_names 2>/dev/null || true"); after != before {
					t.Errorf("changed from\n%s\nto\n%s", before, after)
				}
			}
			inspect(false)
			sh(t, "iptables -P FORWARD DROP")
			inspect(false, "ip filter FORWARD")
			ensure(t, f, inspected, true)
			inspect(true, "ip filter FORWARD")
			sh(t, "iptables -P FORWARD ACCEPT")
			inspect(true)
			sh(t, "nft add table inet fw; nft add chain inet fw x '{ type filter hook forward priority 0; policy drop; }'")
			got, err := f.Inspect(t.Context(), inspected)
			all := slices.Concat(got.Drops, got.Beyond)
			// The legacy variant means a host whose nftables is nobody's business.
			if want := variant != "iptables-legacy"; err != nil || slices.Contains(all, "inet fw x") != want || want && (len(got.Beyond) > 0) != (variant == "iptables-nft") {
				t.Errorf("with a chain of nftables: %+v, %v", got, err)
			}
		})
	}
}

func TestInspectErrors(t *testing.T) {
	f := enter(t, "iptables-nft")
	if _, err := f.Inspect(t.Context(), Rules{}); err == nil {
		t.Error("no error without a network")
	}
	program := t.TempDir() + "/iptables"
	if err := os.WriteFile(program, []byte("#!/bin/sh\necho 'iptables v1.8.9 (nf_tables): Could not fetch rule set generation id: Permission denied (you must be root)' >&2; exit 4\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	f.iptables.path, f.iptables.waitArgs = program, nil
	if _, err := f.Inspect(t.Context(), inspected); !errors.Is(err, ErrPermission) || !errors.As(err, new(*exec.ExitError)) {
		t.Errorf("error %v, want %v", err, ErrPermission)
	}
}
