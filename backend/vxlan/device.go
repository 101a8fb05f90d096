package vxlan

import (
	"fmt"
	"strings"

	"tweed/dataplane/rtnl"
)

// ensure makes the device and its address be as wanted, and returns what was
// not so, and whether the device had to be made. Its index is in b.index then.
func (b *Backend) ensure() (created bool, repairs []rtnl.Repair, err error) {
	dev, err := b.ensureDevice()
	if err != nil {
		return dev.Created, nil, err
	}
	switch {
	case len(dev.Differs) > 0:
		repairs = []rtnl.Repair{rtnl.Repair(fmt.Sprintf("made %s anew, the device was not as configured: %s", b.dev.Name, strings.Join(dev.Differs, ", ")))}
	case dev.Created:
		repairs = []rtnl.Repair{rtnl.Repair(fmt.Sprintf("made %s again, the device was gone", b.dev.Name))}
	default:
		repairs = dev.Repairs
	}
	if dev.Link.MAC != b.dev.MAC {
		// The peers send to what we have published.
		more, err := b.nl.SetMAC(b.index, b.dev.MAC)
		if repairs = append(repairs, more...); err != nil {
			return dev.Created, repairs, err
		}
	}
	if b.own.IsValid() {
		more, err := b.nl.EnsureAddr(b.index, b.own.Addr(), b.net)
		if !dev.Created {
			repairs = append(repairs, more...)
		}
		if err != nil {
			return dev.Created, repairs, err
		}
	}
	return dev.Created, repairs, nil
}

// ensureDevice finds the interface below by its name, because it may have been
// taken away and come back under another index, with all that was on it lost.
func (b *Backend) ensureDevice() (rtnl.EnsuredVXLAN, error) {
	nic, err := b.nl.LinkByName(b.under.Name)
	if err != nil {
		return rtnl.EnsuredVXLAN{}, err
	}
	b.lower = nic.Index
	want := b.dev
	want.Lower = nic.Index
	want.MTU = min(b.dev.MTU, nic.MTU-rtnl.VXLANOverhead)
	e, err := b.nl.EnsureVXLAN(want)
	b.index = e.Link.Index
	return e, err
}
