package subnet

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

var sampleState = State{
	Network: sampleEnv.Network,
	Subnet:  sampleEnv.Subnet,
	Attrs: Attrs{PublicIP: netip.MustParseAddr("192.0.2.1"), BackendType: "vxlan",
		BackendData: json.RawMessage(`{"VtepMAC":"0e:01:02:03:04:05"}`)},
}

func TestState(t *testing.T) {
	path := StatePath(t.TempDir()+"/lib", "/run/flannel/subnet.env")
	if s, err := ReadState(path); err != nil || s.Subnet.IsValid() {
		t.Errorf("missing file: %+v, %v", s, err)
	}
	for _, want := range []State{sampleState, {Network: sampleEnv.Network, Subnet: sampleEnv.Subnet}} {
		if err := want.WriteFile(path); err != nil {
			t.Fatal(err)
		}
		got, err := ReadState(path)
		if err != nil || got.Network != want.Network || got.Subnet != want.Subnet || !sameAttrs(got.Attrs, want.Attrs) {
			t.Errorf("reads back as %+v (%v), want %+v", got, err, want)
		}
		if fi, err := os.Stat(path); err != nil || fi.Mode() != 0o600 {
			t.Errorf("mode %v (%v)", fi.Mode(), err)
		}
	}
}

// sameAttrs compares JSON without regard to blanks.
func sameAttrs(a, b Attrs) bool {
	var x, y any
	if len(a.BackendData) > 0 && json.Unmarshal(a.BackendData, &x) != nil || len(b.BackendData) > 0 && json.Unmarshal(b.BackendData, &y) != nil {
		return false
	}
	return a.PublicIP == b.PublicIP && a.BackendType == b.BackendType && reflect.DeepEqual(x, y)
}

func TestReadStateForms(t *testing.T) {
	tests := []struct{ name, in, err string }{
		{name: "of the first releases", in: "{\n\t\"Network\": \"10.5.0.0/16\",\n\t\"Subnet\": \"10.5.34.0/24\"\n}\n"},
		{name: "empty", in: "", err: "damaged or cut off: empty"},
		{name: "cut off", in: "{", err: "damaged or cut off: not JSON"},
		{name: "nothing in it", in: "{}", err: "Subnet"},
		{name: "a number", in: `{"Subnet":7}`, err: "Subnet: want a text in quotes"},
		{name: "no subnet", in: `{"Subnet":"10.5"}`, err: "damaged"},
		{name: "IPv6", in: `{"Subnet":"fd00::/64"}`, err: "want an IPv4 subnet"},
		{name: "zeros", in: strings.Repeat("\x00", 300), err: "damaged or cut off"},
		{name: "a list", in: `[]`, err: "damaged or cut off"},
		{name: "two of them", in: `{"Network":"10.5.0.0/16","Subnet":"10.5.34.0/24"}{}`, err: "damaged or cut off"},
		{name: "of a later version", in: `{"Version":2,"Network":"10.5.0.0/16","Subnet":"10.5.34.0/24","Checksum":"x"}`, err: "has Version 2: want 1 or less; a later flanneld wrote it"},
		{name: "of an impossible version", in: `{"Version":-1,"Subnet":"10.5.34.0/24"}`, err: "Version -1"},
		{name: "no checksum", in: `{"Version":1,"Network":"10.5.0.0/16","Subnet":"10.5.34.0/24"}`, err: `Checksum ""`},
		{name: "version lost", in: `{"Network":"10.5.0.0/16","Subnet":"10.5.34.0/24","Checksum":"x"}`, err: "no Version"},
		{name: "unknown field", in: `{"Network":"10.5.0.0/16","Subnet":"10.5.34.0/24","Sum":"x"}`, err: `damaged: json: unknown field "Sum"`},
		{name: "huge", in: strings.Repeat(" ", 1<<17), err: "larger than 65536 bytes"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "state.json")
			if err := os.WriteFile(path, []byte(tt.in), 0o600); err != nil {
				t.Fatal(err)
			}
			s, err := ReadState(path)
			if tt.err == "" {
				if err != nil || s.Subnet != sampleEnv.Subnet || s.Network != sampleEnv.Network {
					t.Errorf("%+v, %v", s, err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), tt.err) || !strings.Contains(err.Error(), path) || !reflect.DeepEqual(s, State{}) {
				t.Errorf("%+v, error %v, want %q", s, err, tt.err)
			}
			// It is left alone until there is something to write.
			if b, err := os.ReadFile(path); err != nil || string(b) != tt.in {
				t.Errorf("reading has changed it: %q, %v", b, err)
			}
			if err := sampleState.WriteFile(path); err != nil {
				t.Error(err)
			}
			if s, err := ReadState(path); err != nil || s.Subnet != sampleState.Subnet {
				t.Errorf("after writing: %+v, %v", s, err)
			}
		})
	}
}

// No truncation and no flipped bit gives another state than what was written.
func TestReadStateDamage(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.json")
	if err := sampleState.WriteFile(path); err != nil {
		t.Fatal(err)
	}
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	errors := 0
	check := func(what string, b []byte) {
		s, err := parseState(b)
		if err != nil {
			errors++
			if !reflect.DeepEqual(s, State{}) {
				t.Errorf("%s: half believed: %+v (%v)", what, s, err)
			}
		} else if s.Network != sampleState.Network || s.Subnet != sampleState.Subnet || !sameAttrs(s.Attrs, sampleState.Attrs) {
			t.Errorf("%s: read as %+v:\n%s", what, s, b)
		}
	}
	for n := range good {
		check(fmt.Sprintf("the first %d bytes", n), good[:n])
		check(fmt.Sprintf("zeros behind byte %d", n), append(good[:n:n], make([]byte, len(good)-n)...))
		for bit := range 8 {
			b := []byte(string(good))
			b[n] ^= 1 << bit
			check(fmt.Sprintf("bit %d of byte %d", bit, n), b)
		}
	}
	// Some flips change only blanks, or the case of a field's name.
	if all := 10 * len(good); errors < all*8/10 {
		t.Errorf("%d errors of %d damages", errors, all)
	}
}

func FuzzReadState(f *testing.F) {
	f.Add([]byte(`{"Network":"10.5.0.0/16","Subnet":"10.5.34.0/24"}`))
	b, err := json.Marshal(stateFile{Version: 1, State: sampleState, Checksum: "0"})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := parseState(b)
		if err != nil {
			return
		}
		if s.Subnet != s.Subnet.Masked() || !s.Subnet.Addr().Is4() {
			t.Errorf("%q gives %+v", b, s)
		}
		path := filepath.Join(dir, "state.json")
		if err := s.WriteFile(path); err != nil {
			t.Fatalf("%q cannot be written again: %v", b, err)
		}
		if back, err := ReadState(path); err != nil || back.Network != s.Network || back.Subnet != s.Subnet || !sameAttrs(back.Attrs, s.Attrs) {
			t.Errorf("%q reads back as %+v (%v)", b, back, err)
		}
	})
}

func TestStatePathIsUnique(t *testing.T) {
	seen := map[string]string{}
	for _, f := range []string{"/run/flannel/subnet.env", "/run/flannel-subnet.env", "/run-flannel/subnet.env", "/run/flannel/subnet-env", "/run/flannel2/subnet.env", "/run/-flannel/a", "/run-/flannel/a", "/run%2Fflannel/a", "/run/flannel/a"} {
		p := StatePath("/var/lib/flanneld", f)
		if filepath.Dir(p) != "/var/lib/flanneld" {
			t.Errorf("%s: %s is elsewhere", f, p)
		}
		if other, ok := seen[p]; ok {
			t.Errorf("%s and %s share %s", f, other, p)
		}
		seen[p] = f
	}
	if StatePath("/d", "/run//flannel/./subnet.env") != StatePath("/d", "/run/flannel/subnet.env") {
		t.Error("one file has two states")
	}
}
