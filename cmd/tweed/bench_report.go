package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// A column of a report shows a metric.
type column struct {
	metric string
	title  string
	format func(float64) string
	spread bool // also the lowest and the highest round, and that of the ratio
	ratio  bool // also the ratio to vxlan
}

func (t benchTest) columns() []column {
	var list []column
	switch {
	case t.kind == udpTest:
		list = []column{
			{packetsPerSecond, "delivered", packetRate, true, true},
			{cpuPerPacket, "CPU/packet", shortTime, false, true},
			{lostPercent, "lost", percent, false, false},
		}
	case t.kind == latencyTest:
		list = []column{
			{p50, "p50", shortTime, true, true},
			{p99, "p99", shortTime, false, true},
			{p999, "p99.9", shortTime, false, true},
			{lostRequests, "lost", plain, false, false},
		}
	default:
		list = []column{{bitsPerSecond, "throughput", bitRate, true, true}}
		if t.both {
			list = append(list, column{bitsPerSecBack, "of it back", bitRate, false, false})
		}
		list = append(list,
			column{cpuPer64K, "CPU/64 KiB", shortTime, false, true},
			column{retransmits, "resent", plain, false, false})
	}
	return append(list, column{stealPercent, "steal", percent, false, false})
}

// reportBench shows the result as far as it goes.
func reportBench(w io.Writer, r *benchResult) {
	fmt.Fprintf(w, "Tweed bench: %s of %s for each test and variant, one after the other\n", count(r.Options.Rounds, "round"), seconds(r.Options.Seconds))
	fmt.Fprintf(w, "TCP writes and reads %d KiB at once\n", r.Options.Block>>10)
	if r.Options.Rounds > 1 {
		fmt.Fprint(w, "Figures are the median of the rounds, and (lowest to highest)\n")
	}
	if r.Error != "" {
		fmt.Fprint(w, "It FAILED. What follows was measured before.\n")
	}
	if r.Options.Quick {
		fmt.Fprint(w, "A quick run shows that all works. Its figures are no proof.\n")
	}
	for _, t := range benchTests() {
		reportTest(w, r, t)
	}
	if len(r.Memory) > 0 {
		reportMemory(w, r.Memory)
	}
	reportFloors(w, r)
	reportMachine(w, r)
}

func reportTest(w io.Writer, r *benchResult, t benchTest) {
	i := slices.IndexFunc(r.Tests, func(x testResult) bool { return x.Name == t.name })
	if i < 0 {
		return
	}
	fmt.Fprintf(w, "\n== %s: %s ==\n\n", t.name, t.title)
	variants := r.Tests[i].Variants
	compared := slices.ContainsFunc(variants, func(v variantResult) bool { return v.Name == "vxlan" }) && len(variants) > 1

	ranged := r.Options.Rounds > 1 // one round has no spread
	head := []string{"variant"}
	for _, c := range t.columns() {
		head = append(head, c.title)
		if c.spread && ranged {
			head = append(head, "lowest to highest", "spread")
		}
		if c.ratio && compared {
			head = append(head, "/ vxlan")
		}
	}
	lines := []string{strings.Join(head, "\t")}
	for _, v := range variants {
		row := []string{v.Name}
		for _, c := range t.columns() {
			f := v.Metrics[c.metric]
			row = append(row, c.format(f.Median))
			if c.spread && ranged {
				row = append(row, spreadCells(f.stats, c.format)...)
			}
			switch {
			case !c.ratio || !compared:
			case v.Name == "vxlan":
				row = append(row, "1")
			case c.spread:
				row = append(row, ratioText(f.VsVXLAN))
			default:
				row = append(row, ratioMedian(f.VsVXLAN))
			}
		}
		lines = append(lines, strings.Join(row, "\t"))
	}
	table(w, lines)
	reportVsPlain(w, r, t)
}

// reportVsPlain says in a line what the fast path of udp gains.
func reportVsPlain(w io.Writer, r *benchResult, t benchTest) {
	var gains []string
	for _, c := range t.columns() {
		if f := r.figures(t.name, "udp")[c.metric]; f.VsPlain != nil {
			gains = append(gains, c.title+" "+ratioMedian(f.VsPlain))
		}
	}
	if len(gains) > 0 {
		fmt.Fprintf(w, "  udp / udp-plain: %s\n", strings.Join(gains, ", "))
	}
}

func reportMemory(w io.Writer, memory []memoryResult) {
	fmt.Fprint(w, "\n== Most memory that each flanneld has used ==\n\n")
	lines := []string{"variant\thost\tresident"}
	for _, m := range memory {
		lines = append(lines, fmt.Sprintf("%s\t%s\t%.1f MiB", m.Variant, m.Host, float64(m.Bytes)/(1<<20)))
	}
	table(w, lines)
}

func reportFloors(w io.Writer, r *benchResult) {
	fmt.Fprint(w, "\n== Floors ==\n\n")
	lines := []string{"ratio\ttest\tof\twanted\tmeasured\tresult"}
	for _, f := range r.Floors {
		wanted := fmt.Sprintf("at least %.2f", f.AtLeast)
		if f.AtMost != 0 {
			wanted = fmt.Sprintf("at most %.2f", f.AtMost)
		}
		state := string(f.State)
		if f.State == floorMissed {
			state = "MISSED"
		}
		lines = append(lines, fmt.Sprintf("%s / %s\t%s\t%s\t%s\t%s\t%s", f.Variant, f.Base, f.Test, metricTitle(f), wanted, ratioText(f.Ratio), state))
	}
	table(w, lines)
	if r.Options.Quick {
		fmt.Fprint(w, "  A quick run neither proves a floor nor refutes it.\n")
	}
}

// metricTitle is what the tables call the metric of a floor.
func metricTitle(f floor) string {
	for _, t := range benchTests() {
		for _, c := range t.columns() {
			if t.name == f.Test && c.metric == f.Metric {
				return c.title
			}
		}
	}
	return f.Metric
}

func reportMachine(w io.Writer, r *benchResult) {
	m := r.Machine
	fmt.Fprint(w, "\n== Where and when ==\n\n")
	table(w, []string{
		fmt.Sprintf("machine\t%s, %s, %s", m.CPU, count(m.Cores, "core"), m.Arch),
		fmt.Sprintf("software\tLinux %s, %s, tweed %s", m.Kernel, m.Go, m.Tweed),
		"TCP\t" + m.Congestion,
		fmt.Sprintf("steal\t%.1f%% of all processors, on average", r.Steal),
		fmt.Sprintf("date\t%s, took %s", r.Start.Format(time.RFC3339), r.End.Sub(r.Start)),
		"command\t" + r.Command,
	})
}

// spreadCells are the lowest and the highest value, and how far apart they are.
func spreadCells(s stats, format func(float64) string) []string {
	low, high := format(s.Min), format(s.Max)
	if number, unit, _ := strings.Cut(low, " "); strings.HasSuffix(high, " "+unit) {
		low = number // the unit once is enough
	}
	return []string{low + " to " + high, percent(100 * s.Spread)}
}

// ratioText is a median and its range, with digits enough to see on which side
// of a floor it is; "-" where there is none.
func ratioText(s *stats) string {
	switch {
	case s == nil:
		return "-"
	case len(s.Rounds) == 1:
		return fmt.Sprintf("%.3f", s.Median)
	}
	return fmt.Sprintf("%.3f (%.3f to %.3f)", s.Median, s.Min, s.Max)
}

func ratioMedian(s *stats) string {
	if s == nil {
		return "-"
	}
	return fmt.Sprintf("%.3f", s.Median)
}

// threeDigits writes a number with as many digits as a measurement is good for.
func threeDigits(v float64) string {
	switch {
	case v < 9.995:
		return fmt.Sprintf("%.2f", v)
	case v < 99.95:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.0f", v)
}

func count(n int, what string) string {
	if n != 1 {
		what += "s"
	}
	return fmt.Sprintf("%d %s", n, what)
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

func plain(v float64) string   { return fmt.Sprintf("%.0f", v) }
func percent(v float64) string { return fmt.Sprintf("%.1f%%", v) }

func shortTime(us float64) string { return threeDigits(us) + " µs" }

// packetRate writes packets per second in thousands.
func packetRate(v float64) string {
	if v < 99950 {
		return fmt.Sprintf("%.1f kpps", v/1000)
	}
	return fmt.Sprintf("%.0f kpps", v/1000)
}
