package main

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

// applyEnv sets every flag that the command line did not give from its
// variable. An empty variable counts as unset, and a repeatable flag gets one
// element. What cannot be parsed is noted, and the default stays. Values of
// unknown variables are never told, as one may be a password under a name with
// a typing error.
func applyEnv(fs *flag.FlagSet, environ []string) []note {
	vars := make(map[string]string)
	for _, kv := range environ {
		name, value, _ := strings.Cut(kv, "=")
		// Of two variables of one name the first counts, as with os.Getenv.
		if _, twice := vars[name]; strings.HasPrefix(name, envPrefix) && !twice {
			vars[name] = value
		}
	}
	given := make(map[string]bool)
	fs.Visit(func(f *flag.Flag) { given[f.Name] = true })

	var notes []note
	var names []string
	fs.VisitAll(func(f *flag.Flag) {
		name := envName(f.Name)
		names = append(names, name)
		value := vars[name]
		delete(vars, name)
		if value == "" || given[f.Name] || f.Name == "version" {
			return
		}
		if err := fs.Set(f.Name, value); err != nil {
			notes = append(notes, note{slog.LevelError, fmt.Sprintf("ignoring %s=%q: %v; going on with -%s=%s", name, value, err, f.Name, f.Value)})
		}
	})
	for _, name := range slices.Sorted(maps.Keys(vars)) {
		text := "ignoring the unknown environment variable " + name
		if near := closest(name, names); near != "" {
			text += ", did you mean " + near + "?"
		}
		notes = append(notes, note{slog.LevelWarn, text})
	}
	return notes
}

// closest returns the candidate that takes the fewest edits to reach, or "" if
// all take more than three, or as many as it has letters of its own.
func closest(word string, candidates []string) string {
	best, least := "", 4
	for _, c := range candidates {
		if d := editDistance(word, c); d < least && d < len(strings.TrimPrefix(c, envPrefix)) {
			best, least = c, d
		}
	}
	return best
}

// editDistance is the Levenshtein distance in bytes.
func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j+1]+1, row[j]+1)
		}
	}
	return row[len(b)]
}
