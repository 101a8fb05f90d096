package lab

import (
	"os/exec"
	"runtime"
	"sync"

	"golang.org/x/sys/unix"
)

// executor starts processes from one thread that lives as long as the lab:
// PR_SET_PDEATHSIG (prctl(2)) kills a child when the thread that forked it
// ends, not when the process does.
type executor struct {
	jobs chan func()
	done chan struct{}
	once sync.Once
}

func newExecutor() *executor {
	e := &executor{jobs: make(chan func()), done: make(chan struct{})}
	go func() {
		defer close(e.done)
		runtime.LockOSThread() // never unlocked: it dies with the goroutine
		for job := range e.jobs {
			job()
		}
	}()
	return e
}

// start starts cmd inside the namespace. It must not be called after close.
func (e *executor) start(n NS, cmd *exec.Cmd) error {
	attr := *cmd.SysProcAttr
	attr.Pdeathsig = unix.SIGKILL
	cmd.SysProcAttr = &attr
	errc := make(chan error)
	e.jobs <- func() {
		restore, err := excursion(n.enter)
		if err != nil {
			errc <- err
			return
		}
		err = cmd.Start()
		// Should this thread be stuck in the namespace, the next job still
		// enters its own one first.
		restore()
		errc <- err
	}
	return <-errc
}

// close ends the thread, and with it whatever it started and still runs.
func (e *executor) close() {
	e.once.Do(func() { close(e.jobs) })
	<-e.done
}
