package flags

import (
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
)

// LogOptions are the values of -v, -vmodule and -log_backtrace_at. The zero
// value logs at slog.LevelInfo and above.
type LogOptions struct {
	Verbosity int
	Modules   ModuleList
	TraceAt   TracePoint
}

// VerbosityFor returns the -v that holds for a source file. -vmodule can raise
// it, not lower it; Info and above are written even where -v is negative.
func (o LogOptions) VerbosityFor(file string) int {
	for _, m := range o.Modules {
		if ok, _ := filepath.Match(m.pattern, strings.TrimSuffix(file, ".go")); ok {
			return max(0, o.Verbosity, m.verbosity)
		}
	}
	return max(0, o.Verbosity)
}

// MostVerbose returns the largest -v that holds for any file.
func (o LogOptions) MostVerbose() int {
	most := max(0, o.Verbosity)
	for _, m := range o.Modules {
		most = max(most, m.verbosity)
	}
	return most
}

// A ModuleList is the flag.Value of -vmodule. The first pattern that matches
// the base name of a source file without ".go" decides.
type ModuleList []module

type module struct {
	pattern   string
	verbosity int
}

// String implements flag.Value.
func (l *ModuleList) String() string {
	var parts []string
	for _, m := range *l {
		parts = append(parts, fmt.Sprintf("%s=%d", m.pattern, m.verbosity))
	}
	return strings.Join(parts, ",")
}

// Set implements flag.Value. It allows empty elements, as glog does: "a=1,,b=2,".
func (l *ModuleList) Set(text string) error {
	var list ModuleList
	for part := range strings.SplitSeq(text, ",") {
		if part == "" {
			continue
		}
		pattern, number, ok := strings.Cut(part, "=")
		n, err := strconv.ParseUint(number, 10, 31)
		if _, bad := filepath.Match(pattern, ""); !ok || pattern == "" || err != nil || bad != nil {
			return fmt.Errorf("element %q: want a comma-separated list of FILE=N, such as run=1,vx*=2", part)
		}
		list = append(list, module{pattern, int(n)})
	}
	*l = list
	return nil
}

// A TracePoint is the flag.Value of -log_backtrace_at: a line of the source
// that adds a stack trace to what it logs. The zero value is no line.
type TracePoint struct {
	file string
	line int
}

// Matches reports whether p is this line; file is a base name.
func (p TracePoint) Matches(file string, line int) bool { return p.line == line && p.file == file }

// String implements flag.Value.
func (p *TracePoint) String() string {
	if p.line == 0 {
		return ""
	}
	return fmt.Sprintf("%s:%d", p.file, p.line)
}

// Set implements flag.Value.
func (p *TracePoint) Set(text string) error {
	if text == "" {
		*p = TracePoint{}
		return nil
	}
	file, number, _ := strings.Cut(text, ":")
	line, err := strconv.ParseUint(number, 10, 31)
	if err != nil || line == 0 || file == "" || strings.Contains(file, "/") {
		return errors.New("want FILE.go:LINE, such as run.go:88")
	}
	*p = TracePoint{file, int(line)}
	return nil
}
