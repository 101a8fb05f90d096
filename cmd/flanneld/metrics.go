package main

import (
	"net/http"
	"runtime"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// maxScrapes bounds the answers to /metrics that are made at the same time.
// One more gets status 503.
const maxScrapes = 8

// metricsHandler answers in the text form of Prometheus, or in another form
// that the client prefers.
func metricsHandler(now func() snapshot) http.Handler {
	return promhttp.HandlerFor(newRegistry(now), promhttp.HandlerOpts{
		MaxRequestsInFlight: maxScrapes,
		DisableCompression:  true, // for 20 KiB it would take more memory than all else here
		// What still can be told is of most use when something is wrong.
		ErrorHandling: promhttp.ContinueOnError,
	})
}

func newRegistry(now func() snapshot) *prometheus.Registry {
	r := prometheus.NewRegistry()
	r.MustRegister(
		newCollector(now),
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	return r
}

// A family is all metrics of one name. Those that are not known yet are absent,
// which is not the same as 0.
type family struct {
	name, help string // the name without the prefix tweed_
	kind       prometheus.ValueType
	labels     []string
	values     func(s *snapshot, emit emitFunc)
}

// An emitFunc takes one value and the values of its labels.
type emitFunc func(value uint64, labels ...string)

// A collector turns one snapshot per scrape into metrics, so that the numbers
// of a scrape belong together.
type collector struct {
	now      func() snapshot
	families []family
	descs    []*prometheus.Desc // of families
	batches  *prometheus.Desc
}

func newCollector(now func() snapshot) *collector {
	c := &collector{now: now, families: append(nodeFamilies(), udpFamilies()...)}
	for _, f := range c.families {
		c.descs = append(c.descs, newDesc(f.name, f.help, f.labels...))
	}
	c.batches = newDesc("udp_batch_packets", batchesHelp, "direction")
	return c
}

func newDesc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("tweed_"+name, help, labels, nil)
}

// Describe implements prometheus.Collector.
func (c *collector) Describe(out chan<- *prometheus.Desc) {
	for _, d := range c.descs {
		out <- d
	}
	out <- c.batches
}

// Collect implements prometheus.Collector. It is safe for concurrent use.
func (c *collector) Collect(out chan<- prometheus.Metric) {
	s := c.now()
	for i, f := range c.families {
		f.values(&s, func(value uint64, labels ...string) {
			out <- prometheus.MustNewConstMetric(c.descs[i], f.kind, float64(value), labels...)
		})
	}
	for _, d := range directions(s.udp) {
		out <- batchHistogram(c.batches, d)
	}
}

// nodeFamilies are those of every backend.
func nodeFamilies() []family {
	const gauge, counter = prometheus.GaugeValue, prometheus.CounterValue
	return []family{
		{"build_info", "Version of flanneld and of the Go that built it; the value is always 1.",
			gauge, []string{"version", "goversion"}, func(_ *snapshot, emit emitFunc) {
				emit(1, versionText(), runtime.Version())
			}},
		{"ready", "Whether all conditions are true, as /readyz tells: 1 or 0.",
			gauge, nil, func(s *snapshot, emit emitFunc) {
				emit(oneIf(s.ready))
			}},
		{"condition", "Whether this condition of being ready is true: 1 or 0. /readyz tells why it is not.",
			gauge, []string{"name"}, func(s *snapshot, emit emitFunc) {
				for _, c := range s.conditions {
					emit(oneIf(c.OK), c.Name)
				}
			}},
		{"backend_info", "Backend that the network config names; the value is always 1. Absent until it is open.",
			gauge, []string{"backend"}, func(s *snapshot, emit emitFunc) {
				if s.backend != "" {
					emit(1, s.backend)
				}
			}},
		{"lease_info", "Subnet that this node has leased; the value is always 1. Absent while there is none.",
			gauge, []string{"subnet"}, func(s *snapshot, emit emitFunc) {
				if s.subnet.IsValid() {
					emit(1, s.subnet.String())
				}
			}},
		{"lease_losses_total", "Times that this node lost its lease, because the record in etcd was gone or had become another node's, and had to take one again.",
			counter, nil, func(s *snapshot, emit emitFunc) {
				emit(s.leasesLost)
			}},
		{"peers", "Leases of other nodes that the backend was last told of. Absent until the first list of them.",
			gauge, nil, func(s *snapshot, emit emitFunc) {
				if s.synced {
					emit(uint64(s.peers))
				}
			}},
		{"bad_records", "Records below the key of the leases in etcd that are no valid lease and are left out; the log names them.",
			gauge, nil, func(s *snapshot, emit emitFunc) {
				if s.listed {
					emit(uint64(s.badRecords))
				}
			}},
		{"refused_leases", "Leases in etcd that are left out because packets would be led astray by them, such as one that covers the address of this node; the log names them.",
			gauge, nil, func(s *snapshot, emit emitFunc) {
				if s.listed {
					emit(uint64(s.refused))
				}
			}},
		{"network_config_differs", "Whether the network config in etcd is no longer the one that this node works with: 1 or 0. A restart of flanneld takes the new one up.",
			gauge, nil, func(s *snapshot, emit emitFunc) {
				if s.listed {
					emit(oneIf(s.differs))
				}
			}},
		{"etcd_client_certificate_expiry_timestamp_seconds", "End of the client certificate for etcd that is in use, in Unix time. Absent without one.",
			gauge, nil, func(s *snapshot, emit emitFunc) {
				if !s.certExpires.IsZero() {
					emit(uint64(max(0, s.certExpires.Unix())))
				}
			}},
	}
}

func oneIf(b bool) uint64 {
	if b {
		return 1
	}
	return 0
}
