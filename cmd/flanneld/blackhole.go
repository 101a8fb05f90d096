package main

import (
	"context"
	"log/slog"
	"net/netip"
	"time"

	"tweed/dataplane/rtnl"
)

// holdBlackhole removes the blackhole route that an earlier run has left or, if
// there is to be one of our own subnet, adds it and keeps it until ctx ends.
func (n *node) holdBlackhole(ctx context.Context, network, own netip.Prefix) error {
	h, err := openPatiently(ctx, n.log, rtnl.Open)
	if err != nil {
		return nil
	}
	defer h.Close()
	if !n.opts.BlackholeRoute {
		if _, err := h.ReplaceBlackholes(network); err != nil {
			n.log.Error("Couldn't remove the blackhole route of an earlier run", "err", err)
		}
		return nil
	}
	monitor, err := openPatiently(ctx, n.log, func() (*rtnl.Monitor, error) { return rtnl.OpenMonitor(rtnl.OfRoutes) })
	if err != nil {
		return nil
	}
	defer monitor.Close()
	b := &blackhole{h: h, network: network, own: own}
	if err := b.first(); err != nil {
		n.log.Error("Couldn't add the blackhole route, trying again", "err", err)
	}
	return monitor.Hold(ctx, b, n.log)
}

// blackhole is the route of our own subnet, as a rtnl.Subject.
type blackhole struct {
	h            *rtnl.Handle
	network, own netip.Prefix
}

func (b *blackhole) first() error {
	_, err := b.h.ReplaceBlackholes(b.network, b.own)
	return err
}

// Concerns implements rtnl.Subject.
func (b *blackhole) Concerns(n rtnl.Notice) string {
	dst, ok := n.Blackhole()
	if n.Lost() || ok && b.network.Overlaps(dst) {
		return "route blackhole " + dst.String()
	}
	return ""
}

// Repair implements rtnl.Subject.
func (b *blackhole) Repair(context.Context) ([]rtnl.Repair, error) {
	return b.h.ReplaceBlackholes(b.network, b.own)
}

// openPatiently opens a socket. A running daemon waits where it cannot have one,
// because there are too many open files: packets do not depend on it. The error is
// that of ctx.
func openPatiently[T any](ctx context.Context, log *slog.Logger, open func() (T, error)) (T, error) {
	for {
		s, err := open()
		if err == nil {
			return s, nil
		}
		log.Error("Couldn't watch the kernel's tables, trying again", "err", err)
		if !tick(ctx, time.Second) {
			return s, ctx.Err()
		}
	}
}
