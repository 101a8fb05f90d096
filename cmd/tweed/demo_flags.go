package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"time"
)

const demoUsage = `tweed demo runs a whole overlay network on this machine and shows what happens.

It starts an etcd and some hosts, each in a network namespace of its own and
joined by a bridge, writes a network config, runs the real flanneld on every
host, gives each a docker0 with one pod, and lets the pods talk to each other.
The network of the machine itself is not touched, no packet leaves it, and
everything is removed at the end, also after Ctrl-C. It needs root, and nothing
but the kernel.

Usage:
  tweed demo [flags]

Flags:
  -backend NAME     vxlan, udp or host-gw; default: all, one after the other
  -nodes N          number of hosts, 2 to 20 (default 3)
  -underlay CIDR    IPv4 network that joins the hosts (default 20.0.0.0/24)
  -duration TIME    of the throughput measurement, 100ms to 60s (default 2s)
  -keep             stay up afterwards, say how to enter hosts and pods, and end
                    with Ctrl-C; without -backend it shows vxlan
  -json             print the results as JSON, for scripts
  -flanneld PATH    the daemon to run (default: flanneld beside tweed itself)

Examples:
  sudo tweed demo
  sudo tweed demo -backend udp -nodes 5
  sudo tweed demo -keep
  sudo tweed demo -json -duration 500ms | jq '.backends[].throughput'

Exit status: 0 all pods reached each other, 1 something failed, 2 wrong usage,
130 interrupted by a signal.
`

// maxNodes keeps the neighbours that all hosts learn of each other well below
// 1024, where the kernel's ARP table, one for all namespaces, is full by
// default (gc_thresh3 in arp(7)).
const maxNodes = 20

// backends in the order in which the demo shows them.
func backends() []string { return []string{"vxlan", "udp", "host-gw"} }

type demoOptions struct {
	backends []string
	nodes    int
	underlay netip.Prefix
	duration time.Duration
	keep     bool
	json     bool
	flanneld string
	patience time.Duration // until every pod must have reached every other one
}

// parseDemo returns flag.ErrHelp, or a usageError that names the flag, its
// value and what is valid.
func parseDemo(args []string) (demoOptions, error) {
	o := demoOptions{patience: 15 * time.Second}
	var backend, underlay string
	fs := flag.NewFlagSet("demo", flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	fs.StringVar(&backend, "backend", "", "")
	fs.IntVar(&o.nodes, "nodes", 3, "")
	fs.StringVar(&underlay, "underlay", "20.0.0.0/24", "")
	fs.DurationVar(&o.duration, "duration", 2*time.Second, "")
	fs.BoolVar(&o.keep, "keep", false, "")
	fs.BoolVar(&o.json, "json", false, "")
	fs.StringVar(&o.flanneld, "flanneld", "", "")
	err := fs.Parse(args)
	if errors.Is(err, flag.ErrHelp) {
		return demoOptions{}, err
	}
	if err == nil {
		err = o.check(fs.Args(), backend, underlay)
	}
	if err != nil {
		return demoOptions{}, usageError{err}
	}
	return o, nil
}

func (o *demoOptions) check(rest []string, backend, underlay string) error {
	switch {
	case len(rest) > 0:
		return fmt.Errorf("argument %q: want flags only", rest[0])
	case o.nodes < 2 || o.nodes > maxNodes:
		return fmt.Errorf("-nodes %d: want 2 to %d", o.nodes, maxNodes)
	case o.duration < 100*time.Millisecond || o.duration > time.Minute:
		return fmt.Errorf("-duration %s: want 100ms to 60s", o.duration)
	}
	switch {
	case slices.Contains(backends(), backend):
		o.backends = []string{backend}
	case backend != "":
		return fmt.Errorf("-backend %q: want %s", backend, strings.Join(backends(), ", "))
	case o.keep:
		o.backends = backends()[:1]
	default:
		o.backends = backends()
	}
	p, err := netip.ParsePrefix(underlay)
	if err != nil || !p.Addr().Is4() || !p.Addr().IsGlobalUnicast() || p.Bits() < 8 || p.Bits() > 29 {
		return fmt.Errorf("-underlay %q: want an IPv4 network of length 8 to 29, such as 20.0.0.0/24", underlay)
	}
	if p != p.Masked() {
		return fmt.Errorf("-underlay %s: the network starts at %s: want %s", underlay, p.Masked().Addr(), p.Masked())
	}
	// Not for hosts: network, switch and broadcast address.
	if room := 1<<(32-p.Bits()) - 3; o.nodes > room {
		return fmt.Errorf("-underlay %s: has room for %d hosts, not for the %d of -nodes", p, room, o.nodes)
	}
	o.underlay = p
	return nil
}
