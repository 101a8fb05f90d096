package backend

import "fmt"

// A Profile is what a backend will take of a host, known from the network
// config before anything is opened. Each backend's package has a function
// NewProfile, which fails where Open would fail for the config; Type, Published and
// Keys are right even then.
type Profile struct {
	Type      string   // name in the network config
	Published string   // backend type that leases have; empty for udp and alloc, as with flannel
	Keys      []string // of the Backend object, without Type
	Link      string   // name of the device, "flannel%d" for the lowest number that is free; empty for none
	VNI       int      // of vxlan
	GBP       bool     // of vxlan
	Port      int      // UDP; 0 for none
	Overhead  int      // bytes that encapsulation adds to an inner packet
	MinMTU    int      // bytes, of the pods
	MaxMTU    int      // bytes, of the pods; 0 for no limit
}

// MTU returns that of the pods, in bytes, for an interface with the MTU nic.
func (p Profile) MTU(nic int) (int, error) {
	if nic < p.MinMTU+p.Overhead {
		return 0, fmt.Errorf("mtu %d: want %d or more for backend %s", nic, p.MinMTU+p.Overhead, p.Type)
	}
	mtu := nic - p.Overhead
	if p.MaxMTU > 0 {
		mtu = min(mtu, p.MaxMTU)
	}
	return mtu, nil
}
