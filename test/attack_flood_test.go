package test

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"tweed/test/lab"
	"tweed/test/load"
	"tweed/test/nstest"
)

// TestFlood floods the port of a daemon as fast as a thread can: the kernel keeps
// most of it out, so that the pings of the pods go on, and once it is over a
// stranger is heard again, as SourceCheck is off.
func TestFlood(t *testing.T) {
	t.Parallel()
	c := newCluster(t, config(`"udp"`), 2, readyArgs)
	a, b := c.nodes[0], c.nodes[1]
	stranger := c.addHostWith(lab.HostOptions{Outside: true})
	send := c.rawSender(stranger)
	pod, err := a.pod.NS.ListenPacket(c.ctx, netip.AddrPortFrom(a.pod.Addr, attackPort))
	c.must(err)
	defer pod.Close()
	c.wantPing(a.pod.NS, b.pod.Addr)
	pings := c.pinging(b.pod.NS, a.pod.Addr)

	const restrictions, dropped = "tweed_udp_socket_restrictions_total", "tweed_udp_socket_overflows_total"
	flood, err := load.StartFlood(load.FloodOptions{From: stranger.NS, FromAddr: stranger.Addr,
		To: netip.AddrPortFrom(a.Addr, 8285), Payloads: [][]byte{bytes.Repeat([]byte("junk"), 16)}})
	c.must(err)
	err = nstest.Await(c.ctx, time.Minute, func() error {
		if m := a.metrics(); m[restrictions] < 1 || m[dropped] < 200_000 {
			return fmt.Errorf("%.0f restrictions, %.0f dropped by the kernel", m[restrictions], m[dropped])
		}
		return nil
	})
	rate := flood.Stop()
	if err != nil {
		t.Errorf("under a flood of %.0f packets a second: %v", rate, err)
	}
	c.goOn(pings, 100)
	lost := pings.lost()
	t.Logf("%.0f packets a second: %d of %d pings lost, %.0f restrictions, %.0f of the junk dropped by the kernel",
		rate, lost, pings.sent.Load(), a.metrics()[restrictions], a.metrics()[dropped])
	if lost*20 > pings.sent.Load() {
		t.Errorf("%d of %d pings lost, want one of 20 at most", lost, pings.sent.Load())
	}

	const text = "is anybody there?"
	heard := 0
	c.eventually("a stranger to be heard ten times running", func() error {
		send(udpInIPv4(stranger.Addr.String(), a.Addr.String(), 64, 8285,
			string(udpInIPv4("10.5.250.9", a.pod.Addr.String(), 64, attackPort, text))))
		pod.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		var buf [100]byte
		n, _, err := pod.ReadFromUDPAddrPort(buf[:])
		heard++
		if err != nil || string(buf[:n]) != text {
			heard = 0
		}
		if heard < 10 {
			return errors.New("not yet")
		}
		return nil
	})
	a.wantRunning()
	if n := a.said(); n > 100 {
		t.Errorf("%d lines in the log", n)
	}
}
