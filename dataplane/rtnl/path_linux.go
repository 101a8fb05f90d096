package rtnl

import (
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// A Path is how the kernel would send a packet.
type Path struct {
	Link int        // interface index
	Via  netip.Addr // the gateway; the zero value if the destination is on the link
	Src  netip.Addr // the source address that the kernel would choose
}

// Direct reports whether no router is in between.
func (p Path) Direct() bool { return !p.Via.IsValid() }

// ErrNoPath: the kernel would not send a packet to the destination over any
// one link: it has no route, a route that rejects, or the address is its own.
var ErrNoPath = errors.New("no route over a link")

// Lookup asks the kernel for its way to dst, policy routing included
// (`ip route get`): ErrNoPath.
func (h *Handle) Lookup(dst netip.Addr) (Path, error) {
	routes, err := h.nl.RouteGet(toIP(dst))
	switch {
	case errors.Is(err, unix.ENETUNREACH), errors.Is(err, unix.EHOSTUNREACH), errors.Is(err, unix.EACCES), errors.Is(err, unix.EINVAL):
		return Path{}, fmt.Errorf("look up route to %s: %w: %w", dst, ErrNoPath, err)
	case err != nil:
		return Path{}, fmt.Errorf("look up route to %s: %w", dst, err)
	case len(routes) != 1 || routes[0].Type != unix.RTN_UNICAST:
		return Path{}, fmt.Errorf("look up route to %s: %w", dst, ErrNoPath)
	}
	return Path{Link: routes[0].LinkIndex, Via: fromIP(routes[0].Gw), Src: fromIP(routes[0].Src)}, nil
}
