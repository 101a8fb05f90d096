package test

import (
	"context"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"time"

	"tweed/test/embedetcd"
)

// etcdAddr is where the lab's own etcd listens.
const etcdAddr = "20.0.0.1:2379"

// serve runs another etcd on the switch until the test ends.
func (c *cluster) serve(addr string, o embedetcd.Options) *embedetcd.Server {
	c.t.Helper()
	o.Dir = filepath.Join(c.t.TempDir(), "etcd")
	o.Listen = addr
	o.NoSync = true
	s := c.startServer(o)
	c.t.Cleanup(func() { s.Close() })
	return s
}

func (c *cluster) startServer(o embedetcd.Options) *embedetcd.Server {
	c.t.Helper()
	var s *embedetcd.Server
	c.must(c.Switch().Do(func() (err error) {
		s, err = embedetcd.Start(c.ctx, o)
		return err
	}))
	return s
}

// stopEtcd ends the lab's own etcd; its data stay.
func (c *cluster) stopEtcd() {
	c.t.Helper()
	s := c.Etcd
	c.Etcd = nil // for the lab, which closes what it has
	c.must(s.Close())
}

// startEtcd starts it again.
func (c *cluster) startEtcd() {
	c.t.Helper()
	c.Etcd = c.startServer(embedetcd.Options{Dir: filepath.Join(c.Dir(), "etcd"), Listen: etcdAddr, NoSync: true})
}

// request sends an HTTP request from inside the node and returns status and
// body of the answer. An accept of "" sends no such header.
func (n *node) request(method, url, accept string) (int, string, error) {
	client := http.Client{
		Transport: &http.Transport{DialContext: n.NS.DialContext, DisableKeepAlives: true},
		Timeout:   5 * time.Second,
	}
	req, err := http.NewRequestWithContext(n.c.ctx, method, url, nil)
	if err != nil {
		return 0, "", err
	}
	if accept != "" {
		req.Header.Set("Accept", accept)
	}
	resp, err := client.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(b), err
}

// health asks a path of the health checks on port 8081.
func (n *node) health(path string) (int, string) {
	n.c.t.Helper()
	code, body, err := n.request("GET", "http://127.0.0.1:8081"+path, "")
	n.c.must(err)
	return code, body
}

// wantHealth waits for the health checks to answer so.
func (n *node) wantHealth(path string, code int, texts ...string) {
	n.c.t.Helper()
	n.c.eventually(path, func() error {
		got, body, err := n.request("GET", "http://127.0.0.1:8081"+path, "")
		if err != nil {
			return err
		}
		for _, text := range texts {
			if !strings.Contains(body, text) {
				got = 0
			}
		}
		if got != code {
			return &healthError{got, body}
		}
		return nil
	})
}

type healthError struct {
	code int
	body string
}

func (e *healthError) Error() string { return http.StatusText(e.code) + ": " + e.body }

// admin sends a request of etcd's user administration, as root.
func (c *cluster) admin(addr, method, path, body string) {
	c.t.Helper()
	client := http.Client{Transport: &http.Transport{DialContext: c.Switch().DialContext, DisableKeepAlives: true}}
	ctx, cancel := context.WithTimeout(c.ctx, 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, "http://"+addr+path, strings.NewReader(body))
	c.must(err)
	req.Header.Set("Content-Type", "application/json")
	req.SetBasicAuth("root", rootPassword)
	resp, err := client.Do(req)
	c.must(err)
	defer resp.Body.Close()
	if resp.StatusCode/100 != 2 {
		b, _ := io.ReadAll(resp.Body)
		c.t.Fatalf("%s %s: %s: %s", method, path, resp.Status, b)
	}
}
