package vxlan

import (
	"encoding/json"
	"testing"

	"tweed/dataplane/rtnl"
	"tweed/subnet"
)

// FuzzOptions: Open's reading of the Backend object and NewProfile accept the
// same, and what is accepted is possible and can be written and read back.
func FuzzOptions(f *testing.F) {
	f.Add(`{"Type":"vxlan","VNI":7,"Port":4789,"GBP":true,"DirectRouting":true}`)
	f.Add(`{"VNI":16777215}`)
	f.Add(`{"Port":65536}`)
	f.Add(`{"vni":9999999,"PORT":null}`)
	f.Add(`"vxlan"`)
	f.Fuzz(func(t *testing.T, text string) {
		cfg := subnet.Config{BackendType: Type, Backend: json.RawMessage(text)}
		o, err := parseOptions(cfg)
		p, profileErr := NewProfile(cfg)
		if (err == nil) != (profileErr == nil) || err != nil && (err.Error() == "" || len(err.Error()) > 300+4*len(text)) {
			t.Fatalf("options %v, profile %v", err, profileErr)
		}
		if err != nil {
			return
		}
		if o.VNI < 0 || o.VNI >= 1<<24 || o.Port < 0 || o.Port > 65535 || p.Port < 1 || p.Port > 65535 ||
			p.VNI != o.VNI || p.GBP != o.GBP || p.Link != deviceName(o.VNI) || len(p.Link) > rtnl.MaxLinkName {
			t.Errorf("%q: options %+v, profile %+v", text, o, p)
		}
		if cfg.Backend, err = json.Marshal(o); err != nil {
			t.Fatal(err)
		}
		if again, err := parseOptions(cfg); err != nil || again != o {
			t.Errorf("%q: %+v became %+v, %v", text, o, again, err)
		}
	})
}
