package main

import (
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"tweed/test/lab"
)

// eventBuffer is room for what the kernel tells while we do not read, in bytes.
const eventBuffer = 16 << 20

// An entryEvent is an entry that the kernel has taken or dropped.
type entryEvent struct {
	at   time.Time // when we read of it
	gone bool
	dst  netip.Prefix // of a route
	addr netip.Addr   // of a neighbour; of a forwarding entry, the tunnel end
	mac  string       // of a neighbour or forwarding entry
	fdb  bool
}

// watchRoutes follows the routes of a namespace until stop is called. The
// channel closes when no more can be told.
func watchRoutes(ns lab.NS) (events <-chan entryEvent, stop func(), err error) {
	return watchEntries(ns, func(done <-chan struct{}, out chan<- entryEvent) error {
		in := make(chan netlink.RouteUpdate, 1024)
		err := netlink.RouteSubscribeWithOptions(in, done, netlink.RouteSubscribeOptions{ReceiveBufferSize: eventBuffer, ReceiveBufferForceSize: true})
		if err != nil {
			return err
		}
		go func() {
			defer close(out)
			for u := range in {
				e := entryEvent{at: time.Now(), gone: u.Type == unix.RTM_DELROUTE}
				if u.Dst != nil {
					bits, _ := u.Dst.Mask.Size()
					e.dst = netip.PrefixFrom(addrOf(u.Dst.IP), bits)
				}
				forward(out, e, done)
			}
		}()
		return nil
	})
}

// watchNeighbours is watchRoutes for neighbours and forwarding entries.
func watchNeighbours(ns lab.NS) (events <-chan entryEvent, stop func(), err error) {
	return watchEntries(ns, func(done <-chan struct{}, out chan<- entryEvent) error {
		in := make(chan netlink.NeighUpdate, 1024)
		err := netlink.NeighSubscribeWithOptions(in, done, netlink.NeighSubscribeOptions{ReceiveBufferSize: eventBuffer, ReceiveBufferForceSize: true})
		if err != nil {
			return err
		}
		go func() {
			defer close(out)
			for u := range in {
				forward(out, entryEvent{
					at: time.Now(), gone: u.Type == unix.RTM_DELNEIGH,
					addr: addrOf(u.IP), mac: u.HardwareAddr.String(), fdb: u.Family == unix.AF_BRIDGE,
				}, done)
			}
		}()
		return nil
	})
}

// watchEntries subscribes inside the namespace. After stop, what is still told
// is thrown away.
func watchEntries(ns lab.NS, subscribe func(done <-chan struct{}, out chan<- entryEvent) error) (<-chan entryEvent, func(), error) {
	done, out := make(chan struct{}), make(chan entryEvent, 1024)
	if err := ns.Do(func() error { return subscribe(done, out) }); err != nil {
		return nil, nil, err
	}
	return out, func() {
		close(done)
		for range out {
		}
	}, nil
}

func forward(out chan<- entryEvent, e entryEvent, done <-chan struct{}) {
	select {
	case out <- e:
	case <-done:
	}
}

func addrOf(ip []byte) netip.Addr {
	a, _ := netip.AddrFromSlice(ip)
	return a.Unmap()
}
