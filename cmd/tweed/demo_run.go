package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"path"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"tweed/subnet"
	"tweed/test/lab"
)

// Bounds of the steps; a healthy machine needs a small part of them.
const (
	buildTime = 30 * time.Second
	readyTime = 20 * time.Second
)

// demonstration is one backend's turn.
type demonstration struct {
	opts     demoOptions
	backend  string
	progress *progress

	lab   *lab.Lab
	hosts []*node
}

// node is a host with what runs on it.
type node struct {
	host   *lab.Host
	daemon *lab.Process
	env    subnet.Env
	pod    *lab.Pod
}

// run fills in r as far as it comes.
func (d *demonstration) run(ctx context.Context, r *result) error {
	config, network, err := d.config()
	if err != nil {
		return err
	}
	return runSteps(ctx, d.progress, d.backend+": ", []step{
		{fmt.Sprintf("starting etcd and %d hosts", d.opts.nodes), buildTime, func(ctx context.Context) error { return d.build(ctx, config, r) }},
		{"starting flanneld on every host", readyTime, d.startDaemons},
		{"adding a pod to every host", buildTime, d.addPods},
		{"pinging from pod to pod", d.opts.patience + buildTime, func(ctx context.Context) error { return d.ping(ctx, r) }},
		{"reading leases and routes", buildTime, func(ctx context.Context) error { return d.read(ctx, network, r) }},
		{fmt.Sprintf("measuring throughput for %s", d.opts.duration), d.opts.duration + buildTime, func(ctx context.Context) error { return d.measure(ctx, r) }},
	})
}

// config is the network config of the demo, on a network that is not the
// underlay's.
func (d *demonstration) config() (json.RawMessage, netip.Prefix, error) {
	network := netip.MustParsePrefix("10.5.0.0/16")
	if d.opts.underlay.Overlaps(network) {
		network = netip.MustParsePrefix("172.17.0.0/16")
	}
	type backend struct{ Type string }
	b, err := json.Marshal(struct {
		Network netip.Prefix
		Backend backend
	}{network, backend{d.backend}})
	return b, network, err
}

func (d *demonstration) build(ctx context.Context, config json.RawMessage, r *result) (err error) {
	d.lab, err = newLab(ctx, lab.Options{Segments: []netip.Prefix{d.opts.underlay}, Flanneld: d.opts.flanneld})
	if err != nil {
		return err
	}
	for i := range d.opts.nodes {
		host, err := d.lab.AddHost(ctx, fmt.Sprintf("n%d", i+1))
		if err != nil {
			return err
		}
		d.hosts = append(d.hosts, &node{host: host})
	}
	if err := d.lab.Etcd.Set(ctx, path.Join(lab.DefaultPrefix, "config"), string(config), 0); err != nil {
		return err
	}
	r.Config = config
	return nil
}

func (d *demonstration) startDaemons(ctx context.Context) error {
	var group errgroup.Group
	for _, n := range d.hosts {
		group.Go(func() (err error) {
			if n.daemon, err = n.host.StartFlanneld(ctx); err != nil {
				return err
			}
			if err := n.daemon.WaitReady(ctx); err != nil {
				return err
			}
			n.env, err = n.host.SubnetEnv()
			return err
		})
	}
	return group.Wait()
}

func (d *demonstration) addPods(ctx context.Context) (err error) {
	for _, n := range d.hosts {
		if n.pod, err = n.host.AddPod(ctx, n.env); err != nil {
			return err
		}
	}
	return nil
}

// ping waits until each pod reaches each other one, and then pings them all
// once more, one after the other, for undisturbed times.
func (d *demonstration) ping(ctx context.Context, r *result) error {
	meshCtx, cancel := context.WithTimeout(ctx, d.opts.patience)
	defer cancel()
	var group errgroup.Group
	group.SetLimit(16)
	for _, from := range d.hosts {
		for _, to := range d.hosts {
			if from != to {
				// Whoever stays out of reach shows in the matrix.
				group.Go(func() error { from.pod.NS.AwaitPing(meshCtx, to.pod.Addr); return nil })
			}
		}
	}
	group.Wait()
	if err := ctx.Err(); err != nil {
		return err
	}
	var firstErr error
	for _, from := range d.hosts {
		for _, to := range d.hosts {
			if from == to {
				continue
			}
			p := pingResult{From: from.host.Name, To: to.host.Name}
			reply, err := from.pod.NS.Ping(ctx, to.pod.Addr)
			if err != nil {
				p.Error = err.Error()
				if firstErr == nil {
					firstErr = from.daemon.Errorf("%w", err)
				}
			}
			p.Millis, p.TTL = float64(reply.RTT)/float64(time.Millisecond), reply.TTL
			r.Pings = append(r.Pings, p)
		}
	}
	return firstErr
}

// read collects what the daemons have made.
func (d *demonstration) read(ctx context.Context, network netip.Prefix, r *result) error {
	records, err := d.lab.Leases(ctx, lab.DefaultPrefix)
	if err != nil {
		return err
	}
	for _, rec := range records {
		var a subnet.Attrs
		if err := json.Unmarshal([]byte(rec.Value), &a); err != nil {
			return fmt.Errorf("lease %s: %w", rec.Key, err)
		}
		r.Leases = append(r.Leases, leaseResult{
			Key:   rec.Key,
			Value: json.RawMessage(rec.Value),
			TTL:   rec.TTL.Seconds(),
			owner: a.PublicIP,
		})
	}
	slices.SortFunc(r.Leases, func(a, b leaseResult) int { return a.owner.Compare(b.owner) })
	for _, n := range d.hosts {
		h := hostResult{
			Name:    n.host.Name,
			Address: n.host.Addr,
			Pod:     n.pod.Addr,
			Env:     strings.Fields(string(n.env.Bytes())),
		}
		routes, err := n.host.NS.Routes()
		if err != nil {
			return fmt.Errorf("host %s: %w", n.host.Name, err)
		}
		for _, route := range routes {
			// Neither the default route nor that to the host's own pods.
			if route.Dst.Bits() > 0 && network.Overlaps(route.Dst) && !strings.HasPrefix(route.Dev, "docker") {
				h.Routes = append(h.Routes, route.String())
			}
		}
		r.Hosts = append(r.Hosts, h)
	}
	return nil
}

func (d *demonstration) measure(ctx context.Context, r *result) error {
	from, to := d.hosts[0], d.hosts[1]
	bits, err := lab.Throughput(ctx, from.pod.NS, to.pod.NS, to.pod.Addr, d.opts.duration)
	if errors.Is(err, context.DeadlineExceeded) {
		err = fmt.Errorf("the transfer does not come to its end: %w", err)
	}
	if err != nil {
		return from.daemon.Errorf("%w", err)
	}
	r.Throughput = &throughputResult{From: from.host.Name, To: to.host.Name, BitsPerSecond: bits, Seconds: d.opts.duration.Seconds()}
	return nil
}
