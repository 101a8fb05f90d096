package etcdv2

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"syscall"
	"time"

	"go.etcd.io/etcd/client/v2"
)

var errNoAnswer = errors.New("no answer")

// call is one request to the cluster. It may be sent to several endpoints in
// turn: a condition makes sure that no write happens twice.
type call struct {
	verb  string // for errors
	key   string // "/coreos.com/network/config"
	write bool
	means map[int]error // promised errors by code of etcd
	send  func(context.Context, client.KeysAPI) (*client.Response, error)

	cluster string // exchange.cluster

	// digest, if set, is exchange.digest. asked is as in reply.
	digest func(body io.Reader, asked time.Time) ([]byte, error)
}

// reply is what etcd answered.
type reply struct {
	*client.Response
	asked time.Time // before the request was sent: a TTL counts from then or later
}

// do sends c to the endpoint in use, and to the others if it fails. The error is
// a *refusal if etcd answered with one.
func (s *Store) do(ctx context.Context, c call) (reply, error) {
	// The library starts a request before it looks at the context.
	if err := ctx.Err(); err != nil {
		return reply{}, c.failure([]error{err})
	}
	latest := time.Now().Add(s.CallTime())
	first := int(s.pinned.Load())
	faults := make([]error, len(s.endpoints)) // in the order of the flag, whichever was first
	var doubt error                           // a write that may have been done, but was not confirmed
	foreign := -1                             // an endpoint of another cluster than c.cluster
	for i := range s.endpoints {
		k := (first + i) % len(s.endpoints)
		ep := s.endpoints[k]
		asked := time.Now()
		x := &exchange{base: s.transports.current(), cluster: c.cluster, answered: s.outage.answered}
		if c.digest != nil {
			x.digest = func(body io.Reader) ([]byte, error) { return c.digest(body, asked) }
		}
		resp, err := s.attempt(ctx, x, ep, s.share(ctx, len(s.endpoints)-i), latest, c)
		var code client.Error
		if err == nil && resp.Node.Key != c.key {
			err = fmt.Errorf("%w: it is about the key %q", errNotEtcd, resp.Node.Key)
		}
		switch {
		case err == nil:
			s.pin(first, k, faults)
			if c.cluster != "" {
				s.replaced.Store(nil)
			}
			return reply{resp, asked}, nil
		case errors.As(err, &code):
			s.pin(first, k, faults)
			return reply{}, &refusal{call: c, endpoint: ep, code: code, doubt: doubt}
		case ctx.Err() != nil:
			if errors.Is(ctx.Err(), context.DeadlineExceeded) {
				s.pinned.Store(int32((k + 1) % len(s.endpoints)))
			}
			faults[k] = fmt.Errorf("%s: %w", ep.url, ctx.Err())
			return reply{}, c.failure(faults)
		}
		err = fmt.Errorf("%s: %w", ep.url, s.explain(err))
		faults[k] = err
		if c.write && x.sent.Load() {
			doubt = err
		}
		if errors.Is(err, errNewCluster) {
			foreign = k
		}
	}
	if foreign >= 0 && s.isReplaced(faults) {
		s.pinned.Store(int32(foreign))
		s.opts.Log.Warn("no endpoint is of the cluster any more that was listed last, taking that of another one", "endpoint", s.endpoints[foreign].url, "err", join(faults))
		c.cluster = ""
		return s.do(ctx, c)
	}
	s.pinned.Store(int32((first + 1) % len(s.endpoints)))
	err := c.failure(faults)
	s.outage.failed(err)
	return reply{}, err
}

// replacedAfter is how long members of the cluster of the last list may give no
// answer that counts, such as without a leader, before another cluster is believed.
const replacedAfter = 30 * time.Second

// isReplaced reports whether the cluster of the last list is gone, by what its
// endpoints say, of which at least one is of another: all of them are, or nobody
// listens there any more, or it has been like that for a while.
func (s *Store) isReplaced(faults []error) bool {
	if !slices.ContainsFunc(faults, func(err error) bool {
		return !errors.Is(err, errNewCluster) && !errors.Is(err, syscall.ECONNREFUSED)
	}) {
		return true
	}
	now := time.Now()
	if s.replaced.CompareAndSwap(nil, &now) {
		return false
	}
	since := s.replaced.Load()
	return since != nil && now.Sub(*since) >= replacedAfter
}

// share returns how long one endpoint may take, so that the time left of ctx
// is enough for all of them.
func (s *Store) share(ctx context.Context, endpoints int) time.Duration {
	d := s.opts.RequestTimeout
	if deadline, ok := ctx.Deadline(); ok {
		d = min(d, time.Until(deadline)/time.Duration(endpoints))
	}
	return d
}

// pin makes k the endpoint to use after the ones from first on have failed.
func (s *Store) pin(first, k int, faults []error) {
	if k == first {
		return
	}
	s.pinned.Store(int32(k))
	s.opts.Log.Warn("using another etcd endpoint", "endpoint", s.endpoints[k].url, "err", join(faults))
}

// attempt sends c to one endpoint by way of x. Its error is a client.Error if
// etcd gave one, and errNoAnswer if the timeout ended before ctx. The timeout
// begins again with every progressStep, but ends at latest.
func (s *Store) attempt(ctx context.Context, x *exchange, ep endpoint, timeout time.Duration, latest time.Time, c call) (*client.Response, error) {
	cl, err := client.New(client.Config{Endpoints: []string{ep.url}, Transport: x, Username: ep.username, Password: ep.password})
	if err != nil {
		return nil, err
	}
	limited, cancel := context.WithCancel(ctx)
	defer cancel()
	timer := time.AfterFunc(timeout, cancel)
	defer timer.Stop()
	x.progress = func() { timer.Reset(min(timeout, time.Until(latest))) }
	resp, err := c.send(limited, client.NewKeysAPI(cl))
	if err != nil && ctx.Err() == nil && limited.Err() != nil {
		return nil, fmt.Errorf("%w within %v", errNoAnswer, timeout.Round(time.Millisecond))
	}
	var all *client.ClusterError // of our single endpoint
	if errors.As(err, &all) && len(all.Errors) > 0 {
		err = all.Errors[0]
	}
	return resp, err
}

// failure is the error of a call that no endpoint has answered.
func (c call) failure(faults []error) error {
	return fmt.Errorf("%s %s: %w", c.verb, c.key, join(faults))
}

// join is errors.Join on one line.
func join(errs []error) error {
	errs = slices.DeleteFunc(slices.Clone(errs), func(err error) bool { return err == nil })
	if len(errs) == 1 {
		return errs[0]
	}
	format := strings.TrimSuffix(strings.Repeat("%w; ", len(errs)), "; ")
	args := make([]any, len(errs))
	for i, err := range errs {
		args[i] = err
	}
	return fmt.Errorf(format, args...)
}
