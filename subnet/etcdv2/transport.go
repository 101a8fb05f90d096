package etcdv2

import (
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// transports has the transport for the TLS files as they are now. Whoever
// begins a request asks for it, so a file that was replaced is used for the
// next request. Connections that are open stay with the certificates they began
// with until their request has ended, which for a long poll is after PollTimeout
// at most; an expired certificate does them no harm. It is safe for concurrent
// use.
type transports struct {
	opts  Options
	peers dialled
	leaf  atomic.Pointer[x509.Certificate] // the client certificate in use, or nil; read without mu

	mu     sync.Mutex // guards what follows
	ca     authorities
	id     identity
	now    *http.Transport // made of ca and id
	amiss  []string        // what is wrong with the files; the log has been told
	warned []string        // of aging
}

// openTransports reads the TLS files, which must be good for once.
func openTransports(o Options) (*transports, error) {
	t := &transports{opts: o, peers: dialled{by: newDialer().DialContext, at: map[string]netip.Addr{}}}
	ca, err := loadAuthorities(o, authorities{})
	if err != nil {
		return nil, err
	}
	id, err := loadIdentity(o, identity{})
	if err != nil {
		return nil, err
	}
	t.use(ca, id)
	t.warn()
	return t, nil
}

// current looks at the files. CA file and client certificate are judged one by
// one: what cannot be used stays as it was read before.
func (t *transports) current() *http.Transport {
	t.mu.Lock()
	defer t.mu.Unlock()
	ca, caErr := loadAuthorities(t.opts, t.ca)
	id, idErr := loadIdentity(t.opts, t.id)
	t.complain(caErr, idErr)

	var fresh []any // for the log
	if ca.pool != t.ca.pool {
		fresh = append(fresh, "ca", t.opts.CAFile)
	}
	if id.cert != t.id.cert {
		fresh = append(fresh, "cert", t.opts.CertFile, "key", t.opts.KeyFile)
	}
	if fresh != nil {
		t.now.CloseIdleConnections()
		t.use(ca, id)
		t.opts.Log.Info("using the TLS files that were replaced", fresh...)
	}
	t.warn()
	return t.now
}

// complain tells the log what is wrong with the files, once.
func (t *transports) complain(errs ...error) {
	var amiss []string
	for _, err := range errs {
		if err != nil {
			amiss = append(amiss, err.Error())
		}
	}
	tell(t.opts.Log, "going on with the TLS files as they were read before: ", amiss, t.amiss)
	if amiss == nil && t.amiss != nil {
		t.opts.Log.Info("the TLS files are in order again")
	}
	t.amiss = amiss
}

// warn tells the log of certificates that are about to expire, once.
func (t *transports) warn() {
	warnings := aging(t.opts, t.ca, t.id, time.Now())
	tell(t.opts.Log, "", warnings, t.warned)
	t.warned = warnings
}

// tell warns of what was not told before.
func tell(log *slog.Logger, prefix string, texts, before []string) {
	for _, text := range texts {
		if !slices.Contains(before, text) {
			log.Warn(prefix + text)
		}
	}
}

// use makes a transport of ca and id.
func (t *transports) use(ca authorities, id identity) {
	t.ca, t.id = ca, id
	t.now = newTransport(t.opts, tlsConfig(ca, id), t.peers.dial)
	if id.cert != nil {
		t.leaf.Store(id.cert.Leaf)
	}
}

func (t *transports) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.now.CloseIdleConnections()
}

func newTransport(o Options, cfg *tls.Config, dial dialFunc) *http.Transport {
	t := &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		DialContext:         dial,
		TLSClientConfig:     cfg,
		TLSHandshakeTimeout: o.RequestTimeout,
		MaxIdleConnsPerHost: 4,
		IdleConnTimeout:     90 * time.Second,
	}
	if len(o.Endpoints) > 1 {
		// etcd sends the header of a watch at once: where that stays out, go on
		// to the next endpoint. A proxy may hold it back until something happens,
		// so with nowhere to go the poll may wait.
		t.ResponseHeaderTimeout = o.RequestTimeout
	}
	return t
}

// ClientCertificateExpiry returns when the client certificate in use expires;
// the zero time if there is none.
func (s *Store) ClientCertificateExpiry() time.Time {
	if leaf := s.transports.leaf.Load(); leaf != nil {
		return leaf.NotAfter
	}
	return time.Time{}
}
