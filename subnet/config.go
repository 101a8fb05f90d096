package subnet

import (
	"bytes"
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"strings"

	"tweed/ipam"
)

// DefaultBackend is used where the network config names no backend at all.
const DefaultBackend = "udp"

// A FieldError names the field of the config that is wrong, its value, and what
// would be valid.
type FieldError = ipam.FieldError

// Config is the network config that all nodes share.
type Config struct {
	ipam.Plan
	BackendType string          // lower case; empty if Backend has no Type
	Backend     json.RawMessage // the whole Backend object, nil if absent
}

// ParseConfig reads the value of <prefix>/config. Field names are matched
// without regard to case and unknown fields are ignored, as flannel does.
// Errors name the field, its value and what is valid.
func ParseConfig(b []byte) (Config, error) {
	var raw struct {
		Network   string
		SubnetLen uint64
		SubnetMin string
		SubnetMax string
		Backend   json.RawMessage
	}
	if err := json.Unmarshal(b, &raw); err != nil {
		return Config{}, ExplainJSON(b, err)
	}
	if raw.Network == "" {
		return Config{}, &FieldError{Field: "Network", Value: `""`, Want: "an IPv4 network in CIDR form, such as 10.5.0.0/16"}
	}
	network, err := netip.ParsePrefix(raw.Network)
	if err != nil {
		return Config{}, &FieldError{Field: "Network", Value: fmt.Sprintf("%q", raw.Network), Want: "an IPv4 network in CIDR form, such as 10.5.0.0/16"}
	}
	lo, err := optionalAddr("SubnetMin", raw.SubnetMin)
	if err != nil {
		return Config{}, err
	}
	hi, err := optionalAddr("SubnetMax", raw.SubnetMax)
	if err != nil {
		return Config{}, err
	}
	// Lengths past the range of an int must not wrap round to a valid one.
	plan, err := ipam.NewPlan(network, int(min(raw.SubnetLen, 1<<16)), lo, hi)
	if err != nil {
		return Config{}, err
	}
	c := Config{Plan: plan, BackendType: DefaultBackend, Backend: raw.Backend}
	if raw.Backend != nil {
		var b struct{ Type string }
		if err := c.DecodeBackend(&b); err != nil {
			return Config{}, err
		}
		c.BackendType = strings.ToLower(b.Type)
	}
	return c, nil
}

func optionalAddr(field, s string) (netip.Addr, error) {
	if s == "" {
		return netip.Addr{}, nil
	}
	a, err := netip.ParseAddr(s)
	if err != nil || !a.Is4() {
		return netip.Addr{}, &FieldError{Field: field, Value: fmt.Sprintf("%q", s), Want: "an IPv4 address, the first of a subnet"}
	}
	return a, nil
}

// DecodeBackend unmarshals the Backend object into v, a pointer to a struct
// that holds the defaults. Errors name the field, its value and what is valid.
func (c Config) DecodeBackend(v any) error {
	if len(c.Backend) == 0 {
		return nil
	}
	if err := json.Unmarshal(c.Backend, v); err != nil {
		return fmt.Errorf("in Backend: %w", ExplainJSON(c.Backend, err))
	}
	return nil
}

// ExplainJSON turns an error of encoding/json on b into one that tells an
// operator which field is wrong, or where the text stops being JSON.
func ExplainJSON(b []byte, err error) error {
	var syntax *json.SyntaxError
	var typ *json.UnmarshalTypeError
	switch {
	case len(bytes.TrimSpace(b)) == 0:
		return errors.New("empty: want a JSON object")
	case errors.As(err, &typ) && typ.Field == "":
		return fmt.Errorf("%s: want a JSON object, not a JSON %s", excerpt(b, 0), typ.Value)
	case errors.As(err, &typ):
		return fmt.Errorf("%s: want %s, not a JSON %s", typ.Field, goKind(typ), typ.Value)
	case errors.As(err, &syntax):
		return fmt.Errorf("not JSON at byte %d, near %s: %w", syntax.Offset, excerpt(b, int(syntax.Offset)-10), err)
	}
	return err
}

func goKind(e *json.UnmarshalTypeError) string {
	switch k := e.Type.Kind().String(); {
	case k == "string", e.Type.Implements(reflect.TypeFor[encoding.TextUnmarshaler]()),
		reflect.PointerTo(e.Type).Implements(reflect.TypeFor[encoding.TextUnmarshaler]()):
		return "a text in quotes"
	case k == "bool":
		return "true or false"
	case strings.HasPrefix(k, "uint"):
		return "a whole number of 0 or more"
	case strings.HasPrefix(k, "int"):
		return "a whole number"
	default:
		return "a JSON object"
	}
}

// excerpt quotes up to 30 bytes of b from the given place on.
func excerpt(b []byte, from int) string {
	from = max(0, min(from, len(b)))
	to := min(len(b), from+30)
	return fmt.Sprintf("%q", b[from:to])
}
