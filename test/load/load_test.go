package load

import (
	"context"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"tweed/test/lab"
	"tweed/test/nstest"
)

// short is enough for traffic that flows at all.
var short = Window{Warmup: 50 * time.Millisecond, Length: 200 * time.Millisecond}

// newPath is a path between two hosts on the plain underlay.
func newPath(t *testing.T) Path {
	t.Helper()
	nstest.NeedRoot(t)
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	l, err := lab.New(ctx, lab.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Errorf("close the lab: %v", err)
		}
		if left := lab.Leftovers(l.ID(), ""); len(left) > 0 {
			t.Errorf("left over: %q", left)
		}
	})
	a, err := l.AddHost(ctx, "a")
	if err != nil {
		t.Fatal(err)
	}
	b, err := l.AddHost(ctx, "b")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.NS.AwaitPing(ctx, b.Addr); err != nil {
		t.Fatal(err)
	}
	return Path{From: a.NS, To: b.NS, FromAddr: a.Addr, ToAddr: b.Addr}
}

// iptables changes the firewall of a namespace.
func iptables(t *testing.T, ns lab.NS, rule string) {
	t.Helper()
	run(t, ns, "iptables -w 10 "+rule)
}

// run runs a command in a namespace.
func run(t *testing.T, ns lab.NS, command string) {
	t.Helper()
	args := strings.Fields(command)
	if _, err := exec.LookPath(args[0]); err != nil {
		nstest.Missing(t, args[0])
	}
	err := ns.Do(func() error {
		out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
		if err != nil {
			t.Errorf("%s: %s", command, out)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func sum(list []int64) (n int64) {
	for _, v := range list {
		n += v
	}
	return n
}

func TestTCP(t *testing.T) {
	p := newPath(t)
	for _, o := range []TCPOptions{
		{Window: short, Streams: 1},
		{Window: short, Streams: 4},
		{Window: short, Streams: 1, Both: true},
		{Window: short, Streams: 4, Both: true},
		{Window: Window{Length: 100 * time.Millisecond}, Streams: 1}, // no warm-up
		{Window: short, Streams: 40},
	} {
		r, err := TCP(t.Context(), p, o)
		if err != nil {
			t.Fatalf("%+v: %v", o, err)
		}
		want := o.Streams
		if o.Both {
			want *= 2
		}
		if len(r.PerStream) != want {
			t.Fatalf("%+v: %d streams, want %d", o, len(r.PerStream), want)
		}
		if r.Bytes < 1e6 || r.Bytes != sum(r.PerStream[:o.Streams]) || r.BytesBack != sum(r.PerStream[o.Streams:]) || o.Both != (r.BytesBack > 1e6) {
			t.Errorf("%+v: %+v: want megabytes, and the sum of the streams", o, r)
		}
		if o.Streams <= 4 && slices.Min(r.PerStream) <= 0 {
			t.Errorf("%+v: a stream without a byte: %d", o, r.PerStream)
		}
		checkUsage(t, r.Usage, o.Length)
	}
}

// checkUsage asks for what holds on any machine, however busy.
func checkUsage(t *testing.T, u Usage, length time.Duration) {
	t.Helper()
	if u.Wall < length || u.Wall > length+5*time.Second || u.Busy < 0 || u.Steal < 0 {
		t.Errorf("usage %+v of a window of %s", u, length)
	}
}

func TestUDP(t *testing.T) {
	p := newPath(t)
	for _, o := range []UDPOptions{
		{Size: 64, Connected: true},
		{Size: 64},
		{Size: 64, GSO: true, Connected: true},
		{Size: 64, GSO: true},
		{Size: 1400},
		{Size: 1400, GSO: true},
		{Size: 1472, GSO: true}, // all that fits into the MTU
		{Size: MinSize},
		{Size: MinSize, GSO: true},
		{Size: MaxSize}, // fragments
		{Size: 64, Rate: 5000},
		{Size: 64, Rate: 5000, GSO: true, Connected: true},
	} {
		o.Window = short
		r, err := UDP(t.Context(), p, o)
		if err != nil {
			t.Fatalf("%+v: %v", o, err)
		}
		if r.Sent < 100 || r.Delivered < 100 || r.Delivered > r.Sent || r.Reordered+r.Duplicated+r.Corrupt != 0 {
			t.Errorf("%+v: %+v", o, r)
		}
		if o.Rate > 0 && r.Lost() != 0 {
			t.Errorf("%+v: %+v: lost packets at a low rate", o, r)
		}
		checkUsage(t, r.Usage, o.Length)
	}
}

func TestUDPRate(t *testing.T) {
	p := newPath(t)
	o := UDPOptions{Window: Window{Warmup: 400 * time.Millisecond, Length: 300 * time.Millisecond}, Size: 64, Rate: 2000}
	r, err := UDP(t.Context(), p, o)
	if err != nil {
		t.Fatal(err)
	}
	// Never more than what the rate makes of the window and of the debt. How
	// much less depends on what else the machine does.
	most := int64((r.Wall+maxDebt).Seconds()*float64(o.Rate)) + 1
	if r.Sent > most || r.Sent < most/10 {
		t.Errorf("sent %d in %s, want %d at most, and not much less", r.Sent, r.Wall, most)
	}
}

func TestLatency(t *testing.T) {
	p := newPath(t)
	w := Window{Warmup: 2 * answerTimeout, Length: 200 * time.Millisecond}
	for _, size := range []int{MinSize, 64, 1400, 9000} {
		r, err := Latency(t.Context(), p, LatencyOptions{Window: w, Size: size})
		if err != nil {
			t.Fatal(err)
		}
		n := len(r.Samples)
		if n < 20 || r.Lost > int64(n/20) || !slices.IsSorted(r.Samples) || r.Samples[0] < time.Microsecond || r.Samples[0] > 100*time.Millisecond {
			t.Errorf("size %d: lost %d, %d samples from %s to %s", size, r.Lost, n, r.Percentile(0), r.Percentile(100))
		}
		var waited time.Duration // one request after the other
		for _, s := range r.Samples {
			waited += s
		}
		if waited < r.Wall/20 || waited > r.Wall+answerTimeout {
			t.Errorf("size %d: waited %s for answers in %s", size, waited, r.Wall)
		}
		checkUsage(t, r.Usage, w.Length)
	}
}

// TestShaped knows how much can get through.
func TestShaped(t *testing.T) {
	p := newPath(t)
	const rate = 4e6 // bytes per second with all headers but those of Ethernet
	run(t, p.From, "tc qdisc add dev eth0 root tbf rate 32mbit burst 10kb limit 1mb")
	w := Window{Warmup: 600 * time.Millisecond, Length: 300 * time.Millisecond}
	tcp, err := TCP(t.Context(), p, TCPOptions{Window: w, Streams: 2})
	if err != nil {
		t.Fatal(err)
	}
	if most := rate * tcp.Wall.Seconds(); float64(tcp.Bytes) > 1.3*most || float64(tcp.Bytes) < 0.3*most {
		t.Errorf("tcp: %d bytes in %s, want somewhat less than %.0f", tcp.Bytes, tcp.Wall, most)
	}

	// What waits in the queue when the window closes is not lost.
	udp, err := UDP(t.Context(), p, UDPOptions{Window: Window{Length: 50 * time.Millisecond}, Size: 1000, Rate: 12000})
	if err != nil {
		t.Fatal(err)
	}
	if udp.Lost() != 0 || float64(udp.Sent)*1000 < 1.1*rate*udp.Wall.Seconds() {
		t.Errorf("udp: %+v, want nothing lost, and more than there is room for in the window", udp)
	}
}

// TestCongestionControl sets all that a namespace may choose.
func TestCongestionControl(t *testing.T) {
	p := newPath(t)
	var allowed []string
	err := p.To.Do(func() error {
		text, err := os.ReadFile("/proc/sys/net/ipv4/tcp_allowed_congestion_control")
		allowed = strings.Fields(string(text))
		return err
	})
	if err != nil || len(allowed) == 0 {
		t.Fatalf("allowed are %q, %v", allowed, err)
	}
	for _, want := range allowed {
		if err := p.To.Sysctl("ipv4/tcp_congestion_control", want); err != nil {
			t.Fatal(err)
		}
		if got, err := CongestionControl(p.To); err != nil || got != want {
			t.Errorf("congestion control = %q, %v, want %q", got, err, want)
		}
	}
	if got, err := CongestionControl("tweed-none"); err == nil || !strings.Contains(err.Error(), "tweed-none") {
		t.Errorf("congestion control of no namespace = %q, %v", got, err)
	}
}

func TestPathNames(t *testing.T) {
	p := Path{From: "x-a", To: "x-b", FromAddr: netip.MustParseAddr("20.0.0.2"), ToAddr: netip.MustParseAddr("20.0.0.3")}
	if got, want := p.String(), "20.0.0.2 (x-a) to 20.0.0.3 (x-b)"; got != want {
		t.Errorf("path = %q, want %q", got, want)
	}
	if got, want := p.reverse().String(), "20.0.0.3 (x-b) to 20.0.0.2 (x-a)"; got != want {
		t.Errorf("reverse = %q, want %q", got, want)
	}
}
