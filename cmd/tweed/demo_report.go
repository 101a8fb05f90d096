package main

import (
	"cmp"
	"fmt"
	"io"
	"path"
	"strings"
	"text/tabwriter"
	"time"

	"tweed/test/lab"
)

// table aligns lines of tab-separated cells, indented by two.
func table(w io.Writer, lines []string) {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, line := range lines {
		fmt.Fprintln(tw, "  "+line)
	}
	tw.Flush()
}

func reportResult(w io.Writer, r result) {
	fmt.Fprintf(w, "\n== %s ==\n", r.Backend)
	if r.Config != nil {
		fmt.Fprintf(w, "\nNetwork config in etcd, %s\n  %s\n", path.Join(lab.DefaultPrefix, "config"), r.Config)
	}
	if len(r.Leases) > 0 {
		reportLeases(w, r.Leases)
	}
	if len(r.Hosts) > 0 {
		reportHosts(w, r.Hosts)
	}
	if len(r.Pings) > 0 {
		reportPings(w, r)
	}
	if t := r.Throughput; t != nil {
		fmt.Fprintf(w, "\nThroughput, one TCP connection from the pod on %s to that on %s for %s\n  %s\n",
			t.From, t.To, time.Duration(t.Seconds*float64(time.Second)), bitRate(t.BitsPerSecond))
	}
}

func reportLeases(w io.Writer, leases []leaseResult) {
	fmt.Fprintf(w, "\nLeases in etcd, %s\n", path.Join(lab.DefaultPrefix, "subnets"))
	lines := make([]string, len(leases))
	for i, l := range leases {
		left := "no expiry"
		if l.TTL > 0 {
			left = (time.Duration(l.TTL) * time.Second).String() + " left"
		}
		lines[i] = fmt.Sprintf("%s\t%s\t%s", path.Base(l.Key), l.Value, left)
	}
	table(w, lines)
}

func reportHosts(w io.Writer, hosts []hostResult) {
	fmt.Fprint(w, "\nThe hosts, and the subnet.env that flanneld wrote on each\n")
	var names, lines []string
	for i, h := range hosts {
		var values []string
		for _, v := range h.Env {
			name, value, _ := strings.Cut(v, "=")
			if i == 0 {
				names = append(names, name)
			}
			values = append(values, value)
		}
		lines = append(lines, fmt.Sprintf("%s\t%s\t%s", h.Name, h.Address, strings.Join(values, "\t")))
	}
	table(w, append([]string{"host\teth0\t" + strings.Join(names, "\t")}, lines...))

	fmt.Fprint(w, "\nRoutes to the pods of the other hosts\n")
	lines = lines[:0]
	shown := hosts
	if len(hosts) > maxColumns {
		shown = hosts[:1]
	}
	for _, h := range shown {
		name := h.Name
		for _, r := range h.Routes {
			lines = append(lines, name+"\t"+r)
			name = "" // once is enough
		}
	}
	table(w, lines)
	if more := len(hosts) - len(shown); more > 0 {
		fmt.Fprintf(w, "  and likewise on %d more hosts\n", more)
	}
}

// maxColumns is how many hosts still fit side by side on 80 columns.
const maxColumns = 5

func reportPings(w io.Writer, r result) {
	reached := 0
	cells := make(map[[2]string]string)
	for _, p := range r.Pings {
		cell := "FAILED"
		if p.Error == "" {
			reached++
			cell = fmt.Sprintf("%.2f ms ttl %d", p.Millis, p.TTL)
		}
		cells[[2]string{p.From, p.To}] = cell
	}
	fmt.Fprintf(w, "\nPing from pod to pod: %d of %d reached\n", reached, len(r.Pings))
	var names []string
	for _, p := range r.Pings {
		if len(names) == 0 || names[len(names)-1] != p.From {
			names = append(names, p.From)
		}
	}
	if len(names) > maxColumns {
		reportPingRows(w, r.Pings)
		return
	}
	lines := []string{"from \\ to\t" + strings.Join(names, "\t")}
	for _, from := range names {
		row := []string{from}
		for _, to := range names {
			row = append(row, cmp.Or(cells[[2]string{from, to}], "-"))
		}
		lines = append(lines, strings.Join(row, "\t"))
	}
	table(w, lines)
}

// reportPingRows sums up each host's pings in a line; the failed ones are
// named.
func reportPingRows(w io.Writer, pings []pingResult) {
	var lines []string
	for len(pings) > 0 {
		from := pings[0].From
		var ok, all int
		var least, most float64
		var failed []string
		for ; len(pings) > 0 && pings[0].From == from; pings = pings[1:] {
			p := pings[0]
			all++
			if p.Error != "" {
				failed = append(failed, p.To)
				continue
			}
			if ok == 0 {
				least = p.Millis
			}
			ok++
			least, most = min(least, p.Millis), max(most, p.Millis)
		}
		times := "-"
		if ok > 0 {
			times = fmt.Sprintf("%.2f to %.2f ms", least, most)
		}
		line := fmt.Sprintf("%s\t%d of %d\t%s", from, ok, all, times)
		if len(failed) > 0 {
			line += "\tFAILED to " + strings.Join(failed, " ")
		}
		lines = append(lines, line)
	}
	table(w, lines)
}

func reportSummary(w io.Writer, results []result) {
	fmt.Fprint(w, "\n== Summary ==\n\n")
	lines := []string{"backend\tresult\tpings\tthroughput\ttook"}
	removed := true
	for _, r := range results {
		state, rate, reached := "ok", "-", 0
		if !r.ok() {
			state = "FAILED"
		}
		if r.Throughput != nil {
			rate = bitRate(r.Throughput.BitsPerSecond)
		}
		for _, p := range r.Pings {
			if p.Error == "" {
				reached++
			}
		}
		lines = append(lines, fmt.Sprintf("%s\t%s\t%d of %d\t%s\t%.1f s", r.Backend, state, reached, len(r.Pings), rate, r.Seconds))
		removed = removed && r.Removed
	}
	table(w, lines)
	if removed {
		fmt.Fprint(w, "\nAll namespaces and processes of the demo were removed.\n")
	}
}

// reportFailure says what failed, where, and where to read on.
func reportFailure(w io.Writer, r result) {
	fmt.Fprintf(w, "\ntweed demo: %s FAILED: %v\n", r.Backend, r.Err)
	reportCause(w, r.Err, r.Logs)
}

// keepText says how to look around in a lab that stays up.
func keepText(l *lab.Lab, hosts []*node) string {
	first, last := hosts[0], hosts[len(hosts)-1]
	var b strings.Builder
	fmt.Fprint(&b, "\nThe hosts stay up. Look around from another terminal, as root:\n")
	table(&b, []string{
		fmt.Sprintf("a pod\tip netns exec %s ping %s", first.pod.NS, last.pod.Addr),
		fmt.Sprintf("a host\tip netns exec %s ip route", first.host.NS),
		fmt.Sprintf("etcd\tip netns exec %s curl '%s/v2/keys%s?recursive=true'", l.Switch(), l.Etcd.Endpoints()[0], lab.DefaultPrefix),
		fmt.Sprintf("a shell\tnsenter --net=%s sh", first.pod.NS.Path()),
		fmt.Sprintf("a log\ttail -f %s", first.daemon.Log),
	})
	fmt.Fprint(&b, "Ctrl-C ends it and removes everything.")
	return b.String()
}

// bitRate writes bits per second with three digits.
func bitRate(bits float64) string {
	for _, unit := range []string{"bit/s", "kbit/s", "Mbit/s"} {
		if bits < 999.5 {
			return fmt.Sprintf("%.3g %s", bits, unit)
		}
		bits /= 1000
	}
	return fmt.Sprintf("%.2f Gbit/s", bits)
}
