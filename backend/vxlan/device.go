package vxlan

import (
	"tweed/dataplane/rtnl"
)

// ensure makes the device and its address be as wanted and returns the
// device's index.
func (b *Backend) ensure() (int, error) {
	l, created, err := b.ensureDevice()
	if err != nil {
		return 0, err
	}
	if created {
		b.log.Warn("device was gone, made it again", "link", b.dev.Name)
	}
	if l.MAC != b.dev.MAC {
		// The peers send to what we have published.
		b.log.Warn("device has another MAC address than the one published, setting it back", "link", b.dev.Name, "have", l.MAC, "want", b.dev.MAC)
		if err := b.nl.SetMAC(l.Index, b.dev.MAC); err != nil {
			return 0, err
		}
	}
	if b.own.IsValid() {
		if err := b.nl.EnsureAddr(l.Index, b.own.Addr(), b.net); err != nil {
			return 0, err
		}
	}
	return l.Index, nil
}

// ensureDevice finds the interface below by its name, because it may have been
// taken away and come back under another index, with all that was on it lost.
func (b *Backend) ensureDevice() (l rtnl.Link, created bool, err error) {
	nic, err := b.nl.LinkByName(b.under.Name)
	if err != nil {
		return rtnl.Link{}, false, err
	}
	want := b.dev
	want.Lower = nic.Index
	want.MTU = min(b.dev.MTU, nic.MTU-rtnl.VXLANOverhead)
	l, created, differs, err := b.nl.EnsureVXLAN(want)
	if len(differs) > 0 {
		b.log.Warn("device is not as configured, making it anew", "link", want.Name, "differs", differs)
		created = false // as told
	}
	return l, created, err
}
