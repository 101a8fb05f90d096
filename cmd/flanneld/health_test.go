package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestHealthAnswers(t *testing.T) {
	waiting := newReadiness("network config", "lease")
	waiting.set("network config", errors.New("key /coreos.com/network/config not found"))
	done := newReadiness("network config")
	done.set("network config", nil)
	canned := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "canned 1\n") })
	const notReady = "flanneld is not ready yet\nnetwork config: key /coreos.com/network/config not found\nlease: still to come\n"

	for _, tt := range []struct {
		r            *readiness
		method, path string
		status       int
		body         string
	}{
		{waiting, "GET", "/healthz", 200, "flanneld is running"},
		{waiting, "POST", "/healthz", 200, "flanneld is running"},
		{waiting, "DELETE", "/healthz?x=y", 200, "flanneld is running"},
		{waiting, "GET", "/readyz", 503, notReady},
		{waiting, "GET", "/readyz?format=text", 503, notReady},
		{waiting, "PUT", "/readyz", 503, notReady},
		{done, "GET", "/readyz", 200, "flanneld is ready"},
		{done, "HEAD", "/readyz", 200, "flanneld is ready"}, // the server drops the body
		{done, "GET", "/", 404, "404 page not found\n"},
		{done, "GET", "/metrics", 200, "canned 1\n"},
		{waiting, "GET", "/metrics", 200, "canned 1\n"},
		{done, "GET", "/metrics/", 404, "404 page not found\n"},
		{done, "GET", "/healthz/", 404, "404 page not found\n"},
		{done, "GET", "/HEALTHZ", 404, "404 page not found\n"},
	} {
		w := httptest.NewRecorder()
		healthHandler(tt.r, canned).ServeHTTP(w, httptest.NewRequest(tt.method, tt.path, strings.NewReader("format=json")))
		if w.Code != tt.status || w.Body.String() != tt.body {
			t.Errorf("%s %s: got %d %q, want %d %q", tt.method, tt.path, w.Code, w.Body, tt.status, tt.body)
		}
	}
}

func TestReadyJSON(t *testing.T) {
	r := newReadiness("a", "b")
	r.set("a", nil)
	r.set("b", errors.New("why\nnot"))
	byAccept := httptest.NewRequest("GET", "/readyz", nil)
	byAccept.Header.Set("Accept", "text/html, application/json;q=0.9")
	for _, req := range []*http.Request{httptest.NewRequest("GET", "/readyz?format=json", nil), byAccept} {
		w := httptest.NewRecorder()
		healthHandler(r, http.NotFoundHandler()).ServeHTTP(w, req)
		var got struct {
			Ready      bool
			Conditions []struct {
				Name   string
				OK     bool
				Reason string
				Since  time.Time
			}
		}
		if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil {
			t.Fatal(err)
		}
		if w.Code != 503 || w.Header().Get("Content-Type") != "application/json" || got.Ready || len(got.Conditions) != 2 {
			t.Fatalf("got %d %s %+v", w.Code, w.Header(), got)
		}
		if a, b := got.Conditions[0], got.Conditions[1]; a.Name != "a" || !a.OK || a.Reason != "" || b.OK || b.Reason != "why\nnot" || b.Since.IsZero() {
			t.Errorf("got %+v", got)
		}
	}
	// A reason of several lines stays one line of the text.
	w := httptest.NewRecorder()
	healthHandler(r, http.NotFoundHandler()).ServeHTTP(w, httptest.NewRequest("GET", "/readyz", nil))
	if got := w.Body.String(); got != "flanneld is not ready yet\nb: why\\nnot\n" {
		t.Errorf("got %q", got)
	}
}

func TestReadinessSince(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		r := newReadiness("lease")
		at := func(wantOK bool, want time.Duration) {
			t.Helper()
			ready, all := r.state()
			if ready != wantOK || all[0].OK != wantOK || all[0].Since.Sub(start) != want {
				t.Errorf("got %v %+v, want %v since %v", ready, all[0], wantOK, want)
			}
		}
		at(false, 0)
		time.Sleep(time.Second)
		r.set("lease", errors.New("another reason"))
		at(false, 0)
		r.set("lease", nil)
		at(true, time.Second)
		time.Sleep(time.Second)
		r.set("lease", nil)
		at(true, time.Second)
		r.set("lease", io.EOF)
		at(false, 2*time.Second)
		r.set("lease", nil)
		r.set("unheard of", io.EOF)
		if ready, all := r.state(); ready || len(all) != 2 {
			t.Errorf("got %v %+v", ready, all)
		}
	})
}

func TestReadinessConcurrently(t *testing.T) {
	r := newReadiness("0", "1", "2")
	var wg sync.WaitGroup
	for i := range 6 {
		wg.Go(func() {
			for j := range 200 {
				var err error
				if j%2 == 0 {
					err = io.EOF
				}
				r.set(strconv.Itoa(i), err)
				_, all := r.state()
				for _, c := range all {
					if c.OK != (c.Reason == "") {
						t.Errorf("torn condition %+v", c)
					}
				}
			}
		})
	}
	wg.Wait()
	if ready, all := r.state(); !ready || len(all) != 6 {
		t.Errorf("got %v %+v", ready, all)
	}
}

func TestHealthServer(t *testing.T) {
	h, err := listenHealth("127.0.0.1", freePort(t), healthHandler(newReadiness(), http.NotFoundHandler()))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- h.run(ctx) }()
	url := "http://" + h.listener.Addr().String()
	for path, want := range map[string]string{"/healthz": "flanneld is running", "/readyz": "flanneld is ready"} {
		resp, err := http.Get(url + path)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != 200 || string(body) != want {
			t.Errorf("%s: %d %q", path, resp.StatusCode, body)
		}
	}

	// A client that sends nothing must not hold up the end.
	idle, err := net.Dial("tcp", h.listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer idle.Close()
	cancel()
	select {
	case err := <-ended:
		if err != nil {
			t.Errorf("run: %v", err)
		}
	case <-time.After(4 * time.Second):
		t.Fatal("the server does not end")
	}
	if c, err := net.Dial("tcp", h.listener.Addr().String()); err == nil {
		c.Close()
		t.Error("the port is still open")
	}
	idle.SetReadDeadline(time.Now().Add(2 * time.Second)) // before the header timeout
	if _, err := idle.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("the silent client is still connected: %v", err)
	}
}

func TestHealthServerEndedFromOutside(t *testing.T) {
	h, err := listenHealth("127.0.0.1", freePort(t), healthHandler(newReadiness(), http.NotFoundHandler()))
	if err != nil {
		t.Fatal(err)
	}
	h.listener.Close()
	if err := h.run(t.Context()); err == nil || !strings.Contains(err.Error(), "health check on 127.0.0.1:") {
		t.Errorf("got %v", err)
	}
}

func TestHealthListenErrors(t *testing.T) {
	if h, err := listenHealth("not used", 0, nil); h != nil || err != nil {
		t.Errorf("port 0: %v %v", h, err)
	}
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	port := taken.Addr().(*net.TCPAddr).Port
	for _, tt := range []struct {
		ip   string
		port int
		want string
	}{
		{"127.0.0.1", port, fmt.Sprintf("health check on 127.0.0.1:%d: listen tcp 127.0.0.1:%[1]d: bind: address already in use", port)},
		{"192.0.2.1", 8081, "health check on 192.0.2.1:8081: "},
		{"127.0.0.1 ", 8081, "health check on 127.0.0.1 :8081: "},
		{"127.0.0.1:80", 8081, "health check on [127.0.0.1:80]:8081: "},
	} {
		h, err := listenHealth(tt.ip, tt.port, healthHandler(newReadiness(), http.NotFoundHandler()))
		if err == nil {
			h.listener.Close()
		}
		if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), "-healthz-port") {
			t.Errorf("%s %d: got %v, want %q", tt.ip, tt.port, err, tt.want)
		}
	}
}

// freePort returns a port that was free a moment ago.
func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}
