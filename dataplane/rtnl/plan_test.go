package rtnl

import (
	"errors"
	"slices"
	"strings"
	"testing"
)

// fdb is a model of the kernel's forwarding database: several values for a
// key, of which setting the key overwrites the first.
type fdb []pair[byte, byte]

func (f *fdb) apply(set, remove []pair[byte, byte]) {
	for _, s := range set {
		if slices.Contains(*f, s) {
			continue
		}
		if i := slices.IndexFunc(*f, func(p pair[byte, byte]) bool { return p.key == s.key }); i >= 0 {
			(*f)[i] = s
		} else {
			*f = append(*f, s)
		}
	}
	for _, r := range remove {
		*f = slices.DeleteFunc(*f, func(p pair[byte, byte]) bool { return p == r })
	}
}

func FuzzDiff(f *testing.F) {
	f.Add([]byte{1, 1, 1, 2, 2, 1}, []byte{1, 2, 1, 3, 3, 3})
	f.Add([]byte{1, 1, 1, 2, 1, 0}, []byte{1, 3})
	f.Fuzz(func(t *testing.T, have, want []byte) {
		table := fdb(pairs(have))
		slices.SortFunc(table, func(a, b pair[byte, byte]) int { return int(a.key) - int(b.key) })
		table = slices.Compact(table)
		var first fdb // of each key
		for _, w := range pairs(want) {
			if !slices.ContainsFunc(first, func(p pair[byte, byte]) bool { return p.key == w.key }) {
				first = append(first, w)
			}
		}
		set, remove, conflicts := diff(table, pairs(want))
		table.apply(set, remove)
		for _, p := range table {
			if !slices.Contains(first, p) {
				t.Errorf("%v is left, wanted %v", p, first)
			}
		}
		for _, p := range first {
			if !slices.Contains(table, p) {
				t.Errorf("%v is missing of %v", p, first)
			}
		}
		for _, p := range conflicts {
			if slices.Contains(first, p) {
				t.Errorf("%v conflicts with itself", p)
			}
		}
		if set, remove, _ := diff(table, pairs(want)); len(set)+len(remove) > 0 {
			t.Errorf("not settled: set %v, remove %v", set, remove)
		}
	})
}

func pairs(b []byte) []pair[byte, byte] {
	var p []pair[byte, byte]
	for ; len(b) >= 2; b = b[2:] {
		p = append(p, pair[byte, byte]{b[0] % 4, b[1] % 4})
	}
	return p
}

func TestApplyOrder(t *testing.T) {
	var done []string
	step := func(name string) func() error {
		return func() error {
			done = append(done, name)
			if strings.HasSuffix(name, "!") {
				return errors.New(name)
			}
			return nil
		}
	}
	a := &Plan{set: []func() error{step("set a1!"), step("set a2")}, prune: []func() error{step("prune a!")}}
	b := &Plan{set: []func() error{step("set b")}, prune: []func() error{step("prune b")}}
	err := Apply(a, b)
	equal(t, "order", done, "set a1!", "set a2", "set b", "prune b", "prune a!")
	if err == nil || err.Error() != "set a1!\nprune a!" {
		t.Errorf("error %v, want both", err)
	}
	if a.Len() != 3 || b.Len() != 2 {
		t.Errorf("lengths %d and %d, want 3 and 2", a.Len(), b.Len())
	}
}

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
