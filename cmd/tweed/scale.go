package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"tweed/test/lab"
)

// A scaling is one run of `tweed bench -scale`.
type scaling struct {
	opts     benchOptions
	progress *progress

	lab     *lab.Lab
	counter *etcdCounter
	fleet   *fleet
	hosts   int // started on so far
}

// whole measures, reports, and removes the lab, as benchmark.whole does.
func (s *scaling) whole(ctx context.Context, stdout, stderr io.Writer) int {
	defer tellSignal(ctx, s.progress, "bench")()
	r := newScaleResult(s.opts)
	r.Err = s.run(ctx, r)
	interrupted := ctx.Err() != nil && r.Err != nil
	var err error
	if r.Logs, err = removeLab(s.lab, s.progress, r.Err != nil && !interrupted); err != nil {
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
	if s.opts.check && r.missed() {
		status = exitFailed
	}
	if err := s.tell(r, stdout); err != nil {
		fmt.Fprintf(stderr, "tweed bench: %v\n", err)
		return exitFailed
	}
	return status
}

// tell prints and writes the result.
func (s *scaling) tell(r *scaleResult, stdout io.Writer) error {
	written, err := writeOutput(s.opts.out, "scale.json", r, scaleCharts(r))
	if s.opts.json {
		return errors.Join(err, writeJSON(stdout, r))
	}
	reportScale(stdout, r)
	for _, path := range written {
		fmt.Fprintf(stdout, "  wrote %s\n", path)
	}
	return err
}

// run fills in r as far as it comes.
func (s *scaling) run(ctx context.Context, r *scaleResult) error {
	err := runSteps(ctx, s.progress, "", []step{
		{"starting etcd", buildTime, s.build},
		{"looking at the machine", buildTime, func(context.Context) (err error) {
			r.Machine, err = readMachine()
			return err
		}},
	})
	if err != nil {
		return err
	}
	for _, size := range s.opts.scale.sizes {
		if err := s.measureSize(ctx, size, r); err != nil {
			return fmt.Errorf("with %s: %w", count(size, "lease"), err)
		}
	}
	return s.measureCrowds(ctx, r)
}
