package load

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// all runs each kind of load on a path.
var all = []struct {
	name string
	run  func(ctx context.Context, p Path, w Window) error
}{
	{"tcp", func(ctx context.Context, p Path, w Window) error {
		_, err := TCP(ctx, p, TCPOptions{Window: w, Streams: 3, Both: true})
		return err
	}},
	{"udp", func(ctx context.Context, p Path, w Window) error {
		_, err := UDP(ctx, p, UDPOptions{Window: w, Size: 64})
		return err
	}},
	{"udp paced", func(ctx context.Context, p Path, w Window) error {
		_, err := UDP(ctx, p, UDPOptions{Window: w, Size: 64, Rate: 1, Connected: true})
		return err
	}},
	{"udp latency", func(ctx context.Context, p Path, w Window) error {
		_, err := Latency(ctx, p, LatencyOptions{Window: w, Size: 64})
		return err
	}},
}

// wantError asks for an error that names the path, and for the given texts.
func wantError(t *testing.T, name string, p Path, err error, texts ...string) {
	t.Helper()
	for _, text := range append(texts, p.String()) {
		if err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("%s: error %v, want one with %q", name, err, text)
		}
	}
}

func TestBadOptions(t *testing.T) {
	good := Path{From: "none-a", To: "none-b", FromAddr: netip.MustParseAddr("20.0.0.2"), ToAddr: netip.MustParseAddr("20.0.0.3")}
	with := func(change func(*Path)) Path { p := good; change(&p); return p }
	for _, tt := range []struct {
		p    Path
		w    Window
		want string
	}{
		{with(func(p *Path) { p.FromAddr = netip.Addr{} }), short, "want an IPv4 address"},
		{with(func(p *Path) { p.ToAddr = netip.MustParseAddr("fd00::1") }), short, "want an IPv4 address"},
		{good, Window{}, "want a length above 0"},
		{good, Window{Length: -1}, "want a length above 0"},
		{good, Window{Warmup: -1, Length: 1}, "no negative warm-up"},
		{good, short, "no such file"}, // the namespace
	} {
		for _, kind := range all {
			wantError(t, kind.name, tt.p, kind.run(t.Context(), tt.p, tt.w), tt.want)
		}
	}
	for _, n := range []int{-1, 0, maxStreams + 1} {
		_, err := TCP(t.Context(), good, TCPOptions{Window: short, Streams: n})
		wantError(t, "streams", good, err, fmt.Sprintf("%d streams: want 1 to 256", n))
	}
	for _, n := range []int{-1, 1, 1023, 1<<20 + 1} {
		_, err := TCP(t.Context(), good, TCPOptions{Window: short, Streams: 1, Block: n})
		wantError(t, "block", good, err, fmt.Sprintf("blocks of %d bytes: want 1024 to 1048576", n))
	}
	for _, n := range []int{-1, 0, MinSize - 1, MaxSize + 1} {
		_, err := UDP(t.Context(), good, UDPOptions{Window: short, Size: n})
		wantError(t, "udp size", good, err, fmt.Sprintf("payload of %d bytes: want 16 to 65507", n))
		_, err = Latency(t.Context(), good, LatencyOptions{Window: short, Size: n})
		wantError(t, "latency size", good, err, fmt.Sprintf("payload of %d bytes: want 16 to 65507", n))
	}
	for _, n := range []int{-1, maxRate + 1} {
		_, err := UDP(t.Context(), good, UDPOptions{Window: short, Size: 64, Rate: n})
		wantError(t, "rate", good, err, fmt.Sprintf("rate of %d packets", n))
	}
}

// TestCancel ends the context before, in the middle of and during the making
// of a connection.
func TestCancel(t *testing.T) {
	procs := runtime.GOMAXPROCS(0)
	p := newPath(t)
	dead := p
	dead.ToAddr = netip.MustParseAddr("20.0.0.200") // of To, but nobody can get there
	err := p.To.Netlink(func(h *netlink.Handle) error {
		lo, err := h.LinkByName("lo")
		if err != nil {
			return err
		}
		addr, _ := netlink.ParseAddr("20.0.0.200/32")
		return h.AddrAdd(lo, addr)
	})
	if err != nil {
		t.Fatal(err)
	}
	iptables(t, p.To, "-A INPUT -d 20.0.0.200 -j DROP")

	long := Window{Length: time.Minute}
	for _, kind := range all {
		if err := kind.run(t.Context(), p, short); err != nil && kind.name != "udp paced" {
			t.Errorf("%s: %v", kind.name, err) // once, so that all that stays is there
		}
	}
	files := openFiles(t)
	for _, kind := range all {
		for _, after := range []time.Duration{0, 150 * time.Millisecond} {
			for _, path := range []Path{p, dead} {
				ctx, cancel := context.WithTimeout(t.Context(), after)
				err := kind.run(ctx, path, long)
				end, _ := ctx.Deadline()
				if late := time.Since(end); late > time.Second {
					t.Errorf("%s: came back %s after the end of the context", kind.name, late)
				}
				cancel()
				if err != context.DeadlineExceeded {
					t.Errorf("%s: error %v, want %v", kind.name, err, context.DeadlineExceeded)
				}
				if left := workers(); left > 0 {
					t.Errorf("%s: %d goroutines are left", kind.name, left)
				}
			}
		}
	}
	if now := runtime.GOMAXPROCS(0); now != procs {
		t.Errorf("GOMAXPROCS is %d, was %d", now, procs)
	}
	for end := time.Now().Add(5 * time.Second); openFiles(t) > files; runtime.Gosched() { // etcd opens some for a while
		if time.Now().After(end) {
			t.Fatalf("%d files are open, before were %d", openFiles(t), files)
		}
	}
}

func openFiles(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// workers counts the goroutines that run code of a crew.
func workers() (n int) {
	buf := make([]byte, 4<<20)
	buf = buf[:runtime.Stack(buf, true)]
	for _, stack := range strings.Split(string(buf), "\n\n") {
		if strings.Contains(stack, "load.(*crew)") {
			n++
		}
	}
	return n
}

// TestFilesClosed: many runs need no more descriptors than one.
func TestFilesClosed(t *testing.T) {
	p := newPath(t)
	w := Window{Length: 5 * time.Millisecond}
	files := openFiles(t)
	for range 5 {
		for _, kind := range all {
			kind.run(t.Context(), p, w) // too short to promise a byte
		}
	}
	if now := openFiles(t); now > files+10 { // a leak would be of 50
		t.Errorf("%d files are open, before were %d", now, files)
	}
}

// TestRefused: somebody says at once that there is no way.
func TestRefused(t *testing.T) {
	t.Parallel()
	p := newPath(t)
	for _, tt := range []struct {
		kind int
		want error
	}{
		{unix.RTN_UNREACHABLE, unix.EHOSTUNREACH},
		{unix.RTN_BLACKHOLE, unix.EINVAL},
		{unix.RTN_PROHIBIT, unix.EACCES},
	} {
		route := &netlink.Route{Dst: netlink.NewIPNet(p.ToAddr.AsSlice()), Type: tt.kind}
		err := p.From.Netlink(func(h *netlink.Handle) error { return h.RouteReplace(route) })
		if err != nil {
			t.Fatal(err)
		}
		for _, kind := range all {
			err := kind.run(t.Context(), p, short)
			wantError(t, kind.name, p, err, strings.Fields(kind.name)[0]+" ")
			if !errors.Is(err, tt.want) {
				t.Errorf("%s: error %v, want %v", kind.name, err, tt.want)
			}
		}
		if err := p.From.Netlink(func(h *netlink.Handle) error { return h.RouteDel(route) }); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.To.Sysctl("ipv4/icmp_ratemask", "0"); err != nil { // or it answers the first few only
		t.Fatal(err)
	}
	iptables(t, p.To, "-A INPUT -p tcp -j REJECT --reject-with tcp-reset")
	iptables(t, p.To, "-A INPUT -p udp -j REJECT --reject-with icmp-port-unreachable")
	_, err := TCP(t.Context(), p, TCPOptions{Window: short, Streams: 1})
	wantError(t, "tcp", p, err, "connect to port", unix.ECONNREFUSED.Error())
	_, err = UDP(t.Context(), p, UDPOptions{Window: short, Size: 64, Connected: true, Rate: 1000})
	wantError(t, "udp", p, err, "not one arrived", unix.ECONNREFUSED.Error())
	_, err = Latency(t.Context(), p, LatencyOptions{Window: short, Size: 64})
	wantError(t, "latency", p, err, "not one was answered", unix.ECONNREFUSED.Error())
}

// TestNobody: the address is of nobody on the other side.
func TestNobody(t *testing.T) {
	p := newPath(t)
	p.ToAddr = netip.MustParseAddr("20.0.0.77")
	for _, kind := range all {
		wantError(t, kind.name, p, kind.run(t.Context(), p, short), "bind", "20.0.0.77", string(p.To))
	}
}

// TestDropped: nobody says anything.
func TestDropped(t *testing.T) {
	t.Parallel()
	p := newPath(t)
	iptables(t, p.To, "-A INPUT -j DROP")
	start := time.Now()
	_, err := TCP(t.Context(), p, TCPOptions{Window: short, Streams: 1})
	wantError(t, "tcp", p, err, "connect to port", "no answer within 5s")
	if took := time.Since(start); took < connectTimeout || took > connectTimeout+2*time.Second {
		t.Errorf("tcp gave up after %s", took)
	}
	_, err = UDP(t.Context(), p, UDPOptions{Window: short, Size: 64})
	wantError(t, "udp", p, err, "port ", "packets sent in the 200ms of the window, not one arrived")
	r, err := Latency(t.Context(), p, LatencyOptions{Window: Window{Length: 500 * time.Millisecond}, Size: 64})
	wantError(t, "latency", p, err, "port ", "requests in the 500ms of the window, not one was answered")
	if r.Lost < 1 || r.Lost > 3 {
		t.Errorf("latency: %d requests lost, want one each 200 ms", r.Lost)
	}
}

// TestDataDropped: a connection is made, but what is larger than a handshake
// does not arrive, as on a path with too small an MTU.
func TestDataDropped(t *testing.T) {
	t.Parallel()
	p := newPath(t)
	const large = "-p tcp -m length --length 200: -j "
	iptables(t, p.From, "-A INPUT "+large+"DROP")
	if _, err := TCP(t.Context(), p, TCPOptions{Window: short, Streams: 1}); err != nil {
		t.Errorf("one way: %v", err)
	}
	_, err := TCP(t.Context(), p, TCPOptions{Window: short, Streams: 1, Both: true})
	wantError(t, "back", p, err, "back to port", "not one byte arrived")
	iptables(t, p.To, "-A INPUT "+large+"DROP")
	_, err = TCP(t.Context(), p, TCPOptions{Window: short, Streams: 1})
	wantError(t, "forward", p, err, "connected, but not one byte arrived in the 200ms")

	iptables(t, p.To, "-R INPUT 1 "+large+"REJECT --reject-with tcp-reset")
	start := time.Now()
	_, err = TCP(t.Context(), p, TCPOptions{Window: Window{Length: time.Minute}, Streams: 2})
	wantError(t, "reset", p, err, "send to port", unix.ECONNRESET.Error())
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("a broken connection was noticed after %s", took)
	}
}

// TestLoss has a tenth of the packets thrown away.
func TestLoss(t *testing.T) {
	t.Parallel()
	p := newPath(t)
	iptables(t, p.To, "-A INPUT -m statistic --mode random --probability 0.1 -j DROP")
	udp, err := UDP(t.Context(), p, UDPOptions{Window: Window{Length: 300 * time.Millisecond}, Size: 64, Rate: 20000})
	if err != nil {
		t.Fatal(err)
	}
	if part := float64(udp.Lost()) / float64(udp.Sent); udp.Sent < 1000 || part < 0.05 || part > 0.15 {
		t.Errorf("%+v: lost %.3f, want about a tenth", udp, part)
	}
	lat, err := Latency(t.Context(), p, LatencyOptions{Window: Window{Length: 3 * time.Second}, Size: 64})
	if err != nil {
		t.Fatal(err)
	}
	if lat.Lost < 2 || int64(len(lat.Samples)) < lat.Lost || lat.Percentile(100) > answerTimeout+time.Second {
		t.Errorf("latency: lost %d, %d samples up to %s", lat.Lost, len(lat.Samples), lat.Percentile(100))
	}
	tcp, err := TCP(t.Context(), p, TCPOptions{Window: short, Streams: 2})
	if err != nil {
		t.Fatal(err)
	}
	if tcp.Retransmits == 0 {
		t.Error("tcp: no retransmits")
	}
}

// TestTooLarge: a packet that UDP_SEGMENT may not cut out.
func TestTooLarge(t *testing.T) {
	p := newPath(t)
	for _, connected := range []bool{false, true} {
		_, err := UDP(t.Context(), p, UDPOptions{Window: short, Size: 1473, GSO: true, Connected: connected})
		wantError(t, "gso", p, err, "of 0 packets sent", "the last send that was refused")
	}
}

// TestStrangers: datagrams that are not of the run.
func TestStrangers(t *testing.T) {
	t.Parallel()
	p := newPath(t)
	o := UDPOptions{Window: Window{Length: 500 * time.Millisecond}, Size: 64, Rate: 1000}
	const few = 5
	sent := make(chan int, 1)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	go func() { sent <- disturb(ctx, p, few) }()
	r, err := UDP(ctx, p, o)
	if n := <-sent; err != nil || n != few || r.Corrupt != few || r.Lost() != 0 {
		t.Errorf("%d strangers: %+v, %v", n, r, err)
	}

	go func() { sent <- flood(ctx, p) }()
	_, err = UDP(ctx, p, o)
	wantError(t, "without an end", p, err, "packets still arrive 5s after")
	late, stop := context.WithTimeout(ctx, o.Length+time.Second)
	defer stop()
	_, err = UDP(late, p, o)
	if end, _ := late.Deadline(); err != context.DeadlineExceeded || time.Since(end) > time.Second {
		t.Errorf("cancelled while draining: error %v after %s, want %v", err, time.Since(end), context.DeadlineExceeded)
	}
	cancel()
	<-sent
}

// flood disturbs one load after the other.
func flood(ctx context.Context, p Path) (n int) {
	for ctx.Err() == nil {
		n += disturb(ctx, p, 1_000_000)
	}
	return n
}

// disturb sends datagrams of 64 bytes to the port that a UDP load receives on,
// one each millisecond as long as it is open, and returns how many.
func disturb(ctx context.Context, p Path, count int) (n int) {
	a := p.ToAddr.As4()
	addr := fmt.Sprintf("%08X", binary.NativeEndian.Uint32(a[:]))
	var port uint64
	for port == 0 && ctx.Err() == nil {
		time.Sleep(time.Millisecond)
		p.To.Do(func() error {
			table, err := os.ReadFile("/proc/thread-self/net/udp")
			for line := range strings.Lines(string(table)) {
				// sl local_address rem_address st ...; 7 is a socket that is not connected.
				f := strings.Fields(line)
				if f[3] == "07" && f[1][:8] == addr {
					port, _ = strconv.ParseUint(f[1][9:], 16, 16)
				}
			}
			return err
		})
	}
	c, err := p.From.DialContext(ctx, "udp4", netip.AddrPortFrom(p.ToAddr, uint16(port)).String())
	if err != nil {
		return 0
	}
	defer c.Close()
	for ; n < count && ctx.Err() == nil; n++ {
		if _, err := c.Write(make([]byte, 64)); err != nil {
			return n
		}
		time.Sleep(time.Millisecond)
	}
	return n
}

// TestEndGone: a stream whose other end has closed ends the run.
func TestEndGone(t *testing.T) {
	for _, tt := range []struct{ gone, want string }{
		{"sender", "receive on port 7: the connection was closed"},
		{"receiver", "send to port 7: " + unix.EPIPE.Error()},
	} {
		pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		other, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0) // is well
		if err != nil {
			t.Fatal(err)
		}
		s := &stream{send: pair[0], recv: other[0], port: 7}
		if tt.gone == "sender" {
			s = &stream{send: other[0], recv: pair[0], port: 7}
		}
		unix.Close(pair[1])
		c := newCrew()
		c.carry([]*stream{s}, DefaultBlock)
		_, err = c.run(t.Context(), Window{Length: time.Minute}, func() {})
		if err == nil || err.Error() != tt.want {
			t.Errorf("%s gone: error %v, want %s", tt.gone, err, tt.want)
		}
		for _, fd := range []int{pair[0], other[0], other[1]} {
			unix.Close(fd)
		}
	}
}
