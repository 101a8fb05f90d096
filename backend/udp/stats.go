package udp

import (
	"strings"

	"tweed/dataplane"
)

// Stats is what the datapath has done since Open, and how.
type Stats struct {
	ToPeers, FromPeers dataplane.Stats
	TUN, Socket        dataplane.IOStats
	Offloads           []Offload // all that there are, in a fixed order
}

// An Offload is one of the kernel's segmentation offloads, and whether it is
// in use: a refusal by the kernel switches it off.
type Offload struct {
	Name string
	On   bool
}

// Stats returns the counters. It may be called at any time, and stops nothing.
func (b *Backend) Stats() Stats {
	return Stats{
		ToPeers: b.toPeers.Stats(), FromPeers: b.fromPeers.Stats(),
		TUN: b.tun.Stats(), Socket: b.sock.Stats(),
		Offloads: b.offloads(),
	}
}

func (b *Backend) offloads() []Offload {
	var all []Offload
	for _, f := range b.tun.Features() {
		all = append(all, Offload(f))
	}
	for _, f := range b.sock.Features() {
		all = append(all, Offload(f))
	}
	return all
}

// offloadText is for the log.
func (b *Backend) offloadText() string {
	if !b.offload {
		return "off"
	}
	var on []string
	for _, o := range b.offloads() {
		if o.On {
			on = append(on, o.Name)
		}
	}
	return strings.Join(on, ",")
}
