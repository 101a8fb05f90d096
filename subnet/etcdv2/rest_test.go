package etcdv2

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"tweed/subnet"
)

// pipes is a listener in memory, so that time in a bubble passes while
// connections are at rest.
type pipes struct {
	conns chan net.Conn
	done  chan struct{}
	once  *sync.Once
}

func (p pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}

func (p pipes) Close() error {
	p.once.Do(func() { close(p.done) })
	return nil
}

func (p pipes) Addr() net.Addr { return &net.TCPAddr{} }

// TestRequestsAtRest counts what a node asks of etcd on a day on which nothing
// happens.
func TestRequestsAtRest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const day = 24 * time.Hour
		var mu sync.Mutex // guards what the server and the dialer note
		count := map[string]int{}
		note := func(what string) {
			mu.Lock()
			defer mu.Unlock()
			count[what]++
		}
		written := time.Now()
		record := func() string {
			mu.Lock()
			defer mu.Unlock()
			left := subnet.TTL - time.Since(written)
			return fmt.Sprintf(`{"key":"/coreos.com/network/subnets/10.5.3.0-24","value":"{\"PublicIP\":\"192.0.2.1\"}","expiration":%q,"ttl":%d,"modifiedIndex":7,"createdIndex":7}`,
				time.Now().Add(left).Format(time.RFC3339), int(left.Seconds()))
		}
		server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			w.Header().Set("X-Etcd-Index", "7")
			switch q := r.URL.Query(); {
			case q.Get("wait") == "true":
				note("poll")
				w.(http.Flusher).Flush()
				<-r.Context().Done()
			case strings.HasSuffix(r.URL.Path, "/subnets"):
				note("list")
				fmt.Fprintf(w, `{"action":"get","node":{"key":"/coreos.com/network/subnets","dir":true,"nodes":[%s]}}`, record())
			case r.Method == http.MethodPut:
				note("write")
				mu.Lock()
				written = time.Now()
				mu.Unlock()
				fmt.Fprintf(w, `{"action":"compareAndSwap","node":%s}`, record())
			default:
				note("config")
				json.NewEncoder(w).Encode(map[string]any{"node": map[string]any{"key": "/coreos.com/network/config", "value": `{"Network":"10.5.0.0/16"}`}})
			}
		}))
		listener := pipes{make(chan net.Conn), make(chan struct{}), new(sync.Once)}
		server.Listener = listener
		server.Start()
		defer server.Close()

		s := open(t, Options{Endpoints: []string{"http://etcd.test:2379", "http://etcd2.test:2379", "http://etcd3.test:2379"}})
		s.transports.peers.by = func(context.Context, string, string) (net.Conn, error) {
			note("connection")
			near, far := net.Pipe()
			listener.conns <- far
			return near, nil
		}
		cfg, err := subnet.ParseConfig([]byte(`{"Network":"10.5.0.0/16"}`))
		if err != nil {
			t.Fatal(err)
		}
		m := subnet.NewManager(s, cfg, time.Hour, slog.New(slog.DiscardHandler))
		own, err := m.Acquire(t.Context(), subnet.Attrs{PublicIP: addr("192.0.2.1")})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), day)
		defer cancel()
		if err := m.Run(ctx, own, func(context.Context, []subnet.Lease) error { return nil }); err != nil {
			t.Fatal(err)
		}
		mu.Lock()
		defer mu.Unlock()
		total := count["poll"] + count["list"] + count["write"] + count["config"]
		perMinute := float64(total) / day.Minutes()
		t.Logf("%v: %.2f requests a minute", count, perMinute)
		if perMinute > 2 || count["write"] > 3 {
			t.Errorf("%.2f requests a minute, %d writes a day", perMinute, count["write"])
		}
		s.transports.close()
	})
}
