package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"
)

// demo runs `tweed demo` and returns the exit status.
func demo(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	o, err := parseDemo(args)
	if status, ok := checkCommand("demo", demoUsage, err, stdout, stderr); !ok {
		return status
	}
	if o.flanneld, err = findFlanneld(o.flanneld); err != nil {
		fmt.Fprintf(stderr, "tweed demo: %v\n", err)
		return exitFailed
	}
	return showAll(ctx, o, stdout, stderr)
}

// showAll shows one backend after the other, each in a lab of its own. A
// failure of one does not keep the next from its turn.
func showAll(ctx context.Context, o demoOptions, stdout, stderr io.Writer) int {
	p := newProgress(stderr)
	defer tellSignal(ctx, p, "demo")()
	if !o.json {
		fmt.Fprintf(stdout, "Tweed demo: %d hosts with flanneld, joined by %s, in network namespaces of this machine\n", o.nodes, o.underlay)
	}
	var results []result
	for _, backend := range o.backends {
		r := showOne(ctx, o, backend, p, stdout)
		if r.Err != nil && ctx.Err() == nil {
			reportFailure(stderr, r)
		}
		results = append(results, r)
		if ctx.Err() != nil && !r.ok() {
			return exitInterrupted
		}
	}
	status := exitOK
	for _, r := range results {
		if !r.ok() {
			status = exitFailed
		}
	}
	if o.json {
		if err := writeJSON(stdout, summary{OK: status == exitOK, Underlay: o.underlay, Nodes: o.nodes, Backends: results}); err != nil {
			fmt.Fprintf(stderr, "tweed demo: %v\n", err)
			return exitFailed
		}
		return status
	}
	reportSummary(stdout, results)
	return status
}

// showOne builds a lab, shows it, and removes it, which is done too when
// something failed or ctx ended. With -keep, that waits for ctx.
func showOne(ctx context.Context, o demoOptions, backend string, p *progress, stdout io.Writer) (r result) {
	start := time.Now()
	r = result{Backend: backend}
	d := &demonstration{opts: o, backend: backend, progress: p}
	r.Err = d.run(ctx, &r)
	r.Seconds = time.Since(start).Seconds()
	if !o.json && ctx.Err() == nil {
		reportResult(stdout, r)
	}
	if o.keep && r.ok() {
		d.stay(ctx)
	}
	if err := d.remove(ctx, &r); err != nil {
		r.Err = errors.Join(r.Err, fmt.Errorf("remove the hosts: %w", err))
	}
	if r.Err != nil {
		r.Error = r.Err.Error()
	}
	return r
}

// remove takes the lab away, but for the logs of what failed.
func (d *demonstration) remove(ctx context.Context, r *result) error {
	if d.lab == nil { // whatever there was, lab.New has removed
		r.Removed = true
		return nil
	}
	var kept error
	if !r.ok() && ctx.Err() == nil {
		if kept = d.lab.KeepFiles(); kept == nil {
			r.Logs = d.lab.Dir()
		}
	}
	defer d.progress.step("%s: removing namespaces and processes", d.backend)()
	err := d.lab.Close()
	r.Removed = err == nil
	return errors.Join(kept, err)
}

// stay waits for the signal that ends a -keep.
func (d *demonstration) stay(ctx context.Context) {
	d.progress.note("%s", keepText(d.lab, d.hosts))
	for _, n := range d.hosts {
		go func() {
			if state, err := n.daemon.Wait(ctx); err == nil {
				d.progress.note("flanneld on %s has ended: %s; its log is %s", n.host.Name, state, n.daemon.Log)
			}
		}()
	}
	<-ctx.Done()
}
