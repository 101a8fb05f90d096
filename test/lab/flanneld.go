package lab

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"

	"tweed/subnet"
)

// StartFlanneld starts Options.Flanneld on the host, with the lab's etcd and
// with its files in the directory of the host. The arguments come last, so
// that they win. A second daemon beside the first needs files of its own:
//
//	h.StartFlanneld(ctx, "-etcd-prefix=/other", "-subnet-file="+h.Path("other.env"), "-state-dir="+h.Path("other"))
func (h *Host) StartFlanneld(ctx context.Context, args ...string) (*Process, error) {
	if h.lab.opts.Flanneld == "" {
		return nil, errors.New("start flanneld: the lab was made without the path of a binary")
	}
	defaults := []string{
		"-etcd-endpoints=" + strings.Join(h.lab.Etcd.Endpoints(), ","),
		"-subnet-file=" + h.Path("subnet.env"),
		"-state-dir=" + h.Path("state"),
	}
	return h.Start(ctx, Command{
		Name: "flanneld",
		Path: h.lab.opts.Flanneld,
		Args: slices.Concat(defaults, args),
	})
}

// SubnetEnv reads the subnet.env of the host's first daemon.
func (h *Host) SubnetEnv() (subnet.Env, error) { return ReadSubnetEnv(h.Path("subnet.env")) }

// ReadSubnetEnv reads a subnet.env and insists on its exact form.
func ReadSubnetEnv(path string) (subnet.Env, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return subnet.Env{}, err
	}
	env, err := parseSubnetEnv(string(b))
	if err != nil {
		return subnet.Env{}, fmt.Errorf("%s: %w", path, err)
	}
	return env, nil
}

func parseSubnetEnv(text string) (subnet.Env, error) {
	var env subnet.Env
	var network, own string
	_, err := fmt.Sscanf(text, "FLANNEL_NETWORK=%s\nFLANNEL_SUBNET=%s\nFLANNEL_MTU=%d\nFLANNEL_IPMASQ=%t\n",
		&network, &own, &env.MTU, &env.IPMasq)
	if err != nil {
		return subnet.Env{}, fmt.Errorf("%q: want FLANNEL_NETWORK, _SUBNET, _MTU and _IPMASQ: %w", text, err)
	}
	if env.Network, err = netip.ParsePrefix(network); err != nil {
		return subnet.Env{}, fmt.Errorf("FLANNEL_NETWORK: %w", err)
	}
	if env.Subnet, err = netip.ParsePrefix(own); err != nil {
		return subnet.Env{}, fmt.Errorf("FLANNEL_SUBNET: %w", err)
	}
	env.Subnet = env.Subnet.Masked()
	if got := string(env.Bytes()); got != text {
		return subnet.Env{}, fmt.Errorf("%q: not in the exact form %q", text, got)
	}
	return env, nil
}
