package main

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"tweed/backend/udp"
	"tweed/backend/vxlan"
	"tweed/dataplane/rtnl"
)

// hostState is what netlink tells of the host's network, read once.
type hostState struct {
	links  []netlink.Link
	addrs  []hostAddr
	routes []hostRoute
}

type hostAddr struct {
	link   int
	prefix netip.Prefix // not masked
}

// hostRoute is a unicast route of the main table that is not a default route.
type hostRoute struct {
	link  int
	dst   netip.Prefix
	proto int
}

// readHost needs no privileges. Where it fails, the checks that look at links,
// addresses and routes find none.
func (c *checker) readHost() {
	var errs []error
	var err error
	if c.host.links, err = netlink.LinkList(); err != nil {
		errs = append(errs, fmt.Errorf("list interfaces: %w", err))
	}
	addrs, err := netlink.AddrList(nil, netlink.FAMILY_V4)
	if err != nil {
		errs = append(errs, fmt.Errorf("list addresses: %w", err))
	}
	for _, a := range addrs {
		if p, ok := prefixOf(a.IPNet); ok {
			c.host.addrs = append(c.host.addrs, hostAddr{a.LinkIndex, p})
		}
	}
	routes, err := netlink.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Table: unix.RT_TABLE_MAIN, Type: unix.RTN_UNICAST}, netlink.RT_FILTER_TABLE|netlink.RT_FILTER_TYPE)
	if err != nil {
		errs = append(errs, fmt.Errorf("list routes: %w", err))
	}
	for _, r := range routes {
		if p, ok := prefixOf(r.Dst); ok && p.Bits() > 0 {
			c.host.routes = append(c.host.routes, hostRoute{r.LinkIndex, p, int(r.Protocol)})
		}
	}
	if err := errors.Join(errs...); err != nil {
		c.skip(checkDevices, "%s", strings.ReplaceAll(err.Error(), "\n", "; "))
	}
}

func prefixOf(n *net.IPNet) (netip.Prefix, bool) {
	if n == nil {
		return netip.Prefix{}, false
	}
	a, ok := netip.AddrFromSlice(n.IP)
	bits, _ := n.Mask.Size()
	return netip.PrefixFrom(a.Unmap(), bits), ok && a.Unmap().Is4()
}

// link returns the link of a name, or nil.
func (h hostState) link(name string) netlink.Link {
	for _, l := range h.links {
		if l.Attrs().Name == name {
			return l
		}
	}
	return nil
}

func (h hostState) linkByIndex(index int) netlink.Link {
	for _, l := range h.links {
		if l.Attrs().Index == index {
			return l
		}
	}
	return nil
}

func (h hostState) linkName(index int) string {
	if l := h.linkByIndex(index); l != nil {
		return l.Attrs().Name
	}
	return fmt.Sprintf("interface number %d", index)
}

// addrsOf lists the IPv4 addresses of a link.
func (h hostState) addrsOf(l netlink.Link) (all []netip.Prefix) {
	for _, a := range h.addrs {
		if a.link == l.Attrs().Index {
			all = append(all, a.prefix)
		}
	}
	return all
}

// ofFlannel reports whether a link is, or was, a device of flanneld.
func ofFlannel(l netlink.Link) bool {
	if l == nil {
		return false
	}
	return isFlannelVXLAN(l) || l.Type() == "tuntap" && strings.HasPrefix(l.Attrs().Name, "flannel") || isFlannelTUN(l)
}

func isFlannelVXLAN(l netlink.Link) bool {
	return l.Type() == "vxlan" && strings.HasPrefix(l.Attrs().Name, "flannel.")
}

// isFlannelTUN knows the alias that the udp backend gives to its TUN.
func isFlannelTUN(l netlink.Link) bool { return strings.HasPrefix(l.Attrs().Alias, tunAlias) }

const tunAlias = "flanneld udp "

// checkDevices tells what earlier runs, or other daemons, have left.
func (c *checker) checkDevices() {
	if !c.needs(checkDevices, true, true) {
		return
	}
	before := len(c.found)
	for _, l := range c.host.links {
		a := l.Attrs()
		switch dev, _ := l.(*netlink.Vxlan); {
		case a.Name == c.profile.Link && c.profile.Type == vxlan.Type && dev == nil:
			c.add(finding{Name: checkDevices, Result: verdictFailure, Found: fmt.Sprintf("%s exists and is a link of kind %s", a.Name, l.Type()),
				Advice: "remove or rename it: flanneld makes a vxlan device of this name"})
		case a.Name == c.profile.Link && dev != nil:
			if why := c.remade(dev); why != "" {
				c.add(finding{Name: checkDevices, Result: verdictNote, Found: fmt.Sprintf("%s will be made anew: %s", a.Name, why),
					Advice: "packets are lost for a moment when flanneld starts"})
			}
		case isFlannelVXLAN(l):
			c.leftover(l, "is not of this config, which wants "+c.wantedLink())
		case isFlannelTUN(l):
			network, _, _ := strings.Cut(strings.TrimPrefix(a.Alias, tunAlias), " ")
			ours := network == c.cfg.Network.String()
			switch {
			case ours && c.profile.Type != udp.Type:
				c.add(finding{Name: checkDevices, Result: verdictNote, Found: fmt.Sprintf("%s is left of the udp backend on this network", a.Name), Advice: "nothing: flanneld removes it"})
			case !ours || a.Alias != fmt.Sprintf("%s%s port %d", tunAlias, network, c.profile.Port):
				c.leftover(l, "is of another config: "+a.Alias)
			}
		}
	}
	if len(c.found) == before {
		c.ok(checkDevices, nil, "nothing of other configs is left behind")
	}
}

// wantedLink is the name that the backend will give to its device.
func (c *checker) wantedLink() string {
	if c.profile.Link == "" {
		return "none"
	}
	if name, ok := strings.CutSuffix(c.profile.Link, "%d"); ok {
		return name + "0, or the next number that is free"
	}
	return c.profile.Link
}

func (c *checker) leftover(l netlink.Link, why string) {
	name := l.Attrs().Name
	c.add(finding{Name: checkDevices, Result: verdictNote, Found: name + " " + why,
		Advice: "if no other flanneld of this host uses it: ip link del " + name, Data: data{"link": name}})
}

// remade says why flanneld would not take over the device.
func (c *checker) remade(dev *netlink.Vxlan) string {
	nic := c.host.link(c.under.Name)
	local, _ := netip.AddrFromSlice(dev.SrcAddr)
	switch {
	case dev.VxlanId != c.profile.VNI:
		return fmt.Sprintf("its VNI is %d, not %d", dev.VxlanId, c.profile.VNI)
	case dev.Port != 0 && dev.Port != c.profile.Port:
		return fmt.Sprintf("its port is %d, not %d", dev.Port, c.profile.Port)
	case local.Unmap() != c.under.Addr:
		return fmt.Sprintf("its local address is %s, not %s", local.Unmap(), c.under.Addr)
	case nic != nil && dev.VtepDevIndex != nic.Attrs().Index:
		return fmt.Sprintf("it is on %s, not on %s", c.host.linkName(dev.VtepDevIndex), c.under.Name)
	case dev.GBP != c.profile.GBP:
		return fmt.Sprintf("GBP is %t, not %t", dev.GBP, c.profile.GBP)
	}
	return ""
}

// checkSysctls looks at the variables that decide whether packets of pods are
// forwarded. flanneld changes none of them.
func (c *checker) checkSysctls() {
	switch value, err := sysctl("ipv4/ip_forward"); {
	case err != nil:
		c.skip(checkForward, "%v", err)
	case value == "0":
		c.add(finding{Name: checkForward, Result: verdictWarning, Found: "net.ipv4.ip_forward is 0: this host forwards nothing from or to its pods", Data: data{"value": 0},
			Advice: "sysctl -w net.ipv4.ip_forward=1, and in /etc/sysctl.d; dockerd sets it when it starts, and then the policy of FORWARD to DROP"})
	default:
		c.ok(checkForward, data{"value": 1}, "net.ipv4.ip_forward is 1")
	}
	c.checkRPFilter()
	switch value, err := sysctl("bridge/bridge-nf-call-iptables"); {
	case errors.Is(err, os.ErrNotExist):
		c.ok(checkBridgeNF, data{"value": nil}, "br_netfilter is not loaded: packets between pods of this host meet no firewall")
	case err != nil:
		c.skip(checkBridgeNF, "%v", err)
	case value == "0":
		c.add(finding{Name: checkBridgeNF, Result: verdictNote, Found: "net.bridge.bridge-nf-call-iptables is 0", Data: data{"value": 0},
			Advice: "nothing for flanneld and docker; Kubernetes' services between pods of one host need 1"})
	default:
		c.ok(checkBridgeNF, data{"value": 1}, "net.bridge.bridge-nf-call-iptables is 1")
	}
}

// checkRPFilter looks at the device of the overlay, or at what a new one gets.
// The larger of all and of the device's own counts (ip-sysctl.rst).
func (c *checker) checkRPFilter() {
	if c.profile == nil || c.profile.Link == "" {
		return
	}
	device := "default"
	for _, l := range c.host.links {
		if l.Attrs().Name == c.profile.Link || isFlannelTUN(l) {
			device = l.Attrs().Name
		}
	}
	all, err := sysctl("ipv4/conf/all/rp_filter")
	own, err2 := sysctl("ipv4/conf/" + device + "/rp_filter")
	if err := errors.Join(err, err2); err != nil {
		c.skip(checkRPFilter, "%s", strings.ReplaceAll(err.Error(), "\n", "; "))
		return
	}
	value := cmp.Or(max(all, own), "0") // one digit each
	d := data{"device": device, "value": int(value[0] - '0')}
	if value == "1" {
		c.add(finding{Name: checkRPFilter, Result: verdictNote, Found: fmt.Sprintf("net.ipv4.conf.%s.rp_filter is strict (1)", device), Data: d,
			Advice: "packets that take another way back than they came are dropped without a word; 2 is loose"})
		return
	}
	c.ok(checkRPFilter, d, "net.ipv4.conf.%s.rp_filter is %s, not strict", device, value)
}

// sysctl reads a variable of the calling thread's network namespace.
func sysctl(name string) (string, error) {
	b, err := os.ReadFile(filepath.Join("/proc/sys/net", name))
	return strings.TrimSpace(string(b)), err
}

// checkDocker compares docker0 with the subnet of this host.
func (c *checker) checkDocker() {
	l := c.host.link("docker0")
	if l == nil {
		return
	}
	own, from := c.own, "the lease"
	if !own.IsValid() {
		own, from = c.prev, "the subnet file"
	}
	addrs := c.host.addrsOf(l)
	d := data{"addresses": append([]netip.Prefix{}, addrs...), "subnet": nil}
	const how = "restart docker with the options that mk-docker-opts makes of the subnet file, and the containers"
	switch {
	case len(addrs) == 0:
		c.add(finding{Name: checkDocker, Result: verdictNote, Found: "docker0 has no IPv4 address", Advice: how, Data: d})
	case !own.IsValid():
		c.add(finding{Name: checkDocker, Result: verdictNote, Found: fmt.Sprintf("docker0 has %s, and this host has no lease yet", addrs[0]), Advice: "once flanneld runs, " + how, Data: d})
	default:
		d["subnet"] = own
		for _, a := range addrs {
			if a.Masked() == own {
				c.ok(checkDocker, d, "docker0 has %s, which is %s", a, from)
				return
			}
		}
		if bridge := c.bridgeWith(own); bridge != "" {
			c.add(finding{Name: checkDocker, Result: verdictWarning, Found: fmt.Sprintf("docker0 has %s, and %s has %s, which is %s of this host", addrs[0], bridge, own, from), Data: d,
				Advice: "nothing, if the containers that other hosts must reach are on " + bridge + "; those on docker0 cannot be reached"})
			return
		}
		c.add(finding{Name: checkDocker, Result: verdictFailure, Found: fmt.Sprintf("docker0 has %s, but %s of this host is %s: its containers cannot be reached", addrs[0], from, own), Advice: how, Data: d})
	}
}

// bridgeWith names a bridge that has the subnet, such as cni0; it is empty if
// there is none.
func (c *checker) bridgeWith(own netip.Prefix) string {
	for _, a := range c.host.addrs {
		l := c.host.linkByIndex(a.link)
		if l != nil && l.Type() == (&netlink.Bridge{}).Type() && a.prefix.Masked() == own {
			return l.Attrs().Name
		}
	}
	return ""
}

// ownRoute reports whether a route is one of flanneld's.
func (c *checker) ownRoute(r hostRoute) bool {
	return r.proto == rtnl.Protocol || ofFlannel(c.host.linkByIndex(r.link))
}
