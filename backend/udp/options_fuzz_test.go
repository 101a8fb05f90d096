package udp

import (
	"encoding/json"
	"fmt"
	"testing"

	"tweed/dataplane"
	"tweed/subnet"
)

// FuzzOptions: Open's reading of the Backend object and NewProfile accept the
// same, and what is accepted is possible and can be written and read back.
func FuzzOptions(f *testing.F) {
	f.Add(`{"Type":"udp","Port":9285,"Offload":false,"SourceCheck":"strict"}`)
	f.Add(`{"Port":65536}`)
	f.Add(`{"Port":0}`)
	f.Add(`{"port":null,"SOURCECHECK":"peer"}`)
	f.Add(`[]`)
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
		if o.port == 0 || p.Port != int(o.port) || o.check > dataplane.CheckStrict {
			t.Errorf("%q: options %+v, profile %+v", text, o, p)
		}
		cfg.Backend = fmt.Appendf(nil, `{"Port":%d,"Offload":%t,"SourceCheck":%q}`, o.port, o.offload, o.check)
		if again, err := parseOptions(cfg); err != nil || again != o {
			t.Errorf("%q: %+v became %+v, %v", text, o, again, err)
		}
	})
}
