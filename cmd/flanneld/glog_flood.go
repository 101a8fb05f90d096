package main

import (
	"fmt"
	"time"
)

const (
	// repeatEvery is how often a line that comes again and again is shown.
	repeatEvery = time.Minute
	// maxRepeats bounds the lines remembered. A daemon in trouble has few
	// different complaints; with more, the oldest is simply shown again.
	maxRepeats = 256
)

// A floodGate keeps an identical complaint, such as that of a loop that tries
// every second to reach etcd, from filling the log. The first is shown at once;
// after that it is counted, and shown at most once a minute with the count. The
// zero value is ready. It is not safe for concurrent use.
type floodGate struct {
	lines map[string]*repeat
}

type repeat struct {
	shown  time.Time // when last
	hidden int       // times since then
}

// admit reports whether to show line now, and what to append to it.
func (g *floodGate) admit(line string, now time.Time) (suffix string, ok bool) {
	if r := g.lines[line]; r != nil {
		if now.Sub(r.shown) < repeatEvery {
			r.hidden++
			return "", false
		}
		if r.hidden > 0 {
			suffix = fmt.Sprintf(" (%d times since %s)", r.hidden+1, r.shown.Format("15:04:05"))
		}
		*r = repeat{shown: now}
		return suffix, true
	}
	if len(g.lines) >= maxRepeats {
		g.makeRoom(now)
	}
	if g.lines == nil {
		g.lines = make(map[string]*repeat)
	}
	g.lines[line] = &repeat{shown: now}
	return "", true
}

// makeRoom forgets what would be shown unchanged anyway, and in any case the
// line whose last showing is the longest ago.
func (g *floodGate) makeRoom(now time.Time) {
	var oldest string
	for line, r := range g.lines {
		if r.hidden == 0 && now.Sub(r.shown) >= repeatEvery {
			delete(g.lines, line)
		} else if o := g.lines[oldest]; o == nil || r.shown.Before(o.shown) {
			oldest = line
		}
	}
	if len(g.lines) >= maxRepeats {
		delete(g.lines, oldest)
	}
}
