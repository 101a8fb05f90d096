package rawfd

import (
	"errors"
	"os"
	"testing"
	"time"
)

// times that a deadline may have, whatever an int64 of nanoseconds can say.
var (
	longPast = []time.Time{
		time.Unix(1, 0), time.Unix(0, 1), time.Unix(0, 0), time.Unix(0, 0).In(time.FixedZone("", 12*3600)), time.Unix(0, 0).In(time.FixedZone("", -12*3600)),
		time.Unix(-1, 0), time.Date(1678, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(1677, 1, 1, 0, 0, 0, 0, time.UTC),
		time.Date(1000, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(1, 1, 1, 0, 0, 0, 1, time.UTC), time.Date(-5000, 1, 1, 0, 0, 0, 0, time.UTC),
	}
	farFuture = []time.Time{
		time.Date(2199, 12, 31, 23, 0, 0, 0, time.UTC), time.Date(2201, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(2262, 4, 12, 0, 0, 0, 0, time.UTC),
		time.Date(2263, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(2554, 8, 1, 0, 0, 0, 0, time.UTC), time.Date(2600, 1, 1, 0, 0, 0, 0, time.UTC),
		time.Date(9999, 12, 31, 23, 59, 59, 999999999, time.UTC), time.Date(200000, 1, 1, 0, 0, 0, 0, time.UTC),
	}
)

func TestDeadlinePast(t *testing.T) {
	f, w := reader(t)
	put(t, w) // even if there is data
	for _, at := range append(longPast, time.Now(), time.Now().Add(-time.Hour)) {
		if err := f.SetReadDeadline(at); err != nil {
			t.Fatal(err)
		}
		if err := f.Check(); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%v: %v", at, err)
		}
		if err := entered(f, f.WaitRead); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%v: %v", at, err)
		}
	}
	// Cleared.
	if err := f.SetReadDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	if err := f.Check(); err != nil {
		t.Error(err)
	}
	wait(f, f.WaitRead).ends(t, nil)
}

func TestDeadlineFarFuture(t *testing.T) {
	for _, at := range farFuture {
		f, w := reader(t)
		if err := f.SetReadDeadline(at); err != nil {
			t.Fatal(err)
		}
		if err := f.Check(); err != nil {
			t.Errorf("%v: %v", at, err)
		}
		waiter := wait(f, f.WaitRead)
		waiter.polling(t)
		select {
		case err := <-waiter.result:
			t.Errorf("%v: %v", at, err)
			continue
		case <-time.After(5 * NapTime): // that nothing happens cannot be awaited
		}
		put(t, w)
		waiter.ends(t, nil)
	}
}

// A deadline ends the waiting in time: not before, whether it falls into the
// nap or behind it, and soon after.
func TestDeadlineComes(t *testing.T) {
	for _, after := range []time.Duration{NapTime / 5, NapTime, 5 * NapTime, 50 * time.Millisecond} {
		f, _ := reader(t)
		at := time.Now().Add(after)
		if err := f.SetReadDeadline(at); err != nil {
			t.Fatal(err)
		}
		wait(f, f.WaitRead).ends(t, os.ErrDeadlineExceeded)
		if early := time.Until(at); early > 0 {
			t.Errorf("%s before the deadline", early)
		}
	}
}

func TestDeadlineWhileWaiting(t *testing.T) {
	t.Run("past", func(t *testing.T) {
		for range 50 {
			f, _ := reader(t)
			waiter := wait(f, f.WaitRead)
			waiter.asleep(t)
			if err := f.SetReadDeadline(time.Unix(1, 0)); err != nil {
				t.Fatal(err)
			}
			waiter.ends(t, os.ErrDeadlineExceeded)
		}
	})
	t.Run("at any moment", func(t *testing.T) {
		f, _ := reader(t)
		for range 500 {
			waiter := wait(f, f.WaitRead)
			if err := f.SetReadDeadline(time.Unix(1, 0)); err != nil {
				t.Fatal(err)
			}
			waiter.ends(t, os.ErrDeadlineExceeded)
			if err := f.SetReadDeadline(time.Time{}); err != nil {
				t.Fatal(err)
			}
		}
	})
	t.Run("nearer", func(t *testing.T) {
		f, _ := reader(t)
		f.SetReadDeadline(time.Now().Add(time.Hour))
		waiter := wait(f, f.WaitRead)
		waiter.polling(t)
		at := time.Now().Add(20 * time.Millisecond)
		f.SetReadDeadline(at)
		waiter.ends(t, os.ErrDeadlineExceeded)
		if early := time.Until(at); early > 0 {
			t.Errorf("%s before the deadline", early)
		}
	})
	t.Run("cleared", func(t *testing.T) {
		f, w := reader(t)
		at := time.Now().Add(200 * time.Millisecond)
		f.SetReadDeadline(at)
		waiter := wait(f, f.WaitRead)
		waiter.polling(t)
		f.SetReadDeadline(time.Time{})
		waiter.asleep(t)
		time.Sleep(time.Until(at))
		waiter.waits(t)
		put(t, w)
		waiter.ends(t, nil)
	})
	t.Run("often", func(t *testing.T) {
		f, w := reader(t)
		for range 1000 { // more than the eventfd can add up
			if err := f.SetReadDeadline(time.Now().Add(time.Hour)); err != nil {
				t.Fatal(err)
			}
		}
		if err := f.SetReadDeadline(time.Time{}); err != nil {
			t.Fatal(err)
		}
		waiter := wait(f, f.WaitRead)
		waiter.asleep(t)
		put(t, w)
		waiter.ends(t, nil)
	})
}
