package load

import (
	"context"
	"net/netip"
	"testing"
	"time"

	"tweed/test/lab"
	"tweed/test/nstest"
)

// A flood reaches a socket with the payloads in turn, empty ones too, ends when
// told, and a bad one is refused.
func TestFlood(t *testing.T) {
	nstest.NeedRoot(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	l, err := lab.New(ctx, lab.Options{NoEtcd: true})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	h, err := l.AddHost(ctx, "n1")
	if err != nil {
		t.Fatal(err)
	}
	to, err := l.Switch().ListenPacket(ctx, netip.MustParseAddrPort("20.0.0.1:8285"))
	if err != nil {
		t.Fatal(err)
	}
	defer to.Close()
	o := FloodOptions{From: h.NS, FromAddr: h.Addr, To: netip.MustParseAddrPort("20.0.0.1:8285"), Payloads: [][]byte{{}, []byte("one"), make([]byte, 1400)}}
	f, err := StartFlood(o)
	if err != nil {
		t.Fatal(err)
	}
	seen := make(map[int]bool)
	buf := make([]byte, 2000)
	to.SetReadDeadline(time.Now().Add(20 * time.Second))
	for len(seen) < 3 {
		n, from, err := to.ReadFromUDPAddrPort(buf)
		if err != nil || from.Addr() != h.Addr {
			t.Fatal(n, from, err)
		}
		seen[n] = true
	}
	if rate := f.Stop(); rate < 100 || !seen[0] || !seen[3] || !seen[1400] {
		t.Errorf("%.0f packets per second, lengths %v", rate, seen)
	}
	for _, bad := range []func(*FloodOptions){
		func(o *FloodOptions) { o.Payloads = nil },
		func(o *FloodOptions) { o.Payloads = [][]byte{make([]byte, MaxSize+1)} },
		func(o *FloodOptions) { o.To = netip.MustParseAddrPort("[::1]:1") },
		func(o *FloodOptions) { o.FromAddr = netip.MustParseAddr("192.0.2.1") },
	} {
		o := o
		bad(&o)
		if f, err := StartFlood(o); err == nil {
			f.Stop()
			t.Errorf("no error for %+v", o)
		}
	}
}
