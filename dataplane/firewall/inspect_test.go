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
		{"-A FORWARD -i eth0 -j DROP\n-A FORWARD -s 10.9.0.0/16 -j REJECT\n", Forwarding{}},
	} {
		tt.want.Mode = IPTables
		got := inspectListing(strings.Split(tt.listing, "\n"), inspected)
		if fmt.Sprintf("%+v", got) != fmt.Sprintf("%+v", tt.want) {
			t.Errorf("%s: got %+v, want %+v", tt.listing, got, tt.want)
		}
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
