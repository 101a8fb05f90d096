package hostgw

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"tweed/backend"
	"tweed/dataplane/rtnl"
	"tweed/subnet"
	"tweed/test/nstest"
)

func under() backend.Underlay {
	ip := netip.MustParseAddr("192.0.2.1")
	return backend.Underlay{Name: "eth0", MTU: 1500, Addr: ip, PublicIP: ip}
}

func config(t *testing.T, backend string) subnet.Config {
	t.Helper()
	cfg, err := subnet.ParseConfig([]byte(`{"Network":"10.5.0.0/16","Backend":` + backend + `}`))
	must(t, err)
	return cfg
}

func lease(sn, ip, typ string) subnet.Lease {
	return subnet.Lease{Subnet: netip.MustParsePrefix(sn), Attrs: subnet.Attrs{PublicIP: netip.MustParseAddr(ip), BackendType: typ}}
}

// start opens the backend in a fresh namespace with eth0, 192.0.2.1/24, and
// brings it up with the lease 10.5.1.0/24.
func start(t *testing.T, log *bytes.Buffer) *Backend {
	t.Helper()
	nstest.Enter(t)
	plug(t, "192.0.2.1/24")
	b, err := Open(t.Context(), under(), config(t, `{"Type":"host-gw"}`), slog.New(slog.NewTextHandler(log, nil)))
	must(t, err)
	t.Cleanup(func() { b.Close() })
	must(t, b.Up(t.Context(), lease("10.5.1.0/24", "192.0.2.1", Type)))
	return b
}

// plug makes eth0, with carrier.
func plug(t *testing.T, addr string) {
	t.Helper()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "eth0"
	must(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "cable"}))
	for _, name := range []string{"eth0", "cable"} {
		l, err := netlink.LinkByName(name)
		must(t, err)
		must(t, netlink.LinkSetUp(l))
	}
	l, err := netlink.LinkByName("eth0")
	must(t, err)
	a, err := netlink.ParseAddr(addr)
	must(t, err)
	must(t, netlink.AddrAdd(l, a))
}

// routes lists the overlay network's routes as `ip route` does.
func routes(t *testing.T) string {
	t.Helper()
	all, err := netlink.RouteList(nil, netlink.FAMILY_V4)
	must(t, err)
	var lines []string
	for _, r := range all {
		if r.Dst.IP[0] == 10 {
			lines = append(lines, fmt.Sprintf("%s via %s proto %s", r.Dst, r.Gw, r.Protocol))
		}
	}
	return strings.Join(lines, "\n")
}

func wantRoutes(t *testing.T, what string, want ...string) {
	t.Helper()
	if got, want := routes(t), strings.Join(want, "\n"); got != want {
		t.Errorf("%s:\n%s\nwant:\n%s", what, got, want)
	}
}

func foreign(t *testing.T, dst, via string, protocol netlink.RouteProtocol) {
	t.Helper()
	d, err := netlink.ParseIPNet(dst)
	must(t, err)
	must(t, netlink.RouteAdd(&netlink.Route{Dst: d, Gw: netip.MustParseAddr(via).AsSlice(), Protocol: protocol}))
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestSync(t *testing.T) {
	var log bytes.Buffer
	b := start(t, &log)
	foreign(t, "10.5.2.0/24", "192.0.2.2", unix.RTPROT_BOOT)  // flannel v0.10's own
	foreign(t, "10.5.3.0/24", "192.0.2.33", unix.RTPROT_BOOT) // wrong
	foreign(t, "10.5.4.0/24", "192.0.2.4", unix.RTPROT_BOOT)  // nobody's
	foreign(t, "10.5.5.0/24", "192.0.2.5", rtnl.Protocol)     // stale

	peers := []subnet.Lease{
		lease("10.5.2.0/24", "192.0.2.2", Type),
		lease("10.5.3.0/24", "192.0.2.3", Type),
		lease("10.5.6.0/24", "192.0.2.6", "vxlan"),
		lease("10.5.8.0/24", "192.0.2.1", Type), // an old lease of ours
	}
	golden := []string{"10.5.2.0/24 via 192.0.2.2 proto 84", "10.5.3.0/24 via 192.0.2.3 proto 84", "10.5.4.0/24 via 192.0.2.4 proto boot"}
	for range 3 {
		must(t, b.Sync(t.Context(), peers))
		wantRoutes(t, "routes", golden...)
	}
	if n := strings.Count(log.String(), "\n"); n != 2 {
		t.Errorf("%d warnings, want one for each of the 2 peers ignored:\n%s", n, &log)
	}

	// A restart keeps all, and prunes what has left meanwhile.
	must(t, b.Close())
	b, err := Open(t.Context(), under(), config(t, `{"Type":"host-gw"}`), slog.New(slog.DiscardHandler))
	must(t, err)
	defer b.Close()
	must(t, b.Up(t.Context(), lease("10.5.1.0/24", "192.0.2.1", Type)))
	wantRoutes(t, "after the restart", golden...)
	must(t, b.Sync(t.Context(), peers[:1]))
	wantRoutes(t, "one left", golden[0], golden[2])

	// eth0 loses its routes when it goes down, and comes back.
	eth, err := netlink.LinkByName("eth0")
	must(t, err)
	must(t, netlink.LinkSetDown(eth))
	if err := b.Sync(t.Context(), peers[:1]); err == nil || !strings.Contains(err.Error(), "host-gw: add route 10.5.2.0/24 via 192.0.2.2 dev eth0: network is ") {
		t.Errorf("eth0 down: %v", err)
	}
	must(t, netlink.LinkSetUp(eth))
	must(t, b.Sync(t.Context(), peers[:1]))
	wantRoutes(t, "eth0 is back", golden[0])

	must(t, netlink.LinkDel(eth))
	if err := b.Sync(t.Context(), peers[:1]); !errors.Is(err, rtnl.ErrNoLink) {
		t.Errorf("no eth0: %v", err)
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "br0" // takes the index that is free
	must(t, netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}))
	plug(t, "192.0.2.1/24")
	must(t, b.Sync(t.Context(), peers[:1]))
	wantRoutes(t, "another eth0", golden[0])
}

func TestUnreachableGateway(t *testing.T) {
	b := start(t, &bytes.Buffer{})
	err := b.Sync(t.Context(), []subnet.Lease{
		lease("10.5.2.0/24", "192.0.2.2", Type),
		lease("10.5.3.0/24", "198.51.100.3", Type),
		lease("10.5.4.0/24", "198.51.100.4", Type),
		lease("10.5.5.0/24", "192.0.2.5", Type),
	})
	want := "host-gw: add route 10.5.3.0/24 via 198.51.100.3 dev eth0: network is unreachable\n" +
		"add route 10.5.4.0/24 via 198.51.100.4 dev eth0: network is unreachable"
	// The kernel may have more to say of it.
	if err == nil || strings.ReplaceAll(err.Error(), " (Nexthop has invalid gateway)", "") != want {
		t.Errorf("error %v\nwant %s", err, want)
	}
	wantRoutes(t, "routes", "10.5.2.0/24 via 192.0.2.2 proto 84", "10.5.5.0/24 via 192.0.2.5 proto 84")
}

func TestOpen(t *testing.T) {
	b := start(t, &bytes.Buffer{})
	got, err := json.Marshal(b.Attrs())
	if want := `{"PublicIP":"192.0.2.1","BackendType":"host-gw"}`; err != nil || string(got) != want {
		t.Errorf("publishes %s, %v; want %s", got, err, want)
	}
	if b.MTU() != 1500 {
		t.Errorf("mtu %d, want 1500", b.MTU())
	}
	nat := under()
	nat.PublicIP = netip.MustParseAddr("203.0.113.1")
	_, err = Open(t.Context(), nat, config(t, `{"Type":"host-gw"}`), slog.New(slog.DiscardHandler))
	for _, part := range []string{"203.0.113.1", "192.0.2.1", "eth0", "-public-ip"} {
		if err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("behind NAT: error %v, want %q in it", err, part)
		}
	}
}
