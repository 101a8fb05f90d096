package subnet

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
)

// FuzzEnv: what is written is read back, variable by variable, also with
// whatever a careless editor puts in front of it or behind, as long as that
// parses and names other variables.
func FuzzEnv(f *testing.F) {
	f.Add(uint32(0x0a052200), uint8(24), uint32(0x0a050000), uint8(16), 1450, true, "# by hand\n", "FOO='a b'")
	f.Add(uint32(0), uint8(0), uint32(0xffffffff), uint8(32), -1, false, "\ufeff", "\x00")
	path := filepath.Join(f.TempDir(), "subnet.env")
	f.Fuzz(func(t *testing.T, sn uint32, bits uint8, network uint32, netBits uint8, mtu int, masq bool, before, behind string) {
		prefix := func(a uint32, bits uint8) netip.Prefix {
			return netip.PrefixFrom(netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, a))), int(bits%31)).Masked()
		}
		env := Env{Network: prefix(network, netBits), Subnet: prefix(sn, bits), MTU: mtu, IPMasq: masq}
		if err := os.WriteFile(path, env.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
		vars, err := ReadEnvFile(path)
		want := map[string]string{
			"FLANNEL_NETWORK": env.Network.String(),
			"FLANNEL_SUBNET":  netip.PrefixFrom(env.Subnet.Addr().Next(), env.Subnet.Bits()).String(),
			"FLANNEL_MTU":     fmt.Sprint(mtu),
			"FLANNEL_IPMASQ":  fmt.Sprint(masq),
		}
		if err != nil || fmt.Sprint(vars) != fmt.Sprint(want) {
			t.Errorf("%s: read %v, %v, want %v", env.Bytes(), vars, err, want)
		}
		if got, err := ReadEnvSubnet(path); err != nil || got != env.Subnet {
			t.Errorf("%s: subnet %v, %v", env.Bytes(), got, err)
		}
		// Garbage around it: either refused, or a subnet in its proper form.
		text := before + "\n" + string(env.Bytes()) + behind
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := ReadEnvSubnet(path)
		if err == nil && got.IsValid() && (got != got.Masked() || !got.Addr().Is4()) {
			t.Errorf("%q gives %v", text, got)
		}
		if len(text) > maxEnvFile && err == nil {
			t.Errorf("%d bytes were read", len(text))
		}
	})
}
