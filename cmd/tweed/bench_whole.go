package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"tweed/test/lab"
)

// runResult is what the results of all modes of tweed bench begin with.
type runResult struct {
	Schema  int       `json:"schema"` // version of the form: a higher one may have other fields, or give them another meaning
	OK      bool      `json:"ok"`     // all was measured; what is judged tells for itself
	Error   string    `json:"error,omitempty"`
	Logs    string    `json:"logs,omitempty"` // the directory, if it was kept
	Command string    `json:"command"`
	Start   time.Time `json:"start"`
	End     time.Time `json:"end"`
	Machine machine   `json:"machine"`

	Err error `json:"-"`
}

// A measuring is one run of a mode of tweed bench.
type measuring struct {
	result   *runResult
	check    bool // exit with status 1 if something was missed
	run      func(context.Context) error
	lab      func() *lab.Lab // that run has made, or nil
	evaluate func()
	missed   func() bool
	tell     func() error // prints and writes the result
}

// whole measures, reports, and removes the lab, which is done too when something
// failed or ctx ended. What was measured before a failure is kept; after a signal
// nothing is written. It returns the exit status.
func (m measuring) whole(ctx context.Context, p *progress, stderr io.Writer) int {
	defer tellSignal(ctx, p, "bench")()
	r := m.result
	r.Err = m.run(ctx)
	interrupted := ctx.Err() != nil && r.Err != nil
	logs, err := removeLab(m.lab(), p, r.Err != nil && !interrupted)
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
	r.Logs, r.End, r.OK = logs, now(), r.Err == nil
	m.evaluate()
	status := exitOK
	if r.Err != nil {
		r.Error = r.Err.Error()
		fmt.Fprintf(stderr, "\ntweed bench: FAILED: %v\n", r.Err)
		reportCause(stderr, r.Err, r.Logs)
		status = exitFailed
	}
	if m.check && m.missed() {
		status = exitFailed
	}
	if err := m.tell(); err != nil {
		fmt.Fprintf(stderr, "tweed bench: %v\n", err)
		return exitFailed
	}
	return status
}

// tellResult writes files, and prints the result as JSON, or as report does and
// with the names of the files.
func tellResult(stdout io.Writer, asJSON bool, result any, files []string, err error, report func(io.Writer)) error {
	if asJSON {
		return errors.Join(err, writeJSON(stdout, result))
	}
	report(stdout)
	for _, path := range files {
		fmt.Fprintf(stdout, "  wrote %s\n", path)
	}
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
