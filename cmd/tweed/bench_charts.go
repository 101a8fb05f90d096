package main

import (
	"fmt"
	"image/color"
	"math"
	"slices"
	"time"
)

// The plots of a result: what each shows. chart.go draws them.

// variantColours are those of Okabe and Ito, which the colour-blind can tell
// apart, in the order of benchVariants.
func variantColours() []color.Color {
	return []color.Color{
		color.RGBA{0x8c, 0x8c, 0x8c, 0xff}, // grey
		color.RGBA{0x00, 0x72, 0xb2, 0xff}, // blue
		color.RGBA{0xe6, 0x9f, 0x00, 0xff}, // orange
		color.RGBA{0x00, 0x9e, 0x73, 0xff}, // bluish green
	}
}

// charts returns the plots of the result, also those that are empty.
func charts(r *benchResult) []chart {
	tcp := []string{"tcp-1", "tcp-4", "tcp-16", "tcp-both"}
	list := []chart{
		{
			file: "throughput.svg", title: "TCP throughput", y: "Gbit/s, higher is better",
			series: perTest(r, tcp, bitsPerSecond, 1e-9), groups: testTitles(r, tcp),
		}, {
			file: "packets.svg", title: "UDP datagrams delivered", y: "1000 packets/s, higher is better",
			series: perTest(r, []string{"udp-64", "udp-1400"}, packetsPerSecond, 1e-3), groups: testTitles(r, []string{"udp-64", "udp-1400"}),
		}, {
			file: "latency.svg", title: "Round trip of 64 bytes in UDP, one request at a time", y: "µs (logarithmic), lower is better", log: true,
			series: perMetric(r, "latency", []string{p50, p99, p999}), groups: []string{"p50 (median)", "p99", "p99.9"},
		}, {
			file: "cpu.svg", title: "CPU time of the whole machine for 64 KiB over TCP", y: "CPU µs per 64 KiB (logarithmic), lower is better", log: true,
			series: perTest(r, tcp, cpuPer64K, 1), groups: testTitles(r, tcp),
		},
	}
	for i := range list {
		list[i].caption = captions(r)
	}
	return list
}

// testTitles returns those of the tests that were measured, as they stand on
// the axis.
func testTitles(r *benchResult, tests []string) []string {
	titles := map[string]string{
		"tcp-1": "1 stream", "tcp-4": "4 streams", "tcp-16": "16 streams", "tcp-both": "1 each way (sum)",
		"udp-64": "64 bytes", "udp-1400": "1400 bytes",
	}
	var list []string
	for _, name := range measuredOf(r, tests) {
		list = append(list, titles[name])
	}
	return list
}

func measuredOf(r *benchResult, tests []string) []string {
	return slices.DeleteFunc(slices.Clone(tests), func(name string) bool {
		return !slices.ContainsFunc(r.Tests, func(t testResult) bool { return t.Name == name })
	})
}

// perTest makes a series of each variant, with a value for each test.
func perTest(r *benchResult, tests []string, metric string, scale float64) []series {
	return perVariant(func(variant string) []interval {
		var list []interval
		for _, t := range measuredOf(r, tests) {
			list = append(list, newInterval(r.figures(t, variant)[metric], scale))
		}
		return list
	})
}

// perMetric makes a series of each variant, with a value for each metric.
func perMetric(r *benchResult, test string, metrics []string) []series {
	return perVariant(func(variant string) []interval {
		var list []interval
		for _, m := range metrics {
			list = append(list, newInterval(r.figures(test, variant)[m], 1))
		}
		return list
	})
}

// perVariant leaves out the variants without any value.
func perVariant(values func(variant string) []interval) []series {
	var list []series
	for i, v := range benchVariants() {
		s := series{name: v.name, colour: variantColours()[i], values: values(v.name)}
		if slices.ContainsFunc(s.values, interval.ok) {
			list = append(list, s)
		}
	}
	return list
}

// newInterval is not ok for a figure that was not measured.
func newInterval(f figure, scale float64) interval {
	if len(f.Rounds) == 0 {
		return interval{math.NaN(), math.NaN(), math.NaN()}
	}
	return interval{f.Median * scale, f.Min * scale, f.Max * scale}
}

// captions say what the figures depend on, in paragraphs.
func captions(r *benchResult) []string {
	m := r.Machine
	how := fmt.Sprintf("Median of %s of %s, whiskers from the lowest to the highest.", count(r.Options.Rounds, "round"), seconds(r.Options.Seconds))
	if r.Options.Quick {
		how = "A quick run, no proof. " + how
	}
	return []string{
		how,
		fmt.Sprintf("Both hosts and the load share %s, %s; Linux %s, %s, TCP %s; tweed %s; %.1f%% steal.",
			m.CPU, count(m.Cores, "core"), m.Kernel, m.Go, m.Congestion, m.Tweed, r.Steal),
		fmt.Sprintf("%s: %s", r.Start.Format(time.DateOnly), r.Command),
	}
}
