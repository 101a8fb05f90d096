package load

import (
	"math"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tweed/test/nstest"
)

func TestParseStat(t *testing.T) {
	const rest = "\ncpu0 1 1 1 1 1 1 1 1\nintr 5"
	for text, want := range map[string]stat{
		"cpu  1 20 300 4000 50000 600000 7000000 8 90 900" + rest: {busy: 7600321 * userHZ, steal: 8 * userHZ},
		"cpu 0 0 0 0 0 0 0 0":       {},
		"cpu 0 0 0 5 7 0 0 0 9 9":   {},
		"cpu 1 0 0 0 0 0 0 3\ncpu0": {busy: userHZ, steal: 3 * userHZ},
	} {
		if got, err := parseStat([]byte(text)); err != nil || got != want {
			t.Errorf("%q: %+v, %v, want %+v", text, got, err, want)
		}
	}
	for _, text := range []string{"", "cpu", "cpu 1 2 3 4 5 6 7", "cpu0 1 2 3 4 5 6 7 8", "cpu 1 2 3 4 5 6 x 8", "cpu 1 2 3 4 5 6 7 1.5", rest} {
		if got, err := parseStat([]byte(text)); err == nil {
			t.Errorf("%q: %+v, want an error", text, got)
		}
	}
}

// TestUsage: a thread that spins uses one CPU, unless the hypervisor takes it.
func TestUsage(t *testing.T) {
	c := newCrew()
	c.add(func() error {
		for c.sending() {
		}
		return nil
	})
	u, err := c.run(t.Context(), Window{Length: 300 * time.Millisecond}, func() {})
	if err != nil {
		t.Fatal(err)
	}
	checkUsage(t, u, 300*time.Millisecond)
	slack := time.Duration(runtime.NumCPU()) * 2 * userHZ
	least := u.Wall * 8 / 10
	most := u.Wall*time.Duration(runtime.NumCPU()) + slack
	if u.Busy+u.Steal < least || u.Busy > most {
		t.Errorf("usage %+v, want %s to %s", u, least, most)
	}
}

func TestPercentile(t *testing.T) {
	to := func(n int) (list []time.Duration) {
		for i := range n {
			list = append(list, time.Duration(i+1))
		}
		return list
	}
	for _, tt := range []struct {
		n    int
		p    float64
		want time.Duration
	}{
		{0, 50, 0},
		{1, 0, 1}, {1, 50, 1}, {1, 100, 1},
		{2, 50, 1}, {2, 50.1, 2}, {2, 100, 2},
		{5, 30, 2}, {5, 40, 2}, {5, 50, 3}, {5, 100, 5},
		{100, 0, 1}, {100, 1, 1}, {100, 99, 99}, {100, 99.1, 100},
		{1000, 99.9, 999}, {1000, 95, 950}, {1000, 7, 70}, {1000, 29, 290},
		{10, -5, 1}, {10, 500, 10}, {10, math.Inf(-1), 1},
	} {
		if got := (LatencyResult{Samples: to(tt.n)}).Percentile(tt.p); got != tt.want {
			t.Errorf("percentile %g of 1 to %d = %d, want %d", tt.p, tt.n, got, tt.want)
		}
	}
}

// TestPace runs a pace on a clock of its own.
func TestPace(t *testing.T) {
	for _, rate := range []int{1, 7, 1000, 333_333, 3_000_000} {
		p := pace{rate: rate}
		start := time.Now()
		sent := 0
		const step = 10 * time.Microsecond
		for at := time.Duration(0); at < 2*time.Second; at += step {
			n := p.due(start.Add(at))
			p.spend(n)
			sent += n
			// The first packet leaves at once.
			if want := at.Seconds()*float64(rate) + 1; math.Abs(float64(sent)-want) > 1.5 {
				t.Fatalf("rate %d: %d sent after %s, want %.1f", rate, sent, at, want)
			}
		}
	}
	p := pace{rate: 10_000}
	now := time.Now()
	p.spend(p.due(now))
	now = now.Add(time.Second)
	sent := 0
	for n := -1; n != 0; sent += n {
		n = p.due(now)
		if n > batchLen {
			t.Fatalf("%d packets at once", n)
		}
		p.spend(n)
	}
	if sent < 100 || sent > 102 {
		t.Errorf("after a stall of a second %d packets are due, want the 100 of %s", sent, maxDebt)
	}
	if p := (pace{}); p.due(now) != batchLen {
		t.Error("without a limit not all are due")
	}
}

// TestNoAllocations: what is done per packet leaves nothing to the garbage
// collector.
func TestNoAllocations(t *testing.T) {
	nstest.Enter(t)
	var fds [2]int
	for i := range fds {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		fds[i] = fd
	}
	if err := prepareReceiver(fds[0]); err != nil {
		t.Fatal(err)
	}
	lo := netip.MustParseAddr("127.0.0.1")
	if err := unix.Bind(fds[0], sockaddr(netip.AddrPortFrom(lo, 0))); err != nil {
		t.Fatal(err)
	}
	at, err := unix.Getsockname(fds[0])
	if err != nil {
		t.Fatal(err)
	}
	for _, gso := range []bool{false, true} {
		ta := newTally()
		o := UDPOptions{Size: MinSize + len(ta.pattern), GSO: gso, Rate: 1_000_000}
		s, err := newSender(fds[1], at.(*unix.SockaddrInet4), o, ta.key, ta.pattern)
		if err != nil {
			t.Fatal(err)
		}
		b := newBatch(batchLen, o.Size)
		allocs := testing.AllocsPerRun(100, func() {
			s.pace.due(time.Now())
			n, errno := s.send(batchLen, true)
			if errno != 0 {
				t.Errorf("send: %v", errno)
			}
			s.next += uint64(n)
			for n > 0 {
				got, errno := b.recv(fds[0])
				if errno != 0 {
					t.Fatalf("receive: %v", errno)
				}
				for i := range got {
					ta.add(b.received(i))
				}
				n -= got
			}
		})
		if allocs != 0 {
			t.Errorf("gso %t: %g allocations for a batch", gso, allocs)
		}
		if got, want := ta.counted(), (counted{delivered: int64(s.next)}); got != want {
			t.Errorf("gso %t: %+v, want %+v", gso, got, want)
		}
	}
}
