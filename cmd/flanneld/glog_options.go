package main

import (
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strconv"
	"strings"
)

// logOptions are the values of -v, -vmodule and -log_backtrace_at. The zero
// value logs at slog.LevelInfo and above.
type logOptions struct {
	verbosity int
	modules   moduleList
	traceAt   tracePoint
}

// verbosityOf returns the least -v at which a record is written.
func verbosityOf(l slog.Level) int {
	if l >= slog.LevelInfo {
		return 0
	}
	return (int(slog.LevelInfo-l) + 3) / 4
}

// verbosityFor returns the -v that holds for a source file. -vmodule can raise
// it, not lower it; Info and above are written even where -v is negative.
func (o logOptions) verbosityFor(file string) int {
	for _, m := range o.modules {
		if ok, _ := filepath.Match(m.pattern, strings.TrimSuffix(file, ".go")); ok {
			return max(0, o.verbosity, m.verbosity)
		}
	}
	return max(0, o.verbosity)
}

func (o logOptions) mostVerbose() int {
	most := max(0, o.verbosity)
	for _, m := range o.modules {
		most = max(most, m.verbosity)
	}
	return most
}

// A moduleList is the flag.Value of -vmodule. The first pattern that matches
// the base name of a source file without ".go" decides.
type moduleList []module

type module struct {
	pattern   string
	verbosity int
}

func (l *moduleList) String() string {
	var parts []string
	for _, m := range *l {
		parts = append(parts, fmt.Sprintf("%s=%d", m.pattern, m.verbosity))
	}
	return strings.Join(parts, ",")
}

// Set allows empty elements, as glog does: "a=1,,b=2,".
func (l *moduleList) Set(text string) error {
	var list moduleList
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

// A tracePoint is the flag.Value of -log_backtrace_at: a line of the source
// that adds a stack trace to what it logs. The zero value is no line.
type tracePoint struct {
	file string
	line int
}

func (p tracePoint) matches(file string, line int) bool { return p.line == line && p.file == file }

func (p *tracePoint) String() string {
	if p.line == 0 {
		return ""
	}
	return fmt.Sprintf("%s:%d", p.file, p.line)
}

func (p *tracePoint) Set(text string) error {
	if text == "" {
		*p = tracePoint{}
		return nil
	}
	file, number, _ := strings.Cut(text, ":")
	line, err := strconv.ParseUint(number, 10, 31)
	if err != nil || line == 0 || file == "" || strings.Contains(file, "/") {
		return errors.New("want FILE.go:LINE, such as run.go:88")
	}
	*p = tracePoint{file, int(line)}
	return nil
}
