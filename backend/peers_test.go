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
		used := false
		p.Usable([]subnet.Lease{l}, func(l *subnet.Lease) error {
			used = true
			if l.Subnet.Addr().As4()[2] == 3 {
				return errors.New("no threes")
			}
			return nil
		})
		text := strings.ReplaceAll(log.String(), `\"`, `"`)
		if !used && (tt.err == "" || tt.err == "no threes") || used && strings.HasPrefix(tt.err, "is our") || !strings.Contains(text, tt.err) || (log.Len() == 0) != (tt.err == "") {
			t.Errorf("%s at %s: used %t, log %q, want %q", tt.sn, tt.ip, used, text, tt.err)
		}
		p.Usable(nil, nil)
	}
}
