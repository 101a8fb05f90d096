// Package rawfd waits for file descriptors without Go's network poller. A
// packet loop that owns its thread gains a quarter to a third by that: it tries
// the system call first, and where there is nothing to do it sleeps in
// ppoll(2) itself, so that no other thread has to wake it.
package rawfd

import (
	"math"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A File is a descriptor with a read deadline, that can be closed
// while it is in use. System calls on it stand between Enter and Leave.
type File struct {
	fd       int
	deadline atomic.Int64 // Unix time in ns, 0 for none
	closed   atomic.Bool
	rewait   int // eventfd(2) that ends a WaitRead, after deadline or closed has changed
	ended    int // eventfd(2) that is readable once the File is closed

	inUse sync.RWMutex // read: between Enter and Leave; write: by Close
}

// New takes over fd, whose system calls must not block for long. On an error fd is
// left open.
func New(fd int) (*File, error) {
	f := &File{fd: fd}
	var err error
	if f.rewait, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		return nil, os.NewSyscallError("eventfd", err)
	}
	if f.ended, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		unix.Close(f.rewait)
		return nil, os.NewSyscallError("eventfd", err)
	}
	return f, nil
}

// Enter keeps Close from freeing the descriptor until Leave, and returns it.
// After Close the error is os.ErrClosed, and Leave must not be called.
func (f *File) Enter() (fd int, err error) {
	f.inUse.RLock()
	if f.closed.Load() {
		f.inUse.RUnlock()
		return -1, os.ErrClosed
	}
	return f.fd, nil
}

// Leave ends what Enter began.
func (f *File) Leave() { f.inUse.RUnlock() }

// Check returns os.ErrDeadlineExceeded if the read deadline has passed, and
// os.ErrClosed if Close was called.
func (f *File) Check() error {
	if f.closed.Load() {
		return os.ErrClosed
	}
	if at := f.deadline.Load(); at != 0 && time.Now().UnixNano() >= at {
		return os.ErrDeadlineExceeded
	}
	return nil
}

// WaitRead waits until reading may not block, or returns the error of Check.
// It must be called by one goroutine at a time.
func (f *File) WaitRead() error {
	if err := f.Check(); err != nil {
		return err
	}
	if f.nap() {
		return f.Check()
	}
	return f.SleepRead()
}

// SleepRead is WaitRead for who has napped already.
func (f *File) SleepRead() error {
	for {
		if err := f.Check(); err != nil {
			return err
		}
		fds := [2]unix.PollFd{{Fd: int32(f.fd), Events: unix.POLLIN}, {Fd: int32(f.rewait), Events: unix.POLLIN}}
		if err := sleep(&fds, f.timeLeft()); err != nil {
			return err
		}
		if fds[1].Revents != 0 {
			var count [8]byte
			unix.Read(f.rewait, count[:])
		}
		if fds[0].Revents != 0 {
			return f.Check()
		}
	}
}

// WaitWrite waits until writing may not block. After Close it returns
// os.ErrClosed.
func (f *File) WaitWrite() error {
	fds := [2]unix.PollFd{{Fd: int32(f.fd), Events: unix.POLLOUT}, {Fd: int32(f.ended), Events: unix.POLLIN}}
	for fds[0].Revents == 0 && !f.closed.Load() { // again after a signal
		if err := sleep(&fds, nil); err != nil {
			return err
		}
	}
	if f.closed.Load() {
		return os.ErrClosed
	}
	return nil
}

func (f *File) timeLeft() *unix.Timespec {
	at := f.deadline.Load()
	if at == 0 {
		return nil
	}
	// An hour is enough, since WaitRead looks again; a Timespec of 32 bits has
	// no room for much more.
	left := unix.NsecToTimespec(min(max(0, at-time.Now().UnixNano()), int64(time.Hour)))
	return &left
}

// NapTime bounds a nap, a wait for a short time without telling the scheduler.
// Under load the next packet is microseconds away, and telling makes the
// runtime's monitor and other threads run after every one. When the runtime
// wants the thread to stop, for garbage collection or after 10 ms, its signal
// ends the nap; a new deadline and Close wait for its end.
//
// It is longer than a tick of the kernel, because a timer that becomes the next
// one to fire costs a virtual machine two exits.
const NapTime = 10 * time.Millisecond

// nap reports whether reading may not block any more.
func (f *File) nap() bool { return readable(f.fd, NapTime) }

// Readable reports whether reading from fd would not block.
func Readable(fd int) bool { return readable(fd, 0) }

func readable(number int, within time.Duration) bool {
	fd := unix.PollFd{Fd: int32(number), Events: unix.POLLIN}
	timeout := unix.NsecToTimespec(int64(within))
	n, _, errno := syscall.RawSyscall6(unix.SYS_PPOLL, uintptr(unsafe.Pointer(&fd)), 1,
		uintptr(unsafe.Pointer(&timeout)), 0, 0, 0)
	return errno == 0 && n != 0
}

// Rest lets packets gather for d, and about 50 us more by the slack of the
// kernel's timers (prctl(2), PR_SET_TIMERSLACK). Like a nap it keeps the
// scheduler out of it, so it should be short.
func Rest(d time.Duration) {
	left := unix.NsecToTimespec(int64(d))
	syscall.RawSyscall(unix.SYS_NANOSLEEP, uintptr(unsafe.Pointer(&left)), 0, 0)
}

// sleep waits, without end if timeout is nil. It tells the scheduler that this
// thread may sleep, as all system calls must that can take long: otherwise
// garbage collection would wait for it.
func sleep(fds *[2]unix.PollFd, timeout *unix.Timespec) error {
	_, _, errno := syscall.Syscall6(unix.SYS_PPOLL, uintptr(unsafe.Pointer(fds)), uintptr(len(fds)),
		uintptr(unsafe.Pointer(timeout)), 0, 0, 0)
	if errno != 0 && errno != unix.EINTR {
		return os.NewSyscallError("ppoll", errno)
	}
	return nil
}

// SetReadDeadline makes Check and WaitRead fail from t on. The zero time means
// no deadline.
func (f *File) SetReadDeadline(t time.Time) error {
	if _, err := f.Enter(); err != nil {
		return err
	}
	defer f.Leave()
	var at int64
	if !t.IsZero() {
		switch year := t.Year(); {
		case year < 1970: // UnixNano is at its end in 1678 and in 2262
			at = 1
		case year > 2200:
			at = math.MaxInt64
		default:
			at = max(1, t.UnixNano())
		}
	}
	f.deadline.Store(at)
	return signal(f.rewait)
}

// Close ends all waiting, waits for each Leave, and closes the descriptor. A
// second call returns os.ErrClosed.
func (f *File) Close() error {
	if f.closed.Swap(true) {
		return os.ErrClosed
	}
	signal(f.rewait)
	signal(f.ended)
	f.inUse.Lock()
	defer f.inUse.Unlock()
	unix.Close(f.rewait)
	unix.Close(f.ended)
	return os.NewSyscallError("close", unix.Close(f.fd))
}

func signal(event int) error {
	one := [8]byte{0: 1, 7: 1} // not 0 in either byte order
	if _, err := unix.Write(event, one[:]); err != nil && err != unix.EAGAIN {
		return os.NewSyscallError("write to eventfd", err)
	}
	return nil
}
