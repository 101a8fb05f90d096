package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"tweed/test/lab"
	"tweed/test/load"
)

const junkUsage = `tweed bench -junk measures what a flood of junk does to the udp backend.

It starts two hosts with a flanneld and a pod each, and a third one that is no
node. One TCP stream runs from pod to pod, and the third host sends junk to the
port of the flanneld that receives it, as fast as one thread can. Each round
measures the stream under each kind of junk, and besides:

  quiet     without any flood
  sink      with a flood of garbage to a port of the same host whose socket
            nobody reads from

All of it shares the processors of this machine. The flood itself, and its way
through the kernel, take their part of them: that is the ratio of sink to quiet,
and no receiver can do better. On hosts of their own, the sender of the junk
would take nothing.

The kinds of junk:

  empty     no payload at all
  byte      one byte
  garbage   64 bytes that are no IPv4 packet
  large     1472 bytes that are none
  martian   a packet from 127.0.0.1 to a pod
  nowhere   a packet for a subnet that nobody has
  foreign   packets to a pod, from sources that no node has
  spoofed   the same, with outer sources that differ too

Junk with the outer source of a node is not among them: nothing tells good
packets of foreign and nowhere from those of the node then.

Usage:
  tweed bench -junk [flags]

Flags:
  -quick            one round with short windows
  -rounds N         how often everything is measured, 1 to 100 (default 5)
  -time TIME        of each measurement, 100ms to 60s (default 1s)
  -kinds LIST       which of the above, separated by commas (default: all)
  -out DIR          for junk.json (default bench-results)
  -json             print the results as JSON instead of tables, for scripts
  -check            exit with status 1 if the stream keeps less than half of quiet
  -flanneld PATH    the daemon to run (default: flanneld beside tweed itself)

Exit status: 0 all was measured, 1 something failed, or with -check missed its
floor, 2 wrong usage, 130 interrupted by a signal.
`

// junkOptions are those of a bench with one variant and one test, and the
// kinds.
type junkOptions struct {
	benchOptions
	kinds []junkKind
}

// asksForJunk reports whether the arguments of bench are for benchJunk.
func asksForJunk(args []string) bool {
	return slices.ContainsFunc(args, func(a string) bool {
		name, value, _ := strings.Cut(strings.TrimLeft(a, "-"), "=")
		return strings.HasPrefix(a, "-") && name == "junk" && value != "false"
	})
}

func parseJunk(args []string) (junkOptions, error) {
	o := junkOptions{benchOptions: benchOptions{command: commandLine(os.Args), block: load.DefaultBlock >> 10}}
	var kinds string
	fs := flag.NewFlagSet("bench", flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	fs.Bool("junk", false, "")
	fs.BoolVar(&o.quick, "quick", false, "")
	fs.IntVar(&o.rounds, "rounds", 5, "")
	fs.DurationVar(&o.window, "time", time.Second, "")
	fs.StringVar(&kinds, "kinds", strings.Join(names(junkKinds()), ","), "")
	fs.StringVar(&o.out, "out", "bench-results", "")
	fs.BoolVar(&o.json, "json", false, "")
	fs.BoolVar(&o.check, "check", false, "")
	fs.StringVar(&o.flanneld, "flanneld", "", "")
	err := fs.Parse(args)
	if errors.Is(err, flag.ErrHelp) {
		return junkOptions{}, err
	}
	if err == nil {
		given := make(map[string]bool)
		fs.Visit(func(f *flag.Flag) { given[f.Name] = true })
		if o.quick && !given["rounds"] {
			o.rounds = quickRounds
		}
		if o.quick && !given["time"] {
			o.window = quickWindow
		}
		err = o.complete(fs.Args(), "udp", "tcp-1")
	}
	if err == nil {
		o.kinds, err = choose("kinds", kinds, junkKinds())
	}
	if err != nil {
		return junkOptions{}, usageError{err}
	}
	return o, nil
}

// benchJunk runs `tweed bench -junk` and returns the exit status.
func benchJunk(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	o, err := parseJunk(args)
	if status, ok := checkCommand("bench", junkUsage, err, stdout, stderr); !ok {
		return status
	}
	if o.flanneld, err = findFlanneld(o.flanneld); err == nil {
		err = os.MkdirAll(o.out, 0o755) // before the work, not after
	}
	if err != nil {
		fmt.Fprintf(stderr, "tweed bench: %v\n", err)
		return exitFailed
	}
	return newJunkBench(o, newProgress(stderr)).whole(ctx, stdout, stderr)
}

// A junkBench is one run of `tweed bench -junk`. Its benchmark has the udp
// variant only.
type junkBench struct {
	*benchmark
	opts     junkOptions
	attacker *lab.Host
	victim   victim
	sink     *net.UDPConn
}

func newJunkBench(o junkOptions, p *progress) *junkBench {
	return &junkBench{benchmark: newBenchmark(o.benchOptions, p), opts: o}
}

// whole is one run from the first host to the report; it returns the exit status.
func (b *junkBench) whole(ctx context.Context, stdout, stderr io.Writer) int {
	base, r := newBenchResult(b.opts.benchOptions), newJunkResult(b.opts)
	return measuring{
		result: &r.runResult,
		check:  b.opts.check,
		run: func(ctx context.Context) error {
			err := b.run(ctx, base, r)
			r.Machine = base.Machine
			return err
		},
		lab:      func() *lab.Lab { return b.lab },
		evaluate: r.evaluate,
		missed:   r.missed,
		tell: func() error {
			path := filepath.Join(b.opts.out, "junk.json")
			err := writeFile(path, func(w io.Writer) error { return writeJSON(w, r) })
			return tellResult(stdout, b.opts.json, r, []string{path}, err, func(w io.Writer) { reportJunk(w, r) })
		},
	}.whole(ctx, b.progress, stderr)
}

func (b *junkBench) run(ctx context.Context, base *benchResult, r *junkResult) error {
	err := runSteps(ctx, b.progress, "", []step{
		{"starting etcd and two hosts", buildTime, b.build},
		{"starting flanneld on both", readyTime, b.startDaemons},
		{"adding a pod to both", buildTime, b.addPods},
		{"pinging", b.patience, b.ping},
		{"adding the host of the attacker", buildTime, b.addAttacker},
		{"looking at the machine", buildTime, func(context.Context) error { return b.look(base) }},
	})
	if err != nil {
		return err
	}
	defer b.sink.Close()
	targets := append([]junkKind{{name: junkQuiet}, {name: junkSink}}, b.opts.kinds...)
	start, done, total := time.Now(), 0, b.opts.rounds*len(targets)
	for round := range b.opts.rounds {
		for _, k := range targets {
			end := b.progress.liveStep("%s: round %d of %d, %s", progressText(done, total, time.Since(start)), round+1, b.opts.rounds, k.name)
			err := b.measureUnder(ctx, k, r)
			end()
			if err != nil {
				return fmt.Errorf("round %d of %d, %s: %w", round+1, b.opts.rounds, k.name, err)
			}
			done++
		}
		b.progress.milestone("round %d of %d done", round+1, b.opts.rounds)
	}
	return nil
}

// sinkPort is where the sink listens, beside flanneld's 8285.
const sinkPort = 8299

func (b *junkBench) addAttacker(ctx context.Context) (err error) {
	if b.attacker, err = b.lab.AddHostWith(ctx, "attacker", lab.HostOptions{Outside: true}); err != nil {
		return err
	}
	to, path := b.hosts[1], b.sites[0].path
	env, err := lab.ReadSubnetEnv(b.sites[0].envFile(to))
	if err != nil {
		return err
	}
	free := env.Network.Masked().Addr().As4()
	free[2], free[3] = 254, 9 // Network is a /16, and the second lease is not its last
	b.victim = victim{
		addr: netip.AddrPortFrom(to.Addr, 8285),
		pod:  path.ToAddr, peer: path.FromAddr, nowhere: netip.AddrFrom4(free),
	}
	b.sink, err = to.NS.ListenPacket(ctx, netip.AddrPortFrom(to.Addr, sinkPort))
	return err
}

// measureUnder measures the stream while the flood lasts.
func (b *junkBench) measureUnder(ctx context.Context, k junkKind, r *junkResult) error {
	ctx, cancel := context.WithTimeout(ctx, b.opts.warmup()+b.opts.window+measureSlack)
	defer cancel()
	site := b.sites[0]
	var flood *load.Flood
	if k.name != junkQuiet {
		o := load.FloodOptions{From: b.attacker.NS, FromAddr: b.attacker.Addr, To: b.victim.addr, Raw: k.raw}
		if k.name == junkSink {
			o.To, o.Payloads = netip.AddrPortFrom(b.victim.addr.Addr(), sinkPort), garbage(b.victim)
		} else {
			o.Payloads = k.payloads(b.victim)
		}
		var err error
		if flood, err = load.StartFlood(o); err != nil {
			return err
		}
	}
	found, err := b.measure(ctx, b.opts.tests[0], site)
	rate := 0.0
	if flood != nil {
		rate = flood.Stop()
	}
	if err == nil {
		err = site.alive()
	}
	if err != nil {
		return site.blame(err)
	}
	r.add(k, found, rate)
	return nil
}
