package vxlan

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
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
// contradict newer ones. One MAC leads to one place, because it is what the device
// forwards by.
func (b *Backend) usable(leases []subnet.Lease) []peer {
	peers := make([]peer, 0, len(leases))
	byMAC := make(map[rtnl.MAC]*subnet.Lease, len(leases)) // the newest
	contradicted := false
	b.peers.Usable(leases, func(l *subnet.Lease) error {
		mac, err := parseVTEP(l.Attrs.BackendData)
		if err != nil {
			return err
		}
		if mac == b.dev.MAC {
			return fmt.Errorf("VtepMAC %s is our own: a clone of this node?", mac)
		}
		if n := len(peers); n > 0 && peers[n-1].Subnet.Overlaps(l.Subnet) { // leases come in order
			return fmt.Errorf("subnet overlaps %s", peers[n-1].Subnet)
		}
		peers = append(peers, peer{l.Subnet, l.Attrs.PublicIP, mac})
		switch other := byMAC[mac]; {
		case other == nil:
			byMAC[mac] = l
		case other.Attrs.PublicIP != l.Attrs.PublicIP:
			contradicted = true
			if l.Revision > other.Revision {
				byMAC[mac] = l
			}
		}
		return nil
	})
	if !contradicted {
		b.told = nil
		return peers
	}
	told := make(map[netip.Prefix]string)
	peers = slices.DeleteFunc(peers, func(p peer) bool {
		newest := byMAC[p.MAC]
		if newest.Attrs.PublicIP == p.PublicIP {
			return false
		}
		told[p.Subnet] = fmt.Sprintf("VtepMAC %s belongs to %s at %s, whose lease is newer", p.MAC, newest.Subnet, newest.Attrs.PublicIP)
		if b.told[p.Subnet] != told[p.Subnet] {
			b.peers.Log.Warn("peer ignored", "subnet", p.Subnet, "peer", p.PublicIP, "err", told[p.Subnet])
		}
		return true
	})
	b.told = told
	return peers
}

// parseVTEP reads the BackendData of a lease. Fields of later flannel versions
// are ignored.
func parseVTEP(data json.RawMessage) (rtnl.MAC, error) {
	const want = `want {"VtepMAC":"0e:12:34:56:78:9a"}`
	if mac, ok := plainVTEP(data); ok {
		return mac, nil
	}
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

// plainVTEP reads what flannel and we write. There may be 50 000 of them.
func plainVTEP(data []byte) (m rtnl.MAC, ok bool) {
	const before, after = `{"VtepMAC":"`, `"}`
	if len(data) != len(before)+17+len(after) || string(data[:len(before)]) != before || string(data[len(before)+17:]) != after {
		return m, false
	}
	text := data[len(before):]
	for i := range m {
		hi, lo := hexDigit(text[3*i]), hexDigit(text[3*i+1])
		if hi > 15 || lo > 15 || i < 5 && text[3*i+2] != ':' {
			return m, false
		}
		m[i] = hi<<4 | lo
	}
	return m, m.IsStation()
}

// hexDigit returns more than 15 for what is none in lower case.
func hexDigit(c byte) byte {
	switch {
	case '0' <= c && c <= '9':
		return c - '0'
	case 'a' <= c && c <= 'f':
		return c - 'a' + 10
	}
	return 255
}
