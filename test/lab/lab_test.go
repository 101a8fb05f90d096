package lab

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"tweed/subnet"
	"tweed/test/nstest"
)

// newLab makes a lab whose daemons are this test binary (see fake_test.go) and
// checks in the end that nothing is left of it.
func newLab(t *testing.T, o Options) *Lab {
	t.Helper()
	nstest.NeedRoot(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	o.Flanneld = self
	o.Env = append(o.Env, fakeEnv+"=1")
	l, err := New(timeout(t, 30*time.Second), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeClean(t, l) })
	return l
}

func closeClean(t *testing.T, l *Lab) {
	t.Helper()
	if err := l.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
	if left := Leftovers(l.ID(), ""); len(left) > 0 {
		t.Errorf("left over: %q", left)
	}
	if err := l.Close(); err != nil {
		t.Errorf("second close: %v", err)
	}
}

func timeout(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

func addHost(t *testing.T, l *Lab, name string, o HostOptions) *Host {
	t.Helper()
	h, err := l.AddHostWith(timeout(t, 10*time.Second), name, o)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func env(sn string, mtu int) subnet.Env {
	return subnet.Env{Network: netip.MustParsePrefix("10.5.0.0/16"), Subnet: netip.MustParsePrefix(sn), MTU: mtu}
}

// TestPlainRoutes builds by hand what host-gw does, and uses everything that
// carries or shows traffic.
func TestPlainRoutes(t *testing.T) {
	before := hostNetwork(t)
	l := newLab(t, Options{})
	ctx := timeout(t, 30*time.Second)
	n1, n2 := addHost(t, l, "n1", HostOptions{}), addHost(t, l, "n2", HostOptions{})
	pod1, pod2 := addPod(t, n1, env("10.5.1.0/24", 1450)), addPod(t, n2, env("10.5.2.0/24", 1450))
	if want := netip.MustParseAddr("10.5.1.2"); pod1.Addr != want {
		t.Errorf("address of the first pod = %s, want %s", pod1.Addr, want)
	}
	if _, err := pod1.NS.Ping(ctx, pod2.Addr); err == nil {
		t.Error("pods reach each other before there are routes")
	}
	addRoute(t, n1, "10.5.2.0/24", n2.Addr)
	addRoute(t, n2, "10.5.1.0/24", n1.Addr)

	reply, err := pod1.NS.AwaitPing(ctx, pod2.Addr)
	if err != nil {
		t.Fatal(err)
	}
	if reply.TTL != 62 || reply.RTT <= 0 {
		t.Errorf("reply = %+v, want ttl 62: two hosts forward", reply)
	}
	if _, err := pod1.NS.PingSize(ctx, pod2.Addr, 1450); err != nil {
		t.Errorf("packet of the size of the mtu: %v", err)
	}
	if _, err := pod1.NS.PingSize(ctx, pod2.Addr, 1451); !errors.Is(err, unix.EMSGSIZE) {
		t.Errorf("packet larger than the mtu: %v, want %v", err, unix.EMSGSIZE)
	}
	// Many at once: each gets its own answer, or none.
	dead := netip.MustParseAddr("10.5.2.99")
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if _, err := pod1.NS.Ping(ctx, pod2.Addr); err != nil {
				t.Error(err)
			}
		})
		wg.Go(func() {
			if _, err := pod1.NS.Ping(ctx, dead); !errors.Is(err, ErrNoReply) {
				t.Errorf("ping of an address that nobody has: %v", err)
			}
		})
	}
	wg.Wait()
	err = n1.NS.Netlink(func(h *netlink.Handle) error {
		return h.RouteAdd(&netlink.Route{Dst: ipNet(netip.MustParsePrefix("192.0.2.0/24")), Type: unix.RTN_UNREACHABLE})
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := pod1.NS.Ping(ctx, netip.MustParseAddr("192.0.2.1")); err == nil || !strings.Contains(err.Error(), "unreachable") {
		t.Errorf("ping without a route: %v, want what the router says", err)
	}
	for _, size := range []int64{0, 1, 10e6} {
		if err := SendBytes(ctx, pod1.NS, pod2.NS, pod2.Addr, size); err != nil {
			t.Error(err)
		}
	}
	if bits, err := Throughput(ctx, pod2.NS, pod1.NS, pod1.Addr, 100*time.Millisecond); err != nil || bits < 1e6 {
		t.Errorf("throughput = %.0f bit/s, %v", bits, err)
	}
	if after := hostNetwork(t); after != before {
		t.Errorf("the network of the caller changed from\n%s\nto\n%s", before, after)
	}
}

func TestReaders(t *testing.T) {
	l := newLab(t, Options{})
	h := addHost(t, l, "n1", HostOptions{})
	addRoute(t, h, "10.5.2.0/24", netip.MustParseAddr("20.0.0.9"))
	err := h.NS.Netlink(func(nl *netlink.Handle) error {
		_, dst, _ := net.ParseCIDR("10.6.0.0/16")
		return nl.RouteAdd(&netlink.Route{Dst: dst, Type: unix.RTN_BLACKHOLE})
	})
	if err != nil {
		t.Fatal(err)
	}
	routes, err := h.NS.Routes()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range routes {
		got = append(got, r.String())
	}
	want := `0.0.0.0/0 via 20.0.0.1 dev eth0
10.5.2.0/24 via 20.0.0.9 dev eth0
blackhole 10.6.0.0/16
20.0.0.0/24 dev eth0 scope link src 20.0.0.2`
	if strings.Join(got, "\n") != want {
		t.Errorf("routes:\n%s\nwant:\n%s", strings.Join(got, "\n"), want)
	}

	mac, _ := net.ParseMAC("0e:00:00:00:00:07")
	err = h.NS.Netlink(func(nl *netlink.Handle) error {
		eth0, err := nl.LinkByName("eth0")
		if err != nil {
			return err
		}
		vx := &netlink.Vxlan{LinkAttrs: netlink.LinkAttrs{Name: "vx7"}, VxlanId: 7, Port: 8472, VtepDevIndex: eth0.Attrs().Index}
		if err := nl.LinkAdd(vx); err != nil {
			return err
		}
		neigh := netlink.Neigh{LinkIndex: vx.Index, State: unix.NUD_PERMANENT, IP: net.IPv4(10, 5, 2, 0), HardwareAddr: mac}
		fdb := netlink.Neigh{LinkIndex: vx.Index, Family: unix.AF_BRIDGE, Flags: unix.NTF_SELF, State: unix.NUD_PERMANENT, IP: net.IPv4(20, 0, 0, 9), HardwareAddr: mac}
		return errors.Join(nl.LinkSetUp(vx), nl.NeighSet(&neigh), nl.NeighSet(&fdb))
	})
	if err != nil {
		t.Fatal(err)
	}
	wantEntry := func(what string, list []Neighbour, err error, addr string) {
		t.Helper()
		want := Neighbour{Addr: netip.MustParseAddr(addr), MAC: mac.String(), Dev: "vx7", Permanent: true}
		if err != nil || len(list) != 1 || list[0] != want {
			t.Errorf("%s = %+v, %v, want %+v", what, list, err, want)
		}
	}
	neighbours, err := h.NS.Neighbours("vx7")
	wantEntry("neighbours", neighbours, err, "10.5.2.0")
	fdb, err := h.NS.FDB("vx7")
	wantEntry("fdb", fdb, err, "20.0.0.9")
	if _, err := h.NS.FDB("none"); err == nil {
		t.Error("fdb of a link that is not there: no error")
	}
}

// TestSegments: nodes behind a router, and an outside host that answers only
// its own segment.
func TestSegments(t *testing.T) {
	l := newLab(t, Options{Segments: []netip.Prefix{
		netip.MustParsePrefix("20.0.0.0/29"), netip.MustParsePrefix("20.0.1.0/24"),
	}})
	ctx := timeout(t, 20*time.Second)
	a := addHost(t, l, "a", HostOptions{})
	b := addHost(t, l, "b", HostOptions{Segment: 1, Addr: netip.MustParseAddr("20.0.1.77")})
	out := addHost(t, l, "out", HostOptions{Outside: true})
	if reply, err := a.NS.AwaitPing(ctx, b.Addr); err != nil || reply.TTL != 63 {
		t.Errorf("ping across segments = %+v, %v, want ttl 63", reply, err)
	}
	if _, err := a.NS.Ping(ctx, out.Addr); err != nil {
		t.Errorf("outside host on the same segment: %v", err)
	}
	if _, err := b.NS.Ping(ctx, out.Addr); err == nil {
		t.Error("an outside host answers another segment")
	}
	if err := b.Unplug(); err != nil {
		t.Fatal(err)
	}
	if _, err := a.NS.Ping(ctx, b.Addr); err == nil {
		t.Error("an unplugged host answers")
	}
	if err := b.Plug(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := a.NS.AwaitPing(ctx, b.Addr); err != nil {
		t.Errorf("plugged in again: %v", err)
	}
}

func TestHostFaults(t *testing.T) {
	l := newLab(t, Options{Segments: []netip.Prefix{netip.MustParsePrefix("20.0.0.0/29")}})
	addHost(t, l, "n1", HostOptions{})
	for _, tc := range []struct {
		name string
		opts HostOptions
		want string
	}{
		{"", HostOptions{}, "1 to 12"},
		{"N1", HostOptions{}, "1 to 12"},
		{"../n", HostOptions{}, "1 to 12"},
		{"thirteen-long", HostOptions{}, "1 to 12"},
		{"n1", HostOptions{}, "exist"},
		{"switch", HostOptions{}, "exist"},
		{"n2", HostOptions{Segment: 1}, "segment 1: want 0 to 0"},
		{"n3", HostOptions{Segment: -1}, "segment -1"},
		{"n4", HostOptions{Addr: netip.MustParseAddr("20.0.0.0")}, "20.0.0.0: taken"},
		{"n5", HostOptions{Addr: netip.MustParseAddr("20.0.0.1")}, "20.0.0.1: taken"},
		{"n6", HostOptions{Addr: netip.MustParseAddr("20.0.0.2")}, "20.0.0.2: taken"},
		{"n7", HostOptions{Addr: netip.MustParseAddr("20.0.0.7")}, "20.0.0.7: taken"},
		{"n8", HostOptions{Addr: netip.MustParseAddr("::1")}, "::1: taken"},
	} {
		_, err := l.AddHostWith(t.Context(), tc.name, tc.opts)
		if err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("host %q %+v: %v, want an error with %q", tc.name, tc.opts, err, tc.want)
		}
	}
	for _, name := range []string{"m3", "m4", "m5", "m6"} { // 20.0.0.3 to .6
		addHost(t, l, name, HostOptions{})
	}
	if _, err := l.AddHost(t.Context(), "m7"); err == nil || !strings.Contains(err.Error(), "no address left") {
		t.Errorf("host beyond the underlay: %v", err)
	}
}

func TestSegmentFaults(t *testing.T) {
	for _, bad := range []netip.Prefix{
		{},
		netip.MustParsePrefix("20.0.0.1/24"),
		netip.MustParsePrefix("20.0.0.0/30"),
		netip.MustParsePrefix("0.0.0.0/0"),
		netip.MustParsePrefix("fd00::/64"),
	} {
		if l, err := New(t.Context(), Options{Segments: []netip.Prefix{bad}}); err == nil {
			t.Errorf("underlay %s: no error", bad)
			l.Close()
		}
	}
}

// TestDoKeepsThreads: no goroutine may find itself in a namespace of the lab,
// whatever happened inside.
func TestDoKeepsThreads(t *testing.T) {
	l := newLab(t, Options{})
	want := threadNS(t)
	for i := range 50 {
		err := l.Switch().Do(func() error {
			if threadNS(t) == want {
				t.Error("Do did not change the namespace")
			}
			if i%2 == 0 {
				runtime.Goexit()
			}
			return nil
		})
		if (err != nil) != (i%2 == 0) {
			t.Fatalf("Do = %v", err)
		}
	}
	found := make(chan string)
	for range 50 {
		go func() {
			ns, _ := os.Readlink("/proc/thread-self/ns/net")
			found <- ns
		}()
	}
	for range 50 {
		if got := <-found; got != want {
			t.Errorf("a goroutine is in %s instead of %s", got, want)
		}
	}
}

// TestCancelled ends the context at every stage of building a lab.
func TestCancelled(t *testing.T) {
	nstest.NeedRoot(t)
	build := func(ctx context.Context) (id string, err error) {
		l, err := New(ctx, Options{})
		if err != nil {
			return "", err
		}
		defer closeClean(t, l)
		for _, name := range []string{"n1", "n2"} {
			h, err := l.AddHost(ctx, name)
			if err != nil {
				return l.ID(), err
			}
			if _, err := h.AddPod(ctx, env("10.5.1.0/24", 1450)); err != nil {
				return l.ID(), err
			}
		}
		return l.ID(), nil
	}
	prefix := namePrefix + strings.Split(newID(), "-")[1]
	failed := 0
	for after := time.Duration(0); ; after = after*2 + time.Millisecond {
		ctx, cancel := context.WithTimeout(context.Background(), after)
		_, err := build(ctx)
		cancel()
		for _, name := range names(netnsDir) {
			if strings.HasPrefix(name, prefix+"-") {
				t.Fatalf("cancelled after %s: %s is left", after, name)
			}
		}
		if err == nil {
			break
		}
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("cancelled after %s: %v", after, err)
		}
		failed++
	}
	if failed == 0 {
		t.Error("was never cancelled in time")
	}
}

// TestStale: a lab of a dead process is removed, one of a living process not.
func TestStale(t *testing.T) {
	nstest.NeedRoot(t)
	dead := exec.Command("true")
	if err := dead.Run(); err != nil {
		t.Fatal(err)
	}
	tmp := t.TempDir()
	make := func(pid int) string {
		name := strings.Replace(newID(), "-"+itoa(os.Getpid())+"-", "-"+itoa(pid)+"-", 1)
		n, err := newNS(name + "-n1")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { n.remove() })
		if err := os.MkdirAll(filepath.Join(tmp, name, "n1"), 0o755); err != nil {
			t.Fatal(err)
		}
		return name
	}
	stale, kept, alive := make(dead.Process.Pid), make(dead.Process.Pid), make(os.Getpid())
	if err := os.WriteFile(filepath.Join(tmp, kept, keepMark), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	others := []string{"tweed", "tweed-", "tweed-x-y", "tweed--1-x", "tweed-1", "my-tweed-7-x",
		"tweed-20261123-logs", "tweed-4194305-backup", "tweed-" + itoa(dead.Process.Pid) + "-abcd-notes"}
	for _, name := range others {
		if err := os.Mkdir(filepath.Join(tmp, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if left := Leftovers(stale, tmp); len(left) != 3 {
		t.Errorf("leftovers of the dead lab = %q, want namespace, mount and directory", left)
	}
	if err := RemoveStale(tmp); err != nil {
		t.Fatal(err)
	}
	if left := Leftovers(stale, tmp); len(left) > 0 {
		t.Errorf("left of the dead lab: %q", left)
	}
	if left := Leftovers(kept, tmp); len(left) != 1 {
		t.Errorf("left of the dead lab with logs to keep: %q, want the directory", left)
	}
	if left := Leftovers(alive, tmp); len(left) != 3 {
		t.Errorf("left of the living lab: %q, want namespace, mount and directory", left)
	}
	for _, name := range others {
		if _, err := os.Stat(filepath.Join(tmp, name)); err != nil {
			t.Errorf("removed what is no lab's: %v", err)
		}
	}
}
