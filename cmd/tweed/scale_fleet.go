package main

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"time"

	"golang.org/x/sync/errgroup"

	"tweed/subnet"
	"tweed/test/embedetcd"
	"tweed/test/lab"
)

// fleetConfig has the fleet from 10.1.0.0 on. A daemon that runs takes one of the
// first hundred subnets that are free, which are below.
const fleetConfig = `{"Network":"10.0.0.0/8","SubnetLen":24,"Backend":{"Type":"vxlan"}}`

// fleetMax is how many nodes a fleet can have: 10.1.0.0/24 to 10.254.255.0/24.
const fleetMax = 254 << 8

// fleetWriters write to etcd at the same time.
const fleetWriters = 64

// A fleet is the vxlan nodes that exist in etcd only. A node is its number,
// and has a public IP and a MAC for each generation: the times that it was
// replaced.
type fleet struct {
	etcd   func() *embedetcd.Server
	prefix string
	gens   []byte // generation of each node
}

// subnet of a node.
func (f *fleet) subnet(node int) netip.Prefix {
	return netip.PrefixFrom(addrAt(10<<24|1<<16, node<<8), 24)
}

// public IP of a node, in 172.16.0.0/12.
func (f *fleet) public(node int) netip.Addr {
	return addrAt(172<<24|16<<16|1, int(f.gens[node]&15)<<16|node)
}

// mac of a node's VXLAN device.
func (f *fleet) mac(node int) net.HardwareAddr {
	return net.HardwareAddr{0x0e, f.gens[node], 0, byte(node >> 16), byte(node >> 8), byte(node)}
}

func addrAt(base uint32, offset int) netip.Addr {
	return netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, base+uint32(offset))))
}

func (f *fleet) key(node int) string { return f.prefix + "/subnets/" + subnet.Key(f.subnet(node)) }

// write puts the record of a node into etcd, as its flanneld would.
func (f *fleet) write(ctx context.Context, node int) error {
	value, err := json.Marshal(subnet.Attrs{
		PublicIP:    f.public(node),
		BackendType: "vxlan",
		BackendData: json.RawMessage(`{"VtepMAC":"` + f.mac(node).String() + `"}`),
	})
	if err != nil {
		return err
	}
	return f.etcd().Set(ctx, f.key(node), string(value), subnet.TTL)
}

// grow adds nodes until there are so many.
func (f *fleet) grow(ctx context.Context, size int) error {
	from := len(f.gens)
	if size <= from {
		return nil
	}
	f.gens = append(f.gens, make([]byte, size-from)...)
	return inParallel(ctx, fleetWriters, size-from, func(ctx context.Context, i int) error { return f.write(ctx, from+i) })
}

// replace gives the nodes below n another public IP and MAC. It returns when
// the first write began and the last one was acknowledged.
func (f *fleet) replace(ctx context.Context, n int) (first, last time.Time, err error) {
	for node := range n {
		f.gens[node]++
	}
	first = time.Now()
	err = inParallel(ctx, fleetWriters, n, f.write)
	return first, time.Now(), err
}

// inForce returns what the kernel of a node lacks of the fleet or has too
// much, as an error. The device is flannel.1.
func (f *fleet) inForce(ns lab.NS) error {
	routes, err := ns.Routes()
	if err != nil {
		return err
	}
	neighbours, err := ns.Neighbours(fleetDevice)
	if err != nil {
		return err
	}
	fdb, err := ns.FDB(fleetDevice)
	if err != nil {
		return err
	}
	via := make(map[netip.Prefix]netip.Addr, len(routes))
	for _, r := range routes {
		if r.Dev == fleetDevice {
			via[r.Dst] = r.Via
		}
	}
	if len(via) != len(f.gens) || len(neighbours) != len(f.gens) || len(fdb) != len(f.gens) {
		return fmt.Errorf("%d routes, %d neighbours and %d forwarding entries, want %d of each", len(via), len(neighbours), len(fdb), len(f.gens))
	}
	macs := make(map[netip.Addr]string, len(neighbours))
	for _, n := range neighbours {
		macs[n.Addr] = n.MAC
	}
	ends := make(map[string]netip.Addr, len(fdb))
	for _, e := range fdb {
		ends[e.MAC] = e.Addr
	}
	for node := range f.gens {
		sn, mac := f.subnet(node), f.mac(node).String()
		base := sn.Addr()
		if via[sn] != base || macs[base] != mac || ends[mac] != f.public(node) {
			return fmt.Errorf("node of %s: route via %s, neighbour %s, forwarded to %s; want via %s, %s, %s",
				sn, via[sn], macs[base], ends[mac], base, mac, f.public(node))
		}
	}
	return nil
}

const fleetDevice = "flannel.1"

// inParallel calls do for 0 to n-1, so many at a time.
func inParallel(ctx context.Context, width, n int, do func(ctx context.Context, i int) error) error {
	group, gctx := errgroup.WithContext(ctx)
	group.SetLimit(width)
	for i := 0; i < n && gctx.Err() == nil; i++ {
		group.Go(func() error { return do(gctx, i) })
	}
	if err := group.Wait(); err != nil {
		return err
	}
	return ctx.Err()
}
