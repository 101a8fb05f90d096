package main

import (
	"slices"
)

// stats are the values of one figure, and what they come to.
type stats struct {
	Rounds []float64 `json:"rounds"` // the value of each round, in their order
	Median float64   `json:"median"` // of an even number, the mean of the two in the middle
	Min    float64   `json:"min"`
	Max    float64   `json:"max"`
	Spread float64   `json:"spread"` // (max - min) / median; 0 where the median is 0
}

// newStats returns zeros where there are no rounds.
func newStats(rounds []float64) stats {
	s := stats{Rounds: rounds}
	if len(rounds) == 0 {
		return s
	}
	sorted := slices.Sorted(slices.Values(rounds))
	n := len(sorted)
	s.Min, s.Max = sorted[0], sorted[n-1]
	s.Median = (sorted[(n-1)/2] + sorted[n/2]) / 2
	if s.Median != 0 {
		s.Spread = (s.Max - s.Min) / s.Median
	}
	return s
}

// ratios divides round by round, so that noise which hit both sides of a round
// cancels out. Rounds that only one side has are left out. It returns nil if
// there is no such round, or if in one of them base is zero.
func ratios(values, base []float64) *stats {
	n := min(len(values), len(base))
	if n == 0 || slices.Contains(base[:n], 0) {
		return nil
	}
	rounds := make([]float64, n)
	for i := range rounds {
		rounds[i] = values[i] / base[i]
	}
	s := newStats(rounds)
	return &s
}

// A floor is a ratio that must not be missed. One of AtLeast and AtMost is set.
type floor struct {
	Test    string  `json:"test"`
	Metric  string  `json:"metric"`
	Variant string  `json:"variant"`
	Base    string  `json:"base"` // the variant that is divided by
	AtLeast float64 `json:"at_least,omitempty"`
	AtMost  float64 `json:"at_most,omitempty"`

	Ratio *stats     `json:"ratio,omitempty"` // its median counts
	State floorState `json:"state"`
}

type floorState string

const (
	floorMet        floorState = "met"
	floorMissed     floorState = "missed"
	floorUnmeasured floorState = "not measured"
)

// benchFloors are the floors of the udp backend.
func benchFloors() []floor {
	return []floor{
		{Test: "tcp-1", Metric: bitsPerSecond, Variant: "udp", Base: "vxlan", AtLeast: 0.70},
		{Test: "tcp-4", Metric: bitsPerSecond, Variant: "udp", Base: "vxlan", AtLeast: 0.55},
		{Test: "tcp-1", Metric: cpuPer64K, Variant: "udp", Base: "vxlan", AtMost: 1.6},
		{Test: "udp-64", Metric: packetsPerSecond, Variant: "udp", Base: "vxlan", AtLeast: 2.3},
		{Test: "latency", Metric: p50, Variant: "udp", Base: "vxlan", AtMost: 1.8},
		{Test: "tcp-1", Metric: bitsPerSecond, Variant: "udp", Base: "udp-plain", AtLeast: 10},
		{Test: "tcp-4", Metric: bitsPerSecond, Variant: "udp", Base: "udp-plain", AtLeast: 10},
		{Test: "udp-64", Metric: packetsPerSecond, Variant: "udp", Base: "udp-plain", AtLeast: 3},
		{Test: "latency", Metric: p50, Variant: "udp", Base: "udp-plain", AtMost: 1.0},
	}
}

// judge says whether the ratio, nil if there is none, keeps to the floor. One
// that touches it does.
func (f floor) judge(ratio *stats) floor {
	if ratio == nil {
		f.State = floorUnmeasured
		return f
	}
	f.Ratio, f.State = ratio, floorMet
	if f.AtLeast != 0 && ratio.Median < f.AtLeast || f.AtMost != 0 && ratio.Median > f.AtMost {
		f.State = floorMissed
	}
	return f
}

// mean is 0 where there are no values.
func mean(values []float64) float64 {
	sum := 0.0
	for _, v := range values {
		sum += v
	}
	return sum / float64(max(1, len(values)))
}
