package test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"tweed/test/lab"
)

// TestMeddling has udev, NetworkManager and dhcpcd do to a device, as soon as
// it is there, what they are known for: another MAC address, addresses of their
// own, link down. What peers rely on is put right, and what does no harm stays.
func TestMeddling(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ backend, dev string }{{"vxlan", "flannel.1"}, {"udp", "flannel0"}} {
		t.Run(tt.backend, func(t *testing.T) {
			c := newLab(t, lab.Options{})
			c.set(configKey, config(`"`+tt.backend+`"`), 0)
			peer := c.addNode(readyArgs)
			n := c.addHost()

			meddled := n.meddle(tt.dev)
			n.start(readyArgs)
			c.must(<-meddled)
			n.addPod()
			n.wantUnmeddled("at the start", tt.dev)
			c.wantPing(n.pod.NS, peer.pod.Addr)
			c.wantPing(peer.pod.NS, n.pod.Addr)

			record := n.lease()
			meddled = n.meddle(tt.dev)
			n.run("ip link del %s", tt.dev)
			c.must(<-meddled)
			n.wantUnmeddled("made again", tt.dev)
			if got := n.lease(); got.Value != record.Value {
				t.Errorf("the lease says %s, was %s", got.Value, record.Value)
			}
			c.wantWell()
		})
	}
}

// The addresses that meddle adds; the last one is inside the network, where
// others have no business.
var meddling = []string{"169.254.7.7/16", "192.168.99.1/24", "fd00:77::1/64", "10.5.255.9/24"}

// meddle waits for the device, in place of one that is there now, and meddles
// with it once.
func (n *node) meddle(dev string) <-chan error {
	was := 0
	if l, err := n.NS.Link(dev); err == nil {
		was = l.Attrs().Index
	}
	ctx, cancel := context.WithTimeout(n.c.ctx, daemonTime)
	done := make(chan error, 1)
	go func() {
		defer cancel()
		done <- n.NS.Netlink(func(h *netlink.Handle) error {
			tick := time.NewTicker(time.Millisecond)
			defer tick.Stop()
			for {
				l, err := h.LinkByName(dev)
				if err == nil && l.Attrs().Index != was {
					return meddleWith(h, l)
				}
				select {
				case <-tick.C:
				case <-ctx.Done():
					return errors.New("there is nothing to meddle with")
				}
			}
		})
	}()
	return done
}

func meddleWith(h *netlink.Handle, l netlink.Link) error {
	if l.Type() == "vxlan" {
		if err := h.LinkSetHardwareAddr(l, []byte{0x0e, 0x11, 0x22, 0x33, 0x44, 0x55}); err != nil {
			return fmt.Errorf("set address of %s: %w", l.Attrs().Name, err)
		}
	}
	if err := h.LinkSetDown(l); err != nil {
		return fmt.Errorf("set %s down: %w", l.Attrs().Name, err)
	}
	for _, text := range meddling {
		a, err := netlink.ParseAddr(text)
		if err != nil {
			return err
		}
		if err := h.AddrAdd(l, a); err != nil {
			return fmt.Errorf("add %s to %s: %w", text, l.Attrs().Name, err)
		}
	}
	return nil
}

// wantUnmeddled waits until the device is as it must be.
func (n *node) wantUnmeddled(when, dev string) {
	n.c.t.Helper()
	start := time.Now()
	n.c.eventually(dev+" to be right "+when, func() error {
		link, err := try(n.NS, "ip", "-o", "link", "show", dev)
		if err != nil {
			return err // it is just being made
		}
		addrs, err := try(n.NS, "ip", "-o", "addr", "show", "dev", dev)
		if err != nil {
			return err
		}
		if !strings.Contains(link, ",UP") {
			return fmt.Errorf("not up: %s", link)
		}
		_, mac, _ := strings.Cut(n.lease().Value, `"VtepMAC":"`)
		if mac, _, isVXLAN := strings.Cut(mac, `"`); isVXLAN && !strings.Contains(link, "link/ether "+mac) {
			return fmt.Errorf("the lease is %s, the device %s", n.lease().Value, link)
		}
		for i, a := range meddling {
			// An IPv6 address does not outlive a link that goes down.
			if ours := i == len(meddling)-1; strings.Contains(addrs, a) == ours && !strings.Contains(a, ":") {
				return fmt.Errorf("%s is there: %t, addresses:\n%s", a, ours, addrs)
			}
		}
		if own := n.env.Subnet.Addr().String() + "/32"; !strings.Contains(addrs, own) {
			return fmt.Errorf("no %s, addresses:\n%s", own, addrs)
		}
		return nil
	})
	d := time.Since(start)
	if d > healLimit {
		n.c.t.Errorf("%s %s was right after %s", dev, when, d)
	}
	n.c.t.Logf("%s %s: right after %s", dev, when, d.Round(time.Millisecond))
}
