package dataplane

import (
	"testing"
	"time"
)

// allowed is how many of n messages at one instant pass.
func allowed(l *limiter, now time.Time, n int) (passed int) {
	for range n {
		if l.allow(now) {
			passed++
		}
	}
	return passed
}

func TestLimiter(t *testing.T) {
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	var l limiter
	at := time.Duration(0)
	for i, step := range []struct {
		after time.Duration
		tries int
		want  int
	}{
		{0, 1000, icmpBurst},                     // the zero value is full
		{0, 1000, 0},                             // the clock stands still
		{time.Nanosecond, 1000, 0},               //
		{time.Millisecond, 1000, 1},              // one token per millisecond
		{10 * time.Millisecond, 1000, 10},        //
		{49 * time.Millisecond, 20, 20},          // what is left stays
		{0, 1000, 29},                            //
		{time.Hour, 1000, icmpBurst},             // no more than the burst is saved up
		{500 * time.Microsecond, 1000, 0},        // half a token
		{500 * time.Microsecond, 1000, 1},        // and the other half, after refusals
		{100 * 365 * 24 * time.Hour, 60, 50},     // a clock that was set right
		{25 * time.Millisecond, 1000, 25},        //
		{24*time.Millisecond + 999999, 1000, 24}, // not yet the 25th
	} {
		at += step.after
		if got := allowed(&l, start.Add(at), step.tries); got != step.want {
			t.Errorf("step %d, at %s: %d of %d passed, want %d", i, at, got, step.tries, step.want)
		}
	}
}

// Over any second at most the burst and the rate pass, however they come.
func TestLimiterRate(t *testing.T) {
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for _, every := range []time.Duration{time.Microsecond, 37 * time.Microsecond, 100 * time.Microsecond, 999 * time.Microsecond, 2 * time.Millisecond} {
		var l limiter
		passed, tried := 0, 0
		for at := time.Duration(0); at < time.Second; at += every {
			tried++
			if l.allow(start.Add(at)) {
				passed++
			}
		}
		// One less is rounding.
		if want := min(tried, icmpBurst+icmpPerSecond-1); passed < want-1 || passed > want+1 {
			t.Errorf("one every %s: %d of %d passed, want %d", every, passed, tried, want)
		}
	}
}
