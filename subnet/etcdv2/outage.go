package etcdv2

import (
	"sync"
	"time"
)

// outage is the time during which no endpoint has answered. It is safe for
// concurrent use.
type outage struct {
	mu    sync.Mutex
	since time.Time // zero: etcd answers
	err   error
}

// failed says that all endpoints were tried, and why none has answered.
func (o *outage) failed(err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.since.IsZero() {
		o.since = time.Now()
	}
	o.err = err
}

// answered says that one has, be it with a refusal.
func (o *outage) answered() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.since, o.err = time.Time{}, nil
}

// Outage returns since when no endpoint has answered, and why the last request
// failed; the zero time and nil while etcd answers. A request that is still
// waiting does not count.
func (s *Store) Outage() (since time.Time, err error) {
	s.outage.mu.Lock()
	defer s.outage.mu.Unlock()
	return s.outage.since, s.outage.err
}

// listTime is how much longer a call may take while a long answer is arriving.
const listTime = 30 * time.Second

// CallTime bounds the calls of the Store but for Watch: none takes longer, even
// if every endpoint is silent or slow. A list that finds that the cluster was
// replaced asks once more.
func (s *Store) CallTime() time.Duration {
	return time.Duration(len(s.endpoints))*s.opts.RequestTimeout + listTime
}
