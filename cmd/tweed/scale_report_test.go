package main

import (
	"encoding/xml"
	"errors"
	"io"
	"os"
	"strings"
	"testing"
	"time"
)

// fixedScale has a result of everything, whose limits are met but for two.
func fixedScale(t *testing.T) *scaleResult {
	t.Helper()
	o, err := parseBench([]string{"-scale", "-rounds=2", "-sizes=10000,50000"})
	if err != nil {
		t.Fatal(err)
	}
	o.command = "bin/tweed bench -scale"
	r := newScaleResult(o)
	r.Start = time.Date(2026, 11, 23, 8, 0, 0, 0, time.UTC)
	r.End = r.Start.Add(4 * time.Minute)
	r.Machine = machine{CPU: "AMD EPYC", Cores: 2, Kernel: "6.18.44", Arch: "amd64", Go: "go1.26.8", Tweed: "v1.2.3"}
	for _, size := range o.scale.sizes {
		s := startResult{Leases: size}
		for round := range o.rounds {
			s.add(startSample{
				took: time.Duration(size) * time.Duration(8+2*round) * 10 * time.Microsecond, cpu: time.Duration(size) * 60 * time.Microsecond,
				peak: int64(size) * 4000, asked: etcdCounts{Polls: 1, Lists: 2, Others: 2, ListBytes: int64(size) * 500, ListTime: time.Duration(size) * 4 * time.Microsecond},
				early: round,
			})
		}
		r.Starts = append(r.Starts, s)
	}
	r.Changes = &changesResult{
		Peers: 10000, Changed: 1000, EventBytes: 500,
		Added: percentiles{200, 2, 31, 40}, Removed: percentiles{200, 3, 4, 5}, Written: percentiles{200, 0.2, 0.3, 0.4}, CPU: percentiles{200, 1, 1.5, 6},
		SinceLast: newStats([]float64{100, 140}), SinceFirst: newStats([]float64{150, 190}), Writing: newStats([]float64{50, 50}),
	}
	r.Rest = &restResult{
		Peers: 10000, Relist: newStats([]float64{40, 44}), ListBytes: 2500000, EtcdListSeconds: 0.04, Seconds: 30,
		Idle: &idleResult{CPUPercent: 0.123, Requests: 1}, Disconnected: &idleResult{CPUPercent: 1.01},
	}
	r.Crowds = []crowdResult{
		{Daemons: 100, Median: 0.5, Last: 1, Settled: 1.5, Asked: etcdCounts{Polls: 4000, PollBytes: 2e6, Lists: 210, ListBytes: 1e6, Others: 220}, EtcdCPUSeconds: 0.5, CPUSeconds: 4, MemoryBytes: 5e8},
		{Daemons: 200, Median: 1, Last: 2, Settled: 3, Asked: etcdCounts{Polls: 15000, PollBytes: 8e6, Lists: 410, ListBytes: 4e6, Others: 590}, EtcdCPUSeconds: 1.6, CPUSeconds: 9, MemoryBytes: 1e9},
	}
	r.OK = true
	r.evaluate()
	return r
}

func TestScaleReport(t *testing.T) {
	const golden = "testdata/scale.txt"
	var b strings.Builder
	reportScale(&b, fixedScale(t))
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if b.String() != string(want) {
		t.Errorf("got:\n%s\nwant %s", b.String(), golden)
	}
}

// TestScaleReportParts: of a run that has failed early there is little, and of
// a quick one it is said that it is no proof.
func TestScaleReportParts(t *testing.T) {
	o, err := parseBench([]string{"-scale", "-quick"})
	if err != nil {
		t.Fatal(err)
	}
	r := newScaleResult(o)
	r.Error = "no luck"
	r.Starts = []startResult{{Leases: 50}}
	r.Changes, r.Rest = &changesResult{Peers: 50}, &restResult{Peers: 50}
	r.evaluate()
	if r.missed() || r.Outlook != nil {
		t.Errorf("%+v", r)
	}
	var b strings.Builder
	reportScale(&b, r)
	for _, want := range []string{"It FAILED.", "A quick run", "  50      -     -    ", "start, 50000 leases", "not measured"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in:\n%s", want, b.String())
		}
	}
	for _, c := range scaleCharts(r) {
		if !c.empty() {
			t.Errorf("%s is not empty", c.file)
		}
	}
}

// TestScaleLimits: a figure that touches its limit keeps to it, and none is
// judged by figures of another size.
func TestScaleLimits(t *testing.T) {
	r := fixedScale(t)
	want := map[string]floorState{
		"start, 10000 leases": floorMet, "its peak memory": floorMet, "its CPU time": floorMet, "start, 50000 leases": floorMet,
		"one new lease in force, p99": floorMissed, "1000 changed leases in force": floorMet,
		"CPU time of a list without news": floorMet, "CPU at rest": floorMet, "CPU without etcd": floorMissed,
	}
	for _, l := range r.Limits {
		if l.State != want[l.What] || l.Measured == nil {
			t.Errorf("%s: %+v, want %s", l.What, l, want[l.What])
		}
	}
	if len(r.Limits) != len(want) || !r.missed() {
		t.Errorf("%d limits, missed %t", len(r.Limits), r.missed())
	}
	for i, l := range r.Limits {
		for measured, want := range map[float64]floorState{l.AtMost: floorMet, l.AtMost * 1.001: floorMissed} {
			l.Measured = &measured
			if l.judge(); l.State != want {
				t.Errorf("limit %d with %g: %s, want %s", i, measured, l.State, want)
			}
		}
	}
	r.Starts[0].Leases, r.Starts[1].Leases, r.Changes.Peers, r.Rest.Peers = 9999, 49999, 9999, 9999
	r.evaluate()
	for _, l := range r.Limits {
		if l.State != floorUnmeasured || l.Measured != nil {
			t.Errorf("%s: %+v of another size", l.What, l)
		}
	}
	r.Changes.Peers, r.Changes.Changed = 10000, 999
	r.evaluate()
	if r.Limits[4].State != floorMissed || r.Limits[5].State != floorUnmeasured {
		t.Errorf("%+v", r.Limits[4:6])
	}
}

func TestOutlook(t *testing.T) {
	r := fixedScale(t)
	o := r.Outlook
	if o == nil {
		t.Fatal("none")
	}
	for name, v := range map[string][2]float64{
		"list":         {o.ListBytes, 65536 * 250},
		"peak":         {o.PeakBytes, 65536 * 4000},
		"start":        {o.Seconds, 65536 * 90e-6},
		"renewals":     {o.Renewals, 65536.0 / 82800},
		"events":       {o.Events, 65536.0 / 82800 * 65535},
		"event bytes":  {o.EventBytes, 65536.0 / 82800 * 65535 * 500},
		"polls":        {o.Polls, 65536.0 / 45},
		"lists":        {o.Lists, 65536.0 / 3000},
		"list traffic": {o.ListTraffic, 65536.0 / 3000 * 65536 * 250},
		"etcd":         {o.EtcdCores, (65536.0/82800*65535 + 65536.0/45) * 1e-4},
		"etcd's lists": {o.EtcdLists, 65536.0 / 3000 * 65536 * 4e-6},
	} {
		if got, want := v[0], v[1]; got < want*0.999 || got > want*1.001 {
			t.Errorf("%s: %g, want %g", name, got, want)
		}
	}
	r.Crowds = r.Crowds[:0]
	if o := newOutlook(r); o == nil || o.EtcdCores != 0 {
		t.Errorf("without a crowd: %+v", o)
	}
	r.Starts[1].Leases = 9999
	if o := newOutlook(r); o != nil {
		t.Errorf("from 9999: %+v", o)
	}
}

func TestPercentiles(t *testing.T) {
	var values []float64
	for v := 200.0; v > 0; v-- {
		values = append(values, v)
	}
	for n, want := range map[int]percentiles{0: {}, 1: {1, 200, 200, 200}, 2: {2, 199, 200, 200}, 200: {200, 100, 198, 200}} {
		if got := newPercentiles(values[:n]); got != want {
			t.Errorf("of %d: %+v, want %+v", n, got, want)
		}
	}
}

func TestScaleCharts(t *testing.T) {
	all := scaleCharts(fixedScale(t))
	for _, c := range all {
		var b strings.Builder
		if err := c.writeSVG(&b); err != nil {
			t.Fatal(err)
		}
		d := xml.NewDecoder(strings.NewReader(b.String()))
		for err := error(nil); !errors.Is(err, io.EOF); {
			if _, err = d.Token(); err != nil && !errors.Is(err, io.EOF) {
				t.Fatalf("%s: %v", c.file, err)
			}
		}
		for _, s := range c.series {
			if len(s.values) != len(c.groups) {
				t.Errorf("%s: %d values of %s, %d groups", c.file, len(s.values), s.name, len(c.groups))
			}
		}
	}
	start := all[0]
	if flannel := start.series[2].values; flannel[0] != single(2.6) || flannel[1].ok() || start.series[0].values[0] != (interval{0.9, 0.8, 1}) {
		t.Errorf("%+v", start.series)
	}
	if polls := all[2].series[0].values; polls[1] != single(15000) {
		t.Errorf("%+v", polls)
	}
}
