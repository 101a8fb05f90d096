package rawfd

import (
	"errors"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestWaitRead(t *testing.T) {
	t.Run("data before", func(t *testing.T) {
		f, w := reader(t)
		put(t, w)
		wait(f, f.WaitRead).ends(t, nil)
	})
	t.Run("data while napping", func(t *testing.T) {
		f, w := reader(t)
		for range 200 {
			waiter := wait(f, f.WaitRead)
			put(t, w)
			waiter.ends(t, nil)
			drain(t, f.fd)
		}
	})
	t.Run("data after the nap", func(t *testing.T) {
		f, w := reader(t)
		for range 20 {
			waiter := wait(f, f.WaitRead)
			waiter.asleep(t)
			waiter.waits(t)
			put(t, w)
			waiter.ends(t, nil)
			drain(t, f.fd)
		}
	})
	t.Run("other end gone", func(t *testing.T) {
		var ends [2]int
		if err := unix.Pipe2(ends[:], unix.O_NONBLOCK|unix.O_CLOEXEC); err != nil {
			t.Fatal(err)
		}
		f, err := New(ends[0])
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		waiter := wait(f, f.WaitRead)
		waiter.asleep(t)
		unix.Close(ends[1])
		waiter.ends(t, nil) // read says what is the matter
	})
}

func TestWaitWrite(t *testing.T) {
	f, r := writer(t)
	waiter := wait(f, f.WaitWrite)
	waiter.asleep(t)
	if err := f.SetReadDeadline(time.Unix(1, 0)); err != nil { // not its affair
		t.Error(err)
	}
	waiter.asleep(t)
	waiter.waits(t)
	drain(t, r)
	waiter.ends(t, nil)
	wait(f, f.WaitWrite).ends(t, nil)
}

// Signals, as the runtime sends them to preempt, neither end the waiting nor
// make it miss its end.
func TestSignals(t *testing.T) {
	bombard := func(t *testing.T, w waiter) {
		t.Helper()
		for i := range 2000 {
			if err := unix.Tgkill(os.Getpid(), w.tid, unix.SIGURG); err != nil {
				t.Fatal(err)
			}
			if i%4 == 0 {
				w.polling(t) // so that most of them meet it
			}
		}
		w.waits(t)
	}
	t.Run("WaitRead", func(t *testing.T) {
		f, w := reader(t)
		waiter := wait(f, f.WaitRead)
		bombard(t, waiter)
		put(t, w)
		waiter.ends(t, nil)
	})
	t.Run("WaitWrite", func(t *testing.T) {
		f, r := writer(t)
		waiter := wait(f, f.WaitWrite)
		waiter.asleep(t)
		bombard(t, waiter)
		drain(t, r)
		waiter.ends(t, nil)
	})
	t.Run("deadline", func(t *testing.T) {
		f, _ := reader(t)
		at := time.Now().Add(30 * time.Millisecond)
		f.SetReadDeadline(at)
		waiter := wait(f, f.WaitRead)
		for {
			// The thread may have ended; then the result is near.
			unix.Tgkill(os.Getpid(), waiter.tid, unix.SIGURG)
			select {
			case err := <-waiter.result:
				if !errors.Is(err, os.ErrDeadlineExceeded) || time.Now().Before(at) {
					t.Errorf("%v, %s after the deadline", err, time.Since(at))
				}
				return
			default:
			}
			if time.Since(at) > 10*time.Second {
				t.Fatal("the deadline never comes")
			}
		}
	})
}

// Who waits holds up no collection of garbage.
func TestGarbageCollection(t *testing.T) {
	const patience = 5 * time.Second
	for _, tt := range []struct {
		name  string
		awake bool // data comes all the time
	}{{"asleep", false}, {"napping", true}} {
		t.Run(tt.name, func(t *testing.T) {
			f, w := reader(t)
			if tt.awake {
				// If the world cannot be stopped, nothing else of this test
				// runs either: then this ends it.
				f.SetReadDeadline(time.Now().Add(2 * patience))
			}
			done := make(chan struct{})
			var wg sync.WaitGroup
			waiter := wait(f, func() error {
				for {
					if err := f.WaitRead(); err != nil {
						return err
					}
					var b [64]byte
					unix.Read(f.fd, b[:])
				}
			})
			if tt.awake {
				wg.Go(func() {
					for {
						select {
						case <-done:
							return
						default:
							unix.Write(w, []byte{1})
							runtime.Gosched()
						}
					}
				})
			}
			before := ""
			if tt.awake {
				waiter.polling(t)
			} else {
				waiter.asleep(t)
				before = waiter.switches(t)
			}
			start := time.Now()
			for range 20 {
				runtime.GC()
			}
			if took := time.Since(start); took > patience {
				t.Errorf("20 collections took %s", took)
			}
			// The scheduler knows that a sleeper sleeps, and lets it.
			if !tt.awake {
				if after := waiter.switches(t); after != before {
					t.Errorf("the sleeper was woken: %s, before %s", after, before)
				}
			}
			waiter.waits(t)
			close(done)
			wg.Wait()
			f.SetReadDeadline(time.Unix(1, 0))
			waiter.ends(t, os.ErrDeadlineExceeded)
		})
	}
}

// Many goroutines use one File as a socket is used, until it is closed.
func TestConcurrentUse(t *testing.T) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var ends [2]*File
	for i := range ends {
		if ends[i], err = New(fds[i]); err != nil {
			t.Fatal(err)
		}
	}
	const senders, each = 4, 500
	var received, refused atomic.Int64
	all := make(chan struct{})
	var wg sync.WaitGroup
	for _, f := range ends {
		for range senders {
			wg.Go(func() {
				for n := 0; n < each; {
					err := entered(f, func() error {
						_, err := unix.Write(f.fd, []byte{1})
						switch err {
						case nil:
							n++
						case unix.EAGAIN, unix.ENOBUFS:
							return f.WaitWrite()
						}
						return err
					})
					if err != nil && err != unix.EINTR {
						t.Errorf("write: %v", err)
						return
					}
				}
			})
		}
		wg.Go(func() { // the one reader
			for {
				err := entered(f, func() error {
					if err := f.WaitRead(); err != nil {
						return err
					}
					var b [8]byte
					for {
						if _, err := unix.Read(f.fd, b[:]); err == unix.EAGAIN {
							return nil
						} else if err == nil && received.Add(1) == 2*senders*each {
							close(all)
						}
					}
				})
				switch {
				case errors.Is(err, os.ErrClosed):
					refused.Add(1)
					return
				case err != nil:
					t.Errorf("read: %v", err)
					return
				}
			}
		})
		wg.Go(func() { // who sets deadlines that do not matter
			for i := 0; ; i++ {
				at := time.Now().Add(time.Hour)
				if i%2 == 0 {
					at = time.Time{}
				}
				if err := f.SetReadDeadline(at); err != nil {
					if !errors.Is(err, os.ErrClosed) {
						t.Error(err)
					}
					refused.Add(1)
					return
				}
				runtime.Gosched()
			}
		})
	}
	select {
	case <-all:
	case <-time.After(20 * time.Second):
		t.Errorf("%d of %d arrived", received.Load(), 2*senders*each)
	}
	for _, f := range ends {
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	}
	wg.Wait()
	if n := refused.Load(); n != 4 {
		t.Errorf("%d of 4 users were told that it is closed", n)
	}
}
