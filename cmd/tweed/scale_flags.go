package main

import (
	"errors"
	"flag"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// scaleOptions are those of -scale alone.
type scaleOptions struct {
	sizes   []int         // leases, ascending
	samples int           // of one new lease
	changes int           // leases that change at once
	daemons int           // started at once; 0 for none
	rest    time.Duration // for which a daemon is watched at rest
}

// scalePeers is how many leases there are in the measurements besides the
// start, if that many are asked for.
const scalePeers = 10000

// peers is the size at which the measurements besides the start are made: the
// largest that is not above scalePeers, or else the smallest there is.
func (o scaleOptions) peers() int {
	i, found := slices.BinarySearch(o.sizes, scalePeers)
	if !found && i > 0 {
		i--
	}
	return o.sizes[i]
}

// The flags that mean something with -scale only, and those that mean nothing
// with it.
var (
	scaleOnly   = []string{"sizes", "samples", "daemons", "rest"}
	trafficOnly = []string{"time", "block", "variants", "tests"}
)

func scaleFlags(fs *flag.FlagSet, o *scaleOptions, sizes *string) {
	fs.StringVar(sizes, "sizes", "100,1000,2000,5000,10000,20000,50000", "")
	fs.IntVar(&o.samples, "samples", 200, "")
	fs.IntVar(&o.daemons, "daemons", 200, "")
	fs.DurationVar(&o.rest, "rest", 30*time.Second, "")
}

// What -scale has as defaults, and what -quick makes of them.
const (
	scaleRounds       = 3
	scaleChanges      = 1000
	quickScaleSizes   = "50"
	quickScaleSamples = 5
	quickScaleChanges = 20
	quickScaleDaemons = 3
	quickScaleRest    = time.Second
)

// completeScale checks what is there, and fills in what was not given.
func (o *benchOptions) completeScale(rest []string, given map[string]bool, sizes string) (err error) {
	s := &o.scale
	s.changes = scaleChanges
	if !given["rounds"] {
		o.rounds = scaleRounds
	}
	if o.quick {
		s.changes = quickScaleChanges
		for name, set := range map[string]func(){
			"rounds":  func() { o.rounds = quickRounds },
			"sizes":   func() { sizes = quickScaleSizes },
			"samples": func() { s.samples = quickScaleSamples },
			"daemons": func() { s.daemons = quickScaleDaemons },
			"rest":    func() { s.rest = quickScaleRest },
		} {
			if !given[name] {
				set()
			}
		}
	}
	for _, name := range trafficOnly {
		if given[name] {
			return fmt.Errorf("-%s: means nothing with -scale", name)
		}
	}
	switch {
	case len(rest) > 0:
		return fmt.Errorf("argument %q: want flags only", rest[0])
	case o.rounds < 1 || o.rounds > 10:
		return fmt.Errorf("-rounds %d: want 1 to 10 with -scale", o.rounds)
	case s.samples < 1 || s.samples > 1000:
		return fmt.Errorf("-samples %d: want 1 to 1000", s.samples)
	case s.daemons < 0 || s.daemons > 1000:
		return fmt.Errorf("-daemons %d: want 0 to 1000", s.daemons)
	case s.rest < 100*time.Millisecond || s.rest > time.Hour:
		return fmt.Errorf("-rest %s: want 100ms to 1h", s.rest)
	case o.out == "":
		return errors.New(`-out "": want a directory`)
	}
	if s.sizes, err = parseSizes(sizes); err != nil {
		return err
	}
	s.changes = min(s.changes, s.peers())
	return nil
}

// parseSizes reads numbers with commas between them, and sorts them.
func parseSizes(list string) ([]int, error) {
	const most = fleetMax - 1000 // for the samples of -samples
	var sizes []int
	for text := range strings.SplitSeq(list, ",") {
		n, err := strconv.Atoi(strings.TrimSpace(text))
		if err != nil || n < 1 || n > most {
			return nil, fmt.Errorf("-sizes %q: %q: want numbers from 1 to %d, separated by commas", list, strings.TrimSpace(text), most)
		}
		sizes = append(sizes, n)
	}
	slices.Sort(sizes)
	return slices.Compact(sizes), nil
}
