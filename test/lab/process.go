package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"
)

// stopTime is how long a process may take to end after SIGTERM.
const stopTime = 6 * time.Second

// tailLines is how much of a log a ProcessError shows.
const tailLines = 10

// A Process runs on a Host. Its standard output and error go to the file Log.
type Process struct {
	Name string
	PID  int
	Log  string

	cmd    *exec.Cmd
	output *output
	notify *notifySocket
	done   chan struct{} // closed when it has ended and all output was read
	state  *os.ProcessState
}

// Command is a program to run on a host. It gets the environment of the
// caller, without FLANNELD_ and proxy variables, then Options.Env, then Env.
type Command struct {
	Name string // for logs; its files in the directory of the host begin so
	Path string
	Args []string
	Env  []string // "NAME=value"
}

// Start starts a program inside the host. The context bounds the start, not
// the life of the process: that ends with Stop or Kill, with the lab, and with
// the caller's own process however that ends.
func (h *Host) Start(ctx context.Context, c Command) (_ *Process, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("start %s on host %s: %w", c.Name, h.Name, err)
		}
	}()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	// Held to the end: a lab that closes meanwhile must know of the process.
	h.lab.mu.Lock()
	defer h.lab.mu.Unlock()
	if h.lab.closed {
		return nil, ErrClosed
	}
	h.started[c.Name]++
	base := h.Path(fmt.Sprintf("%s-%d", c.Name, h.started[c.Name]))
	p := &Process{Name: h.Name + "/" + c.Name, Log: base + ".log", done: make(chan struct{})}
	if p.output, err = newOutput(p.Log); err != nil {
		return nil, err
	}
	if p.notify, err = listenNotify(base + ".notify"); err != nil {
		return nil, errors.Join(err, p.output.close())
	}
	if err := h.run(p, c); err != nil {
		return nil, errors.Join(err, p.notify.close(), p.output.close())
	}
	h.lab.procs = append(h.lab.procs, p)
	return p, nil
}

// run starts the program with its output in a pipe that is read until the
// process and all its children have closed it.
func (h *Host) run(p *Process, c Command) error {
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	p.cmd = exec.Command(c.Path, c.Args...)
	p.cmd.Dir = h.Path()
	p.cmd.Env = slices.Concat(cleanEnv(), h.lab.opts.Env, c.Env, []string{"NOTIFY_SOCKET=" + p.notify.path})
	p.cmd.Stdout, p.cmd.Stderr = w, w
	// A group of its own: the terminal's Ctrl-C is for us alone.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	err = h.lab.exec.start(h.NS, p.cmd)
	w.Close()
	if err != nil {
		r.Close()
		return err
	}
	p.PID = p.cmd.Process.Pid
	read := make(chan struct{})
	go func() {
		defer close(read)
		io.Copy(p.output, r) // what cannot be logged is still read
	}()
	go func() {
		defer close(p.done)
		p.cmd.Wait() // the state says it all
		p.state = p.cmd.ProcessState
		// A child that lives on may hold the pipe open.
		r.SetReadDeadline(time.Now().Add(time.Second))
		<-read
		r.Close()
		p.output.close()
		p.notify.close()
	}()
	return nil
}

// cleanEnv is our environment without what would change a flanneld, such as a
// proxy: none can be reached from inside the lab.
func cleanEnv() []string {
	return slices.DeleteFunc(os.Environ(), func(v string) bool {
		name, _, _ := strings.Cut(v, "=")
		return strings.HasPrefix(name, "FLANNELD_") || name == "NOTIFY_SOCKET" || strings.HasSuffix(strings.ToUpper(name), "_PROXY")
	})
}

// Wait waits until the process has ended and says how.
func (p *Process) Wait(ctx context.Context) (*os.ProcessState, error) {
	select {
	case <-p.done:
		return p.state, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("%s (pid %d) still runs: %w", p.Name, p.PID, ctx.Err())
	}
}

// Running reports whether the process has not ended yet.
func (p *Process) Running() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// Signal sends a signal: os.ErrProcessDone if it has ended.
func (p *Process) Signal(sig os.Signal) error { return p.cmd.Process.Signal(sig) }

// Kill ends the process by SIGKILL and waits for it.
func (p *Process) Kill() error {
	if err := p.Signal(os.Kill); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("kill %s: %w", p.Name, err)
	}
	<-p.done
	return nil
}

// Stop ends the process by SIGTERM and waits for it. One that does not end in
// time is killed, which is an error; that it has ended already is none.
func (p *Process) Stop() error {
	if err := p.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stop %s: %w", p.Name, err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), stopTime)
	defer cancel()
	if _, err := p.Wait(ctx); err == nil {
		return nil
	}
	if err := p.Kill(); err != nil {
		return err
	}
	return fmt.Errorf("stop %s: ignored SIGTERM for %s and was killed", p.Name, stopTime)
}

// WaitReady waits until the process says READY=1 (sd_notify(3)). That it ends
// before is an error, with its last lines.
func (p *Process) WaitReady(ctx context.Context) error {
	select {
	case <-p.notify.ready:
		return nil
	default:
	}
	select {
	case <-p.notify.ready:
		return nil
	case <-p.done:
		return p.Errorf("ended before it was ready: %s", p.state)
	case <-ctx.Done():
		return p.Errorf("not ready: %w", ctx.Err())
	}
}

// WaitLog waits for a line that contains text, from line number from on; 0 is
// the first. It returns the number of the line after.
func (p *Process) WaitLog(ctx context.Context, from int, text string) (next int, err error) {
	for {
		lines, more := p.output.since(from)
		for i, line := range lines {
			if strings.Contains(line, text) {
				return from + i + 1, nil
			}
		}
		from += len(lines)
		select {
		case <-more:
		case <-ctx.Done():
			return from, p.Errorf("no line with %q: %w", text, ctx.Err())
		case <-p.done:
			if rest, _ := p.output.since(from); len(rest) == 0 {
				return from, p.Errorf("no line with %q, and it has ended: %s", text, p.state)
			}
		}
	}
}

// Lines returns the output so far.
func (p *Process) Lines() []string {
	lines, _ := p.output.since(0)
	return lines
}

// A ProcessError says what is wrong with a process, and how to find out why.
type ProcessError struct {
	Process *Process
	Tail    []string // its last lines
	Err     error
}

func (e *ProcessError) Error() string { return fmt.Sprintf("%s: %v", e.Process.Name, e.Err) }
func (e *ProcessError) Unwrap() error { return e.Err }

// Errorf makes a ProcessError of what is known so far.
func (p *Process) Errorf(format string, args ...any) error {
	lines := p.Lines()
	return &ProcessError{Process: p, Tail: lines[max(0, len(lines)-tailLines):], Err: fmt.Errorf(format, args...)}
}
