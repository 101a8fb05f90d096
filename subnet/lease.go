// Package subnet keeps this node's lease on a subnet of the overlay network
// and knows the leases of its peers. It is independent of where the leases are
// stored (Store) and of how packets travel (package backend).
package subnet

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"strconv"
	"time"
)

// TTL is the life of a lease that is not renewed.
const TTL = 24 * time.Hour

// Attrs is what a node publishes with its lease.
type Attrs struct {
	PublicIP    netip.Addr      // IPv4; where peers send to; also the node's identity
	BackendType string          // empty for udp and alloc, as flannel has it
	BackendData json.RawMessage // compact JSON that the backend defines, or nil
}

// Equal reports whether a and b say the same.
func (a Attrs) Equal(b Attrs) bool {
	return a.PublicIP == b.PublicIP && a.BackendType == b.BackendType && string(a.BackendData) == string(b.BackendData)
}

// attrsJSON is the stored form. flannel v0.10 fixes the order of the fields
// and which of them are left out when empty.
type attrsJSON struct {
	PublicIP    netip.Addr
	BackendType string          `json:",omitempty"`
	BackendData json.RawMessage `json:",omitempty"`
}

// MarshalJSON returns the value of a lease record, such as
//
//	{"PublicIP":"192.0.2.1","BackendType":"vxlan","BackendData":{"VtepMAC":"0e:…"}}
func (a Attrs) MarshalJSON() ([]byte, error) { return json.Marshal(attrsJSON(a)) }

// UnmarshalJSON reads the value of a lease record. Unknown fields, such as
// those of later flannel versions, are ignored; a PublicIP that is missing or
// not the IPv4 address of one host is an error.
func (a *Attrs) UnmarshalJSON(b []byte) error {
	var raw struct {
		PublicIP    string
		BackendType string
		BackendData json.RawMessage
	}
	if err := json.Unmarshal(b, &raw); err != nil {
		return ExplainJSON(b, err)
	}
	ip, err := netip.ParseAddr(raw.PublicIP)
	if err != nil || !ip.Is4() || ip.IsUnspecified() || ip.IsMulticast() || ip == netip.AddrFrom4([4]byte{255, 255, 255, 255}) {
		return fmt.Errorf("PublicIP %q: want the IPv4 address of one host", raw.PublicIP)
	}
	if string(raw.BackendData) == "null" {
		raw.BackendData = nil
	}
	*a = Attrs{PublicIP: ip, BackendType: raw.BackendType, BackendData: raw.BackendData}
	return nil
}

// A Lease is one node's right to a subnet. It is a value and never shared by
// pointer.
type Lease struct {
	Subnet   netip.Prefix // masked
	Attrs    Attrs
	Expires  time.Time // by this host's clock, monotonic; zero for a reservation, which never expires
	Revision int64     // of the record in the store, for compare-and-swap
}

// Reserved reports whether the lease is a reservation: a record without TTL,
// made by an operator, that holds a subnet for one node for good.
func (l Lease) Reserved() bool { return l.Expires.IsZero() }

// Key returns the name of the lease record of sn: "10.5.3.0-24".
func Key(sn netip.Prefix) string {
	return sn.Addr().String() + "-" + strconv.Itoa(sn.Bits())
}

// keyForm allows the IPv6 half that dual-stack flannel appends behind "&".
var keyForm = regexp.MustCompile(`^(\d+\.\d+\.\d+\.\d+)-(\d{1,2})(?:&.*)?$`)

var errKey = errors.New(`want a subnet in the form "10.5.3.0-24"`)

// ParseKey is the inverse of Key.
func ParseKey(key string) (netip.Prefix, error) {
	m := keyForm.FindStringSubmatch(key)
	if m == nil {
		return netip.Prefix{}, fmt.Errorf("key %q: %w", key, errKey)
	}
	sn, err := netip.ParsePrefix(m[1] + "/" + m[2])
	if err != nil || sn.Bits() == 0 || sn.Bits() > 31 {
		return netip.Prefix{}, fmt.Errorf("key %q: %w", key, errKey)
	}
	if sn != sn.Masked() {
		return netip.Prefix{}, fmt.Errorf("key %q: the subnet starts at %s: %w", key, sn.Masked().Addr(), errKey)
	}
	return sn, nil
}
