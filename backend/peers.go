package backend

import (
	"fmt"
	"log/slog"
	"net/netip"

	"tweed/subnet"
)

// Peers sorts out which of the leases that Sync gets a backend can serve, and
// tells about the others. The fields are set once; not for concurrent use.
type Peers struct {
	Type     string // the BackendType that peers must publish; AnyType for all
	Underlay Underlay
	Log      *slog.Logger

	told map[netip.Prefix]string // the subnets ignored, and why
}

// AnyType is the Peers.Type of a backend that serves peers of every type.
const AnyType = "*"

// Usable calls use with each of the leases that this node can serve, in their
// order; use returns what else is wrong with one. There may be very many.
//
// A lease that is not usable is a warning, once for each subnet and reason,
// and no error: trying again would not help.
func (p *Peers) Usable(leases []subnet.Lease, use func(l *subnet.Lease) error) {
	told := make(map[netip.Prefix]string)
	for i := range leases {
		l := &leases[i]
		err := p.Refuse(l)
		if err == nil {
			err = use(l)
		}
		if err == nil {
			continue
		}
		told[l.Subnet] = err.Error()
		if p.told[l.Subnet] != err.Error() {
			p.Log.Warn("peer ignored", "subnet", l.Subnet, "peer", l.Attrs.PublicIP, "err", err)
		}
	}
	p.told = told
}

// Refuse says what is wrong with a lease for every backend, and logs nothing.
func (p *Peers) Refuse(l *subnet.Lease) error {
	switch a := &l.Attrs; {
	case p.Type != AnyType && a.BackendType != p.Type:
		return fmt.Errorf("BackendType %q: this node runs %q", a.BackendType, p.Type)
	case a.PublicIP == p.Underlay.Addr || a.PublicIP == p.Underlay.PublicIP:
		// Packets sent there would come back to us, and go round until their
		// TTL ends.
		return fmt.Errorf("PublicIP %s is our own: an old lease of this node, or a clone of it", a.PublicIP)
	}
	return nil
}
