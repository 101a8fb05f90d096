package udp

import (
	"fmt"
	"testing"

	"tweed/subnet"
)

func TestNewProfile(t *testing.T) {
	parse := func(backend string) subnet.Config {
		cfg, err := subnet.ParseConfig([]byte(`{"Network":"10.5.0.0/16","Backend":{"Type":"udp"` + backend + `}}`))
		if err != nil {
			t.Fatal(err)
		}
		return cfg
	}
	p, err := NewProfile(parse(`,"Port":9999`))
	if err != nil || p.Port != 9999 || p.Type != Type {
		t.Errorf("got %+v, %v", p, err)
	}
	if mtu, err := p.MTU(1500); mtu != 1472 || err != nil {
		t.Errorf("MTU %d, %v", mtu, err)
	}
	for _, key := range p.Keys { // all of them are read
		if bad, err := NewProfile(parse(fmt.Sprintf(`,%q:[]`, key))); err == nil || len(bad.Keys) != len(p.Keys) || bad.Type != Type {
			t.Errorf("%s: [] is %+v, %v, want an error, and type and keys", key, bad, err)
		}
	}
}
