package main

import (
	"fmt"
	"math"
	"strconv"
	"time"
)

// scaleCharts returns the plots of the result, also those that are empty.
func scaleCharts(r *scaleResult) []chart {
	colours := variantColours()
	of := func(value func(startResult) interval) []interval {
		var list []interval
		for _, s := range r.Starts {
			list = append(list, value(s))
		}
		return list
	}
	earlier := func(value func(*earlierFlanneld) float64) []interval {
		return of(func(s startResult) interval {
			if s.Flannel == nil || value(s.Flannel) == 0 {
				return unmeasured
			}
			return single(value(s.Flannel))
		})
	}
	asked := func(value func(etcdCounts) int) []interval {
		var list []interval
		for _, c := range r.Crowds {
			list = append(list, single(float64(value(c.Asked))))
		}
		return list
	}
	var leases, daemons []string
	for _, s := range r.Starts {
		leases = append(leases, strconv.Itoa(s.Leases))
	}
	for _, c := range r.Crowds {
		daemons = append(daemons, strconv.Itoa(c.Daemons))
	}
	list := []chart{
		{
			file: "scale-start.svg", title: "From exec until all peers are in the kernel, vxlan, by leases in etcd", y: "seconds (logarithmic), lower is better", log: true,
			groups: leases, series: []series{
				{"flanneld", colours[1], of(func(s startResult) interval { return newInterval(figure{stats: s.Seconds}, 1) })},
				{"CPU time of flanneld", colours[3], of(func(s startResult) interval { return newInterval(figure{stats: s.CPU}, 1) })},
				{"flannel v0.10, earlier", colours[2], earlier(func(f *earlierFlanneld) float64 { return f.Seconds })},
				{"its CPU time, earlier", colours[0], earlier(func(f *earlierFlanneld) float64 { return f.CPU })},
			},
		}, {
			file: "scale-memory.svg", title: "Memory and data at the start, by leases in etcd", y: "MB (logarithmic), lower is better", log: true,
			groups: leases, series: []series{
				{"peak memory of flanneld", colours[1], of(func(s startResult) interval { return newInterval(figure{stats: s.Peak}, 1e-6) })},
				{"flannel v0.10, earlier", colours[2], earlier(func(f *earlierFlanneld) float64 { return f.Peak / 1e6 })},
				{"sent by etcd", colours[3], of(func(s startResult) interval { return newInterval(figure{stats: s.Bytes}, 1e-6) })},
			},
		}, {
			file: "scale-requests.svg", title: "Requests to etcd until all have heard of all, by daemons started at once", y: "requests (logarithmic), lower is better", log: true,
			groups: daemons, series: []series{
				{"long polls", colours[1], asked(func(c etcdCounts) int { return c.Polls })},
				{"lists", colours[2], asked(func(c etcdCounts) int { return c.Lists })},
				{"config and own lease", colours[3], asked(func(c etcdCounts) int { return c.Others })},
			},
		},
	}
	for i := range list {
		list[i].caption = scaleCaptions(r, list[i].file == "scale-requests.svg")
		if !list[i].shows() {
			list[i].series = nil
		}
	}
	return list
}

// shows reports whether there is any value in the chart.
func (c chart) shows() bool {
	for _, s := range c.series {
		for _, v := range s.values {
			if v.ok() {
				return true
			}
		}
	}
	return false
}

var unmeasured = interval{math.NaN(), math.NaN(), math.NaN()}

func single(v float64) interval { return interval{v, v, v} }

// scaleCaptions say what the figures depend on. Crowds are started once.
func scaleCaptions(r *scaleResult, once bool) []string {
	m := r.Machine
	how := fmt.Sprintf("Median of %s, whiskers from the lowest to the highest.", count(r.Options.Rounds, "round"))
	if once {
		how = "Each started once."
	}
	if r.Options.Quick {
		how = "A quick run, no proof. " + how
	}
	return []string{
		how,
		fmt.Sprintf("Daemons and etcd share %s, %s; Linux %s, %s; tweed %s. flannel v0.10 was measured earlier on such a machine.",
			m.CPU, count(m.Cores, "core"), m.Kernel, m.Go, m.Tweed),
		fmt.Sprintf("%s: %s", r.Start.Format(time.DateOnly), r.Command),
	}
}
