package flags

import (
	"strings"
	"testing"
)

func TestLogFlagValues(t *testing.T) {
	for _, tt := range []struct{ in, want string }{
		{"", ""}, {"a=1", "a=1"}, {"a=1,,b*=2,", "a=1,b*=2"}, {"[ab]=3", "[ab]=3"},
		{"a", "error"}, {"a=", "error"}, {"a=x", "error"}, {"a=-1", "error"}, {"=1", "error"}, {"[=1", "error"}, {"a=1;b=2", "error"}, {"a=99999999999", "error"},
	} {
		var l ModuleList
		got := "error"
		if err := l.Set(tt.in); err == nil {
			got = l.String()
		} else if !strings.Contains(err.Error(), "want ") {
			t.Errorf("-vmodule %q: %v does not say what is valid", tt.in, err)
		}
		if got != tt.want {
			t.Errorf("-vmodule %q: got %q, want %q", tt.in, got, tt.want)
		}
	}
	for _, tt := range []struct{ in, want string }{
		{"", ""}, {"run.go:88", "run.go:88"},
		{"run.go", "error"}, {"run.go:", "error"}, {":88", "error"}, {"run.go:0", "error"}, {"run.go:-1", "error"}, {"a/run.go:88", "error"}, {"run.go:88:1", "error"}, {"run.go:99999999999", "error"},
	} {
		var p TracePoint
		got := "error"
		if err := p.Set(tt.in); err == nil {
			got = p.String()
		}
		if got != tt.want {
			t.Errorf("-log_backtrace_at %q: got %q, want %q", tt.in, got, tt.want)
		}
	}
}
