package main

import (
	"errors"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

func TestStatus(t *testing.T) {
	since := time.Date(2026, 11, 23, 11, 2, 33, 0, time.Local)
	down := errors.New("read /coreos.com/network/config: http://192.0.2.1:2379: dial tcp 192.0.2.1:2379: connect: connection refused")
	// conditions returns all of them, with the reasons of those that are not true.
	conditions := func(not ...string) (all []condition) {
		for _, name := range []string{condConfig, condLease, condBackend, condFirewall, condEnvFile, condPeers} {
			c := condition{Name: name, OK: true}
			for i := 0; i < len(not); i += 2 {
				if not[i] == name {
					c.OK, c.Reason = false, not[i+1]
				}
			}
			all = append(all, c)
		}
		return all
	}
	held := netip.MustParsePrefix("10.5.34.0/24")
	for want, s := range map[string]snapshot{
		"asking etcd for the network config":                                               {conditions: newReadiness(condConfig, condLease).conditions},
		"waiting for etcd since 2026-11-23 11:02:33: " + down.Error():                      {conditions: conditions(condConfig, down.Error()), silentSince: since, silentWhy: down},
		"waiting for a network config: read /coreos.com/network/config: no network config": {conditions: conditions(condConfig, "read /coreos.com/network/config: no network config")},
		"acquiring a subnet": {conditions: conditions(condLease, stillToCome), backend: "vxlan"},
		"acquiring a subnet: lease lost: the record is gone":                                {conditions: conditions(condLease, "lease lost: the record is gone"), subnet: held, backend: "vxlan"},
		"acquiring a subnet, waiting for etcd since 2026-11-23 11:02:33: " + down.Error():   {conditions: conditions(condLease, "x"), silentSince: since, silentWhy: down},
		"10.5.34.0/24 by vxlan; not ready: backend: still to come; firewall: still to come": {conditions: conditions(condBackend, stillToCome, condFirewall, stillToCome), subnet: held, backend: "vxlan"},
		"10.5.34.0/24 by vxlan, 12 peers":                                                   {conditions: conditions(), subnet: held, backend: "vxlan", synced: true, peers: 12},
		"10.5.34.0/24 by udp, 1 peer; etcd does not answer since 2026-11-23 11:02:33; not ready: firewall: iptables: locked (4)": {
			conditions: conditions(condFirewall, "iptables: locked\n(4)"), subnet: held, backend: "udp", synced: true, peers: 1, silentSince: since, silentWhy: down},
	} {
		want = strings.Replace(want, "locked (4)", `locked\n(4)`, 1)
		if got := s.status(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func TestStatusLine(t *testing.T) {
	for text, want := range map[string]string{
		"":                      "",
		"a  b":                  "a b",
		"a\nSTATUS=b\nWATCHDOG": `a\nSTATUS=b\nWATCHDOG`,
		"a\x00\xffb":            `a\x00\xffb`,
	} {
		if got := statusLine(text); got != want {
			t.Errorf("%q becomes %q, want %q", text, got, want)
		}
	}
	for _, text := range []string{strings.Repeat("x", 1000), strings.Repeat("ä", 1000), "x" + strings.Repeat("ä", 1000)} {
		if got := statusLine(text); len(got) > 300 || len(got) < 290 || !utf8.ValidString(got) || !strings.HasSuffix(got, "...") {
			t.Errorf("%d bytes: %q", len(got), got)
		}
	}
}

// TestStatusIsToldWhenItChanges counts what systemd hears.
func TestStatusIsToldWhenItChanges(t *testing.T) {
	conn := listenNotify(t)
	teller := statusTeller{log: slog.New(slog.DiscardHandler)}
	s := snapshot{conditions: newReadiness(condConfig).conditions}
	for _, want := range []string{"STATUS=asking etcd for the network config", "", ""} {
		teller.tell(&s, nil)
		if got := told(t, conn); got != want {
			t.Errorf("told %q, want %q", got, want)
		}
	}
	teller.tell(&s, []string{"peers: not heard of", "store: not heard of"})
	if got := told(t, conn); got != "STATUS=stuck: peers: not heard of; store: not heard of" {
		t.Errorf("told %q", got)
	}
	teller.tell(&s, nil)
	if got := told(t, conn); got != "STATUS=asking etcd for the network config" {
		t.Errorf("told %q", got)
	}
}
