package main

import (
	"bytes"
	"errors"
	"log/slog"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"tweed/backend/udp"
	"tweed/cmd/flanneld/flags"
	"tweed/dataplane"
)

// loggedNode returns a node and its log, to be read when nobody writes it.
func loggedNode() (*node, *bytes.Buffer) {
	var b bytes.Buffer
	return newNode(flags.Options{}, slog.New(newGlogHandler(&b, flags.LogOptions{}))), &b
}

func TestDumpLines(t *testing.T) {
	since := time.Date(2026, 11, 23, 5, 31, 20, 999, time.UTC)
	head := "flanneld " + versionText() + ", "
	quiet := []string{
		"to peers: received 0 packets 0 bytes, sent 0 packets 0 bytes, batches 0 (0.0 packets each), fragmented 0, ICMP errors sent 0 muted 0, receive errors 0",
		"to peers dropped: nothing",
		"to peers batches by packets: none",
		"from peers: received 0 packets 0 bytes, sent 0 packets 0 bytes, batches 0 (0.0 packets each), fragmented 0, ICMP errors sent 0 muted 0, receive errors 0",
		"from peers dropped: nothing",
		"from peers batches by packets: none",
		"tun: recv calls 0, superpackets 0 of 0 segments, malformed 0, overflows 0, restrictions 0; send calls 0, superpackets 0 of 0 segments, fallbacks 0",
		"socket: recv calls 0, superpackets 0 of 0 segments, malformed 0, overflows 0, restrictions 0; send calls 0, superpackets 0 of 0 segments, fallbacks 0",
		"offloads: none",
	}
	lease := netip.MustParsePrefix("10.5.34.0/24")
	for _, tt := range []struct {
		name string
		s    snapshot
		want []string
	}{
		{"at the start", snapshot{conditions: []condition{{Name: "network config", Reason: "still to come", Since: since}}}, []string{
			head + "not ready yet",
			"condition network config: not ok: still to come (since 2026-11-23 05:31:20)",
			"no backend yet, as there is no network config yet",
			"no packet counters yet",
		}},
		{"no lease yet", snapshot{backend: "vxlan", listed: true, badRecords: 3}, []string{
			head + "not ready yet",
			"backend vxlan, no lease, peers not known yet, bad records 3, refused leases 0",
			"no packet counters: flanneld has them with the udp backend only, which carries packets itself",
		}},
		{"ready", snapshot{ready: true, conditions: []condition{{Name: "lease", OK: true, Since: since}}, backend: "host-gw", subnet: lease, synced: true, peers: 7, listed: true}, []string{
			head + "ready",
			"condition lease: ok (since 2026-11-23 05:31:20)",
			"backend host-gw, lease 10.5.34.0/24, peers 7, bad records 0, refused leases 0",
			"no packet counters: flanneld has them with the udp backend only, which carries packets itself",
		}},
		{"lost", snapshot{backend: "udp", leasesLost: 2, synced: true, udp: &udp.Stats{}},
			append([]string{head + "not ready yet", "backend udp, no lease, leases lost 2, peers 0"}, quiet...)},
		{"busy", snapshot{ready: true, backend: "udp", subnet: lease, synced: true, peers: 1, udp: &udp.Stats{
			ToPeers: dataplane.Stats{Received: 123, ReceivedBytes: 4567, Sent: 119, SentBytes: 4400, Batches: 12,
				BatchSizes: dataplane.BatchSizes{1, 2, 3, 4, 5, 6, 7, 8, 9},
				Replies:    4, Muted: 1, Fragmented: 2, RecvErrors: 6,
				Dropped: dataplane.Reasons{dataplane.NoRoute: 3, dataplane.TTLExceeded: 1}},
			FromPeers: dataplane.Stats{Received: 1, ReceivedBytes: 20, Sent: 1, SentBytes: 20, Batches: 1, BatchSizes: dataplane.BatchSizes{8: 1},
				Suspect: dataplane.Reasons{dataplane.UnknownPeer: 5, dataplane.ForeignSource: 6}},
			TUN:      dataplane.IOStats{Recvs: 1, RecvSupers: 2, RecvSegments: 3, RecvMalformed: 4, Sends: 6, SendSupers: 7, SendSegments: 8, Fallbacks: 9},
			Socket:   dataplane.IOStats{Recvs: 11, RecvSupers: 12, RecvSegments: 13, RecvMalformed: 14, Overflows: 15, Restrictions: 20, Sends: 16, SendSupers: 17, SendSegments: 18, Fallbacks: 19},
			Offloads: []udp.Offload{{Name: "tso4", On: true}, {Name: "uso"}},
		}}, []string{
			head + "ready",
			"backend udp, lease 10.5.34.0/24, peers 1",
			"to peers: received 123 packets 4567 bytes, sent 119 packets 4400 bytes, batches 12 (10.2 packets each), fragmented 2, ICMP errors sent 4 muted 1, receive errors 6",
			"to peers dropped: ttl_exceeded 1, no_route 3",
			"to peers batches by packets: 1: 1, 2: 2, 3-4: 3, 5-8: 4, 9-16: 5, 17-32: 6, 33-64: 7, 65-128: 8, 129+: 9",
			"from peers: received 1 packets 20 bytes, sent 1 packets 20 bytes, batches 1 (1.0 packets each), fragmented 0, ICMP errors sent 0 muted 0, receive errors 0",
			"from peers dropped: nothing",
			"from peers batches by packets: 129+: 1",
			"from peers suspect: unknown_peer 5, foreign_source 6",
			"tun: recv calls 1, superpackets 2 of 3 segments, malformed 4, overflows 0, restrictions 0; send calls 6, superpackets 7 of 8 segments, fallbacks 9",
			"socket: recv calls 11, superpackets 12 of 13 segments, malformed 14, overflows 15, restrictions 20; send calls 16, superpackets 17 of 18 segments, fallbacks 19",
			"offloads: tso4 on, uso off",
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := tt.s.lines(); !slices.Equal(got, tt.want) {
				t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(tt.want, "\n"))
			}
		})
	}
}

// TestDumpInTheLog: each line is one of glog, whatever is in it, and dumps that
// are all the same are shown all the same.
func TestDumpInTheLog(t *testing.T) {
	n, log := loggedNode()
	n.ready.set(condConfig, errors.New("line 1\nline 2\x1b[31m"))
	for range 3 {
		n.dump()
	}
	text := log.String()
	form := regexp.MustCompile(`^I\d{4} \d\d:\d\d:\d\d\.\d{6} +\d+ dump\.go:\d+\] stats: \S`)
	for line := range strings.Lines(text) {
		if !form.MatchString(line) || strings.Contains(line, "\x1b") {
			t.Errorf("not in the form of glog: %q", line)
		}
	}
	for _, want := range []string{`] stats: condition network config: not ok: line 1\nline 2\x1b[31m (since `, "] stats: flanneld ", "] stats: no packet counters yet\n"} {
		if got := strings.Count(text, want); got != 3 {
			t.Errorf("%d times %q, want 3, in:\n%s", got, want, text)
		}
	}
}
