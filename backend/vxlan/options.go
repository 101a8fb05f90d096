package vxlan

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strconv"

	"tweed/backend"
	"tweed/dataplane/rtnl"
	"tweed/subnet"
)

// options are the keys of the Backend object of the network config.
type options struct {
	VNI           int
	Port          int // UDP; 0 is the kernel's default, 8472
	GBP           bool
	DirectRouting bool
}

const devicePrefix = "flannel."

// deviceName is the name of the device, which flannel fixes.
func deviceName(vni int) string { return devicePrefix + strconv.Itoa(vni) }

// parseOptions reads and checks the options. Errors name the field, its value
// and what is valid.
func parseOptions(cfg subnet.Config) (options, error) {
	o := options{VNI: 1}
	if err := cfg.DecodeBackend(&o); err != nil {
		return options{}, err
	}
	// A VNI has 24 bits, but the name of the device has no room for all of them.
	const maxVNI = 9999999
	if o.VNI < 0 || o.VNI > maxVNI || len(deviceName(o.VNI)) > rtnl.MaxLinkName {
		return options{}, &subnet.FieldError{Field: "Backend: VNI", Value: strconv.Itoa(o.VNI),
			Want: fmt.Sprintf("a number from 0 to %d, because the device is named %s<VNI> and a name has at most %d characters", maxVNI, devicePrefix, rtnl.MaxLinkName)}
	}
	if o.Port < 0 || o.Port > 65535 {
		return options{}, &subnet.FieldError{Field: "Backend: Port", Value: strconv.Itoa(o.Port),
			Want: "a UDP port from 1 to 65535, or 0 for the kernel's default, 8472"}
	}
	return o, nil
}

// NewProfile returns what the backend will take of a host. Errors are those of
// the options.
func NewProfile(cfg subnet.Config) (backend.Profile, error) {
	p := backend.Profile{Type: Type, Published: Type, Keys: []string{"VNI", "Port", "GBP", "DirectRouting"}}
	o, err := parseOptions(cfg)
	if err != nil {
		return p, fmt.Errorf("vxlan: %w", err)
	}
	p.Link, p.VNI, p.GBP = deviceName(o.VNI), o.VNI, o.GBP
	p.Port = cmp.Or(o.Port, rtnl.VXLANPort)
	p.Overhead, p.MinMTU = rtnl.VXLANOverhead, minMTU
	return p, nil
}

// peer is a lease that the device can serve.
type peer struct {
	Subnet   netip.Prefix
	PublicIP netip.Addr
	MAC      rtnl.MAC
}

// usable returns the peers whose leases are ours to serve, without those that
// contradict newer ones.
func (b *Backend) usable(leases []subnet.Lease) []peer {
	var peers []peer
	byMAC := make(map[rtnl.MAC]peer)
	byBase := make(map[netip.Addr]peer)
	b.peers.Usable(leases, func(l subnet.Lease) error {
		mac, err := parseVTEP(l.Attrs.BackendData)
		if err != nil {
			return err
		}
		p := peer{l.Subnet, l.Attrs.PublicIP, mac}
		if mac == b.dev.MAC {
			return fmt.Errorf("VtepMAC %s is our own: a clone of this node?", mac)
		}
		// One MAC leads to one place: it is what the device forwards by.
		if other, taken := byMAC[mac]; taken && other.PublicIP != p.PublicIP {
			return fmt.Errorf("VtepMAC %s belongs to %s at %s, whose lease is newer", mac, other.Subnet, other.PublicIP)
		}
		if other, taken := byBase[p.Subnet.Addr()]; taken {
			return fmt.Errorf("subnet overlaps %s of %s, whose lease is newer", other.Subnet, other.PublicIP)
		}
		byMAC[mac], byBase[p.Subnet.Addr()] = p, p
		peers = append(peers, p)
		return nil
	})
	return peers
}

// parseVTEP reads the BackendData of a lease. Fields of later flannel versions
// are ignored.
func parseVTEP(data json.RawMessage) (rtnl.MAC, error) {
	const want = `want {"VtepMAC":"0e:12:34:56:78:9a"}`
	if len(data) == 0 {
		return rtnl.MAC{}, errors.New("BackendData is missing: " + want)
	}
	var v struct{ VtepMAC *rtnl.MAC }
	if err := json.Unmarshal(data, &v); err != nil {
		return rtnl.MAC{}, fmt.Errorf("BackendData %.80s: %w: %s", data, subnet.ExplainJSON(data, err), want)
	}
	if v.VtepMAC == nil {
		return rtnl.MAC{}, fmt.Errorf("BackendData %.80s: VtepMAC is missing: %s", data, want)
	}
	return *v.VtepMAC, nil
}
