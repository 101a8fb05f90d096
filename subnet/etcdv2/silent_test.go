package etcdv2

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"tweed/subnet"
	"tweed/test/embedetcd"
	"tweed/test/nstest"
)

// failoverTime is the longest that a network which drops everything may keep us
// from etcd.
const failoverTime = 10 * time.Second

// TestSilentDrop: packets to the endpoint in use vanish, without a word. There
// are three real members behind two hosts in network namespaces, so that the
// kernel's timers are those of a real connection.
func TestSilentDrop(t *testing.T) {
	nstest.NeedRoot(t)
	if _, err := exec.LookPath("nft"); err != nil {
		nstest.Missing(t, "nft")
	}
	for _, secure := range []bool{false, true} {
		o := embedetcd.ClusterOptions{Dir: t.TempDir()}
		var files Options
		scheme := "http"
		if secure {
			ca, err := embedetcd.NewCA(o.Dir, "ca")
			if err != nil {
				t.Fatal(err)
			}
			client, err := ca.Issue("client", nil, time.Time{})
			if err != nil {
				t.Fatal(err)
			}
			o.CA, scheme = ca, "https"
			files = Options{CAFile: ca.File, CertFile: client.CertFile, KeyFile: client.KeyFile}
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		cluster, err := embedetcd.StartCluster(ctx, o)
		cancel()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := cluster.Close(); err != nil {
				t.Error(err)
			}
		})
		for _, dead := range []int{1, 2} {
			for _, what := range []string{"watch", "list", "update", "dial"} {
				prefix := fmt.Sprintf("/%s%d", what, dead)
				t.Run(fmt.Sprintf("%s/%d of 3/%s", scheme, dead, what), func(t *testing.T) {
					t.Parallel()
					o := files
					o.Endpoints, o.Prefix = cluster.Endpoints(), prefix
					testSilentDrop(t, o, cluster.Member(2), what, dead)
				})
			}
		}
	}
}

// testSilentDrop uses the first endpoint, loses as many as are dead, and measures
// how long it takes until another has done the work. alive is one that stays.
func testSilentDrop(t *testing.T, o Options, alive *embedetcd.Server, what string, dead int) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	s := open(t, o)
	far := newFarHost(t, s)
	a := subnet.Attrs{PublicIP: addr("192.0.2.1")}
	l, err := s.Create(ctx, subnetOf("10.5.3.0/24"), a, subnet.TTL)
	if err != nil {
		t.Fatal(err)
	}

	seen := make(chan subnet.Event, 10)
	watched := make(chan error, 1)
	if what == "watch" {
		go func() {
			watched <- s.Watch(ctx, l.Revision, func(events []subnet.Event) error {
				seen <- events[0]
				return nil
			})
		}()
		// The next change comes over the connection of the one before.
		set(t, alive, o.Prefix+"/subnets/10.5.4.0-24", `{"PublicIP":"192.0.2.2"}`, 0)
		<-seen
	}
	if what == "dial" { // with no connection open
		s.transports.close()
	}
	far.drop(dead)
	began := time.Now()
	switch what {
	case "watch":
		set(t, alive, o.Prefix+"/subnets/10.5.5.0-24", `{"PublicIP":"192.0.2.3"}`, 0)
		select {
		case e := <-seen:
			if e.Kind != subnet.Put || e.Lease.Subnet != subnetOf("10.5.5.0/24") {
				t.Errorf("event %+v", e)
			}
		case err := <-watched:
			t.Errorf("watch: %v", err)
		case <-ctx.Done():
		}
	case "list", "dial":
		_, err = s.List(ctx)
	case "update":
		_, err = s.Update(ctx, l, subnet.TTL)
	}
	took := time.Since(began)
	if err != nil || took > failoverTime {
		t.Errorf("after %v: %v, want another endpoint within %v", took, err, failoverTime)
	}
	t.Logf("another endpoint is in use %.1f s after the packets were lost", took.Seconds())
	cancel()
	if what == "watch" {
		if err := <-watched; !errors.Is(err, context.Canceled) {
			t.Errorf("watch: %v", err)
		}
	}
}

// farHost stands between a Store and its endpoints: a network namespace with an
// address for each, from where connections are passed on to the real ones.
type farHost struct {
	t     *testing.T
	ns    int
	addrs []string
}

// newFarHost makes s dial from a namespace of its own.
func newFarHost(t *testing.T, s *Store) *farHost {
	near, far := newNamespace(t), newNamespace(t)
	h := &farHost{t: t, ns: far}
	must(t, within(near, func() error {
		link := netlink.NewLinkAttrs()
		link.Name = "near"
		veth := &netlink.Veth{LinkAttrs: link, PeerName: "far", PeerNamespace: netlink.NsFd(far)}
		return errors.Join(netlink.LinkAdd(veth), setUp("near", "10.99.0.1/24"))
	}))
	must(t, within(far, func() error {
		err := setUp("far", "10.99.0.10/24", "10.99.0.11/24", "10.99.0.12/24")
		return errors.Join(err, nft("add table ip lost"), nft("add chain ip lost in { type filter hook prerouting priority -500; }"),
			nft("add chain ip lost out { type filter hook postrouting priority -500; }"))
	}))
	relay := map[string]string{}
	for i, ep := range s.endpoints {
		real := ep.url[len("http://"):]
		if ep.url[:5] == "https" {
			real = ep.url[len("https://"):]
		}
		h.addrs = append(h.addrs, fmt.Sprintf("10.99.0.%d", 10+i))
		relay[real] = h.addrs[i] + ":2379"
		must(t, within(far, func() error {
			l, err := net.Listen("tcp", relay[real])
			if err == nil {
				t.Cleanup(func() { l.Close() })
				go passOn(l, real)
			}
			return err
		}))
	}
	s.transports.peers.by = func(ctx context.Context, network, address string) (c net.Conn, err error) {
		err = within(near, func() (err error) {
			c, err = newDialer().DialContext(ctx, network, relay[address])
			return err
		})
		return c, err
	}
	return h
}

// drop makes the packets to and from the first n endpoints vanish.
func (h *farHost) drop(n int) {
	h.t.Helper()
	must(h.t, within(h.ns, func() (err error) {
		for _, a := range h.addrs[:n] {
			err = errors.Join(err, nft("add rule ip lost in ip daddr "+a+" drop"), nft("add rule ip lost out ip saddr "+a+" drop"))
		}
		return err
	}))
}

func nft(command string) error {
	if out, err := exec.Command("nft", command).CombinedOutput(); err != nil {
		return fmt.Errorf("nft %s: %w: %s", command, err, out)
	}
	return nil
}

func setUp(name string, addrs ...string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	for _, a := range addrs {
		addr, err := netlink.ParseAddr(a)
		if err != nil {
			return err
		}
		if err := netlink.AddrAdd(link, addr); err != nil {
			return err
		}
	}
	return netlink.LinkSetUp(link)
}

// passOn passes on what comes to l to another address.
func passOn(l net.Listener, to string) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			d, err := net.Dial("tcp", to)
			if err != nil {
				return
			}
			defer d.Close()
			go func() {
				io.Copy(d, c)
				d.(*net.TCPConn).CloseWrite()
			}()
			io.Copy(c, d)
		}()
	}
}

// newNamespace makes a network namespace that vanishes with the test.
func newNamespace(t *testing.T) (ns int) {
	t.Helper()
	made := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			ns, err = unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		}
		made <- err
	}()
	must(t, os.NewSyscallError("namespace", <-made))
	t.Cleanup(func() { unix.Close(ns) })
	return ns
}

// within runs f on a thread in a namespace. Sockets opened there stay there.
func within(ns int, f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		err := unix.Setns(ns, unix.CLONE_NEWNET)
		if err == nil {
			err = f()
		}
		done <- err
	}()
	return <-done
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
