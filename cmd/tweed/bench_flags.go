package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"tweed/test/load"
)

const benchUsage = `tweed bench measures on this machine how fast the overlay network is.

It starts an etcd and two hosts, each in a network namespace of its own and
joined by a bridge, and on both hosts one flanneld for each variant, side by
side, with a pod each. Then it sends traffic from the first host to the second,
over one variant after the other, in rounds:

  underlay    from host to host, without an overlay
  vxlan       from pod to pod, by the kernel's VXLAN device
  udp         from pod to pod, by flanneld itself
  udp-plain   the same with "Offload":false, one packet for each system call

Both hosts and the load itself share the processors of this machine, and other
work on it disturbs. So the absolute figures tell about this machine only. What
counts is the ratio to vxlan in the same round, and its median over the rounds.

The tests:

  tcp-1, tcp-4, tcp-16   so many TCP streams, as fast as they go
  tcp-both               one TCP stream each way at the same time
  udp-64, udp-1400       datagrams with so many bytes, as fast as they go
  latency                64 bytes there and back, one request at a time

The network of the machine itself is not touched, no packet leaves it, and
everything is removed at the end, also after Ctrl-C. It needs root, and nothing
but the kernel. It takes six to seven minutes.

With -scale it measures something else, in about four minutes: how flanneld
does in a large network. One etcd has the leases of up to 50000 vxlan nodes that
do not exist otherwise, and one flanneld at a time works on a host:

  start       from exec until all routes, neighbours and forwarding entries are
              in force: time, CPU, peak memory, requests to etcd
  news        one more lease, and 1000 that change at once, until in force
  rest        CPU of a list without news, at rest, and without etcd
  crowd       200 daemons started at once, each on a host of its own

What has no size of its own is measured with 10000 leases, or the next smaller
of -sizes. Figures of flannel v0.10 stand beside; they were measured earlier.

Usage:
  tweed bench [flags]
  tweed bench -scale [flags]
  tweed bench -junk [flags]   what a flood of junk does to it instead; see
                              tweed bench -junk -h

Flags:
  -scale            measure a large network, see above
  -quick            one round with short windows, in less than a minute: shows
                    that all works, and proves nothing about speed
  -rounds N         how often everything is measured, 1 to 100 (default 5)
  -time TIME        of each measurement, 100ms to 60s (default 2s)
  -block KIB        that TCP writes and reads at once, 1 to 1024 (default 64); the
                    larger, the better for vxlan
  -variants LIST    which of the above, separated by commas (default: all)
  -tests LIST       which of the above, separated by commas (default: all)
  -out DIR          for bench.json or scale.json, and the plots (default
                    bench-results)
  -json             print the results as JSON instead of tables, for scripts
  -check            exit with status 1 if a ratio misses its floor, or a figure
                    of -scale its limit
  -flanneld PATH    the daemon to run (default: flanneld beside tweed itself)

With -scale, -rounds is 1 to 10 (default 3), and -time, -block, -variants and
-tests mean nothing, but:
  -sizes LIST       numbers of leases, separated by commas (default
                    100,1000,2000,5000,10000,20000,50000)
  -samples N        of one new lease, 1 to 1000 (default 200)
  -daemons N        started at once, up to 1000; 0 for none (default 200)
  -rest TIME        for which a daemon is watched at rest, and without etcd,
                    100ms to 1h (default 30s)

Examples:
  sudo tweed bench
  sudo tweed bench -quick
  sudo tweed bench -tests tcp-1,latency -variants vxlan,udp -rounds 9
  sudo tweed bench -json | jq '.floors[] | select(.state != "met")'
  sudo tweed bench -scale -check
  sudo tweed bench -scale -sizes 10000 -daemons 0 -rest 5s

Exit status: 0 all was measured, 1 something failed, or with -check missed its
floor or limit, 2 wrong usage, 130 interrupted by a signal.
`

// What -quick changes, unless the flag itself is given too.
const (
	quickRounds = 1
	quickWindow = 500 * time.Millisecond
)

type benchOptions struct {
	rounds   int
	window   time.Duration
	block    int // KiB
	variants []benchVariant
	tests    []benchTest
	out      string
	quick    bool
	json     bool
	check    bool
	flanneld string
	command  string // as it was typed, for the record

	scaling bool // -scale
	scale   scaleOptions
}

// warmup is how long traffic runs before it is measured.
func (o benchOptions) warmup() time.Duration { return min(o.window/4, 500*time.Millisecond) }

// parseBench returns flag.ErrHelp, or a usageError that names the flag, its
// value and what is valid.
func parseBench(args []string) (benchOptions, error) {
	o := benchOptions{command: commandLine(os.Args)}
	var variants, tests, sizes string
	fs := flag.NewFlagSet("bench", flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	fs.BoolVar(&o.quick, "quick", false, "")
	fs.IntVar(&o.rounds, "rounds", 5, "")
	fs.DurationVar(&o.window, "time", 2*time.Second, "")
	fs.IntVar(&o.block, "block", load.DefaultBlock>>10, "")
	fs.StringVar(&variants, "variants", strings.Join(names(benchVariants()), ","), "")
	fs.StringVar(&tests, "tests", strings.Join(names(benchTests()), ","), "")
	fs.StringVar(&o.out, "out", "bench-results", "")
	fs.BoolVar(&o.json, "json", false, "")
	fs.BoolVar(&o.check, "check", false, "")
	fs.StringVar(&o.flanneld, "flanneld", "", "")
	fs.BoolVar(&o.scaling, "scale", false, "")
	scaleFlags(fs, &o.scale, &sizes)
	err := fs.Parse(args)
	if errors.Is(err, flag.ErrHelp) {
		return benchOptions{}, err
	}
	if err == nil {
		given := make(map[string]bool)
		fs.Visit(func(f *flag.Flag) { given[f.Name] = true })
		if o.scaling {
			err = o.completeScale(fs.Args(), given, sizes)
		} else {
			err = o.completeTraffic(fs.Args(), given, variants, tests)
		}
	}
	if err != nil {
		return benchOptions{}, usageError{err}
	}
	return o, nil
}

// completeTraffic is complete after what -quick means, for which it takes what
// flags were given.
func (o *benchOptions) completeTraffic(rest []string, given map[string]bool, variants, tests string) error {
	if o.quick && !given["rounds"] {
		o.rounds = quickRounds
	}
	if o.quick && !given["time"] {
		o.window = quickWindow
	}
	for _, name := range scaleOnly {
		if given[name] {
			return fmt.Errorf("-%s: means nothing without -scale", name)
		}
	}
	if err := o.complete(rest, variants, tests); err != nil {
		return err
	}
	if o.check && !slices.ContainsFunc(benchFloors(), o.measures) {
		return errors.New("-check: none of the floors is about these -tests and -variants")
	}
	return nil
}

// complete checks what is there, and fills in what the lists mean.
func (o *benchOptions) complete(rest []string, variants, tests string) (err error) {
	switch {
	case len(rest) > 0:
		return fmt.Errorf("argument %q: want flags only", rest[0])
	case o.rounds < 1 || o.rounds > 100:
		return fmt.Errorf("-rounds %d: want 1 to 100", o.rounds)
	case o.window < 100*time.Millisecond || o.window > time.Minute:
		return fmt.Errorf("-time %s: want 100ms to 60s", o.window)
	case o.block < 1 || o.block > 1024:
		return fmt.Errorf("-block %d: want 1 to 1024 (KiB)", o.block)
	case o.out == "":
		return errors.New(`-out "": want a directory`)
	}
	if o.variants, err = choose("variants", variants, benchVariants()); err != nil {
		return err
	}
	o.tests, err = choose("tests", tests, benchTests())
	return err
}

// measures reports whether the run will tell about the floor.
func (o *benchOptions) measures(f floor) bool {
	variants := names(o.variants)
	return slices.Contains(names(o.tests), f.Test) &&
		slices.Contains(variants, f.Variant) && slices.Contains(variants, f.Base)
}

// named is a row of a table that users choose from.
type named interface{ id() string }

func names[T named](all []T) []string {
	list := make([]string, len(all))
	for i, x := range all {
		list[i] = x.id()
	}
	return list
}

// choose returns those of all that the list names, in the order of all.
func choose[T named](flag, list string, all []T) ([]T, error) {
	valid := names(all)
	wanted := make(map[string]bool)
	for name := range strings.SplitSeq(list, ",") {
		name = strings.TrimSpace(name)
		if !slices.Contains(valid, name) {
			return nil, fmt.Errorf("-%s %q: %q: want some of %s", flag, list, name, strings.Join(valid, ","))
		}
		wanted[name] = true
	}
	return slices.DeleteFunc(all, func(x T) bool { return !wanted[x.id()] }), nil
}
