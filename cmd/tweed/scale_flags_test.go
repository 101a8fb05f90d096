package main

import (
	"fmt"
	"strings"
	"testing"
)

func TestScaleBadFlags(t *testing.T) {
	for args, want := range map[string]string{
		"-scale word":              `argument "word": want flags only`,
		"-scale -rounds=0":         "-rounds 0: want 1 to 10 with -scale",
		"-scale -rounds=11":        "-rounds 11: want 1 to 10",
		"-scale -sizes=":           `-sizes "": "": want numbers from 1 to 64024`,
		"-scale -sizes=10,,20":     `"": want numbers`,
		"-scale -sizes=0":          `"0": want numbers`,
		"-scale -sizes=-5":         `"-5": want numbers`,
		"-scale -sizes=5,64025":    `"64025": want numbers from 1 to 64024`,
		"-scale -sizes=10k":        `"10k": want numbers`,
		"-scale -samples=0":        "-samples 0: want 1 to 1000",
		"-scale -samples=1001":     "-samples 1001: want",
		"-scale -daemons=-1":       "-daemons -1: want 0 to 1000",
		"-scale -daemons=1001":     "-daemons 1001: want",
		"-scale -rest=99ms":        "-rest 99ms: want 100ms to 1h",
		"-scale -rest=61m":         "-rest 1h1m0s: want",
		"-scale -rest=5":           "-rest",
		"-scale -out=":             `-out "": want a directory`,
		"-scale -time=1s":          "-time: means nothing with -scale",
		"-scale -block=64":         "-block: means nothing with -scale",
		"-scale -variants=vxlan":   "-variants: means nothing with -scale",
		"-scale -quick -tests=udp": "-tests: means nothing with -scale",
		"-sizes=10":                "-sizes: means nothing without -scale",
		"-samples=10":              "-samples: means nothing without -scale",
		"-quick -daemons=10":       "-daemons: means nothing without -scale",
		"-scale=false -rest=10s":   "-rest: means nothing without -scale",
	} {
		var stdout, stderr strings.Builder
		status := run(t.Context(), append([]string{"bench"}, strings.Fields(args)...), &stdout, &stderr)
		if status != exitUsage || !strings.Contains(stderr.String(), want) || !strings.Contains(stderr.String(), "see: tweed bench -h") || stdout.Len() > 0 {
			t.Errorf("tweed bench %s: status %d, stdout %q, stderr %q; want %d and %q", args, status, stdout.String(), stderr.String(), exitUsage, want)
		}
	}
}

func TestScaleFlags(t *testing.T) {
	const all = "[100 1000 2000 5000 10000 20000 50000]"
	for args, want := range map[string]string{
		"-scale":                            "3 " + all + " 10000 200 1000 200 30s bench-results",
		"-scale -quick":                     "1 [50] 50 5 20 3 1s bench-results",
		"-scale -quick -rounds=2 -rest=2s":  "2 [50] 50 5 20 3 2s bench-results",
		"-scale -quick -sizes 7 -samples=1": "1 [7] 7 1 7 3 1s bench-results",
		"-scale -quick -daemons=0":          "1 [50] 50 5 20 0 1s bench-results",
		"-scale -sizes=300,20,300":          "3 [20 300] 300 200 300 200 30s bench-results",
		"-scale -sizes=64024,9999":          "3 [9999 64024] 9999 200 1000 200 30s bench-results",
		"-scale -sizes=20000 -out=/x":       "3 [20000] 20000 200 1000 200 30s /x",
	} {
		o, err := parseBench(strings.Fields(args))
		if err != nil {
			t.Errorf("%q: %v", args, err)
			continue
		}
		s := o.scale
		if got := fmt.Sprintf("%d %d %d %d %d %d %s %s", o.rounds, s.sizes, s.peers(), s.samples, s.changes, s.daemons, s.rest, o.out); got != want {
			t.Errorf("%q: %s, want %s", args, got, want)
		}
	}
}

// TestScaleHelp: every flag is explained, with its default.
func TestScaleHelp(t *testing.T) {
	o, err := parseBench([]string{"-scale"})
	if err != nil {
		t.Fatal(err)
	}
	sizes := strings.ReplaceAll(strings.Trim(fmt.Sprint(o.scale.sizes), "[]"), " ", ",")
	for _, want := range append([]string{"  -scale", sizes + ")", fmt.Sprintf("(default %d)", o.scale.samples), fmt.Sprintf("(default %d)", o.scale.daemons), fmt.Sprintf("(default %s)", o.scale.rest)}, scaleOnly...) {
		if !strings.Contains(benchUsage, want) {
			t.Errorf("the help has no %q", want)
		}
	}
}
