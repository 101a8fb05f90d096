package main

import (
	"bytes"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"tweed/cmd/flanneld/flags"
)

// TestWatchdog pings a socket until a loop hangs, and again when it goes on.
func TestWatchdog(t *testing.T) {
	conn := listenNotify(t)
	t.Setenv("WATCHDOG_USEC", "3000000")
	t.Setenv("WATCHDOG_PID", strconv.Itoa(os.Getpid()))
	var out bytes.Buffer
	l := newLiveness()
	w := newWatchdog(l, slog.New(newGlogHandler(&out, flags.LogOptions{})))
	defer w.stop()
	if w.C == nil || w.every != time.Second {
		t.Fatalf("every %v, want a third of 3 s", w.every)
	}
	// ping acts as if d had gone by since the last.
	ping := func(d time.Duration, want string) {
		t.Helper()
		w.last = time.Now().Add(-d)
		w.ping()
		if got := told(t, conn); got != want {
			t.Errorf("systemd was told %q, want %q", got, want)
		}
	}
	p := l.loop("peers")
	p.within(2500 * time.Millisecond)
	ping(time.Second, "WATCHDOG=1")
	ping(time.Second, "WATCHDOG=1")
	ping(time.Second, "")
	ping(time.Second, "")
	if len(w.stuck) != 1 || !strings.HasPrefix(w.stuck[0], "peers: ") {
		t.Errorf("stuck: %q", w.stuck)
	}
	p.within(2500 * time.Millisecond)
	ping(time.Second, "WATCHDOG=1")
	wantLines(t, out.String(), "a loop is stuck", "all loops go on")

	// A machine that was paused for a day: no loop is to blame for more than two
	// intervals of that.
	out.Reset()
	p.within(2500 * time.Millisecond)
	ping(24*time.Hour, "WATCHDOG=1")
	p.within(2500 * time.Millisecond)
	ping(time.Second, "WATCHDOG=1")
	wantLines(t, out.String())
}

func wantLines(t *testing.T, text string, want ...string) {
	t.Helper()
	if strings.Count(text, "\n") != len(want) {
		t.Errorf("logged %q, want %q", text, want)
	}
	for _, w := range want {
		if !strings.Contains(text, w) {
			t.Errorf("logged %q, want %q", text, w)
		}
	}
}

func TestWatchdogEnvironment(t *testing.T) {
	own := strconv.Itoa(os.Getpid())
	for _, tt := range []struct {
		usec, pid string
		every     time.Duration // 0: off
		warns     bool
	}{
		{"", "", 0, false},
		{"", own, 0, false},
		{"30000000", "", 10 * time.Second, false},
		{"30000000", own, 10 * time.Second, false},
		{"60000000", own, 20 * time.Second, false},
		{"86400000000", own, 20 * time.Second, false},
		{"30000000", "1", 0, false},
		{"1", own, time.Millisecond, false},
		{"0", own, 0, true},
		{"-3", own, 0, true},
		{"soon", own, 0, true},
		{"30s", own, 0, true},
		{"30000000", "me", 0, true},
		{"99999999999999999999", own, 0, true},
	} {
		t.Setenv("WATCHDOG_USEC", tt.usec)
		t.Setenv("WATCHDOG_PID", tt.pid)
		var out bytes.Buffer
		w := newWatchdog(newLiveness(), slog.New(newGlogHandler(&out, flags.LogOptions{})))
		w.stop()
		if w.every != tt.every || (w.C != nil) != (tt.every > 0) || (out.Len() > 0) != tt.warns {
			t.Errorf("%q, %q: every %v, want %v; logged %q", tt.usec, tt.pid, w.every, tt.every, out.String())
		}
	}
}

// TestLongWatchdog: where systemd wants to be told every ten minutes or more, a
// loop that speaks in time is not stuck, and one that hangs is soon.
func TestLongWatchdog(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "")
	t.Setenv("WATCHDOG_PID", "")
	for _, interval := range []time.Duration{10 * time.Minute, 30 * time.Minute} {
		t.Setenv("WATCHDOG_USEC", strconv.FormatInt(interval.Microseconds(), 10))
		synctest.Test(t, func(t *testing.T) {
			alive := newLiveness()
			w := newWatchdog(alive, slog.New(slog.DiscardHandler))
			defer w.stop()
			p := alive.loop("peers")
			p.within(grace)
			speak := time.NewTicker(grace / 2)
			looks, spoken := 0, time.Now()
			for began := time.Now(); time.Since(began) < 10*interval; {
				select {
				case <-speak.C:
					p.within(grace)
					spoken = time.Now()
				case <-w.C:
					looks++
					if w.ping(); w.stuck != nil {
						t.Fatalf("of %v: stuck at look %d: %q", interval, looks, w.stuck)
					}
				}
			}
			if looks < 30-1 { // the last may be to come
				t.Errorf("of %v: %d looks in ten intervals, want three in each", interval, looks)
			}
			speak.Stop()
			for w.stuck == nil && time.Since(spoken) < interval {
				<-w.C
				w.ping()
			}
			if silent := time.Since(spoken); w.stuck == nil || silent < grace || silent > grace+2*lookEvery {
				t.Errorf("of %v: stuck after %v: %q, want it after %v", interval, silent, w.stuck, grace)
			}
		})
	}
}
