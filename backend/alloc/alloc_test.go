package alloc

import (
	"context"
	"encoding/json"
	"net/netip"
	"testing"

	"tweed/backend"
	"tweed/subnet"
)

func TestAlloc(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	u := backend.Underlay{Name: "eth0", MTU: 1400, Addr: netip.MustParseAddr("192.0.2.1"), PublicIP: netip.MustParseAddr("203.0.113.1")}
	b, err := Open(ctx, u, subnet.Config{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	got, err := json.Marshal(b.Attrs())
	if want := `{"PublicIP":"203.0.113.1"}`; err != nil || string(got) != want {
		t.Errorf("publishes %s, %v; want %s", got, err, want)
	}
	if b.MTU() != 1400 {
		t.Errorf("mtu %d, want 1400", b.MTU())
	}
	cancel()
	for name, err := range map[string]error{
		"Up": b.Up(t.Context(), subnet.Lease{}), "Sync": b.Sync(t.Context(), nil), "Run": b.Run(ctx), "Close": b.Close(),
	} {
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}
