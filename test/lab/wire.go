package lab

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
)

// underlayMTU is that of an Ethernet, in bytes.
const underlayMTU = 1500

func setUp(h *netlink.Handle, name string) error {
	l, err := h.LinkByName(name)
	if err != nil {
		return fmt.Errorf("find link %s: %w", name, err)
	}
	if err := h.LinkSetUp(l); err != nil {
		return fmt.Errorf("set link %s up: %w", name, err)
	}
	return nil
}

// addBridge makes a bridge that is up and has the address.
func addBridge(h *netlink.Handle, name string, mtu int, addr netip.Prefix) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = name, mtu
	if err := h.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
		return fmt.Errorf("add bridge %s: %w", name, err)
	}
	br, err := h.LinkByName(name)
	if err != nil {
		return fmt.Errorf("find bridge %s: %w", name, err)
	}
	// A bridge takes over the lowest MAC of its ports unless its own was set,
	// and neighbours would then lose it when a port joins.
	if err := h.LinkSetHardwareAddr(br, br.Attrs().HardwareAddr); err != nil {
		return fmt.Errorf("set mac of bridge %s: %w", name, err)
	}
	return addAddr(h, br, addr)
}

// addAddr gives the link an address and sets it up.
func addAddr(h *netlink.Handle, l netlink.Link, addr netip.Prefix) error {
	if err := h.AddrAdd(l, &netlink.Addr{IPNet: ipNet(addr)}); err != nil {
		return fmt.Errorf("add address %s to %s: %w", addr, l.Attrs().Name, err)
	}
	if err := h.LinkSetUp(l); err != nil {
		return fmt.Errorf("set link %s up: %w", l.Attrs().Name, err)
	}
	return nil
}

// A plug is one end of a cable into a bridge: "eth0" of a host or a pod.
type plug struct {
	bridge string // in the namespace of the bridge
	port   string // name of the cable's end at the bridge
	mtu    int
	addr   netip.Prefix
	via    netip.Addr // default gateway; the zero value for none
}

// plugIn connects eth0 of ns to a bridge in the namespace at, and waits until
// packets can pass.
func plugIn(ctx context.Context, at, ns NS, p plug) error {
	err := at.Netlink(func(h *netlink.Handle) error {
		br, err := h.LinkByName(p.bridge)
		if err != nil {
			return fmt.Errorf("find bridge %s: %w", p.bridge, err)
		}
		return addCable(h, br, ns, p)
	})
	if err != nil {
		return err
	}
	err = ns.Netlink(func(h *netlink.Handle) error {
		eth0, err := h.LinkByName("eth0")
		if err != nil {
			return fmt.Errorf("find eth0: %w", err)
		}
		if err := addAddr(h, eth0, p.addr); err != nil {
			return err
		}
		if !p.via.IsValid() {
			return nil
		}
		route := netlink.Route{LinkIndex: eth0.Attrs().Index, Gw: p.via.AsSlice()}
		if err := h.RouteAdd(&route); err != nil {
			return fmt.Errorf("add default route via %s: %w", p.via, err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return awaitUp(ctx, at, p.port)
}

// awaitUp waits until the link is operational. The kernel says so up to a
// second after the carrier came (net/core/link_watch.c), and a bridge drops
// what its port receives before.
func awaitUp(ctx context.Context, ns NS, link string) error {
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	return ns.Netlink(func(h *netlink.Handle) error {
		for {
			l, err := h.LinkByName(link)
			if err != nil {
				return fmt.Errorf("find link %s: %w", link, err)
			}
			if l.Attrs().OperState == netlink.OperUp {
				return nil
			}
			select {
			case <-tick.C:
			case <-ctx.Done():
				return fmt.Errorf("link %s is still %s: %w", link, l.Attrs().OperState, ctx.Err())
			}
		}
	})
}

func addCable(h *netlink.Handle, br netlink.Link, ns NS, p plug) error {
	peer, err := ns.open()
	if err != nil {
		return err
	}
	defer peer.Close()
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.MasterIndex = p.port, p.mtu, br.Attrs().Index
	veth := &netlink.Veth{
		LinkAttrs:     attrs,
		PeerName:      "eth0",
		PeerNamespace: netlink.NsFd(peer.Fd()),
		PeerMTU:       uint32(p.mtu),
	}
	if err := h.LinkAdd(veth); err != nil {
		return fmt.Errorf("add veth %s: %w", p.port, err)
	}
	return setUp(h, p.port)
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
