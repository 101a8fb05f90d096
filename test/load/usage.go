package load

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"time"
)

// Usage is what the whole machine did during a window (proc_stat(5)).
//
// The kernel tells CPU time in units of USER_HZ, 10 ms on every architecture
// that Go knows: Busy and Steal are as exact as some 10 ms for each CPU. On
// kernels that sample CPU time at the timer tick, work that follows the tick
// can be told too low or too high.
type Usage struct {
	Wall  time.Duration // between the two readings, a little more than the window
	Busy  time.Duration // of all CPUs together: user, nice, system, irq and softirq; not idle, iowait and steal. Guests are in user
	Steal time.Duration // of all CPUs together
}

// userHZ is the unit of /proc/stat, 1/100 s (time(7)).
const userHZ = 10 * time.Millisecond

// A stat is a reading of the CPU times since boot.
type stat struct {
	at          time.Time
	busy, steal time.Duration
}

func readStat() (stat, error) {
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return stat{}, err
	}
	s, err := parseStat(text)
	s.at = time.Now()
	return s, err
}

// parseStat reads the first line, "cpu" and the times of all CPUs: user nice
// system idle iowait irq softirq steal, and guest ones that are in user and
// nice already.
func parseStat(text []byte) (stat, error) {
	line, _, _ := bytes.Cut(text, []byte("\n"))
	fields := bytes.Fields(line)
	if len(fields) < 9 || string(fields[0]) != "cpu" {
		return stat{}, fmt.Errorf("/proc/stat: line %q: want cpu and eight times", line)
	}
	var s stat
	for i, field := range fields[1:9] {
		n, err := strconv.ParseInt(string(field), 10, 64)
		if err != nil {
			return stat{}, fmt.Errorf("/proc/stat: time %q of the cpus: %w", field, err)
		}
		switch d := time.Duration(n) * userHZ; i {
		case 0, 1, 2, 5, 6:
			s.busy += d
		case 7:
			s.steal = d
		}
	}
	return s, nil
}

func (s stat) since(before stat) Usage {
	return Usage{Wall: s.at.Sub(before.at), Busy: s.busy - before.busy, Steal: s.steal - before.steal}
}
