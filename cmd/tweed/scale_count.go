package main

import (
	"context"
	"net/http"
	"strings"
	"sync"
	"time"
)

// etcdCounts are what clients have asked of etcd, and the bytes of the bodies
// of the answers.
type etcdCounts struct {
	Polls     int   `json:"polls"` // long polls of watches
	PollBytes int64 `json:"poll_bytes"`
	Lists     int   `json:"lists"` // of all leases
	ListBytes int64 `json:"list_bytes"`
	Others    int   `json:"others"` // config, own lease

	ListTime time.Duration `json:"-"` // that etcd took for its lists, summed up
}

func (c etcdCounts) requests() int { return c.Polls + c.Lists + c.Others }

func (c etcdCounts) minus(before etcdCounts) etcdCounts {
	return etcdCounts{
		c.Polls - before.Polls, c.PollBytes - before.PollBytes,
		c.Lists - before.Lists, c.ListBytes - before.ListBytes,
		c.Others - before.Others, c.ListTime - before.ListTime,
	}
}

// An etcdCounter stands before etcd's own handler and counts. A poll counts
// when it begins, anything else when it has been answered.
type etcdCounter struct {
	next http.Handler

	mu    sync.Mutex
	sum   etcdCounts
	last  time.Time // when sum grew
	polls map[*countedAnswer]bool
	more  chan struct{} // closed and replaced when a count grows
}

func newEtcdCounter() *etcdCounter {
	return &etcdCounter{polls: make(map[*countedAnswer]bool), more: make(chan struct{})}
}

// wrap is embedetcd.Options.Wrap.
func (c *etcdCounter) wrap(next http.Handler) http.Handler {
	c.next = next
	return c
}

// ServeHTTP implements http.Handler.
func (c *etcdCounter) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a := &countedAnswer{ResponseWriter: w, gone: make(chan bool, 1)}
	// etcd notices that a client has gone only by the CloseNotifier.
	defer context.AfterFunc(r.Context(), a.end)()
	query := r.URL.Query()
	if query.Get("wait") == "true" {
		c.add(func(s *etcdCounts) { s.Polls++; c.polls[a] = true })
		c.next.ServeHTTP(a, r)
		c.add(func(s *etcdCounts) { s.PollBytes += a.bytes; delete(c.polls, a) })
		return
	}
	began := time.Now()
	c.next.ServeHTTP(a, r)
	took := time.Since(began)
	c.add(func(s *etcdCounts) {
		if r.Method == http.MethodGet && strings.HasSuffix(r.URL.Path, "/subnets") {
			s.Lists++
			s.ListBytes += a.bytes
			s.ListTime += took
		} else {
			s.Others++
		}
	})
}

func (c *etcdCounter) add(grow func(*etcdCounts)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	grow(&c.sum)
	c.last = time.Now()
	close(c.more)
	c.more = make(chan struct{})
}

// counts returns the counts so far.
func (c *etcdCounter) counts() etcdCounts {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.sum
}

// awaitSilence waits until nobody has asked or been answered for so long, and
// returns the counts and when the last of them grew.
func (c *etcdCounter) awaitSilence(ctx context.Context, long time.Duration) (etcdCounts, time.Time, error) {
	for {
		c.mu.Lock()
		sum, last := c.sum, c.last
		c.mu.Unlock()
		left := long - time.Since(last)
		if left <= 0 {
			return sum, last, nil
		}
		if !sleep(ctx, left) {
			return sum, last, ctx.Err()
		}
	}
}

// await waits until the counts are as ready wants them.
func (c *etcdCounter) await(ctx context.Context, ready func(etcdCounts) bool) error {
	for {
		c.mu.Lock()
		sum, more := c.sum, c.more
		c.mu.Unlock()
		if ready(sum) {
			return nil
		}
		select {
		case <-more:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// endPolls ends all long polls that wait now without an event, as etcd itself
// does after some minutes.
func (c *etcdCounter) endPolls() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for a := range c.polls {
		a.end()
	}
}

// countedAnswer has the methods that etcd's handler of long polls needs.
type countedAnswer struct {
	http.ResponseWriter
	bytes int64
	gone  chan bool
}

func (a *countedAnswer) Write(p []byte) (int, error) {
	n, err := a.ResponseWriter.Write(p)
	a.bytes += int64(n)
	return n, err
}

// Flush implements http.Flusher.
func (a *countedAnswer) Flush() { http.NewResponseController(a.ResponseWriter).Flush() }

// CloseNotify implements http.CloseNotifier.
func (a *countedAnswer) CloseNotify() <-chan bool { return a.gone }

func (a *countedAnswer) end() {
	select {
	case a.gone <- true:
	default:
	}
}
