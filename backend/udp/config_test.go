package udp

import (
	"testing"

	"tweed/dataplane"
	"tweed/subnet"
)

func TestOptions(t *testing.T) {
	good := options{port: 8285, offload: true, check: dataplane.CheckOff}
	with := func(change func(*options)) options {
		o := good
		change(&o)
		return o
	}
	for _, tt := range []struct {
		backend string
		want    options
	}{
		{``, good},
		{`{"Type":"udp"}`, good},
		{`{"Type":"udp","Port":1}`, with(func(o *options) { o.port = 1 })},
		{`{"Type":"udp","Port":65535}`, with(func(o *options) { o.port = 65535 })},
		{`{"Type":"udp","Port":null,"Offload":null,"SourceCheck":null}`, good},
		{`{"Type":"udp","Offload":true}`, good},
		{`{"Type":"udp","Offload":false}`, with(func(o *options) { o.offload = false })},
		{`{"Type":"udp","SourceCheck":"off"}`, good},
		{`{"Type":"udp","SourceCheck":"peer"}`, with(func(o *options) { o.check = dataplane.CheckPeer })},
		{`{"Type":"udp","SourceCheck":"strict"}`, with(func(o *options) { o.check = dataplane.CheckStrict })},
		{`{"Type":"udp","Offload":false,"SourceCheck":"strict","Port":9}`, options{9, false, dataplane.CheckStrict}},
		// Those of other backends, and of other programs.
		{`{"Type":"udp","VNI":7,"DirectRouting":"x","Offloads":7,"Source":{},"":[]}`, good},
	} {
		if got, err := parseOptions(config(t, tt.backend)); err != nil || got != tt.want {
			t.Errorf("%s: %+v, %v, want %+v", tt.backend, got, err, tt.want)
		}
	}
	for _, tt := range []struct{ backend, want string }{
		{`"Port":0`, `in Backend: Port 0: want a UDP port from 1 to 65535`},
		{`"Port":-1`, `in Backend: Port -1: want a UDP port from 1 to 65535`},
		{`"Port":65536`, `in Backend: Port 65536: want a UDP port from 1 to 65535`},
		{`"Port":"8285"`, `in Backend: Port: want a whole number, not a JSON string`},
		{`"Offload":1`, `in Backend: Offload: want true or false, not a JSON number`},
		{`"Offload":"true"`, `in Backend: Offload: want true or false, not a JSON string`},
		{`"Offload":[]`, `in Backend: Offload: want true or false, not a JSON array`},
		{`"SourceCheck":""`, `in Backend: SourceCheck "": want "off", "peer" or "strict"`},
		{`"SourceCheck":"Strict"`, `in Backend: SourceCheck "Strict": want "off", "peer" or "strict"`},
		{`"SourceCheck":" off"`, `in Backend: SourceCheck " off": want "off", "peer" or "strict"`},
		{`"SourceCheck":"all\n"`, `in Backend: SourceCheck "all\n": want "off", "peer" or "strict"`},
		{`"SourceCheck":true`, `in Backend: SourceCheck: want a text in quotes, not a JSON bool`},
		{`"SourceCheck":1`, `in Backend: SourceCheck: want a text in quotes, not a JSON number`},
		{`"SourceCheck":{}`, `in Backend: SourceCheck: want a text in quotes, not a JSON object`},
	} {
		cfg, err := subnet.ParseConfig([]byte(`{"Network":"10.5.0.0/16","Backend":{"Type":"udp",` + tt.backend + `}}`))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := parseOptions(cfg); err == nil || err.Error() != tt.want {
			t.Errorf("%s: %+v, %v, want %q", tt.backend, got, err, tt.want)
		}
	}
}
