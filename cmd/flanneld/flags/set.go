package flags

import (
	"flag"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
)

// A Set is the flags of flanneld, for who has to do more with them than Parse
// does: others may be added beside them. It prints nothing by itself.
type Set struct {
	*flag.FlagSet
	raw raw
	own []string // names, without those that were added
}

// New returns all flags with their defaults.
func New(name string) *Set {
	s := &Set{FlagSet: flag.NewFlagSet(name, flag.ContinueOnError)}
	s.SetOutput(io.Discard)
	s.raw.define(s.FlagSet)
	s.VisitAll(func(f *flag.Flag) { s.own = append(s.own, f.Name) })
	return s
}

// ParseWords reads a command line as flanneld does, but for the variables;
// words[0] is the program's name. The error is flag.ErrHelp, or says what cannot
// be parsed.
func (s *Set) ParseWords(words []string) ([]Note, error) {
	if err := s.Parse(words[1:]); err != nil {
		return nil, s.Explain(err)
	}
	rest := s.Args()
	if len(rest) == 0 {
		return nil, nil
	}
	return []Note{{slog.LevelWarn, fmt.Sprintf("ignoring the rest of the command line behind %s, %d word(s), because the first of them is not a flag (write -flag=true, not -flag true)",
		s.LastFlag(words[:len(words)-len(rest)]), len(rest))}}, nil
}

// Version reports whether -version was given, which ends flanneld at once.
func (s *Set) Version() bool { return s.raw.version }

// Clear takes back what was given for a flag that may be repeated, so that what
// is given from now on replaces it, as it does with all others.
func (s *Set) Clear(name string) {
	if l, ok := s.Lookup(name).Value.(*list); ok {
		*l = nil
	}
}

// LastFlag returns the last word of parsed that is one of the flags, without its
// value, or the first word, which is the program's name. Neither values nor stray
// words are ever to be told, as one may be a password or, behind a blank, the
// rest of it.
func (s *Set) LastFlag(parsed []string) string {
	for _, word := range slices.Backward(parsed[1:]) {
		name, _, _ := strings.Cut(strings.TrimLeft(word, "-"), "=")
		if strings.HasPrefix(word, "-") && s.Lookup(name) != nil {
			return "-" + name
		}
	}
	return parsed[0]
}

// Explain adds a guess to the error of an unknown flag, and takes the value from
// that of a word that is none, such as ---etcd-password=x.
func (s *Set) Explain(err error) error {
	if word, ok := strings.CutPrefix(err.Error(), "bad flag syntax: "); ok {
		name, _, _ := strings.Cut(word, "=")
		return fmt.Errorf("bad flag syntax: %s: want -name or -name=value", name)
	}
	name, ok := strings.CutPrefix(err.Error(), "flag provided but not defined: -")
	if !ok {
		return err
	}
	var names []string
	s.VisitAll(func(f *flag.Flag) { names = append(names, f.Name) })
	if near := Closest(name, names); near != "" {
		return fmt.Errorf("%w (did you mean -%s?)", err, near)
	}
	return err
}
