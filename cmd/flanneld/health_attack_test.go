package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"
)

// startHealth serves the real handler on a port of the loopback.
func startHealth(t *testing.T) (addr string) {
	t.Helper()
	metrics := metricsHandler(func() snapshot { return snapshot{} })
	h, err := listenHealth("127.0.0.1", freePort(t), healthHandler(newReadiness(), metrics))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- h.run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return h.listener.Addr().String()
}

// wantAlive asks for /healthz on a connection of its own.
func wantAlive(t *testing.T, addr string) {
	t.Helper()
	c := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 5 * time.Second}
	resp, err := c.Get("http://" + addr + "/healthz")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if b, err := io.ReadAll(resp.Body); err != nil || string(b) != "flanneld is running" {
		t.Fatalf("%q, %v", b, err)
	}
}

// Clients that send nothing, half a header, a byte now and then, or never read
// are served nothing for ever: others get their answers meanwhile, and in the
// end no descriptor is left.
func TestHealthSlowClients(t *testing.T) {
	t.Parallel() // it waits for time-outs of five seconds
	addr := startHealth(t)
	wantAlive(t, addr)
	before := openDescriptors(t)
	kinds := []func(c net.Conn) error{
		func(net.Conn) error { return nil },
		func(c net.Conn) error {
			_, err := io.WriteString(c, "GET /healthz HTTP/1.1\r\nHost: x\r\nX-")
			return err
		},
		func(c net.Conn) error { // a body that never comes
			_, err := io.WriteString(c, "POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\nx")
			return err
		},
		func(c net.Conn) error { // answers that nobody reads
			_, err := io.WriteString(c, strings.Repeat("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n", 200))
			return err
		},
		func(c net.Conn) error { // a byte a second
			for _, b := range []byte("GET /healthz HTTP/1.1\r\n" + strings.Repeat("X: y\r\n", 20)) {
				if _, err := c.Write([]byte{b}); err != nil {
					return nil // cut off, as it should be
				}
				time.Sleep(time.Second)
			}
			return errors.New("a header of 143 seconds was waited for")
		},
	}
	const clients = 200
	var all sync.WaitGroup
	for i := range clients {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		all.Go(func() {
			defer c.Close()
			if err := kinds[i%len(kinds)](c); err != nil {
				t.Error(err)
			}
			if i%len(kinds) == 3 {
				time.Sleep(6 * time.Second) // longer than the server waits for a reader
				return
			}
			c.SetReadDeadline(time.Now().Add(20 * time.Second))
			if _, err := io.Copy(io.Discard, c); errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("client of kind %d is still connected", i%len(kinds))
			}
		})
	}
	wantAlive(t, addr)
	all.Wait()
	wantAlive(t, addr)
	for end := time.Now().Add(5 * time.Second); openDescriptors(t) > before; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d descriptors, %d before", openDescriptors(t), before)
		}
	}
}

func openDescriptors(t *testing.T) int {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(fds)
}

// A header beyond 8 KiB, and what net/http adds to that, is refused; a request
// that makes no sense is, too.
func TestHealthBadRequests(t *testing.T) {
	addr := startHealth(t)
	for _, tt := range []struct{ name, request, want string }{
		{"large header", "GET /healthz HTTP/1.1\r\nHost: x\r\nX: " + strings.Repeat("y", 16<<10) + "\r\n\r\n", " 431 "},
		{"many headers", "GET /healthz HTTP/1.1\r\nHost: x\r\n" + strings.Repeat("X: y\r\n", 4000) + "\r\n", " 431 "},
		{"long path", "GET /" + strings.Repeat("a", 16<<10) + " HTTP/1.1\r\nHost: x\r\n\r\n", " 431 "},
		{"no HTTP", "\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", " 400 "},
		{"no host", "GET /healthz HTTP/1.1\r\n\r\n", " 400 "},
		{"two lengths", "POST /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx", " 400 "},
		{"proxy request", "GET http://192.0.2.1/latest HTTP/1.1\r\nHost: 192.0.2.1\r\n\r\n", " 404 "},
		{"tunnel", "CONNECT 192.0.2.1:2379 HTTP/1.1\r\nHost: 192.0.2.1:2379\r\n\r\n", " 404 "},
		{"other version", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", " 400 "},
	} {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		c.SetDeadline(time.Now().Add(10 * time.Second))
		go io.WriteString(c, tt.request) // it may be answered before it is read
		line := make([]byte, 100)
		n, err := io.ReadAtLeast(c, line, 13)
		c.Close()
		if got := string(line[:n]); !strings.HasPrefix(got, "HTTP/1.") || !strings.Contains(got[:13], tt.want) {
			t.Errorf("%s: %q, %v, want%s", tt.name, got, err, tt.want)
		}
	}
	wantAlive(t, addr)
}

// More scrapes at a time than there is room for are refused, not queued, and
// /healthz is answered beside them.
func TestManyScrapes(t *testing.T) {
	release, entered := make(chan struct{}), make(chan struct{}, 100)
	handler := metricsHandler(func() snapshot {
		entered <- struct{}{}
		<-release
		return snapshot{}
	})
	s := httptest.NewServer(healthHandler(newReadiness(), handler))
	defer s.Close()
	var scrapes sync.WaitGroup
	client := http.Client{Timeout: 10 * time.Second}
	get := func() int {
		resp, err := client.Get(s.URL + "/metrics")
		if err != nil {
			t.Error(err)
			return 0
		}
		defer resp.Body.Close()
		io.Copy(io.Discard, resp.Body)
		return resp.StatusCode
	}
	for range maxScrapes {
		scrapes.Go(func() {
			if code := get(); code != 200 {
				t.Errorf("status %d", code)
			}
		})
	}
	for range maxScrapes {
		<-entered
	}
	for range 50 {
		if code := get(); code != 503 {
			t.Errorf("one scrape more: status %d, want 503", code)
			break
		}
	}
	wantAlive(t, s.Listener.Addr().String())
	close(release)
	scrapes.Wait()
}

// Nothing is served but what the help says, whatever packages are linked in.
func TestNothingElseIsServed(t *testing.T) {
	addr := startHealth(t)
	for _, path := range []string{
		"/", "/debug/pprof/", "/debug/pprof/heap", "/debug/pprof/cmdline", "/debug/vars", "/debug/requests",
		"/metrics/../debug/vars", "/%2e%2e/etc/passwd", "/config", "/healthz/x", "//healthz",
	} {
		resp, err := (&http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}).Get("http://" + addr + path)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != 404 && resp.StatusCode/100 != 3 || len(body) > 100 {
			t.Errorf("%s: %d %q", path, resp.StatusCode, body)
		}
	}
	resp, err := http.Get(fmt.Sprintf("http://%s/metrics", addr))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	for line := range strings.Lines(string(body)) {
		name := strings.TrimPrefix(strings.TrimPrefix(line, "# HELP "), "# TYPE ")
		if !strings.HasPrefix(name, "tweed_") && !strings.HasPrefix(name, "go_") && !strings.HasPrefix(name, "process_") {
			t.Errorf("/metrics has %q", line)
		}
	}
}
