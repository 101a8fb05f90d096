package rtnl

import (
	"fmt"
	"net"
)

// A MAC is an Ethernet address. Its text is in lower case with colons.
type MAC [6]byte

// ParseMAC reads the address of one station: six bytes, neither zero nor a
// group address. All notations of net.ParseMAC are understood.
func ParseMAC(s string) (MAC, error) {
	b, err := net.ParseMAC(s)
	if err != nil || len(b) != 6 {
		return MAC{}, fmt.Errorf("MAC address %q: want six bytes in the form 0e:12:34:56:78:9a", s)
	}
	m := MAC(b)
	if !m.IsStation() {
		return MAC{}, fmt.Errorf("MAC address %q: want the address of one station, neither zero nor a group", s)
	}
	return m, nil
}

// IsStation reports whether m can be the address of a single station: it is
// neither zero nor has the group bit set (IEEE 802, section 8.2).
func (m MAC) IsStation() bool { return m != MAC{} && m[0]&1 == 0 }

func (m MAC) String() string { return net.HardwareAddr(m[:]).String() }

// MarshalText is String, for JSON.
func (m MAC) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// UnmarshalText is ParseMAC, for JSON.
func (m *MAC) UnmarshalText(b []byte) (err error) {
	*m, err = ParseMAC(string(b))
	return err
}

// macOf converts what netlink delivered; links without an Ethernet address,
// such as TUN devices, have the zero MAC.
func macOf(b net.HardwareAddr) MAC {
	if len(b) != 6 {
		return MAC{}
	}
	return MAC(b)
}
