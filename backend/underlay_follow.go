package backend

import (
	"fmt"
	"log/slog"
)

// Follow looks again at what Select has chosen, now, and returns what it is
// changed to, or now itself. It stays with the interface as long as that has the
// address, whatever a fresh choice would be; only when the address has gone is
// there a choice again, and where that finds nothing, nothing is given up.
//
// trouble says what keeps peers from being reached by the interface of now; it is
// empty if nothing is known to. Where there is trouble and next is another
// interface, that may be for a moment only, in which a DHCP client is at work.
func (s Selector) Follow(now Underlay) (next Underlay, trouble string, err error) {
	nics, err := listNICs()
	if err != nil {
		return now, "", fmt.Errorf("look at interface %s again: %w", now.Name, err)
	}
	var own *nic
	for i, n := range nics {
		if n.name == now.Name {
			own = &nics[i]
		}
	}
	switch {
	case own == nil:
		trouble = fmt.Sprintf("interface %s is gone", now.Name)
	case !own.owns(now.Addr):
		trouble = fmt.Sprintf("interface %s has lost its address %s", now.Name, now.Addr)
	default:
		next = now
		next.Net = own.netOf(now.Addr)
		if own.mtu > 0 {
			next.MTU = own.mtu
		}
		switch {
		case !own.up:
			trouble = fmt.Sprintf("interface %s is down", now.Name)
		case !own.carrier:
			trouble = fmt.Sprintf("interface %s has no carrier", now.Name)
		}
		return next, trouble, nil
	}
	next, err = s.Select(slog.New(slog.DiscardHandler))
	switch {
	case err != nil:
		return now, trouble, nil
	case next.Name == now.Name:
		return next, "", nil
	}
	return next, trouble, nil
}
