package main

import (
	"context"
	"fmt"
	"net"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"tweed/test/lab"
	"tweed/test/nstest"
)

// TestFleetRecords: no two nodes share anything, and none has what the daemons
// or the underlay have.
func TestFleetRecords(t *testing.T) {
	f := &fleet{prefix: "/p", gens: make([]byte, fleetMax)}
	for gen := range 2 {
		seen := make(map[string]bool, 3*fleetMax)
		for node := range f.gens {
			f.gens[node] = byte(gen)
			sn, public, mac := f.subnet(node), f.public(node), f.mac(node)
			if sn.Addr().As4()[0] != 10 || sn.Addr().As4()[1] == 0 || sn.Addr().As4()[1] == 255 || sn != sn.Masked() || scaleUnderlay.Contains(public) || !public.IsPrivate() || mac[0]&3 != 2 {
				t.Fatalf("node %d: %s %s %s", node, sn, public, mac)
			}
			seen[sn.String()], seen[public.String()], seen[mac.String()] = true, true, true
		}
		if len(seen) != 3*fleetMax {
			t.Errorf("%d different values, want %d", len(seen), 3*fleetMax)
		}
	}
	f = &fleet{prefix: "/p", gens: []byte{0, 3}}
	if f.key(1) != "/p/subnets/10.1.1.0-24" || f.public(0).String() != "172.16.0.1" || f.public(1).String() != "172.19.0.2" || f.mac(1).String() != "0e:03:00:00:00:01" {
		t.Errorf("%s %s %s %s", f.key(1), f.public(0), f.public(1), f.mac(1))
	}
}

// TestFleetInForce takes one thing after the other from a kernel that has all
// of the fleet, or makes it another.
func TestFleetInForce(t *testing.T) {
	nstest.NeedRoot(t)
	l, err := lab.New(t.Context(), lab.Options{NoEtcd: true, TempDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	f := &fleet{gens: make([]byte, 3)}
	host, err := l.AddHost(t.Context(), "n1")
	if err != nil {
		t.Fatal(err)
	}
	var link int
	netlinkDo(t, host.NS, func(h *netlink.Handle) error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = fleetDevice
		if err := h.LinkAdd(&netlink.Vxlan{LinkAttrs: attrs, VxlanId: 1, Port: 8472}); err != nil {
			return err
		}
		dev, err := h.LinkByName(fleetDevice)
		if err != nil {
			return err
		}
		link = dev.Attrs().Index
		return h.LinkSetUp(dev)
	})
	before, err := routesOf(host.NS)
	if err != nil {
		t.Fatal(err)
	}
	routes, stopRoutes, err := watchRoutes(host.NS)
	if err != nil {
		t.Fatal(err)
	}
	neighbours, stopNeighbours, err := watchNeighbours(host.NS)
	if err != nil {
		t.Fatal(err)
	}
	set := func(h *netlink.Handle) error {
		for node := range f.gens {
			for _, e := range []*netlink.Neigh{f.neighbour(node, link), f.forwarding(node, link)} {
				if err := h.NeighSet(e); err != nil {
					return err
				}
			}
			if err := h.RouteReplace(f.route(node, link)); err != nil {
				return err
			}
		}
		return nil
	}
	netlinkDo(t, host.NS, set)
	if err := f.inForce(host.NS); err != nil {
		t.Fatal(err)
	}
	if n, err := routesOf(host.NS); err != nil || n != before+3 {
		t.Errorf("%d routes, %v, want %d", n, err, before+3)
	}
	for node := range f.gens {
		if e := <-routes; e.dst != f.subnet(node) || e.gone || e.at.IsZero() {
			t.Errorf("route event %+v, want that of %s", e, f.subnet(node))
		}
		if e := <-neighbours; e.addr != f.subnet(node).Addr() || e.mac != f.mac(node).String() || e.fdb || e.gone {
			t.Errorf("neighbour event %+v", e)
		}
		if e := <-neighbours; e.addr != f.public(node) || e.mac != f.mac(node).String() || !e.fdb || e.gone {
			t.Errorf("forwarding event %+v", e)
		}
	}
	stopRoutes()
	stopNeighbours()

	stray := f.route(1, link)
	stray.Dst = &net.IPNet{IP: net.IPv4(10, 2, 0, 0), Mask: net.CIDRMask(24, 32)}
	replaced := &fleet{gens: []byte{0, 1, 0}}
	for name, change := range map[string]func(h *netlink.Handle) error{
		"no route":      func(h *netlink.Handle) error { return h.RouteDel(f.route(1, link)) },
		"no neighbour":  func(h *netlink.Handle) error { return h.NeighDel(f.neighbour(1, link)) },
		"no forwarding": func(h *netlink.Handle) error { return h.NeighDel(f.forwarding(1, link)) },
		"a route more":  func(h *netlink.Handle) error { return h.RouteAdd(stray) },
		"another MAC":   func(h *netlink.Handle) error { return h.NeighSet(replaced.neighbour(1, link)) },
		"another end": func(h *netlink.Handle) error {
			e := f.forwarding(1, link)
			e.IP = replaced.public(1).AsSlice()
			return h.NeighSet(e)
		},
		"another router": func(h *netlink.Handle) error {
			r := f.route(1, link)
			r.Gw = f.subnet(2).Addr().AsSlice()
			return h.RouteReplace(r)
		},
		"an entry more": func(h *netlink.Handle) error { return h.NeighSet(replaced.forwarding(1, link)) },
	} {
		netlinkDo(t, host.NS, change)
		if err := f.inForce(host.NS); err == nil {
			t.Errorf("%s: found nothing wrong", name)
		}
		netlinkDo(t, host.NS, func(h *netlink.Handle) error {
			h.RouteDel(stray)
			h.NeighDel(replaced.forwarding(1, link))
			return set(h)
		})
		if err := f.inForce(host.NS); err != nil {
			t.Fatalf("after %s: %v", name, err)
		}
	}
	f.gens[2]++
	if err := f.inForce(host.NS); err == nil || !strings.Contains(err.Error(), "10.1.2.0/24") {
		t.Errorf("a node replaced: %v", err)
	}
}

func netlinkDo(t *testing.T, ns lab.NS, f func(*netlink.Handle) error) {
	t.Helper()
	if err := ns.Netlink(f); err != nil {
		t.Fatal(err)
	}
}

// neighbour, forwarding and route are what a flanneld makes for a node.
func (f *fleet) neighbour(node, link int) *netlink.Neigh {
	return &netlink.Neigh{LinkIndex: link, Family: unix.AF_INET, State: netlink.NUD_PERMANENT, IP: f.subnet(node).Addr().AsSlice(), HardwareAddr: f.mac(node)}
}

func (f *fleet) forwarding(node, link int) *netlink.Neigh {
	return &netlink.Neigh{LinkIndex: link, Family: unix.AF_BRIDGE, State: netlink.NUD_PERMANENT, Flags: netlink.NTF_SELF, IP: f.public(node).AsSlice(), HardwareAddr: f.mac(node)}
}

func (f *fleet) route(node, link int) *netlink.Route {
	sn := f.subnet(node)
	return &netlink.Route{LinkIndex: link, Dst: &net.IPNet{IP: sn.Addr().AsSlice(), Mask: net.CIDRMask(24, 32)}, Gw: sn.Addr().AsSlice(), Flags: int(netlink.FLAG_ONLINK)}
}

// TestInParallel: the first error ends the rest, and an ended context is one.
func TestInParallel(t *testing.T) {
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := inParallel(ended, 2, 10, func(context.Context, int) error { return nil }); err == nil {
		t.Error("an ended context is no error")
	}
	seen := make(chan int, 10)
	if err := inParallel(t.Context(), 3, 10, func(_ context.Context, i int) error { seen <- i; return nil }); err != nil || len(seen) != 10 {
		t.Errorf("%d calls, %v", len(seen), err)
	}
	err := inParallel(t.Context(), 1, 10, func(ctx context.Context, i int) error {
		if i == 3 {
			return fmt.Errorf("number %d", i)
		}
		if i > 4 {
			t.Errorf("call %d after the error", i)
		}
		return nil
	})
	if err == nil || err.Error() != "number 3" {
		t.Errorf("error %v", err)
	}
}
