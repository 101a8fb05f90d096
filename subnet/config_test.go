package subnet

import (
	"encoding/json"
	"strings"
	"testing"
)

func TestParseConfig(t *testing.T) {
	tests := []struct{ name, in, want, err string }{
		{name: "network only", in: `{"Network":"10.5.0.0/16"}`, want: "10.5.0.0/16 24 10.5.1.0 10.5.255.0 udp"},
		{name: "vxlan", in: `{"Network":"172.17.0.0/16","Backend":{"Type":"vxlan"}}`, want: "172.17.0.0/16 24 172.17.1.0 172.17.255.0 vxlan"},
		{name: "all", in: `{"Network":"10.0.0.0/8","SubnetLen":20,"SubnetMin":"10.10.0.0","SubnetMax":"10.99.0.0","Backend":{"Type":"udp","Port":7890}}`, want: "10.0.0.0/8 20 10.10.0.0 10.99.0.0 udp"},
		{name: "keys in any case", in: `{"network":"10.5.0.0/16","SUBNETLEN":26,"backend":{"type":"VXLAN"}}`, want: "10.5.0.0/16 26 10.5.0.64 10.5.255.192 vxlan"},
		{name: "host bits", in: `{"Network":"10.5.6.7/16"}`, want: "10.5.0.0/16 24 10.5.1.0 10.5.255.0 udp"},
		{name: "unknown keys", in: `{"Network":"10.5.0.0/16","EnableIPv6":false,"x":[1]}`, want: "10.5.0.0/16 24 10.5.1.0 10.5.255.0 udp"},
		{name: "backend without type", in: `{"Network":"10.5.0.0/16","Backend":{}}`, want: "10.5.0.0/16 24 10.5.1.0 10.5.255.0 "},
		{name: "length 0 is the default", in: `{"Network":"10.5.0.0/16","SubnetLen":0}`, want: "10.5.0.0/16 24 10.5.1.0 10.5.255.0 udp"},

		{name: "empty", in: ``, err: "empty: want a JSON object"},
		{name: "blanks", in: " \n", err: "empty: want a JSON object"},
		{name: "no network", in: `{}`, err: `Network "": want an IPv4 network`},
		{name: "null", in: `null`, err: `Network "": want`},
		{name: "not JSON", in: `Network=10.5.0.0/16`, err: `not JSON at byte 1, near "Network=10.5.0.0/16"`},
		{name: "cut off", in: `{"Network":"10.5.0.0/16"`, err: "not JSON at byte 24"},
		{name: "trailing comma", in: `{"Network":"10.5.0.0/16",}`, err: "not JSON at byte 26"},
		{name: "array", in: `[1]`, err: "want a JSON object, not a JSON array"},
		{name: "network is a number", in: `{"Network":10}`, err: "Network: want a text in quotes, not a JSON number"},
		{name: "network without length", in: `{"Network":"10.5.0.0"}`, err: `Network "10.5.0.0": want an IPv4 network in CIDR form`},
		{name: "IPv6 network", in: `{"Network":"fd00::/48"}`, err: "Network fd00::/48: want an IPv4 network"},
		{name: "length is a text", in: `{"Network":"10.5.0.0/16","SubnetLen":"24"}`, err: "SubnetLen: want a whole number of 0 or more, not a JSON string"},
		{name: "negative length", in: `{"Network":"10.5.0.0/16","SubnetLen":-1}`, err: "SubnetLen: want a whole number of 0 or more"},
		{name: "huge length", in: `{"Network":"10.5.0.0/16","SubnetLen":18446744073709551608}`, err: "SubnetLen 65536: want a prefix length from 18 to 30"},
		{name: "min is no address", in: `{"Network":"10.5.0.0/16","SubnetMin":"10.5.1"}`, err: `SubnetMin "10.5.1": want an IPv4 address`},
		{name: "max is IPv6", in: `{"Network":"10.5.0.0/16","SubnetMax":"fd00::"}`, err: `SubnetMax "fd00::": want an IPv4 address`},
		{name: "min above max", in: `{"Network":"10.5.0.0/16","SubnetMin":"10.5.9.0","SubnetMax":"10.5.8.0"}`, err: "SubnetMin 10.5.9.0: want no more than SubnetMax 10.5.8.0"},
		{name: "backend is a text", in: `{"Network":"10.5.0.0/16","Backend":"vxlan"}`, err: `Backend: "\"vxlan\"": want a JSON object`},
		{name: "type is a number", in: `{"Network":"10.5.0.0/16","Backend":{"Type":7}}`, err: "Backend: Type: want a text in quotes"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c, err := ParseConfig([]byte(tt.in))
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Fatalf("error %v, want %q in it", err, tt.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			n, _ := json.Marshal(c.SubnetLen)
			got := strings.Join([]string{c.Network.String(), string(n), c.SubnetMin.String(), c.SubnetMax.String(), c.BackendType}, " ")
			if got != tt.want {
				t.Errorf("got  %s\nwant %s", got, tt.want)
			}
		})
	}
}

func TestDecodeBackend(t *testing.T) {
	c, err := ParseConfig([]byte(`{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan","vni":7,"DirectRouting":"yes"}}`))
	if err != nil {
		t.Fatal(err)
	}
	var v struct {
		VNI           int
		DirectRouting bool
	}
	if err := c.DecodeBackend(&v); err == nil || !strings.Contains(err.Error(), "Backend: DirectRouting: want true or false, not a JSON string") {
		t.Errorf("error %v", err)
	}
	var ok struct{ VNI int }
	if err := c.DecodeBackend(&ok); err != nil || ok.VNI != 7 {
		t.Errorf("VNI %d, error %v", ok.VNI, err)
	}
	kept := struct{ Port int }{8285}
	if err := (Config{}).DecodeBackend(&kept); err != nil || kept.Port != 8285 {
		t.Errorf("without Backend: port %d, error %v", kept.Port, err)
	}
}

// FuzzParseConfig: whatever is accepted is a plan that can be picked from.
func FuzzParseConfig(f *testing.F) {
	f.Add([]byte(`{"Network":"10.5.0.0/16","SubnetLen":24,"SubnetMin":"10.5.3.0","SubnetMax":"10.5.9.0","Backend":{"Type":"udp"}}`))
	f.Add([]byte(`{"network":"1.2.3.4/5"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := ParseConfig(b)
		if err != nil {
			if err.Error() == "" {
				t.Error("empty error text")
			}
			return
		}
		sn, err := c.Pick(nil, func(n int) int { return n - 1 })
		if err != nil || !c.Contains(sn) || !c.Network.Overlaps(sn) {
			t.Errorf("%s: picked %v, error %v", b, sn, err)
		}
	})
}
