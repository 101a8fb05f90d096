package main

import (
	"fmt"
	"net/netip"
	"net/url"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// checkOverlap looks for addresses that the overlay network would take from
// the networks that are there. What may be leased counts; the rest of Network
// is worth less, because nothing is routed to it but by udp.
func (c *checker) checkOverlap() {
	if c.cfg == nil {
		c.skip(checkOverlap, "needs a valid network config")
		return
	}
	before := len(c.found)
	if c.under != nil {
		c.overlapAddr(c.under.Addr, "the address of "+c.under.Name, "take another Network: packets between the hosts would be sent into the overlay itself")
		if c.under.PublicIP != c.under.Addr {
			c.overlapAddr(c.under.PublicIP, "the public address", "take another Network: packets to this host would be sent into the overlay itself")
		}
	}
	for _, endpoint := range c.opts.Etcd.Endpoints {
		if u, err := url.Parse(endpoint); err == nil && c.opts.askEtcd {
			if a, err := netip.ParseAddr(u.Hostname()); err == nil {
				c.overlapAddr(a, "the etcd endpoint "+u.Host, "take another Network, or hosts may lose etcd")
			}
		}
	}
	for _, a := range c.host.addrs {
		if !c.ownAddr(a) {
			c.overlapNetwork(a.prefix.Masked(), fmt.Sprintf("%s of %s", a.prefix, c.host.linkName(a.link)))
		}
	}
	for _, r := range c.host.routes {
		if r.proto != unix.RTPROT_KERNEL && !c.ownRoute(r) && !c.peerRoute(r) {
			c.overlapNetwork(r.dst, fmt.Sprintf("the route to %s by %s", r.dst, c.host.linkName(r.link)))
		}
	}
	if len(c.found) == before {
		c.ok(checkOverlap, nil, "%s overlaps no address or route of this host, and no endpoint", c.cfg.Network)
	}
}

// overlapAddr is for what must be reached outside the overlay.
func (c *checker) overlapAddr(a netip.Addr, what, advice string) {
	if !c.cfg.Network.Contains(a) {
		return
	}
	f := finding{Name: checkOverlap, Result: verdictFailure, Found: fmt.Sprintf("%s, %s, is in Network %s", what, a, c.cfg.Network), Advice: advice, Data: data{"address": a}}
	if !c.mayBeLeased(netip.PrefixFrom(a, 32)) {
		f.Result = verdictWarning
		f.Found += ", though not between SubnetMin and SubnetMax"
	}
	c.add(f)
}

// overlapNetwork is for what else this host knows the way to.
func (c *checker) overlapNetwork(p netip.Prefix, what string) {
	if !p.Overlaps(c.cfg.Network) || c.under != nil && p.Contains(c.under.Addr) && c.cfg.Network.Contains(c.under.Addr) {
		return // the latter was told as a failure
	}
	f := finding{Name: checkOverlap, Result: verdictWarning, Found: fmt.Sprintf("%s overlaps Network %s", what, c.cfg.Network),
		Advice: "take another Network, or this host can reach only one of the two", Data: data{"network": p}}
	switch {
	case p.Bits() < c.cfg.Network.Bits():
		f.Result = verdictNote
		f.Advice = "nothing, if no other host there has an address in Network"
	case !c.mayBeLeased(p):
		f.Result = verdictNote
		f.Found += ", though not between SubnetMin and SubnetMax"
	}
	c.add(f)
}

// mayBeLeased reports whether a subnet that may be leased overlaps p.
func (c *checker) mayBeLeased(p netip.Prefix) bool {
	return c.cfg.Free([]netip.Prefix{p}) < c.cfg.Total()
}

// ownAddr reports whether an address is there because of flanneld: on its
// device, or on the bridge of the pods.
func (c *checker) ownAddr(a hostAddr) bool {
	l := c.host.linkByIndex(a.link)
	switch {
	case ofFlannel(l), a.prefix.Addr().IsLoopback():
		return true
	case l == nil || l.Type() != (&netlink.Bridge{}).Type():
		return false
	}
	in := a.prefix.Masked()
	// docker0 is a check of its own.
	return l.Attrs().Name == "docker0" || in == c.own || in == c.prev
}

// peerRoute reports whether a route leads to a subnet that somebody has leased:
// host-gw of flannel makes routes that cannot be told from an operator's.
func (c *checker) peerRoute(r hostRoute) bool {
	if c.leases == nil {
		return false
	}
	for _, l := range c.leases.Leases {
		if l.Subnet == r.dst {
			return true
		}
	}
	return false
}
