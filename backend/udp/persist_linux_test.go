package udp

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	stdsync "sync"
	"testing"

	"github.com/vishvananda/netlink"

	"tweed/dataplane/tun"
	"tweed/subnet"
)

// logText collects a log.
type logText struct {
	mu  stdsync.Mutex
	buf bytes.Buffer
}

func (l *logText) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(b)
}

func (l *logText) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(io.Writer(l), nil))
}

func (l *logText) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// tuns describes the TUN interfaces of the host: number, name, alias.
func (h *host) tuns() (all []string) {
	h.t.Helper()
	h.do(func() error {
		links, err := netlink.LinkList()
		for _, l := range links {
			if l.Type() == "tuntap" {
				a := l.Attrs()
				all = append(all, fmt.Sprintf("%d %s %q", a.Index, a.Name, a.Alias))
			}
		}
		return err
	})
	return all
}

// leftTUN makes a TUN interface that no process holds.
func (h *host) leftTUN(name, alias string) {
	h.t.Helper()
	h.do(func() error {
		d, err := tun.Open(name, tun.Options{})
		if err != nil {
			return err
		}
		link, err := netlink.LinkByIndex(d.Index())
		if err == nil && alias != "" {
			err = netlink.LinkSetAlias(link, alias)
		}
		return errors.Join(err, d.SetPersistent(true), d.Close())
	})
}

const ourAlias = "flanneld udp 10.5.0.0/16 port 8285"

// The next daemon takes the TUN over, whether or not it uses offloads: the
// interface, its address and its route stay all the time.
func TestTakeOver(t *testing.T) {
	for _, mix := range mixes {
		t.Run(mix.name, func(t *testing.T) {
			a, b := newHosts(t)
			a.backend, b.backend = mix.a, mix.b
			onA, _ := start(t, a, b)
			mustPing(t, a, b)
			tuns := a.tuns()
			if len(tuns) != 1 || !strings.HasSuffix(tuns[0], " flannel0 \""+ourAlias+`"`) {
				t.Fatalf("interfaces %q", tuns)
			}
			changes, done := make(chan netlink.RouteUpdate, 100), make(chan struct{})
			a.do(func() error { return netlink.RouteSubscribe(changes, done) })
			for _, kind := range []string{mix.b, mix.a, mix.b} {
				if err := onA.Close(); err != nil {
					t.Fatal(err)
				}
				a.wantState(t, "10.5.1.0/32")
				a.backend = kind
				var log logText
				onA = a.openLogging(log.logger())
				if got := a.tuns(); !slices.Equal(got, tuns) {
					t.Errorf("interfaces %q, want %q", got, tuns)
				}
				if text := log.String(); !strings.Contains(text, `level=INFO msg="took over the tun interface of an earlier run" link=flannel0`) || strings.Contains(text, "WARN") {
					t.Errorf("log: %s", text)
				}
				syncPeers(t, onA, b)
				run(t, onA)
				mustPing(t, a, b)
				mustPing(t, b, a)
				if err := transfer(a, b, 1<<20); err != nil {
					t.Error(err)
				}
			}
			close(done)
			for u := range changes {
				if !isIPv6(u) {
					t.Errorf("a route was changed: %v", u)
				}
			}
		})
	}
}

// isIPv6 is for what the kernel does by itself in its own time.
func isIPv6(u netlink.RouteUpdate) bool { return u.Dst != nil && u.Dst.IP.To4() == nil }

// While no daemon is there, what pods send is lost without an error, as on any
// network: their connections last.
func TestBetweenDaemons(t *testing.T) {
	inMixes(t, func(t *testing.T, a, b *host, onA, _ *Backend) {
		mustPing(t, a, b)
		if err := onA.Close(); err != nil {
			t.Fatal(err)
		}
		from, to := a.udp(t), b.udp(t)
		dst := netip.MustParseAddrPort(to.LocalAddr().String())
		if _, err := from.WriteToUDPAddrPort([]byte("while nobody was there"), dst); err != nil {
			t.Fatalf("with the daemon down: %v", err)
		}
		onA = a.open()
		syncPeers(t, onA, b)
		run(t, onA)
		mustPing(t, a, b)
	})
}

// A backend of another port or network makes a TUN of its own.
func TestNotTakenOver(t *testing.T) {
	a, _ := newHosts(t)
	a.open().Close()
	before := a.tuns()
	for i, text := range []string{
		`{"Network":"10.5.0.0/16","Backend":{"Type":"udp","Port":8286}}`,
		`{"Network":"10.5.0.0/16","Backend":{"Type":"udp","Port":828}}`,
		`{"Network":"10.6.0.0/16","Backend":{"Type":"udp"}}`,
		`{"Network":"10.5.0.0/17","Backend":{"Type":"udp"}}`,
	} {
		cfg, err := subnet.ParseConfig([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		a.do(func() error {
			b, err := Open(context.Background(), a.underlay(), cfg, slog.New(slog.DiscardHandler))
			if err != nil {
				return err
			}
			if b.tun.Name() == "flannel0" {
				t.Errorf("config %d: took flannel0", i)
			}
			return b.Close()
		})
	}
	if got := a.tuns(); !slices.Equal(got, before) {
		t.Errorf("interfaces %q, want %q", got, before)
	}
}

// An interface of another program stays what it is, whatever it is called.
func TestForeignTUN(t *testing.T) {
	for _, alias := range []string{"", "vpn", ourAlias + "0", " " + ourAlias, "flanneld udp 10.6.0.0/16 port 8285", strings.ToUpper(ourAlias)} {
		a, b := newHosts(t)
		a.leftTUN("flannel0", alias)
		before := a.tuns()
		onA, _ := start(t, a, b)
		if got := a.tuns(); len(got) != 2 || got[0] != before[0] || onA.tun.Name() != "flannel1" {
			t.Errorf("alias %q: interfaces %q, backend on %s", alias, got, onA.tun.Name())
		}
		mustPing(t, a, b)
		onA.Close()
		a.do(func() error { return RemoveStale(netip.MustParsePrefix("10.5.0.0/16"), slog.New(slog.DiscardHandler)) })
		// One that begins like ours, of the same network, is taken for ours of another port.
		if got := a.tuns(); alias != ourAlias+"0" && !slices.Equal(got, before) {
			t.Errorf("alias %q: interfaces %q, want %q", alias, got, before)
		}
	}
}

// RemoveStale takes what is ours, of any port, and held by nobody.
func TestRemoveStale(t *testing.T) {
	a, b := newHosts(t)
	a.leftTUN("tun1", "flanneld udp 10.5.0.0/16 port 1")
	a.leftTUN("tun2", "flanneld udp 10.5.0.0/16 port 65535")
	a.leftTUN("tun3", "flanneld udp 10.5.0.0/17 port 8285")
	a.leftTUN("tun4", "flanneld udp 10.5.0.0/1 port 8285")
	a.leftTUN("tun5", "")
	a.leftTUN("tun6", "the flanneld udp 10.5.0.0/16 port 8285")
	onA, _ := start(t, a, b)
	a.do(func() error { // not a TUN at all
		bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br9"}}
		if err := netlink.LinkAdd(bridge); err != nil {
			return err
		}
		return netlink.LinkSetAlias(bridge, "flanneld udp 10.5.0.0/16 port 9")
	})
	names := func() (names []string) {
		for _, l := range a.tuns() {
			names = append(names, strings.Fields(l)[1])
		}
		slices.Sort(names)
		return names
	}
	remove := func() string {
		var log logText
		a.do(func() error { return RemoveStale(netip.MustParsePrefix("10.5.0.0/16"), log.logger()) })
		return log.String()
	}
	text := remove()
	if got, want := names(), []string{"flannel0", "tun3", "tun4", "tun5", "tun6"}; !slices.Equal(got, want) {
		t.Errorf("interfaces %q, want %q", got, want)
	}
	for _, want := range []string{
		`msg="removed the tun interface of the udp backend" link=tun1`, `msg="removed the tun interface of the udp backend" link=tun2`,
		`level=WARN msg="leaving a tun interface that is in use" link=flannel0`, `level=WARN msg="leaving a tun interface that is in use" link=br9`,
	} {
		if !strings.Contains(text, want) {
			t.Errorf("log without %s: %s", want, text)
		}
	}
	mustPing(t, a, b)
	a.do(func() error { _, err := netlink.LinkByName("br9"); return err })

	if err := onA.Close(); err != nil {
		t.Fatal(err)
	}
	remove()
	if got, want := names(), []string{"tun3", "tun4", "tun5", "tun6"}; !slices.Equal(got, want) {
		t.Errorf("interfaces %q, want %q", got, want)
	}
	if text := remove(); strings.Contains(text, "removed") {
		t.Errorf("nothing was left, and yet: %s", text)
	}
	a.do(func() error {
		routes, err := netlink.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Dst: &net.IPNet{IP: net.IPv4(10, 5, 0, 0), Mask: net.CIDRMask(16, 32)}}, netlink.RT_FILTER_DST)
		if err == nil && len(routes) > 0 {
			err = fmt.Errorf("routes left: %v", routes)
		}
		return err
	})
}

// Another process holds the TUN: a new one is made, with a warning that names
// both.
func TestTUNHeld(t *testing.T) {
	a, b := newHosts(t)
	a.open().Close()
	var holder *tun.Device
	a.do(func() (err error) {
		holder, err = tun.Open("flannel0", tun.Options{})
		return err
	})
	defer holder.Close()
	var log logText
	onA := a.openLogging(log.logger())
	for _, want := range []string{"level=WARN", "link=flannel0", "device or resource busy (another process holds an interface of this name)", "making another", "link=flannel1"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("log without %q: %s", want, log.String())
		}
	}
	onB := b.open()
	syncPeers(t, onA, b)
	syncPeers(t, onB, a)
	run(t, onA)
	run(t, onB)
	mustPing(t, a, b)
	mustPing(t, b, a)
}

// The next run may get another lease, and find another MTU.
func TestTakeOverWithOtherLease(t *testing.T) {
	a, b := newHosts(t)
	a.open().Close()
	tuns := a.tuns()
	a.do(func() error {
		link, err := netlink.LinkByName("docker0")
		if err != nil {
			return err
		}
		old, _ := netlink.ParseAddr(a.pod().String() + "/24")
		a.sn = netip.MustParsePrefix("10.5.9.0/24")
		return errors.Join(netlink.AddrDel(link, old), a.configure("docker0", a.pod().String()+"/24"))
	})
	onA, _ := start(t, a, b)
	a.wantState(t, "10.5.9.0/32")
	mustPing(t, a, b)
	mustPing(t, b, a)
	onA.Close()

	a.mtu = 1400
	onA = a.open()
	if got := a.tuns(); !slices.Equal(got, tuns) || onA.MTU() != 1372 {
		t.Errorf("interfaces %q, want %q; MTU %d", got, tuns, onA.MTU())
	}
	a.do(func() error {
		link, err := netlink.LinkByName("flannel0")
		if err == nil && link.Attrs().MTU != 1372 {
			err = fmt.Errorf("MTU %d, want 1372", link.Attrs().MTU)
		}
		return err
	})
	syncPeers(t, onA, b)
	run(t, onA)
	mustPing(t, a, b)
	if err := transfer(b, a, 1<<20); err != nil {
		t.Error(err)
	}
}
