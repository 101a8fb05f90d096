package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// userHZ is what proc_pid_stat(5) counts in, on every architecture that we
// build for.
const userHZ = 100

// processCPU returns the CPU time, user and system, of a running process and
// of those that it has waited for: flanneld runs iptables.
func processCPU(pid int) (time.Duration, error) {
	// MAKE_PROCESS_CPUCLOCK(pid, CPUCLOCK_SCHED) of linux/posix-timers.h: the
	// clock that clock_getcpuclockid(3) finds, exact to the nanosecond.
	var t unix.Timespec
	if err := unix.ClockGettime(int32(^pid<<3|2), &t); err != nil {
		return 0, fmt.Errorf("cpu clock of process %d: %w", pid, err)
	}
	children, err := readProc(fmt.Sprintf("/proc/%d/stat", pid), childrenCPU)
	return time.Duration(t.Nano()) + children, err
}

// childrenCPU finds cutime and cstime in a proc_pid_stat(5).
func childrenCPU(r io.Reader) (time.Duration, error) {
	b, err := io.ReadAll(r)
	if err != nil {
		return 0, err
	}
	// The name is in parentheses and may hold anything; the state, field 3,
	// comes after the last one.
	fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	if len(fields) < 15 {
		return 0, fmt.Errorf("%d fields behind the name, want 15 or more", len(fields))
	}
	var sum time.Duration
	for _, f := range fields[13:15] {
		ticks, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("cutime and cstime: %w", err)
		}
		sum += time.Duration(ticks) * time.Second / userHZ
	}
	return sum, nil
}

// proportionalMemory finds Pss, the memory of a process with what it shares
// divided by the number of sharers, in a proc_pid_smaps_rollup(5), in bytes.
func proportionalMemory(r io.Reader) (int64, error) {
	s := bufio.NewScanner(r)
	for s.Scan() {
		if value, ok := strings.CutPrefix(s.Text(), "Pss:"); ok {
			kib, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(value, " kB")), 10, 64)
			return kib << 10, err
		}
	}
	if err := s.Err(); err != nil {
		return 0, err
	}
	return 0, fmt.Errorf("no line Pss: the process has ended")
}

// ownCPU is the CPU time of this process.
func ownCPU() (time.Duration, error) {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		return 0, os.NewSyscallError("getrusage", err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()), nil
}

// awaitQuiet waits until the process has used next to no CPU for so long, and
// returns what it has used in all.
func awaitQuiet(ctx context.Context, pid int, long time.Duration) (time.Duration, error) {
	used, err := processCPU(pid)
	for err == nil {
		if !sleep(ctx, long) {
			return 0, fmt.Errorf("process %d does not come to rest: %w", pid, ctx.Err())
		}
		var now time.Duration
		if now, err = processCPU(pid); err == nil && now-used < long/100 {
			return now, nil
		}
		used = now
	}
	return 0, err
}

// sleep reports whether ctx has let it.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
