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
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"tweed/backend"
	"tweed/subnet"
	"tweed/test/nstest"
)

const patience = 20 * time.Second // for what happens at once on an idle machine

// host is a thread in a network namespace of its own.
type host struct {
	t     *testing.T
	calls chan func()
	addr  netip.Addr // in the underlay
	sn    netip.Prefix
	// backend is the Backend of the network config that the host sees, "" for
	// none.
	backend string
	mtu     int // of the underlay
}

const (
	withOffload = `{"Type":"udp"}`
	plain       = `{"Type":"udp","Offload":false}`
)

// mixes has both kinds of backends at both ends.
var mixes = []struct{ name, a, b string }{
	{"offload to offload", withOffload, withOffload},
	{"offload to plain", withOffload, plain},
	{"plain to offload", plain, withOffload},
	{"plain to plain", plain, plain},
}

// newHosts makes two hosts, joined by a veth pair: 192.0.2.1 with subnet
// 10.5.1.0/24 and 192.0.2.2 with 10.5.2.0/24. Each has a bridge with an
// address of a pod, the second of its subnet.
func newHosts(t *testing.T) (a, b *host) {
	nstest.NeedRoot(t)
	a, b = newHost(t, "192.0.2.1", 1), newHost(t, "192.0.2.2", 2)
	join(a, b, "eth0", a.addr.String()+"/24", b.addr.String()+"/24", 1500)
	a.addPod()
	b.addPod()
	return a, b
}

// join connects two hosts by a veth pair, whose ends have the same name.
func join(a, b *host, name, cidrA, cidrB string, mtu int) {
	a.t.Helper()
	var inB netns.NsHandle
	b.do(func() (err error) { inB, err = netns.Get(); return err })
	defer inB.Close()
	a.do(func() error {
		return netlink.LinkAdd(&netlink.Veth{
			LinkAttrs: netlink.LinkAttrs{Name: name, MTU: mtu},
			PeerName:  name, PeerNamespace: netlink.NsFd(inB), PeerMTU: uint32(mtu),
		})
	})
	a.do(func() error { return a.configure(name, cidrA) })
	b.do(func() error { return b.configure(name, cidrB) })
}

// addPod gives the host its bridge, with the address of a pod.
func (h *host) addPod() {
	h.t.Helper()
	h.do(func() error {
		return errors.Join(
			netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "docker0"}}),
			h.configure("docker0", h.pod().String()+"/24"),
			h.configure("lo", ""))
	})
}

func newHost(t *testing.T, addr string, n byte) *host {
	h := &host{
		t: t, calls: make(chan func()),
		addr: netip.MustParseAddr(addr),
		sn:   netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 5, n, 0}), 24),
		mtu:  1500,
	}
	entered := make(chan error)
	go func() {
		runtime.LockOSThread() // for good: the thread dies with its namespace
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			// One processor takes in what a veth brings, or else packets that two
			// have sent may overtake each other.
			err = os.WriteFile("/proc/sys/net/core/rps_default_mask", []byte("1"), 0)
		}
		entered <- err
		for call := range h.calls {
			call()
		}
	}()
	if err := <-entered; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { close(h.calls) })
	return h
}

// do runs f in the host's namespace; an error ends the test.
func (h *host) do(f func() error) {
	h.t.Helper()
	result := make(chan error)
	h.calls <- func() { result <- f() }
	if err := <-result; err != nil {
		h.t.Fatal(err)
	}
}

func (h *host) pod() netip.Addr { return h.sn.Addr().Next().Next() }

func (h *host) configure(name, cidr string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	if cidr != "" {
		addr, err := netlink.ParseAddr(cidr)
		if err != nil {
			return err
		}
		if err := netlink.AddrAdd(link, addr); err != nil {
			return err
		}
	}
	return netlink.LinkSetUp(link)
}

func (h *host) lease() subnet.Lease {
	return subnet.Lease{Subnet: h.sn, Attrs: subnet.Attrs{PublicIP: h.addr}}
}

func (h *host) underlay() backend.Underlay {
	return backend.Underlay{Name: "eth0", MTU: h.mtu, Addr: h.addr, PublicIP: h.addr}
}

func config(t testing.TB, backend string) subnet.Config {
	t.Helper()
	text := `{"Network":"10.5.0.0/16"}`
	if backend != "" {
		text = `{"Network":"10.5.0.0/16","Backend":` + backend + `}`
	}
	cfg, err := subnet.ParseConfig([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

// open opens a backend that is up and closed with the test.
func (h *host) open() *Backend {
	h.t.Helper()
	return h.openLogging(slog.New(slog.DiscardHandler))
}

func (h *host) openLogging(log *slog.Logger) *Backend {
	h.t.Helper()
	var b *Backend
	cfg := config(h.t, h.backend)
	h.do(func() (err error) {
		if b, err = Open(context.Background(), h.underlay(), cfg, log); err == nil {
			err = b.Up(context.Background(), h.lease())
		}
		return err
	})
	h.t.Cleanup(func() { b.Close() })
	return b
}

// run runs b until the returned function is called, which returns Run's error.
func run(t *testing.T, b *Backend) (stop func() error) {
	ctx, cancel := context.WithCancel(context.Background())
	result := make(chan error, 1)
	go func() { result <- b.Run(ctx) }()
	stop = func() error {
		cancel()
		err := <-result
		result <- err // for a second call
		return err
	}
	t.Cleanup(func() { stop() })
	return stop
}

func syncPeers(t *testing.T, b *Backend, peers ...*host) {
	t.Helper()
	var leases []subnet.Lease
	for _, h := range peers {
		leases = append(leases, h.lease())
	}
	if err := b.Sync(context.Background(), leases); err != nil {
		t.Fatal(err)
	}
}

// start opens and runs both hosts, with each other as peers.
func start(t *testing.T, a, b *host) (onA, onB *Backend) {
	t.Helper()
	onA, onB = a.open(), b.open()
	syncPeers(t, onA, b)
	syncPeers(t, onB, a)
	run(t, onA)
	run(t, onB)
	return onA, onB
}

// inMixes runs f on started hosts, with both kinds of backends at both ends.
func inMixes(t *testing.T, f func(t *testing.T, a, b *host, onA, onB *Backend)) {
	for _, mix := range mixes {
		t.Run(mix.name, func(t *testing.T) {
			a, b := newHosts(t)
			a.backend, b.backend = mix.a, mix.b
			onA, onB := start(t, a, b)
			f(t, a, b, onA, onB)
		})
	}
}

// ping sends echo requests to dst until one is answered, and returns the TTL
// of the answer.
func (h *host) ping(dst netip.Addr) (ttl byte, err error) {
	var fd int
	h.do(func() (err error) {
		fd, err = unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_ICMP)
		return err
	})
	defer unix.Close(fd)
	every := unix.NsecToTimeval(int64(200 * time.Millisecond))
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &every); err != nil {
		return 0, err
	}
	request := []byte{8, 0, 0xf7, 0xff, 0, 0, 0, 0} // echo request, its checksum
	buf := make([]byte, 1500)
	for end := time.Now().Add(patience); time.Now().Before(end); {
		if err := unix.Sendto(fd, request, 0, &unix.SockaddrInet4{Addr: dst.As4()}); err != nil {
			return 0, fmt.Errorf("ping %s: %w", dst, err)
		}
		for {
			n, _, err := unix.Recvfrom(fd, buf, 0)
			if err != nil {
				break // none so far
			}
			if n >= 28 && netip.AddrFrom4([4]byte(buf[12:16])) == dst && buf[20] == 0 {
				return buf[8], nil
			}
		}
	}
	return 0, fmt.Errorf("ping %s: no answer in %v", dst, patience)
}

func mustPing(t *testing.T, from, to *host) {
	t.Helper()
	ttl, err := from.ping(to.pod())
	if err != nil {
		t.Fatal(err)
	}
	// 64 at the start, less one at either end of the overlay.
	if ttl != 62 {
		t.Errorf("TTL of the answer is %d, want 62", ttl)
	}
}

// transfer sends size bytes by TCP from a pod of one host to one of the other
// and checks what arrives.
func transfer(from, to *host, size int) error {
	var l net.Listener
	var c net.Conn
	to.do(func() (err error) {
		l, err = net.Listen("tcp4", netip.AddrPortFrom(to.pod(), 0).String())
		return err
	})
	defer l.Close()
	data := make([]byte, size)
	for i := range data {
		data[i] = byte(i ^ i>>8 ^ i>>16)
	}
	received := make(chan error, 1)
	go func() {
		conn, err := l.Accept()
		if err != nil {
			received <- err
			return
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(2 * patience))
		got, err := io.ReadAll(conn)
		if err == nil && !bytes.Equal(got, data) {
			err = fmt.Errorf("%d bytes of %d arrived, or others", len(got), size)
		}
		received <- err
	}()
	from.do(func() (err error) {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: from.pod().AsSlice()}, Timeout: patience}
		c, err = d.Dial("tcp4", l.Addr().String())
		return err
	})
	c.SetDeadline(time.Now().Add(2 * patience))
	_, err := c.Write(data)
	return errors.Join(err, c.Close(), <-received)
}
