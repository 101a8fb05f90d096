package backend

import (
	"errors"
	"log/slog"
	"net/netip"
	"strings"
	"testing"

	"tweed/subnet"
)

func TestPeersUsable(t *testing.T) {
	p := Peers{
		Type:     "host-gw",
		Underlay: Underlay{Addr: netip.MustParseAddr("192.0.2.1"), PublicIP: netip.MustParseAddr("203.0.113.1")},
	}
	tests := []struct {
		sn, ip, typ string
		err         string // empty: usable
	}{
		{"10.4.2.0/24", "192.0.2.2", "host-gw", ""},
		{"10.4.2.0/24", "192.0.2.1", "host-gw", "is our own"},
		{"10.4.2.0/24", "203.0.113.1", "host-gw", "is our own"},
		{"10.4.2.0/24", "192.0.2.2", "Host-GW", `BackendType "Host-GW": this node runs "host-gw"`},
		{"10.4.2.0/24", "192.0.2.2", "", `BackendType ""`},
		{"10.4.3.0/24", "192.0.2.2", "host-gw", "no threes"},
	}
	for _, tt := range tests {
		var log strings.Builder
		p.Log = slog.New(slog.NewTextHandler(&log, nil))
		l := subnet.Lease{Subnet: netip.MustParsePrefix(tt.sn), Attrs: subnet.Attrs{PublicIP: netip.MustParseAddr(tt.ip), BackendType: tt.typ}}
		got := p.Usable([]subnet.Lease{l}, func(l subnet.Lease) error {
			if l.Subnet.Addr().As4()[2] == 3 {
				return errors.New("no threes")
			}
			return nil
		})
		text := strings.ReplaceAll(log.String(), `\"`, `"`)
		if (len(got) == 1) != (tt.err == "") || !strings.Contains(text, tt.err) || (log.Len() == 0) != (tt.err == "") {
			t.Errorf("%s at %s: usable %v, log %q, want %q", tt.sn, tt.ip, got, text, tt.err)
		}
		p.Usable(nil, nil)
	}
}

func TestPeersNewestFirst(t *testing.T) {
	p := Peers{Type: AnyType, Log: slog.New(slog.DiscardHandler)}
	lease := func(rev int64, sn string) subnet.Lease {
		return subnet.Lease{Revision: rev, Subnet: netip.MustParsePrefix(sn), Attrs: subnet.Attrs{PublicIP: netip.MustParseAddr("192.0.2.2")}}
	}
	in := []subnet.Lease{lease(1, "10.4.1.0/24"), lease(3, "10.4.9.0/24"), lease(3, "10.4.8.0/24"), lease(2, "10.4.2.0/24")}
	var asked []string
	out := p.Usable(in, func(l subnet.Lease) error {
		asked = append(asked, l.Subnet.String())
		return nil
	})
	if got, want := strings.Join(asked, " "), "10.4.8.0/24 10.4.9.0/24 10.4.2.0/24 10.4.1.0/24"; got != want || len(out) != 4 {
		t.Errorf("asked about %s, want %s", got, want)
	}
	if in[0].Revision != 1 || in[1].Subnet.String() != "10.4.9.0/24" {
		t.Error("the caller's slice was changed")
	}
}
