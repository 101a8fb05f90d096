package udp

import (
	"fmt"
	"strconv"

	"tweed/backend"
	"tweed/dataplane"
	"tweed/subnet"
)

// Type is the name of this backend in the network config.
const Type = "udp"

const defaultPort = 8285

// options are what the Backend object of the network config says. All nodes
// get the same, but only Port has to be the same on all.
type options struct {
	port    uint16
	offload bool
	check   dataplane.SourceCheck
}

// NewProfile returns what the backend will take of a host. Errors are those of
// the options.
func NewProfile(cfg subnet.Config) (backend.Profile, error) {
	p := backend.Profile{Type: Type, Keys: []string{"Port", "Offload", "SourceCheck"}}
	o, err := parseOptions(cfg)
	if err != nil {
		return p, fmt.Errorf("udp: %w", err)
	}
	p.Link, p.Port = tunName, int(o.port)
	p.Overhead, p.MinMTU, p.MaxMTU = overhead, minMTU, maxMTU
	return p, nil
}

func parseOptions(cfg subnet.Config) (options, error) {
	c := struct {
		Port        int
		Offload     bool
		SourceCheck string
	}{defaultPort, true, dataplane.CheckOff.String()}
	if err := cfg.DecodeBackend(&c); err != nil {
		return options{}, err
	}
	if c.Port < 1 || c.Port > 65535 {
		return options{}, fmt.Errorf("in Backend: %w",
			&subnet.FieldError{Field: "Port", Value: strconv.Itoa(c.Port), Want: "a UDP port from 1 to 65535"})
	}
	check, ok := dataplane.ParseSourceCheck(c.SourceCheck)
	if !ok {
		return options{}, fmt.Errorf("in Backend: %w",
			&subnet.FieldError{Field: "SourceCheck", Value: strconv.Quote(c.SourceCheck), Want: `"off", "peer" or "strict"`})
	}
	return options{uint16(c.Port), c.Offload, check}, nil
}
