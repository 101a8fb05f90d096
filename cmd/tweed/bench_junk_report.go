package main

import (
	"fmt"
	"io"
	"slices"
)

// junkFloor is the part of its throughput without a flood that the stream must
// keep.
const junkFloor = 0.5

// junkResult is what junk.json holds and -json prints.
type junkResult struct {
	runResult
	Quick   bool          `json:"quick"` // such a run is no proof
	Rounds  int           `json:"rounds"`
	Seconds float64       `json:"window_seconds"`
	Floor   float64       `json:"floor"` // of vs_quiet
	Floods  []floodResult `json:"floods"`
}

// floodResult is the stream under a flood, or without one.
type floodResult struct {
	Name    string     `json:"name"`
	Title   string     `json:"title,omitempty"`
	Stream  stats      `json:"bits_per_second"`
	Sent    stats      `json:"junk_per_second"`
	Steal   stats      `json:"steal_percent"`
	VsQuiet *stats     `json:"vs_quiet,omitempty"` // ratio of the streams, round by round
	VsSink  *stats     `json:"vs_sink,omitempty"`
	State   floorState `json:"state,omitempty"` // none for quiet and sink
}

func newJunkResult(o junkOptions) *junkResult {
	return &junkResult{
		runResult: runResult{Schema: 1, Command: o.command, Start: now()},
		Quick:     o.quick, Rounds: o.rounds, Seconds: o.window.Seconds(), Floor: junkFloor,
	}
}

// add takes in what the next round found.
func (r *junkResult) add(k junkKind, s sample, sent float64) {
	f := r.flood(k.name)
	if f == nil {
		r.Floods = append(r.Floods, floodResult{Name: k.name, Title: k.title})
		f = &r.Floods[len(r.Floods)-1]
	}
	f.Stream.Rounds = append(f.Stream.Rounds, s[bitsPerSecond])
	f.Steal.Rounds = append(f.Steal.Rounds, s[stealPercent])
	f.Sent.Rounds = append(f.Sent.Rounds, sent)
}

// flood returns nil if nothing was measured under that name.
func (r *junkResult) flood(name string) *floodResult {
	i := slices.IndexFunc(r.Floods, func(f floodResult) bool { return f.Name == name })
	if i < 0 {
		return nil
	}
	return &r.Floods[i]
}

// evaluate fills in all that follows from the values of the rounds.
func (r *junkResult) evaluate() {
	for i := range r.Floods {
		f := &r.Floods[i]
		f.Stream, f.Sent, f.Steal = newStats(f.Stream.Rounds), newStats(f.Sent.Rounds), newStats(f.Steal.Rounds)
		if f.Name == junkQuiet {
			continue
		}
		f.VsQuiet = ratios(f.Stream.Rounds, r.flood(junkQuiet).Stream.Rounds)
		if sink := r.flood(junkSink); f.Name != junkSink && sink != nil {
			f.VsSink = ratios(f.Stream.Rounds, sink.Stream.Rounds)
			f.State = floor{AtLeast: r.Floor}.judge(f.VsQuiet).State
		}
	}
}

// missed reports whether the stream fell below its floor under some flood.
func (r *junkResult) missed() bool {
	return slices.ContainsFunc(r.Floods, func(f floodResult) bool { return f.State == floorMissed })
}

func reportJunk(w io.Writer, r *junkResult) {
	fmt.Fprintf(w, "Tweed bench: one TCP stream over the udp backend under floods of junk, %s of %s each\n", count(r.Rounds, "round"), seconds(r.Seconds))
	if r.Error != "" {
		fmt.Fprint(w, "It FAILED. What follows was measured before.\n")
	}
	if r.Quick {
		fmt.Fprint(w, "A quick run shows that all works. Its figures are no proof.\n")
	}
	fmt.Fprintf(w, "\n== The stream, the flood, and what is left of the stream (at least %.2f of quiet is wanted) ==\n\n", r.Floor)
	lines := []string{"flood\tstream\tjunk\tof quiet\tof sink\tresult"}
	for _, f := range r.Floods {
		state := string(f.State)
		if f.State == floorMissed {
			state = "MISSED"
		}
		junk := "-"
		if f.Name != junkQuiet {
			junk = packetRate(f.Sent.Median)
		}
		lines = append(lines, fmt.Sprintf("%s\t%s\t%s\t%s\t%s\t%s", f.Name, bitRate(f.Stream.Median), junk, ratioText(f.VsQuiet), ratioText(f.VsSink), state))
	}
	table(w, lines)
	fmt.Fprintf(w, "  The attacker, both hosts and the stream shared %s; sink is what the flood leaves where nobody even reads it.\n", count(r.Machine.Cores, "core"))
	reportMachine(w, &benchResult{runResult: r.runResult, Steal: r.steal()})
}

// steal is the mean over all measurements, in percent of all processors.
func (r *junkResult) steal() float64 {
	var all []float64
	for _, f := range r.Floods {
		all = append(all, f.Steal.Rounds...)
	}
	return mean(all)
}
