package udp

import (
	"fmt"
	"log/slog"
	"net/netip"
	"strings"

	"tweed/dataplane/rtnl"
	"tweed/dataplane/tun"
)

// aliasOf is the alias that marks the TUN interface of a network and port.
func aliasOf(network netip.Prefix, port uint16) string {
	return fmt.Sprintf("%s port %d", aliasPrefix(network), port)
}

func aliasPrefix(network netip.Prefix) string { return fmt.Sprintf("flanneld udp %s", network) }

// openTUN attaches to the interface that an earlier run left, or makes one.
func openTUN(nl *rtnl.Handle, network netip.Prefix, o options, log *slog.Logger) (*tun.Device, error) {
	alias := aliasOf(network, o.port)
	left, err := nl.LinksByAlias(func(a string) bool { return a == alias })
	if err != nil {
		return nil, err
	}
	for _, l := range left {
		d, err := tun.Open(l.Name, tun.Options{Offload: o.offload})
		if err == nil {
			log.Info("took over the tun interface of an earlier run", "link", l.Name)
			return mark(nl, d, alias) // which may be a new one, if the old has just gone
		}
		log.Warn("cannot take over what looks like the tun interface of an earlier run, making another", "link", l.Name, "err", err)
	}
	d, err := tun.Open(tunName, tun.Options{Offload: o.offload})
	if err != nil {
		return nil, err
	}
	return mark(nl, d, alias)
}

// mark gives the interface its alias, or closes it.
func mark(nl *rtnl.Handle, d *tun.Device, alias string) (*tun.Device, error) {
	if err := nl.EnsureAlias(d.Index(), alias); err != nil {
		d.Close()
		return nil, err
	}
	return d, nil
}

// RemoveStale deletes the TUN interfaces that earlier runs left for a network
// which has another backend by now, in the network namespace of the calling
// thread. One that a daemon still holds stays.
func RemoveStale(network netip.Prefix, log *slog.Logger) error {
	nl, err := rtnl.Open()
	if err != nil {
		return err
	}
	defer nl.Close()
	left, err := nl.LinksByAlias(func(a string) bool { return strings.HasPrefix(a, aliasPrefix(network)+" ") })
	if err != nil {
		return err
	}
	for _, l := range left {
		d, err := tun.Open(l.Name, tun.Options{})
		if err != nil {
			log.Warn("leaving a tun interface that is in use", "link", l.Name, "err", err)
			continue
		}
		if err := d.SetPersistent(false); err != nil {
			d.Close()
			return err
		}
		if err := d.Close(); err != nil {
			return err
		}
		log.Info("removed the tun interface of the udp backend", "link", l.Name)
	}
	return nil
}
