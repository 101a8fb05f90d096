package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
)

// demo runs `tweed demo` and returns the exit status.
func demo(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	o, err := parseDemo(args)
	var wrong usageError
	switch {
	case errors.Is(err, flag.ErrHelp):
		fmt.Fprint(stdout, demoUsage)
		return exitOK
	case errors.As(err, &wrong):
		fmt.Fprintf(stderr, "tweed demo: %v\nsee: tweed demo -h\n", err)
		return exitUsage
	}
	if os.Geteuid() != 0 {
		fmt.Fprintf(stderr, "tweed demo: making network namespaces needs root; run:\n  sudo %s\n", commandLine(os.Args))
		return exitFailed
	}
	if err := o.findFlanneld(); err != nil {
		fmt.Fprintf(stderr, "tweed demo: %v\n", err)
		return exitFailed
	}
	return showAll(ctx, o, stdout, stderr)
}

// commandLine quotes words for a shell where they need it.
func commandLine(words []string) string {
	quoted := make([]string, len(words))
	for i, w := range words {
		quoted[i] = w
		if w == "" || strings.ContainsAny(w, " \t\n'\"\\$`&|;<>()*?[]#~!{}") {
			quoted[i] = "'" + strings.ReplaceAll(w, "'", `'\''`) + "'"
		}
	}
	return strings.Join(quoted, " ")
}

// showAll shows one backend after the other, each in a lab of its own. A
// failure of one does not keep the next from its turn.
func showAll(ctx context.Context, o demoOptions, stdout, stderr io.Writer) int {
	p := newProgress(stderr)
	// Told at once, since removing the lab takes its time.
	told := make(chan struct{})
	unsaid := context.AfterFunc(ctx, func() {
		defer close(told)
		p.note("signal: removing everything; a second one leaves that to the next run of the demo")
	})
	defer func() {
		if !unsaid() {
			<-told
		}
	}()
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
		enc := json.NewEncoder(stdout)
		enc.SetIndent("", "  ")
		enc.SetEscapeHTML(false)
		if err := enc.Encode(summary{OK: status == exitOK, Underlay: o.underlay, Nodes: o.nodes, Backends: results}); err != nil {
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
	if !r.ok() && ctx.Err() == nil {
		if err := d.lab.KeepFiles(); err != nil {
			return err
		}
		r.Logs = d.lab.Dir()
	}
	defer d.progress.step("%s: removing namespaces and processes", d.backend)()
	err := d.lab.Close()
	r.Removed = err == nil
	return err
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
