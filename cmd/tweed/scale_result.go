package main

import (
	"slices"
	"time"
)

// scaleSchema is the version of the form of scale.json.
const scaleSchema = 1

// scaleResult is what scale.json holds and -scale -json prints.
type scaleResult struct {
	runResult
	Options scaleOptionsResult `json:"options"`
	Starts  []startResult      `json:"starts"`
	Changes *changesResult     `json:"changes,omitempty"`
	Rest    *restResult        `json:"rest,omitempty"`
	Crowds  []crowdResult      `json:"crowds"`
	Outlook *outlook           `json:"outlook,omitempty"`
	Limits  []limit            `json:"limits"`
}

type scaleOptionsResult struct {
	Quick   bool    `json:"quick"` // such a run is no proof
	Rounds  int     `json:"rounds"`
	Sizes   []int   `json:"sizes"`
	Samples int     `json:"samples"`
	Daemons int     `json:"daemons"`
	Rest    float64 `json:"rest_seconds"`
}

// startResult is a flanneld that is started with so many leases in etcd, from
// its exec until all routes, neighbours and forwarding entries are in force.
type startResult struct {
	Leases    int              `json:"leases"`
	Seconds   stats            `json:"seconds"`
	CPU       stats            `json:"cpu_seconds"`
	Peak      stats            `json:"peak_rss_bytes"`
	Requests  stats            `json:"requests"`     // to etcd
	Bytes     stats            `json:"answer_bytes"` // from etcd, without headers
	EtcdLists stats            `json:"etcd_list_seconds"`
	Early     int              `json:"routes_too_early"` // rounds in which routes were there before all that they lead to
	Flannel   *earlierFlanneld `json:"flannel_v0_10,omitempty"`
}

// startSample is one round of a startResult.
type startSample struct {
	took, cpu time.Duration
	peak      int64
	asked     etcdCounts
	early     int // how often not all was in force although the routes were
}

func (r *startResult) add(s startSample) {
	for _, v := range []struct {
		to    *stats
		value float64
	}{
		{&r.Seconds, s.took.Seconds()}, {&r.CPU, s.cpu.Seconds()}, {&r.Peak, float64(s.peak)},
		{&r.Requests, float64(s.asked.requests())}, {&r.Bytes, float64(s.asked.ListBytes + s.asked.PollBytes)},
		{&r.EtcdLists, s.asked.ListTime.Seconds()},
	} {
		*v.to = newStats(append(v.to.Rounds, v.value))
	}
	if s.early > 0 {
		r.Early++
	}
}

// An earlierFlanneld is what flannel v0.10 needed for the same. It is not
// measured in the run.
type earlierFlanneld struct {
	Seconds float64 `json:"seconds"`
	CPU     float64 `json:"cpu_seconds,omitempty"`
	Peak    float64 `json:"peak_rss_bytes,omitempty"`
}

// flannelV010 has the figures of flannel v0.10 by leases, measured earlier on
// such a machine: 2 cores, vxlan.
var flannelV010 = map[int]earlierFlanneld{
	2000:  {Seconds: 0.46},
	10000: {Seconds: 2.6, CPU: 2.4, Peak: 43e6},
}

// changesResult is how fast news arrive in the kernel of a node with so many
// peers. Times are in milliseconds.
type changesResult struct {
	Peers int `json:"peers"`

	// One more lease: from before its write to etcd until the kernel told of
	// the route; and until it told that the route of a deleted one has gone.
	Added   percentiles `json:"added_ms"`
	Removed percentiles `json:"removed_ms"`
	Written percentiles `json:"of_it_written_ms"` // that the write itself took
	CPU     percentiles `json:"added_cpu_ms"`     // of the daemon, until it is at rest again

	// So many leases that get another PublicIP and MAC at once: until the
	// kernel has told of all neighbours and forwarding entries, from the last
	// acknowledged write, and from before the first one.
	Changed    int   `json:"changed"`
	SinceLast  stats `json:"since_last_write_ms"`
	SinceFirst stats `json:"since_first_write_ms"`
	Writing    stats `json:"of_it_writing_ms"`

	EventBytes float64 `json:"event_bytes"` // that etcd sends for one change
}

// restResult is what a daemon with so many peers costs when nothing changes.
type restResult struct {
	Peers           int         `json:"peers"`
	Relist          stats       `json:"relist_cpu_ms"`
	ListBytes       int64       `json:"list_bytes"`
	EtcdListSeconds float64     `json:"etcd_list_seconds"` // that etcd took to answer
	Seconds         float64     `json:"seconds"`           // watched for each of the following
	Idle            *idleResult `json:"idle,omitempty"`
	Disconnected    *idleResult `json:"disconnected,omitempty"`
}

type idleResult struct {
	CPUPercent float64 `json:"cpu_percent"` // of one core
	Requests   int     `json:"requests"`    // to etcd
}

// crowdResult is so many daemons that are started at once.
type crowdResult struct {
	Daemons        int        `json:"daemons"`
	Median         float64    `json:"median_seconds"`  // to readiness
	Last           float64    `json:"last_seconds"`    // the same of the last one
	Settled        float64    `json:"settled_seconds"` // until all have heard of all
	Asked          etcdCounts `json:"asked"`           // until then
	EtcdCPUSeconds float64    `json:"etcd_cpu_seconds"`
	CPUSeconds     float64    `json:"cpu_seconds"`  // of all daemons
	MemoryBytes    int64      `json:"memory_bytes"` // of all daemons: Pss
}

func newScaleResult(o benchOptions) *scaleResult {
	return &scaleResult{
		runResult: runResult{Schema: scaleSchema, Command: o.command, Start: now()},
		Options: scaleOptionsResult{
			Quick:   o.quick,
			Rounds:  o.rounds,
			Sizes:   o.scale.sizes,
			Samples: o.scale.samples,
			Daemons: o.scale.daemons,
			Rest:    o.scale.rest.Seconds(),
		},
	}
}

// evaluate fills in all that follows from what was measured.
func (r *scaleResult) evaluate() {
	for i := range r.Starts {
		if f, ok := flannelV010[r.Starts[i].Leases]; ok {
			r.Starts[i].Flannel = &f
		}
	}
	r.Outlook = newOutlook(r)
	r.Limits = scaleLimits(r)
}

// start returns what was measured with so many leases; nil if nothing was.
func (r *scaleResult) start(leases int) *startResult {
	i := slices.IndexFunc(r.Starts, func(s startResult) bool { return s.Leases == leases && len(s.Seconds.Rounds) > 0 })
	if i < 0 {
		return nil
	}
	return &r.Starts[i]
}

// missed reports whether a limit was measured and missed.
func (r *scaleResult) missed() bool {
	return slices.ContainsFunc(r.Limits, func(l limit) bool { return l.State == floorMissed })
}
