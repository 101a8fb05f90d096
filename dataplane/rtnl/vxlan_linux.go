package rtnl

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// VXLANOverhead is what encapsulation adds to an inner IPv4 packet, in bytes:
//
//	outer IPv4 20 | UDP 8 | VXLAN 8 | inner Ethernet 14 | inner IPv4 packet
//
// RFC 7348, section 5. The outer Ethernet header does not count against the
// MTU of the interface below.
const VXLANOverhead = 20 + 8 + 8 + 14

// VXLANPort is the UDP port of devices that ask for none, unless the module's
// parameter udp_port says otherwise (drivers/net/vxlan/vxlan_core.c). It is
// older than the 4789 of RFC 7348.
const VXLANPort = 8472

// MaxLinkName is the length of the longest name of an interface in bytes
// (IFNAMSIZ of linux/if.h, less the closing zero).
const MaxLinkName = unix.IFNAMSIZ - 1

// VXLAN describes a VXLAN device that finds its peers in a forwarding database
// that we keep, without learning and without multicast.
type VXLAN struct {
	Name  string
	VNI   int        // 24 bits
	Lower int        // index of the interface below
	Local netip.Addr // IPv4 source address of the outer packets
	Port  int        // UDP; 0 is the kernel's default, 8472
	GBP   bool       // group policy extension
	MTU   int        // bytes of an inner IPv4 packet
	MAC   MAC        // used only where the device has to be made
}

// EnsureVXLAN makes the device, or takes over the existing one of that name,
// gives it the MTU, no transmit queue, and sets it up.
//
// An existing device is compatible if VNI, interface below, local address,
// absence of a group and of l2miss, UDP port and GBP are as wanted; it keeps its
// MAC address and all its entries. One that has all this and the MAC address under
// another name is given its name back.
// An incompatible one is deleted and made anew, and differs says why. A device
// that is not a VXLAN device is an error, and so is another VXLAN device with
// the same VNI and port (EEXIST), which the error names, or whoever else has
// the port (EADDRINUSE).
func (h *Handle) EnsureVXLAN(v VXLAN) (e EnsuredVXLAN, err error) {
	var renamed []Repair
	existing, err := h.nl.LinkByName(v.Name)
	if isMissing(err) {
		if renamed, err = h.renameBack(v); renamed != nil {
			existing, err = h.nl.LinkByName(v.Name)
		}
	}
	switch {
	case err == nil && existing == nil, isMissing(err):
		e.Created = true
	case err != nil:
		return e, linkError("find link "+v.Name, err)
	default:
		dev, ok := existing.(*netlink.Vxlan)
		if !ok {
			return e, fmt.Errorf("%s is a link of kind %s: want a vxlan device; remove or rename it", v.Name, existing.Type())
		}
		if e.Differs = v.differs(dev); len(e.Differs) > 0 {
			if err := h.nl.LinkDel(dev); err != nil {
				return e, linkError("delete incompatible link "+v.Name, err)
			}
			e.Created = true
		}
	}
	if e.Created {
		if err := h.addVXLAN(v); err != nil {
			return e, err
		}
	}
	if e.Link, err = h.LinkByName(v.Name); err != nil {
		return e, err
	}
	e.Repairs, err = h.EnsureLink(e.Link.Index, v.MTU, 0)
	e.Repairs = append(renamed, e.Repairs...)
	if errors.Is(err, unix.EADDRINUSE) {
		err = fmt.Errorf("%w: UDP port %s is taken by another program, or by a vxlan device with other options", err, v.port())
	}
	if err != nil {
		if e.Created { // it is no use, and might not be wanted by the next daemon
			err = errors.Join(err, h.nl.LinkDel(&netlink.Vxlan{LinkAttrs: netlink.LinkAttrs{Index: e.Link.Index}}))
		}
		return e, err
	}
	// The link is read again because it is up only now: what listens for new
	// links, such as udev, may have changed the address until then.
	e.Link, err = h.LinkByIndex(e.Link.Index)
	return e, err
}

// EnsuredVXLAN is what EnsureVXLAN has found and done.
type EnsuredVXLAN struct {
	Link    Link
	Created bool     // the device was made, and so has neither addresses nor entries
	Differs []string // why an existing device had to go
	Repairs []Repair // what of an existing device was not as wanted, or of a new one had to be set
}

// renameBack finds the device under another name, which would keep a new one from
// being made, and returns what it has done about it, if anything.
func (h *Handle) renameBack(v VXLAN) ([]Repair, error) {
	links, err := dump("links", h.nl.LinkList)
	if err != nil {
		return nil, err
	}
	for _, l := range links {
		dev, ok := l.(*netlink.Vxlan)
		if !ok || v.MAC == (MAC{}) || macOf(dev.HardwareAddr) != v.MAC || len(v.differs(dev)) > 0 {
			continue
		}
		what := fmt.Sprintf("rename %s to %s", dev.Name, v.Name)
		err := h.nl.LinkSetName(dev, v.Name)
		if errors.Is(err, unix.EBUSY) { // older kernels rename nothing that is up
			err = errors.Join(h.nl.LinkSetDown(dev), h.nl.LinkSetName(dev, v.Name))
		}
		if err != nil {
			return nil, linkError(what, err)
		}
		return []Repair{Repair(what)}, nil
	}
	return nil, nil
}

func (h *Handle) addVXLAN(v VXLAN) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = v.Name
	attrs.MTU = v.MTU
	attrs.TxQLen = 0
	if v.MAC != (MAC{}) {
		// An address given here is one that udev's MACAddressPolicy respects.
		attrs.HardwareAddr = net.HardwareAddr(v.MAC[:])
	}
	err := h.nl.LinkAdd(&netlink.Vxlan{
		LinkAttrs:    attrs,
		VxlanId:      v.VNI,
		VtepDevIndex: v.Lower,
		SrcAddr:      toIP(v.Local),
		Port:         v.Port,
		GBP:          v.GBP,
	})
	if errors.Is(err, unix.EEXIST) {
		if other := h.vxlanTwin(v); other != "" {
			return fmt.Errorf("add vxlan device %s: %s has the same VNI %d and UDP port; remove it, or choose another VNI or Port: %w", v.Name, other, v.VNI, err)
		}
	}
	if err != nil {
		return linkError(fmt.Sprintf("add vxlan device %s with VNI %d, local %s, on %s", v.Name, v.VNI, v.Local, h.linkName(v.Lower)), err)
	}
	return nil
}

// vxlanTwin names the device that keeps the kernel from making v.
func (h *Handle) vxlanTwin(v VXLAN) string {
	links, err := dump("links", h.nl.LinkList)
	if err != nil {
		return "" // the error that led here says enough
	}
	for _, l := range links {
		if dev, ok := l.(*netlink.Vxlan); ok && dev.VxlanId == v.VNI && (v.Port == 0 || v.Port == dev.Port) {
			return dev.Name
		}
	}
	return ""
}

// defaultVXLANPort is the UDP port of a device that asks for none.
func defaultVXLANPort() int {
	b, err := os.ReadFile("/sys/module/vxlan/parameters/udp_port")
	if err != nil {
		return VXLANPort
	}
	port, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil || port <= 0 {
		return VXLANPort
	}
	return port
}

// port is for messages.
func (v VXLAN) port() string {
	if v.Port == 0 {
		return "8472 (the kernel's default)"
	}
	return strconv.Itoa(v.Port)
}

// differs lists what of dev cannot be changed and is not as wanted.
func (v VXLAN) differs(dev *netlink.Vxlan) []string {
	var d []string
	differ := func(what string, have, want any) {
		if have != want {
			d = append(d, fmt.Sprintf("%s is %v, not %v", what, have, want))
		}
	}
	differ("VNI", dev.VxlanId, v.VNI)
	differ("link below", dev.VtepDevIndex, v.Lower)
	differ("local address", fromIP(dev.SrcAddr), v.Local)
	if len(dev.Group) > 0 && !dev.Group.IsUnspecified() {
		d = append(d, fmt.Sprintf("group is %s, not unset", dev.Group))
	}
	differ("l2miss", dev.L2miss, false)
	if dev.Port != 0 {
		differ("port", dev.Port, cmp.Or(v.Port, defaultVXLANPort()))
	}
	differ("gbp", dev.GBP, v.GBP)
	return d
}
