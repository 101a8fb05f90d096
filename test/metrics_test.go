package test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"tweed/test/lab"
)

// metrics scrapes the daemon and returns the values of all series by name and
// labels, `name{label=value,...}`; of histograms the count.
func (n *node) metrics() map[string]float64 {
	n.c.t.Helper()
	code, body := n.health("/metrics")
	if code != 200 {
		n.c.t.Fatalf("/metrics: status %d: %s", code, body)
	}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(body))
	n.c.must(err)
	series := make(map[string]float64)
	for _, f := range families {
		for _, m := range f.Metric {
			var labels []string
			for _, l := range m.Label {
				labels = append(labels, l.GetName()+"="+l.GetValue())
			}
			name := f.GetName()
			if len(labels) > 0 {
				name += "{" + strings.Join(labels, ",") + "}"
			}
			series[name] = m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	return series
}

// wantMetric waits for a series to be ok.
func (n *node) wantMetric(name string, ok func(v float64) bool) {
	n.c.t.Helper()
	n.c.eventually(name, func() error {
		if v, there := n.metrics()[name]; !there || !ok(v) {
			return fmt.Errorf("it is %v (there at all: %t)", v, there)
		}
		return nil
	})
}

func atLeast(least float64) func(float64) bool { return func(v float64) bool { return v >= least } }
func exactly(want float64) func(float64) bool  { return func(v float64) bool { return v == want } }

// TestMetricsUDP scrapes both ends of a TCP transfer while it and pings run.
func TestMetricsUDP(t *testing.T) {
	t.Parallel()
	c := newCluster(t, config(`"udp"`), 2, "-healthz-port=8081")
	a, b := c.nodes[0], c.nodes[1]
	c.wantPing(a.pod.NS, b.pod.Addr)
	const toPeers, fromPeers = "{direction=to_peers,stage=sent}", "{direction=from_peers,stage=sent}"
	const noRoute = "tweed_udp_dropped_packets_total{direction=to_peers,reason=no_route}"
	const unreachable = "tweed_udp_icmp_errors_total{direction=to_peers,result=sent}"
	a.wantMetric("tweed_peers", exactly(1))
	a.wantMetric("tweed_ready", exactly(1))
	before, atB := a.metrics(), b.metrics()
	for name, want := range map[string]float64{
		"tweed_condition{name=peers}":                                                 1,
		"tweed_backend_info{backend=udp}":                                             1,
		"tweed_lease_info{subnet=" + a.env.Subnet.String() + "}":                      1,
		"tweed_bad_records":                                                           0,
		"tweed_lease_losses_total":                                                    0,
		"tweed_udp_dropped_packets_total{direction=from_peers,reason=bad_checksum}":   0,
		"tweed_udp_suspect_packets_total{direction=from_peers,reason=unknown_peer}":   0,
		"tweed_udp_suspect_packets_total{direction=from_peers,reason=foreign_source}": 0,
		"tweed_udp_socket_overflows_total":                                            before["tweed_udp_socket_overflows_total"],
	} {
		if got, ok := before[name]; !ok || got != want {
			t.Errorf("%s is %v (there at all: %t), want %v", name, got, ok, want)
		}
	}

	const size = 20 << 20
	done := make(chan error, 1)
	go func() { done <- lab.SendBytes(c.ctx, a.pod.NS, b.pod.NS, b.pod.Addr, size) }()
	last := before
	for running := true; running; {
		select {
		case err := <-done:
			c.must(err)
			running = false
		default:
		}
		c.wantPing(a.pod.NS, b.pod.Addr)
		now := a.metrics()
		for name, v := range last {
			if strings.HasPrefix(name, "tweed_udp_") && strings.Contains(name, "_total") && now[name] < v {
				t.Errorf("%s fell from %v to %v", name, v, now[name])
			}
		}
		last = now
	}
	// Both count what is inside the tunnel: data and headers, once.
	for _, end := range []struct {
		n      *node
		before map[string]float64
		labels string
	}{{a, before, toPeers}, {b, atB, fromPeers}} {
		bytes := "tweed_udp_bytes_total" + end.labels
		end.n.wantMetric(bytes, atLeast(end.before[bytes]+size))
		end.n.wantMetric("tweed_udp_packets_total"+end.labels, atLeast(end.before["tweed_udp_packets_total"+end.labels]+size/1472))
	}
	a.wantMetric("tweed_udp_batch_packets{direction=to_peers}", atLeast(before["tweed_udp_batch_packets{direction=to_peers}"]+1))
	a.wantMetric("tweed_udp_io_calls_total{device=tun,op=recv}", atLeast(before["tweed_udp_io_calls_total{device=tun,op=recv}"]+1))
	a.wantMetric("tweed_udp_io_calls_total{device=socket,op=send}", atLeast(before["tweed_udp_io_calls_total{device=socket,op=send}"]+1))

	if _, err := a.pod.NS.DialTCP(c.ctx, netip.MustParseAddrPort("10.5.254.9:80")); err == nil {
		t.Error("a subnet that nobody has answers")
	}
	a.wantMetric(noRoute, atLeast(before[noRoute]+1))
	a.wantMetric(unreachable, atLeast(before[unreachable]+1))
}

// TestMetricsOfTheKernelsBackends: the daemon has no packets to count.
func TestMetricsOfTheKernelsBackends(t *testing.T) {
	t.Parallel()
	c := newLab(t, lab.Options{})
	n := c.addHost()
	n.launch("-healthz-port=8081")
	n.wantLog(noConfig)
	check := func(want map[string]float64) {
		t.Helper()
		got := n.metrics()
		for name := range got {
			if strings.HasPrefix(name, "tweed_udp_") {
				t.Errorf("there is %s", name)
			}
		}
		for name, v := range want {
			if value, ok := got[name]; !ok || value != v {
				t.Errorf("%s is %v (there at all: %t), want %v", name, value, ok, v)
			}
		}
	}
	check(map[string]float64{"tweed_ready": 0, "tweed_condition{name=network config}": 0})
	c.set(subnetsKey+"hello", "x", 0)
	c.set(configKey, config(`"vxlan"`), 0)
	n.wantHealth("/readyz", 200)
	check(map[string]float64{"tweed_ready": 1, "tweed_condition{name=network config}": 1, "tweed_backend_info{backend=vxlan}": 1, "tweed_peers": 0, "tweed_bad_records": 1})

	// Another subnet after the lease was lost is another series.
	env, err := n.SubnetEnv()
	c.must(err)
	n.env = env
	c.must(c.Etcd.Delete(c.ctx, n.key()))
	n.wantMetric("tweed_lease_losses_total", exactly(1))
	n.wantMetric("tweed_lease_info{subnet="+env.Subnet.String()+"}", exactly(1))
}

// dump sends SIGUSR1 and returns the lines that come of it.
func (n *node) dump() string {
	n.c.t.Helper()
	from := n.said()
	n.c.must(n.daemon.Signal(syscall.SIGUSR1))
	var lines []string
	n.c.eventually("the dump", func() error {
		lines = nil
		for _, line := range n.daemon.Lines()[from:] {
			if strings.Contains(line, "] stats: ") {
				lines = append(lines, line)
			}
		}
		if len(lines) == 0 || !strings.Contains(lines[len(lines)-1], "stats: offloads") && !strings.Contains(lines[len(lines)-1], "stats: no packet counters") {
			return errors.New("there is no end of it")
		}
		return nil
	})
	return strings.Join(lines, "\n")
}

// TestDump asks for it in each phase of the daemon's life, three times each,
// and looks for what must not be in it, nor in the metrics.
func TestDump(t *testing.T) {
	t.Parallel()
	c := newLab(t, lab.Options{})
	n := c.addHost()
	for i, phase := range []struct {
		name   string
		config string
		etcd   string
		log    string
		want   []string
	}{
		{"waiting for etcd", "", "20.0.0.1:1", noConfig, []string{"not ready yet", "condition network config: not ok: ", "connection refused", "no backend yet", "no packet counters yet"}},
		{"waiting for the config", "", etcdAddr, noConfig, []string{"condition network config: not ok: ", "no network config: write one by", "condition lease: not ok: still to come", "no backend yet"}},
		{"waiting for a valid config", "{}", etcdAddr, noConfig, []string{"/config is invalid", "no backend yet"}},
		{"alloc", config(`"alloc"`), etcdAddr, "Waiting for 22h59m", []string{"backend alloc, lease 10.5.", "no packet counters: "}},
		{"vxlan", config(`"vxlan"`), etcdAddr, "Waiting for 22h59m", []string{"backend vxlan, lease 10.5.", "condition lease: ok"}},
		{"host-gw", config(`"host-gw"`), etcdAddr, "Waiting for 22h59m", []string{"backend host-gw, lease 10.5."}},
		{"udp", config(`"udp"`), etcdAddr, "Waiting for 22h59m", []string{"backend udp, lease 10.5.", "stats: to peers: received ", "stats: to peers dropped: ", "stats: from peers: received 0 packets 0 bytes,", "stats: from peers dropped: nothing", "stats: tun: ", "stats: socket: "}},
	} {
		c.step(phase.name, func() {
			prefix := fmt.Sprintf("/dump%d", i)
			if phase.config != "" {
				c.set(prefix+"/config", phase.config, 0)
			}
			n.launch("-etcd-endpoints=http://flannel:pa55word-x@"+phase.etcd, "-etcd-prefix="+prefix, "-healthz-port=8081")
			n.wantLog(phase.log)
			for range 3 {
				wantTexts(c.t, n.dump(), phase.want...)
			}
			n.wantRunning()
			_, metrics := n.health("/metrics")
			n.checkGlog()
			n.stop()
			wantNoSecret(c.t, "the log and the metrics", n.output()+metrics)
		})
	}
}

// TestDumpWhileEnding has the daemon held up by a request that is never
// finished.
func TestDumpWhileEnding(t *testing.T) {
	t.Parallel()
	c := newLab(t, lab.Options{})
	c.set(configKey, config(`"alloc"`), 0)
	n := c.addHost()
	n.start("-healthz-port=8081")
	conn, err := n.NS.DialTCP(c.ctx, netip.MustParseAddrPort("127.0.0.1:8081"))
	c.must(err)
	defer conn.Close()
	_, err = conn.Write([]byte("GET /met"))
	c.must(err)
	n.health("/healthz") // connections are accepted in their order

	c.must(n.daemon.Signal(syscall.SIGTERM))
	n.wantLog("Waiting for all goroutines to exit")
	wantTexts(t, n.dump(), "backend alloc")
	n.wantGone(5*time.Second, 0)
	n.wantLog("stats: ", "Exiting cleanly...")
}

// TestDumpUnderLoad: nothing is lost meanwhile, neither packets nor dumps.
func TestDumpUnderLoad(t *testing.T) {
	t.Parallel()
	const dumps, size = 10, 20 << 20
	c := newCluster(t, config(`"udp"`), 2)
	a, b := c.nodes[0], c.nodes[1]
	c.wantPing(a.pod.NS, b.pod.Addr)

	ctx, cancel := context.WithCancel(c.ctx)
	defer cancel()
	pings, sent := make(chan error, 1), make(chan error, 1)
	answers := 0
	go func() {
		var lost error
		for ctx.Err() == nil {
			// Not with ctx, whose end must not look like a loss.
			if _, err := a.pod.NS.Ping(c.ctx, b.pod.Addr); err != nil {
				lost = errors.Join(lost, err)
			} else {
				answers++
			}
		}
		pings <- lost
	}()
	go func() { sent <- lab.SendBytes(c.ctx, a.pod.NS, b.pod.NS, b.pod.Addr, size) }()
	for range dumps {
		for _, n := range c.nodes {
			wantTexts(t, n.dump(), "backend udp, lease "+n.env.Subnet.String()+", peers 1", "to peers: received ", "from peers: received ")
		}
	}
	if err := <-sent; err != nil {
		t.Error(err)
	}
	cancel()
	if err := <-pings; err != nil {
		t.Error(err)
	}
	if answers < dumps {
		t.Errorf("%d pings, want %d or more", answers, dumps)
	}
	for _, n := range c.nodes {
		n.wantRunning()
		if got := len(n.linesWith("stats: flanneld ")); got != dumps {
			t.Errorf("%d dumps in the log of %s, want %d", got, n.Name, dumps)
		}
	}
}
