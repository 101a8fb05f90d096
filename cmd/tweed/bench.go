package main

import (
	"context"
	"errors"
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

// whole measures, reports, and removes the lab, which is done too when
// something failed or ctx ended. What was measured before a failure is kept;
// after a signal nothing is written.
func (b *benchmark) whole(ctx context.Context, stdout, stderr io.Writer) int {
	defer tellSignal(ctx, b.progress, "bench")()
	r := newBenchResult(b.opts)
	r.Err = b.run(ctx, r)
	interrupted := ctx.Err() != nil && r.Err != nil
	err := b.remove(r, interrupted)
	if err != nil {
		err = fmt.Errorf("remove the hosts: %w", err)
		r.Err = errors.Join(r.Err, err)
	}
	if interrupted {
		if err != nil {
			fmt.Fprintf(stderr, "tweed bench: %v\n", err)
		}
		return exitInterrupted
	}
	r.End = now()
	r.evaluate()
	r.OK = r.Err == nil
	status := exitOK
	if r.Err != nil {
		r.Error = r.Err.Error()
		fmt.Fprintf(stderr, "\ntweed bench: FAILED: %v\n", r.Err)
		reportCause(stderr, r.Err, r.Logs)
		status = exitFailed
	}
	if b.opts.check && r.missed() {
		status = exitFailed
	}
	if err := b.tell(r, stdout); err != nil {
		fmt.Fprintf(stderr, "tweed bench: %v\n", err)
		return exitFailed
	}
	return status
}

// tell prints and writes the result.
func (b *benchmark) tell(r *benchResult, stdout io.Writer) error {
	written, err := writeResults(b.opts.out, r)
	if b.opts.json {
		return errors.Join(err, writeJSON(stdout, r))
	}
	reportBench(stdout, r)
	for _, path := range written {
		fmt.Fprintf(stdout, "  wrote %s\n", path)
	}
	return err
}

// remove takes the lab away, but for the logs of what failed.
func (b *benchmark) remove(r *benchResult, interrupted bool) (err error) {
	r.Logs, err = removeLab(b.lab, b.progress, r.Err != nil && !interrupted)
	return err
}

// removeLab takes the lab away. Where something has failed, it keeps the logs
// and returns where they are.
func removeLab(l *lab.Lab, p *progress, failed bool) (logs string, err error) {
	if l == nil { // whatever there was, lab.New has removed
		return "", nil
	}
	var kept error
	if failed {
		if kept = l.KeepFiles(); kept == nil {
			logs = l.Dir()
		}
	}
	defer p.step("removing namespaces and processes")()
	return logs, errors.Join(kept, l.Close())
}
