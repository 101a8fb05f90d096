package lab

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/vishvananda/netlink"

	"tweed/subnet"
)

// A Pod is a namespace with eth0 in a subnet of its host.
type Pod struct {
	Name string
	NS   NS
	Addr netip.Addr // of eth0

	host *Host
	port string // its end of the cable, in the host
}

// AddPod adds a pod to the host as docker would with the options that
// mk-docker-opts makes of env: a bridge (docker0, then docker1 for another
// subnet) with FLANNEL_SUBNET and FLANNEL_MTU, and behind it the pod with the
// next address, the same MTU and its default route by the bridge.
func (h *Host) AddPod(ctx context.Context, env subnet.Env) (_ *Pod, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("pod on host %s: %w", h.Name, err)
		}
	}()
	bridge, addr, name, err := h.placePod(env)
	if err != nil {
		return nil, err
	}
	p := &Pod{Name: name, Addr: addr, host: h, port: strings.TrimPrefix(name, h.Name+"-")}
	if p.NS, err = h.lab.newNS(ctx, name); err != nil {
		return nil, err
	}
	err = plugIn(ctx, h.NS, p.NS, plug{
		bridge: bridge,
		port:   p.port,
		mtu:    env.MTU,
		addr:   netip.PrefixFrom(addr, env.Subnet.Bits()),
		via:    docker0(env).Addr(),
	})
	if err != nil {
		return nil, err
	}
	return p, nil
}

// docker0 is the address of the bridge, as FLANNEL_SUBNET has it.
func docker0(env subnet.Env) netip.Prefix {
	return netip.PrefixFrom(env.Subnet.Addr().Next(), env.Subnet.Bits())
}

// placePod chooses the address of the next pod, and makes the bridge for the
// first one of a subnet.
func (h *Host) placePod(env subnet.Env) (bridge string, addr netip.Addr, name string, err error) {
	h.lab.mu.Lock()
	defer h.lab.mu.Unlock()
	h.podCount++
	name = fmt.Sprintf("%s-pod%d", h.Name, h.podCount)
	own := docker0(env).Addr()
	addr = own.Next()
	for range h.pods[env.Subnet] {
		addr = addr.Next()
	}
	if !env.Subnet.Contains(addr.Next()) {
		return "", netip.Addr{}, "", fmt.Errorf("no address left in subnet %s", env.Subnet)
	}
	bridge = h.bridges[env.Subnet]
	if bridge == "" {
		bridge = fmt.Sprintf("docker%d", len(h.bridges))
		err := h.NS.Netlink(func(nl *netlink.Handle) error {
			return addBridge(nl, bridge, env.MTU, docker0(env))
		})
		if err != nil {
			return "", netip.Addr{}, "", err
		}
		h.bridges[env.Subnet] = bridge
	}
	h.pods[env.Subnet]++
	return bridge, addr, name, nil
}

// Remove takes the pod and its cable away. Its bridge stays, and so does its
// address out of use.
func (p *Pod) Remove() error {
	err := p.host.NS.Netlink(func(h *netlink.Handle) error {
		l, err := h.LinkByName(p.port)
		if errors.As(err, &netlink.LinkNotFoundError{}) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("find link %s: %w", p.port, err)
		}
		return h.LinkDel(l)
	})
	return errors.Join(err, p.NS.remove())
}
