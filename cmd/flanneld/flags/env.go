package flags

import (
	"flag"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
)

const envPrefix = "FLANNELD_"

// envName returns the variable that stands for a flag: FLANNELD_ETCD_PREFIX
// for etcd-prefix.
func envName(flagName string) string {
	return envPrefix + strings.ToUpper(strings.ReplaceAll(flagName, "-", "_"))
}

// ApplyEnv sets every flag of flanneld that the command line did not give from
// its variable, one of environ, which has the form of os.Environ. An empty
// variable counts as unset, and a repeatable flag gets one element. What cannot be
// parsed is noted, and the default stays. Values of unknown variables are never
// told, as one may be a password under a name with a typing error.
func (s *Set) ApplyEnv(environ []string) []Note {
	vars := make(map[string]string)
	for _, kv := range environ {
		name, value, _ := strings.Cut(kv, "=")
		// Of two variables of one name the first counts, as with os.Getenv.
		if _, twice := vars[name]; strings.HasPrefix(name, envPrefix) && !twice {
			vars[name] = value
		}
	}
	given := make(map[string]bool)
	s.Visit(func(f *flag.Flag) { given[f.Name] = true })

	var notes []Note
	var names []string
	for _, flagName := range s.own {
		f := s.Lookup(flagName)
		name := envName(f.Name)
		names = append(names, name)
		value := vars[name]
		delete(vars, name)
		if value == "" || given[f.Name] || f.Name == "version" {
			continue
		}
		if err := s.Set(f.Name, value); err != nil {
			notes = append(notes, Note{slog.LevelError, fmt.Sprintf("ignoring %s=%q: %v; going on with -%s=%s", name, value, err, f.Name, f.Value)})
		}
	}
	for _, name := range slices.Sorted(maps.Keys(vars)) {
		text := "ignoring the unknown environment variable " + name
		if near := Closest(name, names); near != "" {
			text += ", did you mean " + near + "?"
		}
		notes = append(notes, Note{slog.LevelWarn, text})
	}
	return notes
}
