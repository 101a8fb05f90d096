package main

import (
	"errors"
	"flag"
	"fmt"
	"strings"
	"testing"
	"time"
)

func TestBenchBadFlags(t *testing.T) {
	for args, want := range map[string]string{
		"vxlan":                          `argument "vxlan": want flags only`,
		"-rouns=2":                       "-rouns",
		"-rounds":                        "-rounds",
		"-rounds=0":                      "-rounds 0: want 1 to 100",
		"-rounds=-1":                     "-rounds -1: want 1 to 100",
		"-rounds=101":                    "-rounds 101",
		"-rounds=many":                   `"many"`,
		"-time=2":                        "-time",
		"-time=-2s":                      "-time -2s: want 100ms to 60s",
		"-time=0s":                       "-time 0s",
		"-time=99ms":                     "-time 99ms",
		"-time=61s":                      "-time 1m1s",
		"-block=0":                       "-block 0: want 1 to 1024",
		"-block=1025":                    "-block 1025: want",
		"-block=64k":                     "-block",
		"-variants=":                     `-variants "": "": want some of underlay,vxlan,udp,udp-plain`,
		"-variants=,":                    `-variants ",": "": want some of`,
		"-variants=vxlan,ipip":           `"ipip": want some of underlay,vxlan,udp,udp-plain`,
		"-variants=vxlan,":               `-variants "vxlan,": "": want`,
		"-variants=VXLAN":                `"VXLAN": want`,
		"-tests=":                        `-tests "": "": want some of tcp-1,tcp-4,tcp-16,tcp-both,udp-64,udp-1400,latency`,
		"-tests=tcp-2":                   `"tcp-2": want some of tcp-1`,
		"-tests=latency,tcp":             `"tcp": want`,
		"-out=":                          `-out "": want a directory`,
		"-quick=maybe":                   "-quick",
		"-quick -rounds=0":               "-rounds 0",
		"-check -variants=vxlan":         "-check: none of the floors",
		"-check -tests=udp-1400":         "-check: none of the floors",
		"-check -variants=udp,underlay":  "-check: none of the floors",
		"-json=1s":                       "-json",
		"-keep":                          "-keep",
		"-rounds=2 -tests=latency extra": `argument "extra"`,
	} {
		var stdout, stderr strings.Builder
		status := run(t.Context(), append([]string{"bench"}, strings.Fields(args)...), &stdout, &stderr)
		if status != exitUsage || !strings.Contains(stderr.String(), want) || !strings.Contains(stderr.String(), "see: tweed bench -h") || stdout.Len() > 0 {
			t.Errorf("tweed bench %s: status %d, stdout %q, stderr %q; want %d and %q", args, status, stdout.String(), stderr.String(), exitUsage, want)
		}
	}
}

func TestBenchHelp(t *testing.T) {
	if _, err := parseBench([]string{"-h"}); !errors.Is(err, flag.ErrHelp) {
		t.Errorf("-h: %v", err)
	}
	for _, args := range []string{"bench -h", "bench -help", "help bench"} {
		var stdout, stderr strings.Builder
		if status := run(t.Context(), strings.Fields(args), &stdout, &stderr); status != exitOK || stdout.String() != benchUsage || stderr.Len() > 0 {
			t.Errorf("tweed %s: status %d, stdout %q, stderr %q", args, status, stdout.String(), stderr.String())
		}
	}
	for _, name := range append(names(benchVariants()), names(benchTests())...) {
		if !strings.Contains(benchUsage, name) {
			t.Errorf("the help does not know %s", name)
		}
	}
}

func TestBenchFlags(t *testing.T) {
	const all = "[underlay vxlan udp udp-plain] [tcp-1 tcp-4 tcp-16 tcp-both udp-64 udp-1400 latency] bench-results"
	for args, want := range map[string]string{
		"":                             "5 2s 500ms " + all,
		"-quick":                       "1 500ms 125ms " + all,
		"-quick -rounds 2":             "2 500ms 125ms " + all,
		"-quick -time=1s":              "1 1s 250ms " + all,
		"-check -tests tcp-1":          "5 2s 500ms [underlay vxlan udp udp-plain] [tcp-1] bench-results",
		"-rounds=100 -time=60s":        "100 1m0s 500ms " + all,
		"-variants=udp,vxlan,udp":      "5 2s 500ms [vxlan udp] [tcp-1 tcp-4 tcp-16 tcp-both udp-64 udp-1400 latency] bench-results",
		"-tests=latency,tcp-1 -out=/x": "5 2s 500ms [underlay vxlan udp udp-plain] [tcp-1 latency] /x",
	} {
		o, err := parseBench(strings.Fields(args))
		if got := fmt.Sprintf("%d %s %s %s %s %s", o.rounds, o.window, o.warmup(), names(o.variants), names(o.tests), o.out); err != nil || got != want {
			t.Errorf("%q: %s, %v, want %s", args, got, err, want)
		}
	}
}

// TestBenchTime: the default run stays below eight minutes, with half a second
// for what a measurement takes besides.
func TestBenchTime(t *testing.T) {
	for args, most := range map[string]time.Duration{"": 8 * time.Minute, "-quick": 45 * time.Second} {
		o, err := parseBench(strings.Fields(args))
		if err != nil {
			t.Fatal(err)
		}
		took := time.Duration(o.rounds*len(o.tests)*len(o.variants)) * (o.warmup() + o.window + 500*time.Millisecond)
		if took > most {
			t.Errorf("%q: %s, want at most %s", args, took, most)
		}
	}
}
