package main

import (
	"math"
	"slices"
	"testing"
)

func TestStats(t *testing.T) {
	for _, tc := range []struct {
		rounds []float64
		want   stats // without Rounds
	}{
		{nil, stats{}},
		{[]float64{7}, stats{Median: 7, Min: 7, Max: 7}},
		{[]float64{4, 2}, stats{Median: 3, Min: 2, Max: 4, Spread: 2.0 / 3}},
		{[]float64{9, 1, 5}, stats{Median: 5, Min: 1, Max: 9, Spread: 1.6}},
		{[]float64{8, 2, 4, 100}, stats{Median: 6, Min: 2, Max: 100, Spread: 98.0 / 6}},
		{[]float64{0, 0, 3}, stats{Median: 0, Min: 0, Max: 3}},
		{[]float64{0, 0}, stats{}},
	} {
		before := slices.Clone(tc.rounds)
		got := newStats(tc.rounds)
		if !slices.Equal(got.Rounds, before) {
			t.Errorf("%v: the order of the rounds has become %v", before, got.Rounds)
		}
		if got.Median != tc.want.Median || got.Min != tc.want.Min || got.Max != tc.want.Max || math.Abs(got.Spread-tc.want.Spread) > 1e-12 {
			t.Errorf("%v: %+v, want %+v", before, got, tc.want)
		}
	}
}

func TestRatios(t *testing.T) {
	for _, tc := range []struct {
		values, base []float64
		want         []float64 // nil for no ratio
		median       float64
	}{
		{nil, nil, nil, 0},
		{[]float64{1}, nil, nil, 0},
		{nil, []float64{1}, nil, 0},
		{[]float64{6}, []float64{3}, []float64{2}, 2},
		// Round by round: the ratio of the medians would be 1.
		{[]float64{1, 20, 300}, []float64{2, 10, 600}, []float64{0.5, 2, 0.5}, 0.5},
		{[]float64{4, 6}, []float64{2, 2}, []float64{2, 3}, 2.5},
		{[]float64{0, 6}, []float64{2, 2}, []float64{0, 3}, 1.5},
		{[]float64{1, 1}, []float64{1, 0}, nil, 0},
		{[]float64{0}, []float64{0}, nil, 0},
		// A round that failed half-way does not count.
		{[]float64{4, 6}, []float64{2, 2, 0}, []float64{2, 3}, 2.5},
		{[]float64{4, 6, 9}, []float64{2}, []float64{2}, 2},
	} {
		got := ratios(tc.values, tc.base)
		if (got == nil) != (tc.want == nil) || got != nil && (!slices.Equal(got.Rounds, tc.want) || got.Median != tc.median) {
			t.Errorf("%v / %v: %+v, want %v, median %g", tc.values, tc.base, got, tc.want, tc.median)
		}
	}
}

func TestJudge(t *testing.T) {
	for _, tc := range []struct {
		f     floor
		ratio float64 // NaN for none
		want  floorState
	}{
		{floor{AtLeast: 0.7}, 0.7, floorMet},
		{floor{AtLeast: 0.7}, 0.8, floorMet},
		{floor{AtLeast: 0.7}, math.Nextafter(0.7, 0), floorMissed},
		{floor{AtLeast: 0.7}, 0, floorMissed},
		{floor{AtMost: 1}, 1, floorMet},
		{floor{AtMost: 1}, 0.2, floorMet},
		{floor{AtMost: 1}, math.Nextafter(1, 2), floorMissed},
		{floor{AtLeast: 0.7}, math.NaN(), floorUnmeasured},
		{floor{AtMost: 1}, math.NaN(), floorUnmeasured},
	} {
		var ratio *stats
		if !math.IsNaN(tc.ratio) {
			ratio = &stats{Median: tc.ratio}
		}
		if got := tc.f.judge(ratio); got.State != tc.want {
			t.Errorf("%g for %+v: %s, want %s", tc.ratio, tc.f, got.State, tc.want)
		}
	}
}

// TestFloors: each is about a test, a metric of it and variants that there are,
// and bounds one side.
func TestFloors(t *testing.T) {
	for _, f := range benchFloors() {
		tests, err := choose("tests", f.Test, benchTests())
		if err != nil {
			t.Error(err)
			continue
		}
		if !slices.ContainsFunc(tests[0].metrics(), func(m metric) bool { return m.name == f.Metric && m.ratio }) {
			t.Errorf("%+v: the test has no such ratio", f)
		}
		if _, err := choose("variants", f.Variant+","+f.Base, benchVariants()); err != nil {
			t.Error(err)
		}
		if (f.AtLeast > 0) == (f.AtMost > 0) || f.State != "" {
			t.Errorf("%+v: want one bound, and no state", f)
		}
	}
}

// TestMetrics: what the tables show is what the tests measure.
func TestMetrics(t *testing.T) {
	for _, test := range benchTests() {
		for _, m := range test.metrics() {
			if m.name == "" || m.unit == "" {
				t.Errorf("%s: metric %+v", test.name, m)
			}
		}
		for _, c := range test.columns() {
			if !slices.Contains(test.metrics(), metricNamed(c.metric)) {
				t.Errorf("%s: a column of %s, which is not measured", test.name, c.metric)
			}
			if c.ratio && !metricNamed(c.metric).ratio {
				t.Errorf("%s: a ratio of %s, which there is none of", test.name, c.metric)
			}
		}
	}
}

// TestEvaluate: the samples of two rounds become figures, ratios and floors.
func TestEvaluate(t *testing.T) {
	r := fixedResult(t, 2)
	f := r.figures("tcp-1", "udp")[bitsPerSecond]
	if f.Unit != "bit/s" || len(f.Rounds) != 2 || f.Median != 6.6e9 || f.VsVXLAN == nil || f.VsPlain == nil {
		t.Fatalf("%+v", f)
	}
	if got := f.VsVXLAN.Median; math.Abs(got-0.75) > 1e-9 {
		t.Errorf("ratio to vxlan %g, want 0.75", got)
	}
	if f := r.figures("tcp-1", "vxlan")[bitsPerSecond]; f.VsVXLAN != nil || f.VsPlain != nil {
		t.Errorf("vxlan is compared: %+v", f)
	}
	if f := r.figures("udp-64", "udp")[lostPercent]; f.VsVXLAN != nil || f.VsPlain != nil {
		t.Errorf("lost packets are compared: %+v", f)
	}
	if math.Abs(r.Steal-0.5) > 1e-9 {
		t.Errorf("steal %g, want 0.5", r.Steal)
	}
	states := map[floorState]int{}
	for _, f := range r.Floors {
		states[f.State]++
	}
	// tcp-4 is not in the result; the latency against udp-plain is worse.
	if states[floorMissed] != 1 || states[floorUnmeasured] != 2 || states[floorMet] != 6 || !r.missed() {
		t.Errorf("floors: %+v", r.Floors)
	}
}
