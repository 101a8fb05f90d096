package backend

import (
	"cmp"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"

	"tweed/subnet"
)

// Peers sorts out which leases a backend that routes in the kernel can serve,
// and tells about the others. The fields are set once; not for concurrent use.
type Peers struct {
	Network  netip.Prefix // the overlay network
	Type     string       // the BackendType that peers must publish
	Underlay Underlay
	Log      *slog.Logger

	told map[netip.Prefix]string // the subnets ignored, and why
}

// Usable returns the leases that this node, which owns the subnet own, can
// serve, the newest first. check says what else is wrong with a lease; asked
// in that order, it can refuse the older of two that contradict each other.
//
// A lease that is not usable is a warning, once for each subnet and reason,
// and no error: trying again would not help.
func (p *Peers) Usable(own netip.Prefix, leases []subnet.Lease, check func(subnet.Lease) error) []subnet.Lease {
	leases = slices.Clone(leases)
	slices.SortFunc(leases, func(a, b subnet.Lease) int {
		return cmp.Or(cmp.Compare(b.Revision, a.Revision), a.Subnet.Compare(b.Subnet))
	})
	told := make(map[netip.Prefix]string)
	usable := leases[:0]
	for _, l := range leases {
		err := p.refuse(own, l)
		if err == nil {
			err = check(l)
		}
		if err == nil {
			usable = append(usable, l)
			continue
		}
		told[l.Subnet] = err.Error()
		if p.told[l.Subnet] != err.Error() {
			p.Log.Warn("peer ignored", "subnet", l.Subnet, "peer", l.Attrs.PublicIP, "err", err)
		}
	}
	p.told = told
	return usable
}

// refuse says what is wrong with a lease for every backend.
func (p *Peers) refuse(own netip.Prefix, l subnet.Lease) error {
	switch a := l.Attrs; {
	case a.BackendType != p.Type:
		return fmt.Errorf("BackendType %q: this node runs %q", a.BackendType, p.Type)
	case l.Subnet.Bits() < p.Network.Bits() || !p.Network.Contains(l.Subnet.Addr()):
		// Whoever can write a record must not route other networks to himself.
		return fmt.Errorf("subnet outside the network %s", p.Network)
	case own.IsValid() && l.Subnet.Overlaps(own):
		return fmt.Errorf("subnet overlaps our own %s", own)
	case a.PublicIP == p.Underlay.Addr || a.PublicIP == p.Underlay.PublicIP:
		// Packets sent there would come back to us, and go round until their
		// TTL ends.
		return fmt.Errorf("PublicIP %s is our own: an old lease of this node, or a clone of it", a.PublicIP)
	}
	return nil
}
