package subnet

import (
	"encoding/json"
	"net/netip"
	"strings"
	"testing"
)

// The bytes that flannel v0.10 stores, which other nodes and scripts read.
func TestAttrsGolden(t *testing.T) {
	ip := netip.MustParseAddr("192.0.2.1")
	for want, a := range map[string]Attrs{
		`{"PublicIP":"192.0.2.1"}`:                         {PublicIP: ip},
		`{"PublicIP":"192.0.2.1","BackendType":"host-gw"}`: {PublicIP: ip, BackendType: "host-gw"},
		`{"PublicIP":"192.0.2.1","BackendType":"vxlan","BackendData":{"VtepMAC":"0e:01:02:03:04:05"}}`: {
			PublicIP: ip, BackendType: "vxlan", BackendData: json.RawMessage(`{"VtepMAC":"0e:01:02:03:04:05"}`)},
	} {
		got, err := json.Marshal(a)
		if err != nil || string(got) != want {
			t.Errorf("got  %s (%v)\nwant %s", got, err, want)
		}
		var back Attrs
		if err := json.Unmarshal(got, &back); err != nil || !back.Equal(a) {
			t.Errorf("%s reads back as %+v (%v)", got, back, err)
		}
	}
}

func TestAttrsUnmarshal(t *testing.T) {
	tests := []struct{ name, in, want, err string }{
		{name: "later flannel", in: `{"PublicIP":"192.0.2.1","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"0e:00:00:00:00:01"}}`,
			want: `{"PublicIP":"192.0.2.1","BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"0e:00:00:00:00:01"}}`},
		{name: "null data", in: `{"PublicIP":"192.0.2.1","BackendData":null}`, want: `{"PublicIP":"192.0.2.1"}`},
		{name: "keys in any case", in: `{"publicip":"192.0.2.1"}`, want: `{"PublicIP":"192.0.2.1"}`},
		{name: "empty", in: ``, err: "JSON"},
		{name: "no IP", in: `{}`, err: `PublicIP "": want the IPv4 address of one host`},
		{name: "IPv6", in: `{"PublicIP":"fd00::1"}`, err: `PublicIP "fd00::1": want the IPv4 address of one host`},
		{name: "IPv4 in IPv6", in: `{"PublicIP":"::ffff:192.0.2.1"}`, err: `want the IPv4 address of one host`},
		{name: "unspecified", in: `{"PublicIP":"0.0.0.0"}`, err: `want the IPv4 address of one host`},
		{name: "multicast", in: `{"PublicIP":"224.0.0.1"}`, err: `want the IPv4 address of one host`},
		{name: "broadcast", in: `{"PublicIP":"255.255.255.255"}`, err: `want the IPv4 address of one host`},
		{name: "IP is a number", in: `{"PublicIP":3221225985}`, err: "PublicIP: want a text in quotes"},
		{name: "type is a list", in: `{"PublicIP":"192.0.2.1","BackendType":["vxlan"]}`, err: "BackendType: want a text in quotes"},
		{name: "a list", in: `[]`, err: "want a JSON object"},
		{name: "cut off", in: `{"PublicIP":"192.0`, err: "JSON"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var a Attrs
			err := json.Unmarshal([]byte(tt.in), &a)
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Fatalf("error %v, want %q in it", err, tt.err)
				}
				return
			}
			got, _ := json.Marshal(a)
			if err != nil || string(got) != tt.want {
				t.Errorf("got %s (%v), want %s", got, err, tt.want)
			}
		})
	}
}

func TestParseKey(t *testing.T) {
	for key, want := range map[string]string{
		"10.5.3.0-24":            "10.5.3.0/24",
		"0.0.0.0-1":              "0.0.0.0/1",
		"255.255.255.254-31":     "255.255.255.254/31",
		"10.5.3.0-24&fd00::5-64": "10.5.3.0/24", // dual-stack flannel
	} {
		sn, err := ParseKey(key)
		if err != nil || sn.String() != want {
			t.Errorf("%q: got %v (%v), want %s", key, sn, err, want)
		}
	}
	for _, key := range []string{
		"", "config", "10.5.3.0", "10.5.3.0-", "10.5.3.0/24", "10.5.3-24", "10.5.3.0.0-24", "10.5.3.0-24x", "x10.5.3.0-24",
		"10.5.3.0-240", "10.5.3.0-32", "10.5.3.0-33", "0.0.0.0-0", "10.5.300.0-24", "010.5.3.0-24", "10.5.3.0-024", "10.5.3.1-24",
		"10.5.3.0--24", "fd00::-64", "10.5.3.0-24 ", "１0.5.3.0-24",
	} {
		sn, err := ParseKey(key)
		if err == nil {
			t.Errorf("%q is accepted as %v", key, sn)
		} else if !strings.Contains(err.Error(), "10.5.3.0-24") {
			t.Errorf("%q: the error does not say what is valid: %v", key, err)
		}
	}
}

func FuzzKey(f *testing.F) {
	f.Add("10.5.3.0-24")
	f.Add("10.5.3.0-24&fd00::-64")
	f.Fuzz(func(t *testing.T, key string) {
		sn, err := ParseKey(key)
		if err != nil {
			return
		}
		if sn != sn.Masked() || !sn.Addr().Is4() {
			t.Errorf("%q gives %v", key, sn)
		}
		if back, err := ParseKey(Key(sn)); err != nil || back != sn {
			t.Errorf("%q: Key(%v) = %q reads back as %v (%v)", key, sn, Key(sn), back, err)
		}
		if plain, _, _ := strings.Cut(key, "&"); plain != Key(sn) {
			t.Errorf("%q is not the canonical %q", key, Key(sn))
		}
	})
}

func FuzzAttrs(f *testing.F) {
	f.Add([]byte(`{"PublicIP":"192.0.2.1","BackendType":"vxlan","BackendData":{"VtepMAC":"0e:00:00:00:00:01"}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		var a Attrs
		if json.Unmarshal(b, &a) != nil {
			return
		}
		enc, err := json.Marshal(a)
		if err != nil {
			t.Fatalf("%s cannot be written again: %v", b, err)
		}
		var back Attrs
		if err := json.Unmarshal(enc, &back); err != nil || back.PublicIP != a.PublicIP || back.BackendType != a.BackendType {
			t.Errorf("%s reads back as %+v (%v)", enc, back, err)
		}
	})
}
