package rawfd

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// reader returns the read end of a pipe, and its write end.
func reader(t *testing.T) (f *File, write int) {
	t.Helper()
	return pipe(t, 0)
}

// writer returns the write end of a pipe that is full, and its read end.
func writer(t *testing.T) (f *File, read int) {
	t.Helper()
	f, read = pipe(t, 1)
	page := make([]byte, 4096)
	for {
		switch _, err := unix.Write(f.fd, page); err {
		case nil:
		case unix.EAGAIN:
			return f, read
		default:
			t.Fatal(err)
		}
	}
}

// pipe makes a File of one end of a pipe and returns the other one beside it.
func pipe(t *testing.T, end int) (f *File, other int) {
	t.Helper()
	var ends [2]int
	if err := unix.Pipe2(ends[:], unix.O_NONBLOCK|unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	f, err := New(ends[end])
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		unix.Close(ends[1-end])
		if err := f.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
			t.Error(err)
		}
	})
	return f, ends[1-end]
}

func put(t *testing.T, fd int) {
	t.Helper()
	if _, err := unix.Write(fd, []byte{1}); err != nil {
		t.Error(err)
	}
}

// drain empties a pipe.
func drain(t *testing.T, fd int) {
	t.Helper()
	page := make([]byte, 4096)
	for {
		switch _, err := unix.Read(fd, page); err {
		case nil:
		case unix.EAGAIN:
			return
		default:
			t.Fatal(err)
		}
	}
}

// entered calls wait as the users of a File do.
func entered(f *File, wait func() error) error {
	if _, err := f.Enter(); err != nil {
		return err
	}
	defer f.Leave()
	return wait()
}

// A waiter is a goroutine that waits on a thread of its own.
type waiter struct {
	tid    int
	result chan error
}

func wait(f *File, wait func() error) waiter {
	w := waiter{result: make(chan error, 1)}
	tid := make(chan int)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		tid <- unix.Gettid()
		w.result <- entered(f, wait)
	}()
	w.tid = <-tid
	return w
}

// asleep waits until the thread is in a ppoll(2) without a timeout, which is
// what follows the nap.
func (w waiter) asleep(t *testing.T) {
	t.Helper()
	w.inPoll(t, func(timeout string) bool { return timeout == "0x0" })
}

// polling waits until the thread is in any ppoll(2).
func (w waiter) polling(t *testing.T) {
	t.Helper()
	w.inPoll(t, func(string) bool { return true })
}

func (w waiter) inPoll(t *testing.T, is func(timeout string) bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); runtime.Gosched() {
		b, err := os.ReadFile(fmt.Sprintf("/proc/self/task/%d/syscall", w.tid))
		if err != nil {
			t.Fatal(err)
		}
		// The number of the system call and its arguments, or "running".
		call := strings.Fields(string(b))
		if len(call) > 3 && call[0] == fmt.Sprint(unix.SYS_PPOLL) && is(call[3]) {
			return
		}
	}
	t.Fatal("the waiter does not come to wait")
}

// switches says how often the thread has gone to sleep.
func (w waiter) switches(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/self/task/%d/status", w.tid))
	if err != nil {
		t.Fatal(err)
	}
	_, count, ok := strings.Cut(string(b), "voluntary_ctxt_switches:")
	if !ok {
		t.Fatalf("status without voluntary_ctxt_switches: %s", b)
	}
	return strings.Fields(count)[0]
}

// ends wants the waiting to end with the error.
func (w waiter) ends(t *testing.T, want error) {
	t.Helper()
	select {
	case err := <-w.result:
		if !errors.Is(err, want) {
			t.Errorf("error %v, want %v", err, want)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("still waiting")
	}
}

// waits wants the waiting not to have ended yet.
func (w waiter) waits(t *testing.T) {
	t.Helper()
	select {
	case err := <-w.result:
		t.Fatalf("it waits no more: %v", err)
	default:
	}
}

// openFiles counts the descriptors of this process.
func openFiles(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}
