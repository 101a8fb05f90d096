package backend

import (
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"strings"
)

// nic is an interface as it was when Select looked.
type nic struct {
	name    string
	index   int
	mtu     int            // in bytes
	up      bool           // administratively
	carrier bool           // and the wire as well (IFF_LOWER_UP of netdevice(7))
	addrs   []netip.Prefix // IPv4, in the kernel's order: primary before secondary
}

// preferred returns the first global address, else the first link-local one,
// else the zero Addr.
func (n nic) preferred() netip.Addr {
	var linkLocal netip.Addr
	for _, p := range n.addrs {
		switch ip := p.Addr(); {
		case ip.IsGlobalUnicast():
			return ip
		case ip.IsLinkLocalUnicast() && !linkLocal.IsValid():
			linkLocal = ip
		}
	}
	return linkLocal
}

func (n nic) owns(ip netip.Addr) bool {
	for _, p := range n.addrs {
		if p.Addr() == ip {
			return true
		}
	}
	return false
}

// netOf returns the network that the interface has ip in.
func (n nic) netOf(ip netip.Addr) netip.Prefix {
	for _, p := range n.addrs {
		if p.Addr() == ip {
			return p.Masked()
		}
	}
	return netip.Prefix{}
}

// String describes the interface for an error message.
func (n nic) String() string {
	words := []string{n.name}
	for _, p := range n.addrs {
		words = append(words, p.String())
	}
	if len(n.addrs) == 0 {
		words = append(words, "without IPv4 address")
	}
	if !n.up {
		words = append(words, "(down)")
	}
	return strings.Join(words, " ")
}

// maxListed bounds an error message on hosts with hundreds of interfaces.
const maxListed = 20

func inventory(nics []nic) string {
	var all []string
	for i, n := range nics {
		if i == maxListed {
			all = append(all, fmt.Sprintf("and %d more", len(nics)-i))
			break
		}
		all = append(all, n.String())
	}
	if len(all) == 0 {
		return "no interface"
	}
	return strings.Join(all, ", ")
}

// byNameOrAddr takes text that is an IP address for nothing else. Of several
// interfaces that own the address, the first that is up is taken.
func byNameOrAddr(nics []nic, want string) (choice, error) {
	ip, err := netip.ParseAddr(want)
	if err != nil {
		for _, n := range nics {
			if n.name == want {
				return choice{nic: n}, nil
			}
		}
		return choice{}, errors.New("no interface has this name")
	}
	ip = ip.Unmap()
	if !ip.Is4() {
		return choice{}, errors.New("IPv6 is not supported: want an interface name or an IPv4 address")
	}
	var found []nic
	for _, n := range nics {
		if n.owns(ip) {
			found = append(found, n)
		}
	}
	for _, n := range found {
		if n.up {
			return choice{n, ip}, nil
		}
	}
	if len(found) > 0 {
		return choice{found[0], ip}, nil
	}
	return choice{}, errors.New("no interface has this address")
}

// byRegex tries the preferred addresses of all interfaces before any name. A
// matching name is passed over if its interface has no address.
func byRegex(nics []nic, re *regexp.Regexp) (choice, error) {
	for _, n := range nics {
		if ip := n.preferred(); ip.IsValid() && re.MatchString(ip.String()) {
			return choice{n, ip}, nil
		}
	}
	err := errors.New("no preferred IPv4 address and no interface name matches")
	for _, n := range nics {
		if !re.MatchString(n.name) {
			continue
		}
		if ip := n.preferred(); ip.IsValid() {
			return choice{n, ip}, nil
		}
		err = fmt.Errorf("%s has no usable IPv4 address", n.name)
	}
	return choice{}, err
}

// byIndex returns the interface that a route points to.
func byIndex(nics []nic, index int) (nic, error) {
	for _, n := range nics {
		if n.index == index {
			return n, nil
		}
	}
	return nic{}, fmt.Errorf("the route's interface (index %d) is gone", index)
}
