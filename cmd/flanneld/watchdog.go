package main

import (
	"log/slog"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
)

// lookEvery is the longest time between two looks. A look counts all of it
// against a loop that spoke a moment ago, so it has to be well below grace.
const lookEvery = 20 * time.Second

// A watchdog tells systemd that the daemon lives. Without WATCHDOG_USEC in the
// environment it does nothing, and its C never fires.
type watchdog struct {
	C <-chan time.Time // time for ping

	log   *slog.Logger
	alive *liveness
	every time.Duration
	last  time.Time // of the last ping
	stuck []string  // loops, at the last ping, which was not told then
	stop  func()
}

// newWatchdog reads WATCHDOG_USEC and WATCHDOG_PID (sd_watchdog_enabled(3)),
// which must be the pid of this process if it is there.
//
// It looks at least three times in each interval of WATCHDOG_USEC. When that has
// passed without a ping systemd ends the daemon, by SIGABRT unless the unit says
// otherwise, at which Go prints the stacks of all goroutines: the log then has
// the reason.
func newWatchdog(alive *liveness, log *slog.Logger) *watchdog {
	w := &watchdog{log: log, alive: alive, stop: func() {}}
	interval, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		log.Warn("ignoring the watchdog of systemd: want microseconds in WATCHDOG_USEC and a pid in WATCHDOG_PID", "err", err)
	}
	if err != nil || interval <= 0 {
		return w
	}
	w.every = min(max(interval/3, time.Millisecond), lookEvery)
	w.last = time.Now()
	ticker := time.NewTicker(w.every)
	w.C, w.stop = ticker.C, ticker.Stop
	return w
}

// ping tells systemd that all is well, unless a loop is stuck.
func (w *watchdog) ping() {
	now := time.Now()
	// By the monotonic clock, which stands still while the machine sleeps; a
	// virtual machine that was paused may find that it ran on.
	step := min(now.Sub(w.last), 2*w.every)
	w.last = now
	before := w.stuck
	if w.stuck = w.alive.pass(step, w.log); len(w.stuck) > 0 {
		return
	}
	if len(before) > 0 {
		w.log.Warn("all loops go on, telling the watchdog of systemd again that all is well")
	}
	notify(w.log, daemon.SdNotifyWatchdog)
}
