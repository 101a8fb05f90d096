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
	// maxAlike is how many different lines one place in the source may write
	// within repeatEvery: ten thousand bad records are one complaint.
	maxAlike = 50
)

// A floodGate keeps an identical complaint, such as that of a loop that tries
// every second to reach etcd, from filling the log. The first is shown at once;
// after that it is counted, and shown at most once a minute with the count. Of
// complaints that differ but come from one place in the source, the first of
// each minute are shown. The zero value is ready. It is not safe for concurrent
// use.
type floodGate struct {
	lines  map[string]*repeat
	places map[string]*crowd // by "file.go:12"
}

// A crowd is what one place writes within repeatEvery.
type crowd struct {
	since  time.Time
	shown  int
	hidden int
}

type repeat struct {
	shown  time.Time // when last
	hidden int       // times since then
}

// admit reports whether to show a line from place now, and what to append to it.
func (g *floodGate) admit(place, line string, now time.Time) (suffix string, ok bool) {
	r := g.lines[line]
	if r != nil && now.Sub(r.shown) < repeatEvery {
		r.hidden++
		return "", false
	}
	if suffix, ok = g.admitAlike(place, now); !ok {
		return "", false
	}
	if r != nil {
		if r.hidden > 0 {
			suffix = fmt.Sprintf(" (%d times since %s)", r.hidden+1, r.shown.Format("15:04:05")) + suffix
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
	return suffix, true
}

// admitAlike is admit for a line that was not shown of late, by its place alone.
func (g *floodGate) admitAlike(place string, now time.Time) (suffix string, ok bool) {
	c := g.places[place]
	if c == nil || now.Sub(c.since) >= repeatEvery {
		if c != nil && c.hidden > 0 {
			suffix = fmt.Sprintf(" (%d others like this were left out since %s)", c.hidden, c.since.Format("15:04:05"))
		}
		c = &crowd{since: now}
		if g.places == nil {
			g.places = make(map[string]*crowd)
		}
		g.places[place] = c
	}
	if c.shown == maxAlike {
		c.hidden++
		return "", false
	}
	if c.shown++; c.shown == maxAlike {
		suffix += " (others like this are left out for a while)"
	}
	return suffix, true
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
