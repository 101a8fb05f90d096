package test

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vishvananda/netlink"

	"tweed/test/embedetcd"
	"tweed/test/lab"
)

var overlayNetwork = netip.MustParsePrefix("10.5.0.0/16")

// overlay lists what the node's kernel knows of the ways to its peers: routes,
// and the neighbours and forwarding database of flannel.1 where there is one.
func (n *node) overlay() ([]string, error) {
	var all []string
	routes, err := n.NS.Routes()
	if err != nil {
		return nil, err
	}
	for _, r := range routes {
		if overlayNetwork.Contains(r.Dst.Addr()) && !strings.HasPrefix(r.Dev, "docker") {
			all = append(all, r.String())
		}
	}
	neighbours, err := n.NS.Neighbours("flannel.1")
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return all, nil
	}
	if err != nil {
		return nil, err
	}
	for _, e := range neighbours {
		all = append(all, fmt.Sprintf("%s lladdr %s permanent=%t", e.Addr, e.MAC, e.Permanent))
	}
	fdb, err := n.NS.FDB("flannel.1")
	for _, e := range fdb {
		all = append(all, fmt.Sprintf("%s dst %s permanent=%t", e.MAC, e.Addr, e.Permanent))
	}
	slices.Sort(all)
	return all, err
}

// mustOverlay is overlay at a moment when nothing changes.
func (n *node) mustOverlay() []string {
	n.c.t.Helper()
	all, err := n.overlay()
	n.c.must(err)
	return all
}

// wantOverlay waits until the kernel knows of the entries in want, in any
// order, and of no others.
func (n *node) wantOverlay(want ...string) {
	n.c.t.Helper()
	want = slices.Sorted(slices.Values(want))
	n.c.eventually(fmt.Sprintf("the entries of %s", n.Name), func() error {
		got, err := n.overlay()
		if err == nil && !slices.Equal(got, want) {
			err = fmt.Errorf("they are\n\t%s\nwant\n\t%s", strings.Join(got, "\n\t"), strings.Join(want, "\n\t"))
		}
		return err
	})
}

// A fakePeer is a lease record of a node that does not exist.
type fakePeer struct {
	backend string // vxlan or host-gw
	subnet  netip.Prefix
	ip      string // PublicIP
	mac     string // VtepMAC
}

func (p fakePeer) value() string {
	switch p.backend {
	case "vxlan":
		return fmt.Sprintf(`{"PublicIP":%q,"BackendType":"vxlan","BackendData":{"VtepMAC":%q}}`, p.ip, p.mac)
	case "udp":
		return fmt.Sprintf(`{"PublicIP":%q}`, p.ip)
	}
	return fmt.Sprintf(`{"PublicIP":%q,"BackendType":%q}`, p.ip, p.backend)
}

// entries are what a node's overlay has for the peer.
func (p fakePeer) entries() []string {
	switch p.backend {
	case "vxlan":
		base := p.subnet.Addr()
		return []string{
			fmt.Sprintf("%s via %s dev flannel.1 onlink", p.subnet, base),
			fmt.Sprintf("%s lladdr %s permanent=true", base, p.mac),
			fmt.Sprintf("%s dst %s permanent=true", p.mac, p.ip),
		}
	case "host-gw":
		return []string{fmt.Sprintf("%s via %s dev eth0", p.subnet, p.ip)}
	}
	return nil
}

// A pinger pings all the time.
type pinger struct {
	sent, missed atomic.Int64
	stop         chan struct{}
	wg           sync.WaitGroup
}

// pinging starts a pinger. Its lost must be called.
func (c *cluster) pinging(from lab.NS, to netip.Addr) *pinger {
	p := &pinger{stop: make(chan struct{})}
	p.wg.Go(func() {
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for {
			if _, err := from.Ping(c.ctx, to); err != nil {
				p.missed.Add(1)
			}
			p.sent.Add(1)
			select {
			case <-p.stop:
				return
			case <-tick.C:
			}
		}
	})
	return p
}

// goOn waits until so many pings more were sent.
func (c *cluster) goOn(p *pinger, pings int64) {
	c.t.Helper()
	from := p.sent.Load()
	c.eventually("pings to go on", func() error {
		if done := p.sent.Load() - from; done < pings {
			return fmt.Errorf("only %d more were sent", done)
		}
		return nil
	})
}

// lost ends the pinger and says how many pings had no answer.
func (p *pinger) lost() int64 {
	close(p.stop)
	p.wg.Wait()
	return p.missed.Load()
}

func recordError(r embedetcd.Record) error {
	return fmt.Errorf("it holds %s, ttl %s, directory %t", r.Value, r.TTL, r.Dir)
}

// overlaySubnet returns 10.5.third.0/24. In the networks of config, no daemon
// takes one from 101 on by itself: it chooses among the first hundred free ones.
func overlaySubnet(third byte) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 5, third, 0}), 24)
}

// wantPeers waits until a vxlan node has the three entries of each of so many
// peers.
func (n *node) wantPeers(peers int) {
	n.c.t.Helper()
	n.c.eventually(fmt.Sprintf("%d peers of %s", peers, n.Name), func() error {
		got, err := n.overlay()
		if err == nil && len(got) != 3*peers {
			err = fmt.Errorf("there are %d entries: %v", len(got), got)
		}
		return err
	})
}
