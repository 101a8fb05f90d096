package test

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"tweed/subnet"
	"tweed/test/lab"
)

// A proxy stands in front of the lab's etcd, as a load balancer does, counts the
// requests, and passes an answer on when it is complete.
type proxy struct {
	url      string
	requests atomic.Int64
	// A poll that has no answer after that time gets no better one.
	pollTime time.Duration // 0: as long as etcd takes
	pollEnds string        // how: "close", "504", "empty" or "cut"
	rewrite  func(body []byte) []byte

	etcd *http.Transport
}

// startProxy runs p on the switch until the test ends.
func (c *cluster) startProxy(port uint16, p *proxy) *proxy {
	c.t.Helper()
	at := netip.AddrPortFrom(netip.MustParseAddr("20.0.0.1"), port)
	l, err := c.Switch().Listen(c.ctx, at)
	c.must(err)
	p.url = "http://" + at.String()
	p.etcd = &http.Transport{DialContext: c.Switch().DialContext}
	server := &http.Server{Handler: p}
	var wg sync.WaitGroup
	wg.Go(func() { server.Serve(l) })
	c.t.Cleanup(func() {
		server.Close()
		wg.Wait()
		p.etcd.CloseIdleConnections()
	})
	return p
}

func (p *proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.requests.Add(1)
	ctx := r.Context()
	poll := r.URL.Query().Get("wait") == "true"
	if poll && p.pollTime > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, p.pollTime)
		defer cancel()
	}
	r = r.Clone(ctx)
	r.URL.Scheme, r.URL.Host = "http", etcdAddr
	resp, err := p.etcd.RoundTrip(r)
	if err != nil {
		panic(http.ErrAbortHandler) // closes the connection
	}
	defer resp.Body.Close()
	maps.Copy(w.Header(), resp.Header)
	body, err := io.ReadAll(resp.Body)
	switch {
	case err == nil:
		if p.rewrite != nil {
			body = p.rewrite(body)
			w.Header().Del("Content-Length")
		}
		w.WriteHeader(resp.StatusCode)
		w.Write(body)
	case p.pollEnds == "504":
		w.Header().Set("Content-Type", "text/html")
		w.WriteHeader(http.StatusGatewayTimeout)
		io.WriteString(w, "<html><body><h1>504 Gateway Time-out</h1></body></html>")
	case p.pollEnds == "empty":
		w.WriteHeader(resp.StatusCode)
	case p.pollEnds == "cut":
		w.WriteHeader(resp.StatusCode)
		http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	default:
		panic(http.ErrAbortHandler)
	}
}

// TestEtcdBehindProxy has proxies that end long polls in every way, early: the
// daemons ask now and then, not all the time, and news still come in.
func TestEtcdBehindProxy(t *testing.T) {
	t.Parallel()
	const span = 10 * time.Second
	c := newLab(t, lab.Options{})
	c.set(configKey, config(`"vxlan"`), 0)
	var proxies []*proxy
	for _, d := range []time.Duration{time.Second, 20 * time.Millisecond} {
		for _, how := range []string{"close", "504", "empty", "cut"} {
			p := c.startProxy(uint16(2400+len(proxies)), &proxy{pollTime: d, pollEnds: how})
			n := c.addHost()
			n.launchAt(p.url)
			proxies = append(proxies, p)
		}
	}
	for _, n := range c.nodes {
		n.begun()
	}
	for _, n := range c.nodes {
		n.wantPeers(len(c.nodes) - 1)
	}
	for _, n := range c.nodes[:2] {
		n.addPod()
	}
	calm := c.keepVigil(c.nodes[:2]...)
	var asked []int64
	var cpu []time.Duration
	var said []int
	for i, n := range c.nodes {
		asked = append(asked, proxies[i].requests.Load())
		cpu = append(cpu, cpuTime(t, n.daemon.PID))
		said = append(said, n.said())
	}
	time.Sleep(span) // in which requests are counted
	for i, n := range c.nodes {
		asked[i] = proxies[i].requests.Load() - asked[i]
		cpu[i] = cpuTime(t, n.daemon.PID) - cpu[i]
		said[i] = n.said() - said[i]
	}

	key, p := stranger("vxlan", 1)
	began := time.Now()
	c.set(key, p.value(), time.Hour)
	for i, n := range c.nodes {
		took := c.inForce(p, 0, began, n)
		what := fmt.Sprintf("polls end after %v by %s", proxies[i].pollTime, proxies[i].pollEnds)
		perSecond := float64(asked[i]) / span.Seconds()
		t.Logf("%s: %.1f requests/s, %.1f %% CPU, %d lines in %v; a lease in force after %.1f s",
			what, perSecond, 100*cpu[i].Seconds()/span.Seconds(), said[i], span, took.Seconds())
		if perSecond > 3 || cpu[i] > span/20 || said[i] > calmLines || took > 35*time.Second {
			t.Errorf("%s: want at most 3 requests/s, 5 %% CPU, %d lines, and news within 35 s", what, calmLines)
		}
		n.wantRunning()
	}
	calm.end("polls that end early", 2*calmLines)
}

var expiration = regexp.MustCompile(`"expiration":"([^"]+)"`)

// shiftExpiration has etcd's clock be wrong.
func shiftExpiration(d time.Duration) func([]byte) []byte {
	return func(body []byte) []byte {
		return expiration.ReplaceAllFunc(body, func(field []byte) []byte {
			at, err := time.Parse(time.RFC3339Nano, string(expiration.FindSubmatch(field)[1]))
			if err != nil {
				return field
			}
			return fmt.Appendf(nil, `"expiration":%q`, at.Add(d).Format(time.RFC3339Nano))
		})
	}
}

// TestEtcdClockWrong has etcd's absolute times of expiry be wrong by a day, both
// ways: the lease is renewed when it is due by its TTL, neither before nor after.
func TestEtcdClockWrong(t *testing.T) {
	t.Parallel()
	c := newLab(t, lab.Options{})
	c.set(configKey, config(`"vxlan"`), 0)
	for i, d := range []time.Duration{24 * time.Hour, -24 * time.Hour} {
		c.step(d.String(), func() {
			p := c.startProxy(uint16(2400+i), &proxy{rewrite: shiftExpiration(d)})
			n := c.addHost()
			n.launchAt(p.url)
			n.begun()
			n.wantLog("Waiting for 22h59m")
			first := n.lease()

			// Nothing is due for half an hour.
			from := n.said()
			c.set(first.Key, first.Value, 90*time.Minute)
			n.wantLogFrom(from, "Waiting for 29m5")
			if told := linesFrom(n, from, "renewed", "Waiting for"); len(told) != 1 {
				c.t.Errorf("it said %q", told)
			}
			// Now it is, in three seconds.
			from = n.said()
			c.set(first.Key, first.Value, time.Hour+3*time.Second)
			began := time.Now()
			n.wantLogFrom(from, "Waiting for 2.9", "Lease renewed, new expiration: ", "Waiting for 22h59m")
			c.t.Logf("renewed after %.1f s", time.Since(began).Seconds())
			if early := time.Since(began); early < 2*time.Second {
				c.t.Errorf("renewed after %v, a second too early", early)
			}
			if r := n.lease(); r.TTL < subnet.TTL-time.Minute || r.Value != first.Value {
				c.t.Error(recordError(r))
			}
			if lost := n.linesWith("revoked"); lost != nil {
				c.t.Errorf("the lease was given up: %q", lost)
			}
		})
	}
}

// linesFrom returns the lines from number from on that have one of the texts.
func linesFrom(n *node, from int, texts ...string) (found []string) {
	for _, line := range n.daemon.Lines()[from:] {
		if slices.ContainsFunc(texts, func(s string) bool { return strings.Contains(line, s) }) {
			found = append(found, line)
		}
	}
	return found
}
