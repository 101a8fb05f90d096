package main

import (
	"maps"
	"strings"
	"testing"
	"time"

	"tweed/test/load"
)

// usage of two processors for two seconds: 1.5 s of work, 0.4 s stolen.
var testUsage = load.Usage{Wall: 2 * time.Second, Busy: 1500 * time.Millisecond, Steal: 400 * time.Millisecond}

func TestSamples(t *testing.T) {
	var rtts []time.Duration
	for i := range 1000 {
		rtts = append(rtts, time.Duration(i+1)*time.Microsecond)
	}
	udp, err := udpSample(load.UDPResult{Sent: 200_000, Delivered: 150_000, Usage: testUsage}, 2)
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name      string
		got, want sample
	}{
		{"one way", tcpSample(load.TCPResult{Bytes: 1000 << 16, Retransmits: 7, Usage: testUsage}, 2),
			sample{bitsPerSecond: 4000 << 16, bitsPerSecBack: 0, cpuPer64K: 1500, retransmits: 7, stealPercent: 10}},
		{"both ways", tcpSample(load.TCPResult{Bytes: 1000 << 16, BytesBack: 500 << 16, Usage: testUsage}, 1),
			sample{bitsPerSecond: 6000 << 16, bitsPerSecBack: 2000 << 16, cpuPer64K: 1000, retransmits: 0, stealPercent: 20}},
		{"datagrams", udp,
			sample{packetsPerSecond: 75_000, lostPercent: 25, cpuPerPacket: 10, stealPercent: 10}},
		{"round trips", latencySample(load.LatencyResult{Samples: rtts, Lost: 3, Usage: testUsage}, 2),
			sample{p50: 500, p99: 990, p999: 999, lostRequests: 3, stealPercent: 10}},
	} {
		if !maps.Equal(tc.got, tc.want) {
			t.Errorf("%s: %v, want %v", tc.name, tc.got, tc.want)
		}
	}
}

// TestCorrupt: figures of traffic that arrives changed are worth nothing.
func TestCorrupt(t *testing.T) {
	got, err := udpSample(load.UDPResult{Sent: 100, Delivered: 90, Corrupt: 1, Usage: testUsage}, 2)
	if err == nil || got != nil || !strings.Contains(err.Error(), "1 datagrams") {
		t.Errorf("%v, %v", got, err)
	}
}
