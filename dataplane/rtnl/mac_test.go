package rtnl

import (
	"strings"
	"testing"
)

func TestParseMAC(t *testing.T) {
	for text, want := range map[string]string{
		"0e:12:34:56:78:9a": "0e:12:34:56:78:9a",
		"0E-12-34-56-78-9A": "0e:12:34:56:78:9a",
		"0e12.3456.789a":    "0e:12:34:56:78:9a",

		"":                        "want six bytes",
		"0e:12:34:56:78":          "want six bytes",
		"0e:12:34:56:78:9g":       "want six bytes",
		"0e:12:34:56:78:9a:bc:de": "want six bytes",
		"02:00:5e:10:00:00:00:01": "want six bytes",
		"00:00:00:00:00:00":       "one station",
		"ff:ff:ff:ff:ff:ff":       "one station",
		"01:00:5e:00:00:01":       "one station",
	} {
		m, err := ParseMAC(text)
		if err != nil {
			if !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), text) {
				t.Errorf("ParseMAC(%q): error %v, want %q", text, err, want)
			}
		} else if m.String() != want {
			t.Errorf("ParseMAC(%q) = %s, want %s", text, m, want)
		}
	}
}

func FuzzMAC(f *testing.F) {
	f.Add("0e:12:34:56:78:9a")
	f.Fuzz(func(t *testing.T, s string) {
		m, err := ParseMAC(s)
		if err != nil {
			return
		}
		if again, err := ParseMAC(m.String()); err != nil || again != m || !m.IsStation() {
			t.Errorf("%q -> %s -> %s, %v", s, m, again, err)
		}
	})
}
