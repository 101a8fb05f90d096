package main

import (
	"context"
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

// whole is one run from the first host to the report; it returns the exit status.
func (s *scaling) whole(ctx context.Context, stdout, stderr io.Writer) int {
	r := newScaleResult(s.opts)
	return measuring{
		result:   &r.runResult,
		check:    s.opts.check,
		run:      func(ctx context.Context) error { return s.run(ctx, r) },
		lab:      func() *lab.Lab { return s.lab },
		evaluate: r.evaluate,
		missed:   r.missed,
		tell: func() error {
			written, err := writeOutput(s.opts.out, "scale.json", r, scaleCharts(r))
			return tellResult(stdout, s.opts.json, r, written, err, func(w io.Writer) { reportScale(w, r) })
		},
	}.whole(ctx, s.progress, stderr)
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
