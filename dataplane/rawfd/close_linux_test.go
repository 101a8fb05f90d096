package rawfd

import (
	"errors"
	"os"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Close ends all waiting, wherever it has got to.
func TestCloseEndsWaiting(t *testing.T) {
	for _, tt := range []struct {
		name string
		wait func(f *File) func() error
		open func(t *testing.T) (*File, int)
	}{
		{"WaitRead", func(f *File) func() error { return f.WaitRead }, reader},
		{"WaitWrite", func(f *File) func() error { return f.WaitWrite }, writer},
	} {
		t.Run(tt.name+" asleep", func(t *testing.T) {
			for range 20 {
				f, _ := tt.open(t)
				w := wait(f, tt.wait(f))
				w.asleep(t)
				if err := f.Close(); err != nil {
					t.Error(err)
				}
				w.ends(t, os.ErrClosed)
			}
		})
		t.Run(tt.name+" at any moment", func(t *testing.T) {
			for range 200 {
				f, _ := tt.open(t)
				w := wait(f, tt.wait(f))
				if err := f.Close(); err != nil {
					t.Error(err)
				}
				w.ends(t, os.ErrClosed)
			}
		})
	}
	t.Run("many", func(t *testing.T) {
		f, _ := writer(t)
		waiters := []waiter{wait(f, f.WaitRead)} // the write end has nothing to read
		for range 5 {
			waiters = append(waiters, wait(f, f.WaitWrite))
		}
		for _, w := range waiters {
			w.asleep(t)
		}
		if err := f.Close(); err != nil {
			t.Error(err)
		}
		for _, w := range waiters {
			w.ends(t, os.ErrClosed)
		}
	})
	t.Run("with a deadline", func(t *testing.T) {
		f, _ := reader(t)
		f.SetReadDeadline(time.Now().Add(time.Hour))
		w := wait(f, f.WaitRead)
		w.polling(t)
		f.Close()
		w.ends(t, os.ErrClosed)
	})
}

// After Close every call says so, even past a deadline and with data there.
func TestClosed(t *testing.T) {
	f, w := reader(t)
	put(t, w)
	if err := f.SetReadDeadline(time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if fd, err := f.Enter(); !errors.Is(err, os.ErrClosed) || fd != -1 {
		t.Errorf("Enter: %d, %v", fd, err)
	}
	for name, call := range map[string]func() error{
		"Close":           f.Close,
		"Check":           f.Check,
		"WaitRead":        f.WaitRead,
		"WaitWrite":       f.WaitWrite,
		"SetReadDeadline": func() error { return f.SetReadDeadline(time.Time{}) },
	} {
		if err := call(); !errors.Is(err, os.ErrClosed) {
			t.Errorf("%s: %v, want %v", name, err, os.ErrClosed)
		}
	}
}

// The descriptor is there until the last one has left.
func TestCloseWaitsForLeave(t *testing.T) {
	f, _ := reader(t)
	fd, err := f.Enter()
	if err != nil {
		t.Fatal(err)
	}
	closed := background(f.Close)
	for end := time.Now().Add(10 * time.Second); f.Check() == nil; {
		if time.Now().After(end) {
			t.Fatal("Close does not begin")
		}
	}
	for range 100 {
		select {
		case err := <-closed:
			t.Fatalf("closed while in use: %v", err)
		default:
		}
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Close(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("second Close while the first one waits: %v", err)
	}
	f.Leave()
	if err := <-closed; err != nil {
		t.Error(err)
	}
}

func background(call func() error) <-chan error {
	result := make(chan error, 1)
	go func() { result <- call() }()
	return result
}

// Of many that close one succeeds.
func TestCloseConcurrent(t *testing.T) {
	for range 50 {
		f, _ := reader(t)
		results := make(chan error, 8)
		var wg sync.WaitGroup
		for range cap(results) {
			wg.Go(func() { results <- f.Close() })
		}
		wg.Wait()
		close(results)
		good := 0
		for err := range results {
			switch {
			case err == nil:
				good++
			case !errors.Is(err, os.ErrClosed):
				t.Error(err)
			}
		}
		if good != 1 {
			t.Errorf("closed %d times", good)
		}
	}
}

func TestNoLeak(t *testing.T) {
	before := openFiles(t)
	for range 100 {
		var ends [2]int
		if err := unix.Pipe2(ends[:], unix.O_NONBLOCK|unix.O_CLOEXEC); err != nil {
			t.Fatal(err)
		}
		for i := range ends {
			f, err := New(ends[i])
			if err != nil {
				t.Fatal(err)
			}
			f.SetReadDeadline(time.Unix(1, 0))
			f.WaitRead()
			if err := f.Close(); err != nil {
				t.Fatal(err)
			}
			f.Close()
		}
	}
	if after := openFiles(t); after != before {
		t.Errorf("%d descriptors, %d before", after, before)
	}
}

// Without descriptors New fails, leaves the given one open and none besides.
func TestNewWithoutDescriptors(t *testing.T) {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	next, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0) // the lowest free one
	if err != nil {
		t.Fatal(err)
	}
	unix.Close(next)
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	before := openFiles(t)
	for free := range 2 {
		low := limit
		low.Cur = uint64(next + free)
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &low); err != nil {
			t.Fatal(err)
		}
		f, err := New(fd)
		if restore := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); restore != nil {
			t.Fatal(restore)
		}
		if f != nil || !errors.Is(err, unix.EMFILE) {
			t.Errorf("with room for %d: %v, %v", free, f, err)
		}
	}
	if after := openFiles(t); after != before {
		t.Errorf("%d descriptors, %d before", after, before)
	}
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != nil {
		t.Errorf("the given descriptor: %v", err)
	}
}
