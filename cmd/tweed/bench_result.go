package main

import (
	"slices"
	"time"
)

// benchSchema is the version of the form of bench.json.
const benchSchema = 1

// benchResult is what bench.json holds and -json prints.
type benchResult struct {
	runResult
	Options optionsResult  `json:"options"`
	Steal   float64        `json:"steal_percent"` // of all processors, over all measurements
	Tests   []testResult   `json:"tests"`
	Memory  []memoryResult `json:"memory"`
	Floors  []floor        `json:"floors"`
}

// machine is what the figures depend on.
type machine struct {
	CPU        string `json:"cpu"` // model
	Cores      int    `json:"cores"`
	Kernel     string `json:"kernel"` // release, as uname -r
	Arch       string `json:"arch"`   // as GOARCH
	Go         string `json:"go"`     // version that tweed was built with
	Tweed      string `json:"tweed"`  // version
	Congestion string `json:"congestion_control"`
}

type optionsResult struct {
	Quick    bool     `json:"quick"` // such a run is no proof
	Rounds   int      `json:"rounds"`
	Seconds  float64  `json:"window_seconds"`
	Block    int      `json:"tcp_block_bytes"` // written and read at once
	Warmup   float64  `json:"warmup_seconds"`  // before each window, not measured
	Variants []string `json:"variants"`
	Tests    []string `json:"tests"`
}

type testResult struct {
	Name     string          `json:"name"`
	Variants []variantResult `json:"variants"`
}

type variantResult struct {
	Name    string            `json:"name"`
	Metrics map[string]figure `json:"metrics"` // those of testKind.metrics
}

// figure is one metric of one variant, and how it compares to others.
type figure struct {
	Unit string `json:"unit"`
	stats
	VsVXLAN *stats `json:"vs_vxlan,omitempty"`     // ratio to vxlan, round by round
	VsPlain *stats `json:"vs_udp_plain,omitempty"` // the same to udp-plain
}

// memoryResult is the most memory that a daemon has used.
type memoryResult struct {
	Variant string `json:"variant"`
	Host    string `json:"host"`
	Bytes   int64  `json:"peak_rss_bytes"`
}

func newBenchResult(o benchOptions) *benchResult {
	return &benchResult{
		runResult: runResult{Schema: benchSchema, Command: o.command, Start: now()},
		Options: optionsResult{
			Quick:    o.quick,
			Rounds:   o.rounds,
			Seconds:  o.window.Seconds(),
			Block:    o.block << 10,
			Warmup:   o.warmup().Seconds(),
			Variants: names(o.variants),
			Tests:    names(o.tests),
		},
	}
}

// now is the time as JSON will give it back.
func now() time.Time { return time.Now().UTC().Truncate(time.Second) }

// figures returns the metrics of a test over a variant; nil if there are none.
func (r *benchResult) figures(test, variant string) map[string]figure {
	for _, t := range r.Tests {
		if t.Name != test {
			continue
		}
		for _, v := range t.Variants {
			if v.Name == variant {
				return v.Metrics
			}
		}
	}
	return nil
}

// add takes in the sample of the next round.
func (r *benchResult) add(test benchTest, variant string, s sample) {
	i := slices.IndexFunc(r.Tests, func(t testResult) bool { return t.Name == test.name })
	if i < 0 {
		i = len(r.Tests)
		r.Tests = append(r.Tests, testResult{Name: test.name})
	}
	t := &r.Tests[i]
	if !slices.ContainsFunc(t.Variants, func(v variantResult) bool { return v.Name == variant }) {
		t.Variants = append(t.Variants, variantResult{Name: variant, Metrics: make(map[string]figure)})
	}
	figures := r.figures(test.name, variant)
	for _, m := range test.metrics() {
		f := figures[m.name]
		f.Unit, f.Rounds = m.unit, append(f.Rounds, s[m.name])
		figures[m.name] = f
	}
}

// evaluate fills in all that follows from the values of the rounds.
func (r *benchResult) evaluate() {
	var steal []float64
	for _, t := range r.Tests {
		for _, v := range t.Variants {
			for name, f := range v.Metrics {
				f.stats = newStats(f.Rounds)
				if metricNamed(name).ratio && v.Name != "vxlan" {
					f.VsVXLAN = ratios(f.Rounds, r.figures(t.Name, "vxlan")[name].Rounds)
				}
				if metricNamed(name).ratio && v.Name == "udp" {
					f.VsPlain = ratios(f.Rounds, r.figures(t.Name, "udp-plain")[name].Rounds)
				}
				v.Metrics[name] = f
				if name == stealPercent {
					steal = append(steal, f.Rounds...)
				}
			}
		}
	}
	r.Steal = mean(steal)
	r.Floors = nil
	for _, f := range benchFloors() {
		base := r.figures(f.Test, f.Base)[f.Metric].Rounds
		r.Floors = append(r.Floors, f.judge(ratios(r.figures(f.Test, f.Variant)[f.Metric].Rounds, base)))
	}
}

// missed reports whether a floor was measured and missed.
func (r *benchResult) missed() bool {
	return slices.ContainsFunc(r.Floors, func(f floor) bool { return f.State == floorMissed })
}
