package main

import (
	"fmt"
	"io"
	"time"
)

// reportScale shows the result as far as it goes.
func reportScale(w io.Writer, r *scaleResult) {
	fmt.Fprintf(w, "Tweed bench -scale: %s\n", count(r.Options.Rounds, "round"))
	if r.Options.Rounds > 1 {
		fmt.Fprint(w, "Figures are the median of the rounds, and (lowest to highest)\n")
	}
	fmt.Fprint(w, "What is said of flannel v0.10 was measured earlier on such a machine\n")
	if r.Error != "" {
		fmt.Fprint(w, "It FAILED. What follows was measured before.\n")
	}
	if r.Options.Quick {
		fmt.Fprint(w, "A quick run shows that all works. Its figures are no proof.\n")
	}
	if len(r.Starts) > 0 {
		reportStarts(w, r.Starts)
	}
	if r.Changes != nil {
		reportChanges(w, r.Changes)
	}
	if r.Rest != nil {
		reportRest(w, r.Rest)
	}
	if len(r.Crowds) > 0 {
		reportCrowds(w, r.Crowds)
	}
	if r.Outlook != nil {
		reportOutlook(w, r.Outlook)
	}
	reportLimits(w, r)
	m := r.Machine
	fmt.Fprint(w, "\n== Where and when ==\n\n")
	table(w, []string{
		fmt.Sprintf("machine\t%s, %s, %s", m.CPU, count(m.Cores, "core"), m.Arch),
		fmt.Sprintf("software\tLinux %s, %s, tweed %s", m.Kernel, m.Go, m.Tweed),
		fmt.Sprintf("date\t%s, took %s", r.Start.Format(time.RFC3339), r.End.Sub(r.Start)),
		"command\t" + r.Command,
	})
}

func reportStarts(w io.Writer, starts []startResult) {
	fmt.Fprint(w, "\n== Start: from exec until all routes, neighbours and forwarding entries are in force ==\n\n")
	lines := []string{"leases\ttime\tCPU\tpeak memory\trequests\tfrom etcd\tof the time, etcd's list\tflannel v0.10"}
	for _, s := range starts {
		flannel := "-"
		if f := s.Flannel; f != nil {
			flannel = threeDigits(f.Seconds) + " s"
			if f.CPU > 0 {
				flannel += fmt.Sprintf(", CPU %s s, %s", threeDigits(f.CPU), megabytes(f.Peak))
			}
		}
		lines = append(lines, fmt.Sprintf("%d\t%s\t%s\t%s\t%s\t%s\t%s\t%s", s.Leases, ranged(s.Seconds, 1, "s"), ranged(s.CPU, 1, "s"),
			megabytes(s.Peak.Median), plain(s.Requests.Median), megabytes(s.Bytes.Median), ranged(s.EtcdLists, 1000, "ms"), flannel))
	}
	table(w, lines)
	for _, s := range starts {
		if s.Early > 0 {
			fmt.Fprintf(w, "  With %s, the routes were there before all that they lead to in %s; the time is that of the latter.\n", count(s.Leases, "lease"), count(s.Early, "round"))
		}
	}
}

func reportChanges(w io.Writer, c *changesResult) {
	fmt.Fprintf(w, "\n== News on a node with %s ==\n\n", count(c.Peers, "peer"))
	table(w, []string{
		"\tp50\tp99\tmax",
		"one new lease, until its route is there\t" + c.Added.cells(),
		"of it, etcd's write\t" + c.Written.cells(),
		"CPU of flanneld for it\t" + c.CPU.cells(),
		"one deleted lease, until its route has gone\t" + c.Removed.cells(),
	})
	fmt.Fprintf(w, "  From before the write, until the kernel told of the route; %s.\n\n", count(c.Added.Samples, "sample"))
	table(w, []string{
		fmt.Sprintf("%s with another PublicIP and MAC, in force after the last write\t%s", count(c.Changed, "lease"), ranged(c.SinceLast, 1, "ms")),
		"the same from the first write on\t" + ranged(c.SinceFirst, 1, "ms"),
		"of it, until all were written\t" + ranged(c.Writing, 1, "ms"),
	})
}

func (p percentiles) cells() string {
	return fmt.Sprintf("%s ms\t%s ms\t%s ms", threeDigits(p.P50), threeDigits(p.P99), threeDigits(p.Max))
}

func reportRest(w io.Writer, r *restResult) {
	fmt.Fprintf(w, "\n== Without news, on a node with %s ==\n\n", count(r.Peers, "peer"))
	lines := []string{"CPU time of a list that brings nothing new\t" + ranged(r.Relist, 1, "ms")}
	if r.Idle != nil {
		lines = append(lines,
			fmt.Sprintf("at rest for %s\t%.2f%% of one core, %s to etcd", seconds(r.Seconds), r.Idle.CPUPercent, count(r.Idle.Requests, "request")))
	}
	if r.Disconnected != nil {
		lines = append(lines, fmt.Sprintf("without etcd for %s\t%.2f%% of one core", seconds(r.Seconds), r.Disconnected.CPUPercent))
	}
	table(w, lines)
	fmt.Fprintf(w, `  The list: the bench writes %d keys elsewhere in etcd, which then has forgotten the past
  that the daemon has seen, and ends the daemon's long poll, as a proxy does. The next one
  is answered by error 401, and the daemon lists. What it uses from then on until it is at
  rest is the figure. Without etcd: connections are refused.
`, etcdHistory+100)
}

func reportCrowds(w io.Writer, crowds []crowdResult) {
	fmt.Fprint(w, "\n== Daemons started at once, on hosts of their own, alloc ==\n\n")
	lines := []string{"daemons\tmedian ready\tlast ready\tall know all\tlong polls\tlists\tothers\tfrom etcd\tCPU of etcd\tCPU of all\tmemory of all"}
	for _, c := range crowds {
		lines = append(lines, fmt.Sprintf("%d\t%s s\t%s s\t%s s\t%d\t%d\t%d\t%s\t%s s\t%s s\t%s", c.Daemons,
			threeDigits(c.Median), threeDigits(c.Last), threeDigits(c.Settled), c.Asked.Polls, c.Asked.Lists, c.Asked.Others,
			megabytes(float64(c.Asked.PollBytes+c.Asked.ListBytes)), threeDigits(c.EtcdCPUSeconds), threeDigits(c.CPUSeconds), megabytes(float64(c.MemoryBytes))))
	}
	table(w, lines)
	fmt.Fprint(w, "  Every daemon got a lease, and none a subnet of another. CPU of etcd includes the bench itself.\n")
}

func reportOutlook(w io.Writer, o *outlook) {
	fmt.Fprintf(w, "\n== What %d nodes would need, from what %d did ==\n\n", o.Nodes, o.FromLeases)
	lines := []string{
		fmt.Sprintf("a node's start\t%s s, %s of memory, a list of %s", threeDigits(o.Seconds), megabytes(o.PeakBytes), megabytes(o.ListBytes)),
		fmt.Sprintf("renewals\t%s a second, each told to all: %s events, %s a second", threeDigits(o.Renewals), plain(o.Events), megabytes(o.EventBytes)),
		fmt.Sprintf("long polls without an event\t%s a second, on %d connections", plain(o.Polls), o.Nodes),
		fmt.Sprintf("lists\t%s a second, %s a second", plain(o.Lists), megabytes(o.ListTraffic)),
		fmt.Sprintf("etcd for its lists\t%s cores", threeDigits(o.EtcdLists)),
	}
	if o.EtcdCores > 0 {
		lines = append(lines, fmt.Sprintf("etcd for events and polls\t%s cores", threeDigits(o.EtcdCores)))
	}
	table(w, lines)
}

func reportLimits(w io.Writer, r *scaleResult) {
	fmt.Fprint(w, "\n== Limits ==\n\n")
	lines := []string{"what\tat most\tmeasured\tresult\tflannel v0.10"}
	for _, l := range r.Limits {
		got, flannel, state := "-", "-", string(l.State)
		if l.Measured != nil {
			got = threeDigits(*l.Measured) + " " + l.Unit
		}
		if l.Flannel > 0 {
			flannel = threeDigits(l.Flannel) + " " + l.Unit
		}
		if l.State == floorMissed {
			state = "MISSED"
		}
		lines = append(lines, fmt.Sprintf("%s\t%g %s\t%s\t%s\t%s", l.What, l.AtMost, l.Unit, got, state, flannel))
	}
	table(w, lines)
}

// ranged is a median and its range, "-" where nothing was measured.
func ranged(s stats, scale float64, unit string) string {
	switch len(s.Rounds) {
	case 0:
		return "-"
	case 1:
		return threeDigits(s.Median*scale) + " " + unit
	}
	return fmt.Sprintf("%s %s (%s to %s)", threeDigits(s.Median*scale), unit, threeDigits(s.Min*scale), threeDigits(s.Max*scale))
}

func megabytes(bytes float64) string { return threeDigits(bytes/1e6) + " MB" }
