package main

// A limit is a figure that must not be exceeded.
type limit struct {
	What     string     `json:"what"`
	Unit     string     `json:"unit"`
	AtMost   float64    `json:"at_most"`
	Measured *float64   `json:"measured,omitempty"`
	Flannel  float64    `json:"flannel_v0_10,omitempty"` // not of this run
	State    floorState `json:"state"`
}

// scaleLimits holds what was measured against the limits.
func scaleLimits(r *scaleResult) []limit {
	ten, fifty := r.start(scalePeers), r.start(50000)
	flannel := flannelV010[scalePeers]
	started := func(s *startResult, of func(*startResult) stats, scale float64) *float64 {
		if s == nil {
			return nil
		}
		return measuredMedian(of(s), scale)
	}
	seconds := func(s *startResult) stats { return s.Seconds }
	list := []limit{
		{What: "start, 10000 leases", Unit: "s", AtMost: 1, Flannel: flannel.Seconds, Measured: started(ten, seconds, 1)},
		{What: "its peak memory", Unit: "MB", AtMost: 45, Flannel: flannel.Peak / 1e6,
			Measured: started(ten, func(s *startResult) stats { return s.Peak }, 1e-6)},
		{What: "its CPU time", Unit: "s", AtMost: 1, Flannel: flannel.CPU,
			Measured: started(ten, func(s *startResult) stats { return s.CPU }, 1)},
		{What: "start, 50000 leases", Unit: "s", AtMost: 6, Measured: started(fifty, seconds, 1)},
		{What: "one new lease in force, p99", Unit: "ms", AtMost: 30},
		{What: "1000 changed leases in force", Unit: "ms", AtMost: 300},
		{What: "CPU time of a list without news", Unit: "ms", AtMost: 50},
		{What: "CPU at rest", Unit: "%", AtMost: 1},
		{What: "CPU without etcd", Unit: "%", AtMost: 1},
	}
	if c := r.Changes; c != nil && c.Peers == scalePeers {
		if c.Added.Samples > 0 {
			list[4].Measured = &c.Added.P99
		}
		if c.Changed == 1000 {
			list[5].Measured = measuredMedian(c.SinceLast, 1)
		}
	}
	if rest := r.Rest; rest != nil && rest.Peers == scalePeers {
		list[6].Measured = measuredMedian(rest.Relist, 1)
		if rest.Idle != nil {
			list[7].Measured = &rest.Idle.CPUPercent
		}
		if rest.Disconnected != nil {
			list[8].Measured = &rest.Disconnected.CPUPercent
		}
	}
	for i := range list {
		list[i].judge()
	}
	return list
}

// measuredMedian is nil where nothing was measured.
func measuredMedian(s stats, scale float64) *float64 {
	if len(s.Rounds) == 0 {
		return nil
	}
	m := s.Median * scale
	return &m
}

// judge sets the state. A figure that touches its limit keeps to it.
func (l *limit) judge() {
	switch {
	case l.Measured == nil:
		l.State = floorUnmeasured
	case *l.Measured > l.AtMost:
		l.State = floorMissed
	default:
		l.State = floorMet
	}
}
