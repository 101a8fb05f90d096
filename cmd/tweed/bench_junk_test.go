package main

import (
	"bytes"
	"net/netip"
	"strings"
	"testing"

	"tweed/dataplane"
)

var someVictim = victim{
	addr: netip.MustParseAddrPort("20.0.0.3:8285"),
	pod:  netip.MustParseAddr("10.6.3.2"), peer: netip.MustParseAddr("10.6.2.2"), nowhere: netip.MustParseAddr("10.6.254.9"),
}

// Each kind is what its name says: what the forwarder would see of it.
func TestJunkKinds(t *testing.T) {
	want := map[string]dataplane.Reason{
		"empty": dataplane.Truncated, "byte": dataplane.Truncated, "garbage": dataplane.NotIPv4, "large": dataplane.NotIPv4,
	}
	for _, k := range junkKinds() {
		for _, p := range k.payloads(someVictim) {
			ip, reason := dataplane.ParseIPv4(p)
			if reason != want[k.name] {
				t.Errorf("%s: %v: % x", k.name, reason, p)
			}
			if k.raw {
				if ip.Dst() != someVictim.addr.Addr() || len(ip) != len(p) {
					t.Errorf("%s: % x", k.name, p)
				}
				if ip, reason = dataplane.ParseIPv4(p[28:]); reason != dataplane.NotDropped || len(ip) != len(p)-28 {
					t.Errorf("%s: inside: %v: % x", k.name, reason, p)
				}
			}
			dst := map[string]netip.Addr{"martian": someVictim.pod, "foreign": someVictim.pod, "spoofed": someVictim.pod, "nowhere": someVictim.nowhere}[k.name]
			if dst.IsValid() && ip.Dst() != dst {
				t.Errorf("%s: to %s, want %s", k.name, ip.Dst(), dst)
			}
		}
		if !strings.Contains(junkUsage, "  "+k.name+" ") {
			t.Errorf("no %s in the help", k.name)
		}
	}
}

func TestJunkFlags(t *testing.T) {
	for args, want := range map[string]string{
		"-junk -kinds=empty,foo":   `"foo": want some of empty,byte`,
		"-junk -kinds=":            "want some of",
		"-junk -rounds=0":          "-rounds 0: want 1 to 100",
		"-junk -time=1ms":          "-time 1ms: want 100ms",
		"-junk -variants=udp":      "-variants",
		"-junk extra":              `argument "extra"`,
		"-rounds=3 --junk -quick=": "-quick",
	} {
		var stdout, stderr strings.Builder
		status := run(t.Context(), append([]string{"bench"}, strings.Fields(args)...), &stdout, &stderr)
		if status != exitUsage || !strings.Contains(stderr.String(), want) || stdout.Len() > 0 {
			t.Errorf("tweed bench %s: %d, %q, want %q", args, status, stderr.String(), want)
		}
	}
	var stdout, stderr strings.Builder
	if status := run(t.Context(), []string{"bench", "-junk", "-h"}, &stdout, &stderr); status != exitOK || stdout.String() != junkUsage {
		t.Errorf("-h: %d, %q", status, stderr.String())
	}
	if o, err := parseJunk([]string{"-junk", "-quick", "-kinds=byte", "-check"}); err != nil || !o.check || o.rounds != quickRounds || o.window != quickWindow || len(o.kinds) != 1 {
		t.Errorf("%+v, %v", o, err)
	}
}

// Half is enough, less is not, and quiet and sink are not judged.
func TestJunkFloor(t *testing.T) {
	r := newJunkResult(junkOptions{})
	for range 3 {
		r.add(junkKind{name: junkQuiet}, sample{bitsPerSecond: 100}, 0)
		r.add(junkKind{name: junkSink}, sample{bitsPerSecond: 40}, 1e5)
		r.add(junkKind{name: "byte"}, sample{bitsPerSecond: 50}, 1e5)
	}
	r.evaluate()
	if r.missed() || r.flood("byte").State != floorMet || r.flood("byte").VsSink.Median != 1.25 || r.flood("byte").VsQuiet.Median != 0.5 || r.flood(junkSink).State != "" {
		t.Errorf("%+v", r.Floods)
	}
	r = newJunkResult(junkOptions{})
	r.add(junkKind{name: junkQuiet}, sample{bitsPerSecond: 100}, 0)
	r.add(junkKind{name: junkSink}, sample{bitsPerSecond: 90}, 1e5)
	r.add(junkKind{name: "byte"}, sample{bitsPerSecond: 49}, 1e5)
	r.evaluate()
	var text bytes.Buffer
	reportJunk(&text, r)
	if !r.missed() || !strings.Contains(text.String(), "MISSED") {
		t.Errorf("%s", text.String())
	}
}
