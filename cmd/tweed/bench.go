package main

import (
	"context"
	"fmt"
	"io"
	"os"

	"tweed/test/lab"
)

// bench runs `tweed bench` and returns the exit status.
func bench(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	if asksForJunk(args) {
		return benchJunk(ctx, args, stdout, stderr)
	}
	o, err := parseBench(args)
	if status, ok := checkCommand("bench", benchUsage, err, stdout, stderr); !ok {
		return status
	}
	if o.flanneld, err = findFlanneld(o.flanneld); err == nil {
		err = os.MkdirAll(o.out, 0o755) // before the work, not after
	}
	if err != nil {
		fmt.Fprintf(stderr, "tweed bench: %v\n", err)
		return exitFailed
	}
	if o.scaling {
		return (&scaling{opts: o, progress: newProgress(stderr)}).whole(ctx, stdout, stderr)
	}
	return newBenchmark(o, newProgress(stderr)).whole(ctx, stdout, stderr)
}

// whole is one run from the first host to the report; it returns the exit status.
func (b *benchmark) whole(ctx context.Context, stdout, stderr io.Writer) int {
	r := newBenchResult(b.opts)
	return measuring{
		result:   &r.runResult,
		check:    b.opts.check,
		run:      func(ctx context.Context) error { return b.run(ctx, r) },
		lab:      func() *lab.Lab { return b.lab },
		evaluate: r.evaluate,
		missed:   r.missed,
		tell: func() error {
			written, err := writeResults(b.opts.out, r)
			return tellResult(stdout, b.opts.json, r, written, err, func(w io.Writer) { reportBench(w, r) })
		},
	}.whole(ctx, b.progress, stderr)
}
