package vxlan

import (
	"fmt"
	"reflect"
	"slices"
	"testing"

	"tweed/backend"
	"tweed/subnet"
)

func TestNewProfile(t *testing.T) {
	for backend, want := range map[string]string{
		`{"Type":"vxlan"}`: "flannel.1 8472 false",
		`{"Type":"vxlan","VNI":7,"Port":4789,"GBP":true}`: "flannel.7 4789 true",
		`{"Type":"vxlan","Port":-1}`:                      "",
	} {
		cfg, err := subnet.ParseConfig([]byte(`{"Network":"10.5.0.0/16","Backend":` + backend + `}`))
		if err != nil {
			t.Fatal(err)
		}
		p, err := NewProfile(cfg)
		if (err != nil) != (want == "") {
			t.Fatalf("%s: %v", backend, err)
		}
		if want == "" {
			if p.Type != Type || len(p.Keys) != 4 || p.Published != Type {
				t.Errorf("%s: %+v, want type and keys", backend, p)
			}
			continue
		}
		if got := fmtProfile(p); got != want {
			t.Errorf("%s: %s, want %s", backend, got, want)
		}
		// A field that is new must be told as a key.
		for f := range reflect.TypeFor[options]().Fields() {
			if !slices.Contains(p.Keys, f.Name) {
				t.Errorf("Keys %q lack %s", p.Keys, f.Name)
			}
		}
	}
}

func fmtProfile(p backend.Profile) string { return fmt.Sprint(p.Link, " ", p.Port, " ", p.GBP) }
