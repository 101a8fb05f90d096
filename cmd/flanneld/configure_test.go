package main

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"

	"tweed/cmd/flanneld/flags"
)

// TestConfigure: what is refused is told in lines of the log, notes first, in
// the verbosity that was asked for.
func TestConfigure(t *testing.T) {
	var out bytes.Buffer
	_, _, err := configure([]string{"flanneld", "-healthz-port=65536", "word"}, []string{"FLANNELD_V=x"}, &out)
	if err == nil || errors.Is(err, flags.ErrTold) {
		t.Errorf("error %v", err)
	}
	lines := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
	if len(lines) != 3 {
		t.Fatalf("got %q", lines)
	}
	for i, want := range []string{"W behind -healthz-port, 1 word(s)", `E FLANNELD_V="x"`, "E -healthz-port 65536: want"} {
		m := glogLine.FindStringSubmatch(lines[i])
		if m == nil || m[1] != want[:1] || !strings.Contains(m[6], want[2:]) {
			t.Errorf("line %q, want %q", lines[i], want)
		}
	}

	out.Reset()
	if _, _, err := configure([]string{"flanneld", "-version"}, nil, &out); !errors.Is(err, flags.ErrTold) || out.String() != versionText()+"\n" {
		t.Errorf("-version: %v, %q", err, out.String())
	}

	out.Reset()
	opts, log, err := configure([]string{"flanneld", "-v=1", "-subnet-file=f"}, nil, &out)
	if err != nil || opts.SubnetFile != "f" || !log.Enabled(t.Context(), slog.LevelDebug) || out.Len() > 0 {
		t.Errorf("got %+v, %v, %q", opts, err, out.String())
	}
}
