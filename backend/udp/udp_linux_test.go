package udp

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"tweed/dataplane/rtnl"
	"tweed/subnet"
)

// Up and Sync make address and route what they should be, from whatever state,
// and touch nothing that is right.
func TestKernelState(t *testing.T) {
	a, _ := newHosts(t)
	onA := a.open()
	a.wantState(t, "10.5.1.0/32")

	a.do(func() error {
		link, err := netlink.LinkByName("flannel0")
		if err != nil {
			return err
		}
		addr, _ := netlink.ParseAddr("10.5.1.0/32")
		foreign, _ := netlink.ParseAddr("172.20.0.1/32")
		return errors.Join(netlink.LinkSetDown(link), netlink.LinkSetMTU(link, 1000),
			netlink.AddrDel(link, addr), netlink.AddrAdd(link, foreign))
	})
	syncPeers(t, onA)
	a.wantState(t, "10.5.1.0/32", "172.20.0.1/32")

	// Nothing changes from here on: the kernel has nothing to tell.
	updates, done := make(chan netlink.RouteUpdate, 100), make(chan struct{})
	a.do(func() error { return netlink.RouteSubscribe(updates, done) })
	syncPeers(t, onA)
	syncPeers(t, onA)
	next := a.lease()
	next.Subnet = netip.MustParsePrefix("10.5.9.0/24")
	a.do(func() error { return onA.Up(context.Background(), next) })
	a.wantState(t, "172.20.0.1/32", "10.5.9.0/32")
	u := <-updates // the first is about the new address
	for isIPv6(u) {
		u = <-updates
	}
	if u.Dst == nil || u.Dst.String() != "10.5.9.0/32" {
		t.Errorf("Sync made the kernel tell of %v", u)
	}
	close(done)
	for range updates { // the subscription ends
	}

	// The next daemon finds all of it.
	if err := onA.Close(); err != nil {
		t.Error(err)
	}
	a.wantState(t, "172.20.0.1/32", "10.5.9.0/32")
}

// Without Up, as when no lease is to be had, Open leaves nothing behind.
func TestCloseWithoutUp(t *testing.T) {
	a, _ := newHosts(t)
	for name, kind := range map[string]string{"offload": withOffload, "plain": plain} {
		cfg := config(t, kind)
		a.do(func() error {
			b, err := Open(context.Background(), a.underlay(), cfg, slog.New(slog.DiscardHandler))
			if err != nil {
				return err
			}
			return b.Close()
		})
		a.do(func() error {
			if _, err := netlink.LinkByName("flannel0"); err == nil {
				return fmt.Errorf("%s: flannel0 outlives Close", name)
			}
			return nil
		})
	}
}

func (h *host) wantState(t *testing.T, addrs ...string) {
	t.Helper()
	h.do(func() error {
		link, err := netlink.LinkByName("flannel0")
		if err != nil {
			return err
		}
		if a := link.Attrs(); a.MTU != 1472 || a.Flags&net.FlagUp == 0 || a.TxQLen != 500 {
			t.Errorf("link %+v, want MTU 1472, up, queue of 500", a)
		}
		list, err := netlink.AddrList(link, netlink.FAMILY_V4)
		if err != nil {
			return err
		}
		var have []string
		for _, a := range list {
			have = append(have, a.IPNet.String())
		}
		slices.Sort(have)
		slices.Sort(addrs)
		if !slices.Equal(have, addrs) {
			t.Errorf("addresses %v, want %v", have, addrs)
		}
		routes, err := netlink.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{LinkIndex: link.Attrs().Index, Table: unix.RT_TABLE_MAIN},
			netlink.RT_FILTER_OIF|netlink.RT_FILTER_TABLE)
		if err != nil {
			return err
		}
		if len(routes) != 1 || routes[0].Dst.String() != "10.5.0.0/16" || routes[0].Protocol != rtnl.Protocol || routes[0].Scope != netlink.SCOPE_UNIVERSE {
			t.Errorf("routes %v, want 10.5.0.0/16 with protocol %d", routes, rtnl.Protocol)
		}
		return nil
	})
}

func TestTUNDeleted(t *testing.T) {
	a, _ := newHosts(t)
	onA := a.open()
	result := make(chan error, 1)
	go func() { result <- onA.Run(context.Background()) }()
	a.do(func() error {
		link, err := netlink.LinkByName("flannel0")
		if err != nil {
			return err
		}
		return netlink.LinkDel(link)
	})
	select {
	case err := <-result:
		if err == nil || !strings.Contains(err.Error(), "tun flannel0: the interface is gone") {
			t.Error(err)
		}
	case <-time.After(patience):
		t.Fatal("Run goes on without its interface")
	}
	if err := onA.Sync(context.Background(), nil); !errors.Is(err, rtnl.ErrNoLink) {
		t.Errorf("Sync: %v, want %v", err, rtnl.ErrNoLink)
	}
}

// Sync takes peers of every type, but never ourselves.
func TestSyncPeers(t *testing.T) {
	a, b := newHosts(t)
	onA := a.open()
	peer := func(sn, ip string) subnet.Lease {
		l := subnet.Lease{Subnet: netip.MustParsePrefix(sn), Attrs: subnet.Attrs{BackendType: "vxlan"}}
		l.Attrs.PublicIP = netip.MustParseAddr(ip)
		return l
	}
	err := onA.Sync(context.Background(), []subnet.Lease{
		b.lease(), peer("10.5.20.0/24", a.addr.String()), peer("10.5.30.0/24", "192.0.2.30"),
	})
	if err != nil {
		t.Fatal(err)
	}
	for dst, want := range map[string]string{
		"10.5.2.2": "192.0.2.2:8285", "10.5.30.1": "192.0.2.30:8285", // whatever the BackendType
		"10.5.20.1": "", "10.5.1.1": "", "10.5.40.1": "",
	} {
		peer, ok := onA.routes.Lookup(netip.MustParseAddr(dst))
		if ok != (want != "") || ok && peer.String() != want {
			t.Errorf("%s goes to %v, %v, want %q", dst, peer, ok, want)
		}
	}
}

func TestOpenErrors(t *testing.T) {
	a, _ := newHosts(t)
	log := slog.New(slog.DiscardHandler)
	a.open()
	for _, tt := range []struct {
		name, backend string
		mtu           int
		want          string
	}{
		{"port in use", `{"Type":"udp"}`, 1500, "listen on udp 192.0.2.1:8285: bind: address already in use"},
		{"port 0", `{"Type":"udp","Port":0}`, 1500, "in Backend: Port 0: want a UDP port from 1 to 65535"},
		{"port too large", `{"Type":"udp","Port":65536}`, 1500, "in Backend: Port 65536"},
		{"negative port", `{"Type":"udp","Port":-1}`, 1500, "in Backend: Port -1"},
		{"port is text", `{"Type":"udp","Port":"8285"}`, 1500, "in Backend: Port: want a whole number"},
		{"fraction", `{"Type":"udp","Port":1.5}`, 1500, "in Backend: Port: want a whole number"},
		{"small mtu", `{"Type":"udp","Port":8286}`, 95, "mtu 95 of eth0: want 96 or more"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			u := a.underlay()
			u.MTU = tt.mtu
			var err error
			cfg := config(t, tt.backend)
			a.do(func() error {
				var b *Backend
				if b, err = Open(context.Background(), u, cfg, log); err == nil {
					b.Close()
				}
				return nil
			})
			if err == nil || !strings.HasPrefix(err.Error(), "udp: "+tt.want) {
				t.Errorf("error %v, want %q", err, tt.want)
			}
		})
	}
	a.do(func() error {
		if link, err := netlink.LinkByName("flannel1"); err == nil {
			return fmt.Errorf("%s was left behind", link.Attrs().Name)
		}
		return nil
	})
}

// Without /dev/net/tun, as in a container, Open says so and frees the port.
func TestNoDevNetTun(t *testing.T) {
	a, _ := newHosts(t)
	cfg := config(t, "")
	a.do(func() error {
		// The thread gets a view of the file system of its own.
		if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
			return err
		}
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			return err
		}
		if err := unix.Mount("tmpfs", "/dev/net", "tmpfs", 0, ""); err != nil {
			return err
		}
		for range 2 {
			b, err := Open(context.Background(), a.underlay(), cfg, slog.New(slog.DiscardHandler))
			if err == nil {
				b.Close()
			}
			if !errors.Is(err, os.ErrNotExist) || !strings.HasPrefix(err.Error(), "udp: open tun flannel%d: open /dev/net/tun: ") {
				return fmt.Errorf("error %w, want %w", err, os.ErrNotExist)
			}
		}
		return nil
	})
}

func TestTwoNetworksOnOneHost(t *testing.T) {
	a, _ := newHosts(t)
	a.open()
	var other *Backend
	cfg, err := subnet.ParseConfig([]byte(`{"Network":"10.6.0.0/16","Backend":{"Type":"udp","Port":8300}}`))
	if err != nil {
		t.Fatal(err)
	}
	a.do(func() (err error) {
		if other, err = Open(context.Background(), a.underlay(), cfg, slog.New(slog.DiscardHandler)); err != nil {
			return err
		}
		return other.Up(context.Background(), subnet.Lease{Subnet: netip.MustParsePrefix("10.6.3.0/24")})
	})
	defer other.Close()
	if other.tun.Name() != "flannel1" || other.MTU() != 1472 || !other.Attrs().Equal(subnet.Attrs{PublicIP: a.addr}) {
		t.Errorf("%s, MTU %d, %+v", other.tun.Name(), other.MTU(), other.Attrs())
	}
	a.wantState(t, "10.5.1.0/32")
}

// Starting and stopping leaves no goroutine and no file behind.
func TestNoLeaks(t *testing.T) {
	a, b := newHosts(t)
	cycle := func() {
		onA := a.open()
		syncPeers(t, onA, b)
		if err := run(t, onA)(); err != nil {
			t.Fatal(err)
		}
		if err := onA.Close(); err != nil {
			t.Fatal(err)
		}
	}
	cycle()
	goroutines, files := runtime.NumGoroutine(), openFiles(t)
	for range 50 {
		cycle()
	}
	await(t, "goroutines to end", func() bool { return runtime.NumGoroutine() <= goroutines })
	if n := openFiles(t); n > files {
		t.Errorf("%d open files, %d before", n, files)
	}
}

func openFiles(t *testing.T) int {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// await waits until ok returns true.
func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited %v for %s", patience, what)
		}
	}
}
