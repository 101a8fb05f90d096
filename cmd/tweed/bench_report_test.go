package main

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

// fixedResult has a result of tcp-1, udp-64 and latency, whose values grow by
// a tenth of the first in each round.
func fixedResult(t *testing.T, rounds int) *benchResult {
	t.Helper()
	o, err := parseBench([]string{"-tests=tcp-1,udp-64,latency"})
	if err != nil {
		t.Fatal(err)
	}
	o.rounds, o.command = rounds, "bin/tweed bench"
	r := newBenchResult(o)
	r.Start = time.Date(2026, 11, 23, 8, 0, 0, 0, time.UTC)
	r.End = r.Start.Add(7 * time.Minute)
	r.Machine = machine{CPU: "AMD EPYC", Cores: 2, Kernel: "6.18.44", Arch: "amd64", Go: "go1.26.8", Tweed: "v1.2.3", Congestion: "bbr"}
	r.Memory = []memoryResult{{"udp", "n1", 75 << 20}, {"udp", "n2", 0xa40000}}
	r.OK = true
	speed := map[string]float64{"underlay": 2, "vxlan": 1, "udp": 0.75, "udp-plain": 0.05}
	slow := map[string]float64{"underlay": 0.5, "vxlan": 1, "udp": 1.5, "udp-plain": 1.4}
	many := map[string]float64{"underlay": 2, "vxlan": 1, "udp": 2.5, "udp-plain": 0.8}
	for round := range rounds {
		grow := 1 + float64(round)/10*2
		for _, test := range o.tests {
			for _, v := range o.variants {
				r.add(test, v.name, sample{
					bitsPerSecond:    8e9 * speed[v.name] * grow,
					cpuPer64K:        80 * slow[v.name],
					retransmits:      float64(round),
					packetsPerSecond: 70000 * many[v.name],
					cpuPerPacket:     8 / many[v.name],
					lostPercent:      12.34,
					p50:              90 * slow[v.name],
					p99:              200 * slow[v.name],
					p999:             1500 * slow[v.name] * grow,
					stealPercent:     0.5,
				})
			}
		}
	}
	r.evaluate()
	return r
}

func TestBenchReport(t *testing.T) {
	const want = `Tweed bench: 3 rounds of 2s for each test and variant, one after the other
TCP writes and reads 64 KiB at once
Figures are the median of the rounds, and (lowest to highest)

== tcp-1: one TCP stream ==

  variant    throughput    lowest to highest      spread  / vxlan                 CPU/64 KiB  / vxlan  resent  steal
  underlay   19.20 Gbit/s  16.00 to 22.40 Gbit/s  33.3%   2.000 (2.000 to 2.000)  40.0 µs     0.500    1       0.5%
  vxlan      9.60 Gbit/s   8.00 to 11.20 Gbit/s   33.3%   1                       80.0 µs     1        1       0.5%
  udp        7.20 Gbit/s   6.00 to 8.40 Gbit/s    33.3%   0.750 (0.750 to 0.750)  120 µs      1.500    1       0.5%
  udp-plain  480 Mbit/s    400 to 560 Mbit/s      33.3%   0.050 (0.050 to 0.050)  112 µs      1.400    1       0.5%
  udp / udp-plain: throughput 15.000, CPU/64 KiB 1.071

== udp-64: datagrams of 64 bytes ==

  variant    delivered  lowest to highest  spread  / vxlan                 CPU/packet  / vxlan  lost   steal
  underlay   140 kpps   140 to 140 kpps    0.0%    2.000 (2.000 to 2.000)  4.00 µs     0.500    12.3%  0.5%
  vxlan      70.0 kpps  70.0 to 70.0 kpps  0.0%    1                       8.00 µs     1        12.3%  0.5%
  udp        175 kpps   175 to 175 kpps    0.0%    2.500 (2.500 to 2.500)  3.20 µs     0.400    12.3%  0.5%
  udp-plain  56.0 kpps  56.0 to 56.0 kpps  0.0%    0.800 (0.800 to 0.800)  10.0 µs     1.250    12.3%  0.5%
  udp / udp-plain: delivered 3.125, CPU/packet 0.320

== latency: 64 bytes there and back, one request at a time ==

  variant    p50      lowest to highest  spread  / vxlan                 p99     / vxlan  p99.9    / vxlan  lost  steal
  underlay   45.0 µs  45.0 to 45.0 µs    0.0%    0.500 (0.500 to 0.500)  100 µs  0.500    900 µs   0.500    0     0.5%
  vxlan      90.0 µs  90.0 to 90.0 µs    0.0%    1                       200 µs  1        1800 µs  1        0     0.5%
  udp        135 µs   135 to 135 µs      0.0%    1.500 (1.500 to 1.500)  300 µs  1.500    2700 µs  1.500    0     0.5%
  udp-plain  126 µs   126 to 126 µs      0.0%    1.400 (1.400 to 1.400)  280 µs  1.400    2520 µs  1.400    0     0.5%
  udp / udp-plain: p50 1.071, p99 1.071, p99.9 1.071

== Most memory that each flanneld has used ==

  variant  host  resident
  udp      n1    75.0 MiB
  udp      n2    10.2 MiB

== Floors ==

  ratio            test     of          wanted          measured                   result
  udp / vxlan      tcp-1    throughput  at least 0.70   0.750 (0.750 to 0.750)     met
  udp / vxlan      tcp-4    throughput  at least 0.55   -                          not measured
  udp / vxlan      tcp-1    CPU/64 KiB  at most 1.60    1.500 (1.500 to 1.500)     met
  udp / vxlan      udp-64   delivered   at least 2.30   2.500 (2.500 to 2.500)     met
  udp / vxlan      latency  p50         at most 1.80    1.500 (1.500 to 1.500)     met
  udp / udp-plain  tcp-1    throughput  at least 10.00  15.000 (15.000 to 15.000)  met
  udp / udp-plain  tcp-4    throughput  at least 10.00  -                          not measured
  udp / udp-plain  udp-64   delivered   at least 3.00   3.125 (3.125 to 3.125)     met
  udp / udp-plain  latency  p50         at most 1.00    1.071 (1.071 to 1.071)     MISSED

== Where and when ==

  machine   AMD EPYC, 2 cores, amd64
  software  Linux 6.18.44, go1.26.8, tweed v1.2.3
  TCP       bbr
  steal     0.5% of all processors, on average
  date      2026-11-23T08:00:00Z, took 7m0s
  command   bin/tweed bench
`
	var b strings.Builder
	reportBench(&b, fixedResult(t, 3))
	if got := b.String(); got != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
}

// TestBenchReportPartly: one quick round of some variants, cut short.
func TestBenchReportPartly(t *testing.T) {
	o, err := parseBench([]string{"-quick", "-tests=tcp-both,udp-64", "-variants=underlay,udp"})
	if err != nil {
		t.Fatal(err)
	}
	r := newBenchResult(o)
	r.add(o.tests[0], "underlay", sample{bitsPerSecond: 1e9, bitsPerSecBack: 4e8, cpuPer64K: 12})
	r.Error = "it broke"
	r.evaluate()
	var b strings.Builder
	reportBench(&b, r)
	for _, text := range []string{"1 round of 500ms", "It FAILED.", "no proof", "  underlay  1.00 Gbit/s  400 Mbit/s  12.0 µs     0       0.0%\n", "not measured"} {
		if !strings.Contains(b.String(), text) {
			t.Errorf("no %q in:\n%s", text, b.String())
		}
	}
	for _, text := range []string{"udp-64: datagrams", "lowest to highest", "Most memory", "NaN", "MISSED"} {
		if strings.Contains(b.String(), text) {
			t.Errorf("%q in:\n%s", text, b.String())
		}
	}
}

func TestBenchJSON(t *testing.T) {
	want := fixedResult(t, 3)
	want.Error, want.Logs = "it broke", "/tmp/x"
	var b bytes.Buffer
	if err := writeJSON(&b, want); err != nil {
		t.Fatal(err)
	}
	d := json.NewDecoder(&b)
	d.DisallowUnknownFields()
	var got benchResult
	if err := d.Decode(&got); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(&got, want) {
		t.Errorf("got  %+v\nwant %+v", &got, want)
	}
}

// TestBenchFiles: what was measured is plotted, and a plot of an earlier run is
// not left beside it.
func TestBenchFiles(t *testing.T) {
	dir := t.TempDir()
	all := []string{"bench.json", "cpu.svg", "latency.svg", "packets.svg", "throughput.svg"}
	if _, err := writeResults(dir, fixedResult(t, 3)); err != nil {
		t.Fatal(err)
	}
	if got := list(t, dir); !slices.Equal(got, all) {
		t.Fatalf("%q, want %q", got, all)
	}
	for _, name := range all[1:] {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		texts := svgTexts(t, name, b)
		for _, want := range []string{"underlay", "vxlan", "udp", "udp-plain", "2026-11-23: bin/tweed bench", "better"} {
			if !strings.Contains(texts, want) {
				t.Errorf("%s: no %q in:\n%s", name, want, texts)
			}
		}
		if bytes.Contains(b, []byte("NaN")) || bytes.Contains(b, []byte("Inf")) {
			t.Errorf("%s: a mark is nowhere:\n%s", name, b)
		}
	}

	// A run that was cut short has bars of some variants only.
	r := fixedResult(t, 2)
	r.Tests = append(r.Tests, testResult{Name: "tcp-4", Variants: r.Tests[0].Variants[:1]})
	if _, err := writeResults(dir, r); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(filepath.Join(dir, "throughput.svg")); err != nil || bytes.Contains(b, []byte("NaN")) {
		t.Errorf("%v, a mark is nowhere:\n%s", err, b)
	}

	o, err := parseBench([]string{"-tests=udp-64", "-variants=udp"})
	if err != nil {
		t.Fatal(err)
	}
	r = newBenchResult(o)
	r.add(o.tests[0], "udp", sample{}) // nothing but zeros
	r.evaluate()
	written, err := writeResults(dir, r)
	if got := list(t, dir); err != nil || !slices.Equal(got, []string{"bench.json", "packets.svg"}) || len(written) != 2 {
		t.Errorf("%q, %q, %v", got, written, err)
	}
}

func TestBenchFilesFail(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "none")
	written, err := writeResults(dir, fixedResult(t, 1))
	if !errors.Is(err, os.ErrNotExist) || len(written) > 0 || !strings.Contains(err.Error(), "write "+dir+"/bench.json") || !strings.Contains(err.Error(), "cpu.svg") {
		t.Errorf("%q, %v", written, err)
	}
}

func list(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// svgTexts insists on well-formed XML, and returns its texts a line each.
func svgTexts(t *testing.T, name string, b []byte) string {
	t.Helper()
	var texts strings.Builder
	d := xml.NewDecoder(bytes.NewReader(b))
	for root := true; ; {
		token, err := d.Token()
		if err == io.EOF {
			return texts.String()
		}
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		switch x := token.(type) {
		case xml.StartElement:
			if root && x.Name.Local != "svg" {
				t.Errorf("%s: root element %s", name, x.Name.Local)
			}
			root = false
		case xml.CharData:
			if s := strings.TrimSpace(string(x)); s != "" {
				texts.WriteString(s + "\n")
			}
		}
	}
}

func TestWrapText(t *testing.T) {
	fits := func(s string) bool { return len(s) <= 8 }
	for text, want := range map[string][]string{
		"":                     {""},
		"one":                  {"one"},
		"one two":              {"one two"},
		"one  two three":       {"one two", "three"},
		"a 123456789012 b":     {"a", "12345678", "9012 b"},
		"12345678 12345678 90": {"12345678", "12345678", "90"},
	} {
		if got := wrapText(text, fits); !slices.Equal(got, want) {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
	if got := wrapText("ab c", func(string) bool { return false }); !slices.Equal(got, []string{"a", "b", "c"}) {
		t.Errorf("no room: %q", got)
	}
}

func TestLinearTicks(t *testing.T) {
	for high, want := range map[float64]string{
		1:       "0 0.2 0.4 0.6 0.8 1",
		3.4:     "0 0.5 1 1.5 2 2.5 3",
		3.6:     "0 1 2 3",
		9.99:    "0 1 2 3 4 5 6 7 8 9",
		27.4:    "0 5 10 15 20 25",
		199:     "0 50 100 150",
		0.0123:  "0 0.002 0.004 0.006 0.008 0.01 0.012",
		3400000: "0 500000 1e+06 1.5e+06 2e+06 2.5e+06 3e+06",
	} {
		var labels []string
		for _, tick := range linearTicks(0, high) {
			labels = append(labels, tick.Label)
		}
		if got := strings.Join(labels, " "); got != want {
			t.Errorf("to %g: %s, want %s", high, got, want)
		}
	}
}

func TestLogTicks(t *testing.T) {
	var labels []string
	ticks := logTicks(40, 1100)
	for _, tick := range ticks {
		if tick.Value < 40 || tick.Value > 1100 {
			t.Errorf("tick at %g", tick.Value)
		}
		if tick.Label != "" {
			labels = append(labels, tick.Label)
		}
	}
	if got := strings.Join(labels, " "); got != "50 100 200 500 1000" || len(ticks) != 16 {
		t.Errorf("%s, %d ticks", got, len(ticks))
	}
}

// TestSpan: an axis has a positive length, and a logarithmic one no zero.
func TestSpan(t *testing.T) {
	for _, log := range []bool{false, true} {
		for _, values := range [][]interval{
			{{0, 0, 0}},
			{{5, 5, 5}},
			{{math.NaN(), math.NaN(), math.NaN()}, {5, 1, 9}},
			{{50, 0, 90}},
		} {
			c := chart{log: log, series: []series{{values: values}}}
			low, high := c.span()
			if !(low < high) || log && low <= 0 || high < values[len(values)-1].max {
				t.Errorf("%v, log %t: %g to %g", values, log, low, high)
			}
		}
	}
}

func TestBenchFormats(t *testing.T) {
	for got, want := range map[string]string{
		shortTime(0.1234):  "0.12 µs",
		shortTime(9.996):   "10.0 µs",
		shortTime(99.94):   "99.9 µs",
		shortTime(99.96):   "100 µs",
		shortTime(12345):   "12345 µs",
		packetRate(123):    "0.1 kpps",
		packetRate(99940):  "99.9 kpps",
		packetRate(181499): "181 kpps",
		percent(3.14159):   "3.1%",
		ratioText(nil):     "-",
		ratioText(&stats{Rounds: []float64{2}, Median: 2}):                              "2.000",
		ratioText(&stats{Rounds: []float64{2, 0.05}, Median: 1, Min: 0.05, Max: 12.34}): "1.000 (0.050 to 12.340)",
		count(1, "core") + count(2, "core"):                                             "1 core2 cores",
		threeDigits(0.234):                                                              "0.23",
		threeDigits(9.996):                                                              "10.0",
		threeDigits(1234.5):                                                             "1234",
		progressText(0, 28, time.Second):                                                "0%",
		progressText(7, 28, 10*time.Second):                                             "25%, about 30s left",
		progressText(27, 28, 27*time.Second):                                            "96%, about 1s left",
		strings.Join(spreadCells(newStats([]float64{999, 1001}), bitRate), "|"):         "999 bit/s to 1 kbit/s|0.2%",
		strings.Join(spreadCells(newStats([]float64{2e9, 3e9}), bitRate), "|"):          "2.00 to 3.00 Gbit/s|40.0%",
		strings.Join(spreadCells(newStats([]float64{50, 150}), shortTime), "|"):         "50.0 to 150 µs|100.0%",
	} {
		if got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
