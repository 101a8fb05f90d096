package main

import (
	"fmt"
	"maps"
	"math"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"tweed/backend/udp"
	"tweed/dataplane"
	"tweed/subnet"
)

// fullSnapshot has a different number everywhere.
func fullSnapshot() snapshot {
	s := snapshot{
		conditions: []condition{{Name: condConfig, OK: true}, {Name: condLease, Reason: "why not"}},
		backend:    "udp", subnet: netip.MustParsePrefix("10.5.34.0/24"), leasesLost: 901,
		synced: true, peers: 902, listed: true, badRecords: 903, refused: 904, differs: true,
		udp: &udp.Stats{
			ToPeers: dataplane.Stats{Received: 101, ReceivedBytes: 102, Sent: 103, SentBytes: 104, Batches: 105,
				BatchSizes: dataplane.BatchSizes{1, 10, 100, 1000, 1e4, 1e5, 1e6, 1e7, 1e8},
				Replies:    106, Muted: 107, Fragmented: 108, RecvErrors: 109},
			FromPeers: dataplane.Stats{Received: 201, ReceivedBytes: 202, Sent: 203, SentBytes: 204, Batches: 205,
				Replies: 206, Muted: 207, Fragmented: 208, RecvErrors: 209},
			TUN: dataplane.IOStats{Recvs: 301, RecvSupers: 302, RecvSegments: 303, RecvMalformed: 304,
				Sends: 306, SendSupers: 307, SendSegments: 308, Fallbacks: 309},
			Socket: dataplane.IOStats{Recvs: 401, RecvSupers: 402, RecvSegments: 403, RecvMalformed: 404, Overflows: 405, Restrictions: 410,
				Sends: 406, SendSupers: 407, SendSegments: 408, Fallbacks: 409},
			Offloads: []udp.Offload{{Name: "tso4", On: true}, {Name: "uso"}},
		},
	}
	for i := range s.udp.ToPeers.Dropped {
		s.udp.ToPeers.Dropped[i] = uint64(500 + i)
		s.udp.FromPeers.Dropped[i] = uint64(600 + i)
		s.udp.ToPeers.Suspect[i] = uint64(700 + i)
		s.udp.FromPeers.Suspect[i] = uint64(800 + i)
	}
	return s
}

// fullUDP is what the udp metrics of fullSnapshot must be, without
// tweed_udp_dropped_packets_total and tweed_udp_batch_packets.
var fullUDP = map[string]float64{
	`tweed_udp_packets_total{direction=to_peers,stage=received}`:                  101,
	`tweed_udp_packets_total{direction=to_peers,stage=sent}`:                      103,
	`tweed_udp_packets_total{direction=from_peers,stage=received}`:                201,
	`tweed_udp_packets_total{direction=from_peers,stage=sent}`:                    203,
	`tweed_udp_bytes_total{direction=to_peers,stage=received}`:                    102,
	`tweed_udp_bytes_total{direction=to_peers,stage=sent}`:                        104,
	`tweed_udp_bytes_total{direction=from_peers,stage=received}`:                  202,
	`tweed_udp_bytes_total{direction=from_peers,stage=sent}`:                      204,
	`tweed_udp_batches_total{direction=to_peers}`:                                 105,
	`tweed_udp_batches_total{direction=from_peers}`:                               205,
	`tweed_udp_icmp_errors_total{direction=to_peers,result=sent}`:                 106,
	`tweed_udp_icmp_errors_total{direction=to_peers,result=muted}`:                107,
	`tweed_udp_icmp_errors_total{direction=from_peers,result=sent}`:               206,
	`tweed_udp_icmp_errors_total{direction=from_peers,result=muted}`:              207,
	`tweed_udp_fragmented_packets_total{direction=to_peers}`:                      108,
	`tweed_udp_fragmented_packets_total{direction=from_peers}`:                    208,
	`tweed_udp_receive_errors_total{direction=to_peers}`:                          109,
	`tweed_udp_receive_errors_total{direction=from_peers}`:                        209,
	`tweed_udp_suspect_packets_total{direction=from_peers,reason=unknown_peer}`:   800 + float64(dataplane.UnknownPeer),
	`tweed_udp_suspect_packets_total{direction=from_peers,reason=foreign_source}`: 800 + float64(dataplane.ForeignSource),
	`tweed_udp_io_calls_total{device=tun,op=recv}`:                                301,
	`tweed_udp_io_calls_total{device=tun,op=send}`:                                306,
	`tweed_udp_io_calls_total{device=socket,op=recv}`:                             401,
	`tweed_udp_io_calls_total{device=socket,op=send}`:                             406,
	`tweed_udp_io_superpackets_total{device=tun,op=recv}`:                         302,
	`tweed_udp_io_superpackets_total{device=tun,op=send}`:                         307,
	`tweed_udp_io_superpackets_total{device=socket,op=recv}`:                      402,
	`tweed_udp_io_superpackets_total{device=socket,op=send}`:                      407,
	`tweed_udp_io_segments_total{device=tun,op=recv}`:                             303,
	`tweed_udp_io_segments_total{device=tun,op=send}`:                             308,
	`tweed_udp_io_segments_total{device=socket,op=recv}`:                          403,
	`tweed_udp_io_segments_total{device=socket,op=send}`:                          408,
	`tweed_udp_io_malformed_superpackets_total{device=tun}`:                       304,
	`tweed_udp_io_malformed_superpackets_total{device=socket}`:                    404,
	`tweed_udp_io_fallbacks_total{device=tun}`:                                    309,
	`tweed_udp_io_fallbacks_total{device=socket}`:                                 409,
	`tweed_udp_socket_overflows_total`:                                            405,
	`tweed_udp_socket_restrictions_total`:                                         410,
	`tweed_udp_offload{name=tso4}`:                                                1,
	`tweed_udp_offload{name=uso}`:                                                 0,
}

func TestMetrics(t *testing.T) {
	full := fullSnapshot()
	want := maps.Clone(fullUDP)
	for i := range full.udp.ToPeers.Dropped {
		if reason := dataplane.Reason(i); reason != dataplane.NotDropped {
			want[fmt.Sprintf("tweed_udp_dropped_packets_total{direction=to_peers,reason=%s}", reason)] = float64(500 + i)
			want[fmt.Sprintf("tweed_udp_dropped_packets_total{direction=from_peers,reason=%s}", reason)] = float64(600 + i)
		}
	}
	sum := 0.0
	for i, n := range full.udp.ToPeers.BatchSizes {
		sum += float64(n)
		le := fmt.Sprint(1 << i) // 1, 2, 4 ... 128
		if i == 8 {
			le = "+Inf"
		}
		want["tweed_udp_batch_packets_bucket{direction=to_peers,le="+le+"}"] = sum
		want["tweed_udp_batch_packets_bucket{direction=from_peers,le="+le+"}"] = 0
	}
	want["tweed_udp_batch_packets_count{direction=to_peers}"] = 111111111
	want["tweed_udp_batch_packets_sum{direction=to_peers}"] = 101
	want["tweed_udp_batch_packets_count{direction=from_peers}"] = 0
	want["tweed_udp_batch_packets_sum{direction=from_peers}"] = 201
	node := map[string]float64{
		"tweed_ready":                           0,
		"tweed_condition{name=network config}":  1,
		"tweed_condition{name=lease}":           0,
		"tweed_backend_info{backend=udp}":       1,
		"tweed_lease_info{subnet=10.5.34.0/24}": 1,
		"tweed_lease_losses_total":              901,
		"tweed_peers":                           902,
		"tweed_bad_records":                     903,
		"tweed_refused_leases":                  904,
		"tweed_network_config_differs":          1,
	}
	maps.Copy(want, node)
	wantSeries(t, scrape(t, func() snapshot { return full }), want)

	t.Run("zero", func(t *testing.T) {
		zero := full
		zero.udp = &udp.Stats{Offloads: full.udp.Offloads}
		for name := range want {
			if strings.HasPrefix(name, "tweed_udp_") && !strings.HasPrefix(name, "tweed_udp_offload") {
				want[name] = 0
			}
		}
		wantSeries(t, scrape(t, func() snapshot { return zero }), want)
	})
	t.Run("another backend", func(t *testing.T) {
		vxlan := full
		vxlan.backend, vxlan.udp, vxlan.ready = "vxlan", nil, true
		want := maps.Clone(node)
		delete(want, "tweed_backend_info{backend=udp}")
		want["tweed_backend_info{backend=vxlan}"], want["tweed_ready"] = 1, 1
		wantSeries(t, scrape(t, func() snapshot { return vxlan }), want)
	})
	t.Run("at the start", func(t *testing.T) {
		wantSeries(t, scrape(t, func() snapshot { return snapshot{} }), map[string]float64{"tweed_ready": 0, "tweed_lease_losses_total": 0})
	})
}

// wantSeries compares all but what is different at each build.
func wantSeries(t *testing.T, got, want map[string]float64) {
	t.Helper()
	infos := 0
	for _, name := range slices.Sorted(maps.Keys(got)) {
		if strings.HasPrefix(name, "tweed_build_info{goversion=go1.") && strings.Contains(name, ",version=") && got[name] == 1 {
			infos++
		} else if value, ok := want[name]; strings.HasPrefix(name, "tweed_") && (!ok || value != got[name]) {
			t.Errorf("%s is %v, want %v (there at all: %t)", name, got[name], value, ok)
		}
	}
	for name := range want {
		if _, ok := got[name]; !ok {
			t.Errorf("%s is missing", name)
		}
	}
	if infos != 1 || got["go_goroutines"] < 1 || got["process_open_fds"] < 1 {
		t.Errorf("%d build infos, %v goroutines, %v open files", infos, got["go_goroutines"], got["process_open_fds"])
	}
}

// scrape returns the values of all series by their name and labels, as
// `name{label=value,...}`.
func scrape(t *testing.T, now func() snapshot) map[string]float64 {
	t.Helper()
	w := httptest.NewRecorder()
	metricsHandler(now).ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	if w.Code != 200 || !strings.HasPrefix(w.Header().Get("Content-Type"), "text/plain; version=0.0.4") {
		t.Fatalf("status %d, %v: %s", w.Code, w.Header(), w.Body)
	}
	if w.Body.Len() > 64<<10 {
		t.Errorf("the answer has %d bytes", w.Body.Len())
	}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(w.Body)
	if err != nil {
		t.Fatal(err)
	}
	series := make(map[string]float64)
	for _, f := range families {
		for _, m := range f.Metric {
			addSeries(series, f.GetName(), m)
		}
	}
	return series
}

func addSeries(series map[string]float64, name string, m *dto.Metric) {
	labelled := func(suffix string, more ...string) string {
		var labels []string
		for _, l := range m.Label {
			labels = append(labels, l.GetName()+"="+l.GetValue())
		}
		if labels = append(labels, more...); len(labels) == 0 {
			return name + suffix
		}
		return name + suffix + "{" + strings.Join(labels, ",") + "}"
	}
	if h := m.Histogram; h != nil {
		for _, b := range h.Bucket {
			le := fmt.Sprint(b.GetUpperBound())
			if math.IsInf(b.GetUpperBound(), 1) {
				le = "+Inf"
			}
			series[labelled("_bucket", "le="+le)] = float64(b.GetCumulativeCount())
		}
		series[labelled("_count")] = float64(h.GetSampleCount())
		series[labelled("_sum")] = h.GetSampleSum()
		return
	}
	// One of them there is, and the others are 0.
	series[labelled("")] = m.GetCounter().GetValue() + m.GetGauge().GetValue() + m.GetUntyped().GetValue()
}

func TestMetricsLint(t *testing.T) {
	for _, s := range []snapshot{{}, fullSnapshot()} {
		problems, err := testutil.GatherAndLint(newRegistry(func() snapshot { return s }))
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range problems {
			t.Errorf("%s: %s", p.Metric, p.Text)
		}
	}
}

// TestMetricsOfOneMoment: all numbers of an answer are from one snapshot.
func TestMetricsOfOneMoment(t *testing.T) {
	calls := 0
	now := func() snapshot {
		calls++
		return fullSnapshot()
	}
	scrape(t, now)
	if calls != 1 {
		t.Errorf("%d snapshots for one answer", calls)
	}
}

// TestMetricsInFlight has more scrapes at once than are answered.
func TestMetricsInFlight(t *testing.T) {
	entered, leave := make(chan struct{}), make(chan struct{})
	h := metricsHandler(func() snapshot {
		entered <- struct{}{}
		<-leave
		return snapshot{}
	})
	get := func() int {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
		return w.Code
	}
	codes := make(chan int, maxScrapes)
	for range maxScrapes {
		go func() { codes <- get() }()
	}
	for range maxScrapes {
		<-entered
	}
	if code := get(); code != http.StatusServiceUnavailable {
		t.Errorf("status %d of one too many, want 503", code)
	}
	close(leave)
	for range maxScrapes {
		if code := <-codes; code != 200 {
			t.Errorf("status %d, want 200", code)
		}
	}
	go func() { <-entered }()
	if code := get(); code != 200 {
		t.Errorf("status %d afterwards, want 200", code)
	}
}

// TestSnapshotConcurrently scrapes and dumps a node whose state changes.
func TestSnapshotConcurrently(t *testing.T) {
	n, log := loggedNode()
	n.vitals.udp = func() udp.Stats { return udp.Stats{} }
	var wg sync.WaitGroup
	lease := subnet.Lease{Subnet: netip.MustParsePrefix("10.5.34.0/24")}
	readers, written := make(chan struct{}), make(chan int, 1)
	go func() {
		i := 0
		for ended := false; !ended; i++ {
			select {
			case <-readers:
				ended = true
			default:
			}
			n.vitals.opened("udp", nil)
			n.vitals.leased(lease)
			n.vitals.told(i)
			n.ready.set(condPeers, nil)
			bad := int64(i)
			n.ready.count(badRecords, func() int64 { return bad })
			n.vitals.lost()
		}
		written <- i
	}()
	h := metricsHandler(n.snapshot)
	for range maxScrapes {
		wg.Go(func() {
			for range 5 {
				w := httptest.NewRecorder()
				h.ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
				if w.Code != 200 {
					t.Errorf("status %d: %s", w.Code, w.Body)
				}
			}
		})
	}
	wg.Go(func() {
		for range 50 {
			n.dump()
		}
	})
	wg.Wait()
	close(readers)
	rounds := float64(<-written)

	series := scrape(t, n.snapshot)
	for name, want := range map[string]float64{
		"tweed_lease_losses_total": rounds, "tweed_peers": rounds - 1, "tweed_bad_records": rounds - 1, "tweed_condition{name=peers}": 1,
		"tweed_backend_info{backend=udp}": 1, "tweed_udp_packets_total{direction=to_peers,stage=sent}": 0,
	} {
		if got, ok := series[name]; !ok || got != want {
			t.Errorf("%s is %v (%t), want %v", name, got, ok, want)
		}
	}
	if _, ok := series["tweed_lease_info{subnet=10.5.34.0/24}"]; ok {
		t.Error("a lease that is lost is still told")
	}
	if got := strings.Count(log.String(), "] stats: backend ") + strings.Count(log.String(), "] stats: no backend "); got != 50 {
		t.Errorf("%d dumps in the log, want 50", got)
	}
}
