package main

import (
	"context"
	"fmt"
	"time"

	"tweed/test/load"
)

// A benchVariant is a way from one host to the other.
type benchVariant struct {
	name   string
	config string // network config of its daemons; empty for no overlay
}

func (v benchVariant) id() string { return v.name }

// overlay reports whether daemons carry it, from pod to pod.
func (v benchVariant) overlay() bool { return v.config != "" }

// benchVariants in the order in which each round goes over them.
func benchVariants() []benchVariant {
	return []benchVariant{
		{"underlay", ""},
		{"vxlan", `{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan"}}`},
		{"udp", `{"Network":"10.6.0.0/16","Backend":{"Type":"udp","Port":8285}}`},
		{"udp-plain", `{"Network":"10.7.0.0/16","Backend":{"Type":"udp","Port":8286,"Offload":false}}`},
	}
}

// A benchTest is a kind of traffic.
type benchTest struct {
	name, title string
	kind        testKind
	streams     int  // TCP, each way
	both        bool // TCP, both ways at once
	size        int  // UDP payload in bytes
}

func (t benchTest) id() string { return t.name }

type testKind int

const (
	tcpTest testKind = iota
	udpTest
	latencyTest
)

// benchTests in the order in which each round does them.
func benchTests() []benchTest {
	return []benchTest{
		{name: "tcp-1", title: "one TCP stream", streams: 1},
		{name: "tcp-4", title: "4 TCP streams together", streams: 4},
		{name: "tcp-16", title: "16 TCP streams together", streams: 16},
		{name: "tcp-both", title: "one TCP stream each way at the same time", streams: 1, both: true},
		{name: "udp-64", title: "datagrams of 64 bytes", kind: udpTest, size: 64},
		{name: "udp-1400", title: "datagrams of 1400 bytes", kind: udpTest, size: 1400},
		{name: "latency", title: "64 bytes there and back, one request at a time", kind: latencyTest, size: 64},
	}
}

// The metrics, as JSON names them.
const (
	bitsPerSecond    = "bits_per_second"      // TCP payload received, both ways together
	bitsPerSecBack   = "bits_per_second_back" // the part of it that went back
	cpuPer64K        = "cpu_us_per_64k"       // of all processors, per 65536 bytes of it
	retransmits      = "retransmits"          // TCP segments of the whole run, warm-up included
	packetsPerSecond = "packets_per_second"   // datagrams delivered
	lostPercent      = "lost_percent"         // of those that the sender's kernel took
	cpuPerPacket     = "cpu_us_per_packet"    // of all processors, per datagram delivered
	p50              = "p50_us"               // half of all round trips took at most that
	p99              = "p99_us"
	p999             = "p999_us" // 99.9 percent
	lostRequests     = "lost"
	stealPercent     = "steal_percent" // of all processors, taken by the hypervisor for others
)

// A metric is one of the figures that a test yields.
type metric struct {
	name  string
	unit  string
	ratio bool // compared to that of other variants
}

// benchMetrics are all there are, in the order of the reports.
func benchMetrics() []metric {
	return []metric{
		{bitsPerSecond, "bit/s", true},
		{bitsPerSecBack, "bit/s", false},
		{cpuPer64K, "us", true},
		{retransmits, "segments", false},
		{packetsPerSecond, "packets/s", true},
		{lostPercent, "%", false},
		{cpuPerPacket, "us", true},
		{p50, "us", true},
		{p99, "us", true},
		{p999, "us", true},
		{lostRequests, "requests", false},
		{stealPercent, "%", false},
	}
}

func metricNamed(name string) metric {
	for _, m := range benchMetrics() {
		if m.name == name {
			return m
		}
	}
	return metric{}
}

// metrics are those that the test yields.
func (t benchTest) metrics() []metric {
	var list []string
	switch {
	case t.both:
		list = []string{bitsPerSecond, bitsPerSecBack, cpuPer64K, retransmits}
	case t.kind == tcpTest:
		list = []string{bitsPerSecond, cpuPer64K, retransmits}
	case t.kind == udpTest:
		list = []string{packetsPerSecond, lostPercent, cpuPerPacket}
	case t.kind == latencyTest:
		list = []string{p50, p99, p999, lostRequests}
	}
	metrics := make([]metric, 0, len(list)+1)
	for _, name := range append(list, stealPercent) {
		metrics = append(metrics, metricNamed(name))
	}
	return metrics
}

// A sample has a value for each metric of its test.
type sample map[string]float64

// measure runs the test once over the path. TCP writes and reads blocks of so
// many bytes; cores is how many processors the machine has.
func (t benchTest) measure(ctx context.Context, p load.Path, w load.Window, block, cores int) (sample, error) {
	switch t.kind {
	case udpTest:
		r, err := load.UDP(ctx, p, load.UDPOptions{Window: w, Size: t.size})
		if err != nil {
			return nil, err
		}
		return udpSample(r, cores)
	case latencyTest:
		r, err := load.Latency(ctx, p, load.LatencyOptions{Window: w, Size: t.size})
		if err != nil {
			return nil, err
		}
		return latencySample(r, cores), nil
	default:
		r, err := load.TCP(ctx, p, load.TCPOptions{Window: w, Streams: t.streams, Both: t.both, Block: block})
		if err != nil {
			return nil, err
		}
		return tcpSample(r, cores), nil
	}
}

// That something arrived, load has made sure of.

func tcpSample(r load.TCPResult, cores int) sample {
	all := float64(r.Bytes + r.BytesBack)
	return sample{
		bitsPerSecond:  8 * all / r.Wall.Seconds(),
		bitsPerSecBack: 8 * float64(r.BytesBack) / r.Wall.Seconds(),
		cpuPer64K:      micros(r.Busy) / (all / 65536),
		retransmits:    float64(r.Retransmits),
		stealPercent:   steal(r.Usage, cores),
	}
}

func udpSample(r load.UDPResult, cores int) (sample, error) {
	if r.Corrupt > 0 {
		return nil, fmt.Errorf("%d datagrams arrived with other content than was sent, %d as they were", r.Corrupt, r.Delivered)
	}
	return sample{
		packetsPerSecond: float64(r.Delivered) / r.Wall.Seconds(),
		lostPercent:      100 * float64(r.Sent-r.Delivered) / float64(r.Sent),
		cpuPerPacket:     micros(r.Busy) / float64(r.Delivered),
		stealPercent:     steal(r.Usage, cores),
	}, nil
}

func latencySample(r load.LatencyResult, cores int) sample {
	return sample{
		p50:          micros(r.Percentile(50)),
		p99:          micros(r.Percentile(99)),
		p999:         micros(r.Percentile(99.9)),
		lostRequests: float64(r.Lost),
		stealPercent: steal(r.Usage, cores),
	}
}

func micros(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }

func steal(u load.Usage, cores int) float64 {
	return 100 * u.Steal.Seconds() / (u.Wall.Seconds() * float64(cores))
}
