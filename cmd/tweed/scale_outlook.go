package main

import (
	"time"

	"tweed/subnet"
)

// outlookNodes is how many /24 a /8 has: the largest network with the default
// length of subnets.
const outlookNodes = 65536

// What a daemon does at rest, and how often.
const (
	renewEvery = 23 * time.Hour   // subnet.TTL without the margin of -subnet-lease-renew-margin
	pollEvery  = 45 * time.Second // etcdv2.pollTimeout
)

// An outlook is what outlookNodes nodes would need, computed from what was
// measured with fewer.
type outlook struct {
	Nodes      int     `json:"nodes"`
	FromLeases int     `json:"from_leases"` // the largest size measured
	ListBytes  float64 `json:"list_bytes"`
	PeakBytes  float64 `json:"peak_rss_bytes"`
	Seconds    float64 `json:"start_seconds"`

	Renewals    float64 `json:"renewals_per_second"`
	Events      float64 `json:"events_per_second"` // each renewal is told to each other node
	EventBytes  float64 `json:"event_bytes_per_second"`
	Polls       float64 `json:"polls_per_second"` // those without an event, in addition
	Lists       float64 `json:"lists_per_second"`
	ListTraffic float64 `json:"list_bytes_per_second"`
	EtcdCores   float64 `json:"etcd_cores,omitempty"`      // that events and polls keep busy
	EtcdLists   float64 `json:"etcd_list_cores,omitempty"` // that lists keep busy
}

// newOutlook returns nil where too little was measured. Sizes and times grow in
// proportion from the largest size on; what a process needs without any lease
// is thus counted in, so that it is rather too much.
func newOutlook(r *scaleResult) *outlook {
	if len(r.Starts) == 0 || r.Rest == nil || r.Rest.ListBytes == 0 || r.Changes == nil || r.Changes.EventBytes == 0 {
		return nil
	}
	largest := r.start(r.Starts[len(r.Starts)-1].Leases)
	if largest == nil || largest.Leases < scalePeers {
		return nil
	}
	const n = float64(outlookNodes)
	grow := n / float64(largest.Leases)
	o := &outlook{
		Nodes: outlookNodes, FromLeases: largest.Leases,
		ListBytes: float64(r.Rest.ListBytes) / float64(r.Rest.Peers) * n,
		PeakBytes: largest.Peak.Median * grow,
		Seconds:   largest.Seconds.Median * grow,
		Renewals:  n / renewEvery.Seconds(),
		Polls:     n / pollEvery.Seconds(),
		Lists:     n / (subnet.ListEvery(outlookNodes) * 5 / 6).Seconds(), // on average
	}
	o.Events = o.Renewals * (n - 1)
	o.EventBytes = o.Events * r.Changes.EventBytes
	o.ListTraffic = o.Lists * o.ListBytes
	o.EtcdLists = o.Lists * r.Rest.EtcdListSeconds / float64(r.Rest.Peers) * n
	if k := len(r.Crowds); k > 0 && r.Crowds[k-1].Daemons >= 100 {
		// This includes what the bench needs to start the daemons.
		c := r.Crowds[k-1]
		o.EtcdCores = (o.Events + o.Polls) * c.EtcdCPUSeconds / float64(c.Asked.requests())
	}
	return o
}
