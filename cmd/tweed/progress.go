package main

import (
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// progress tells what is going on while it goes on: on a terminal in one line
// that changes and vanishes, otherwise in a line for each step.
type progress struct {
	w    io.Writer
	live bool

	mu    sync.Mutex
	text  string // empty between steps
	began time.Time
}

func newProgress(w io.Writer) *progress {
	f, ok := w.(*os.File)
	return &progress{w: w, live: ok && isTerminal(f)}
}

func isTerminal(f *os.File) bool {
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

// step says what is being done now, until the returned function is called.
func (p *progress) step(format string, args ...any) (end func()) {
	text := fmt.Sprintf(format, args...)
	if !p.live {
		p.note("%s ...", text)
		return func() {}
	}
	p.mu.Lock()
	p.text, p.began = text, time.Now()
	p.draw()
	p.mu.Unlock()

	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				return
			case <-tick.C:
				p.mu.Lock()
				p.draw()
				p.mu.Unlock()
			}
		}
	}()
	return func() {
		close(stop)
		<-stopped
		p.mu.Lock()
		defer p.mu.Unlock()
		p.text = ""
		fmt.Fprint(p.w, eraseLine)
	}
}

// milestone says what is being done where there is no terminal, and so no line
// that changes.
func (p *progress) milestone(format string, args ...any) {
	if !p.live {
		p.note(format, args...)
	}
}

// liveStep is step on a terminal, and silent elsewhere.
func (p *progress) liveStep(format string, args ...any) (end func()) {
	if !p.live {
		return func() {}
	}
	return p.step(format, args...)
}

// note prints a line that stays.
func (p *progress) note(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.text != "" {
		fmt.Fprint(p.w, eraseLine)
		defer p.draw()
	}
	fmt.Fprintf(p.w, format+"\n", args...)
}

// eraseLine is carriage return and EL of ECMA-48.
const eraseLine = "\r\x1b[K"

func (p *progress) draw() {
	fmt.Fprintf(p.w, "%s%s ... %.1f s", eraseLine, p.text, time.Since(p.began).Seconds())
}
