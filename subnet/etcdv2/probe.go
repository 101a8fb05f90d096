package etcdv2

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"tweed/subnet"
)

// An Answer is what one endpoint said when it was asked by itself.
type Answer struct {
	URL string // without user and password
	Err error  // why the daemon could not work with it; nil if it could

	Version   string            // of etcd, such as "3.4.23"; empty if it told none
	Unhealthy string            // why /health says that it is not healthy; empty if it is, or does not tell
	Latency   time.Duration     // of a read by this member alone, on a connection that is open
	Skew      time.Duration     // how far its clock is ahead of ours, give or take a second; 0 if it told no time
	ClusterID string            // empty if it told none
	Cert      *x509.Certificate // of the server, verified or not; nil without TLS

	ConfigKey string // "/coreos.com/network/config"
	Config    []byte // nil if ConfigErr is set
	ConfigErr error  // subnet.ErrNoConfig
	SetConfig string // how to write one by etcdctl
	InV3      bool   // the API v3 has this key; asked only where v2 has no config, or is off
	Leases    subnet.Snapshot
}

// Probe asks each endpoint of o by itself, all at the same time, and changes
// nothing there. The answers have the order of o.Endpoints. The error, as of
// Open, is an operator's mistake, and nothing was asked then. Each request takes
// no longer than o.RequestTimeout, all together no longer than ctx.
func Probe(ctx context.Context, o Options) ([]Answer, error) {
	all, err := Open(o)
	if err != nil {
		return nil, err
	}
	defer all.Close()
	answers := make([]Answer, len(all.endpoints))
	var wg sync.WaitGroup
	for i, ep := range all.endpoints {
		// A store that knows no other endpoint: for all else it is the daemon's.
		one := o
		one.Endpoints = o.Endpoints[i : i+1]
		s, err := Open(one)
		if err != nil {
			answers[i] = Answer{URL: ep.url, Err: err}
			continue
		}
		wg.Go(func() {
			defer s.Close()
			answers[i] = s.probe(ctx)
		})
	}
	wg.Wait()
	return answers, nil
}

func (s *Store) probe(ctx context.Context) Answer {
	a := Answer{URL: s.endpoints[0].url, ConfigKey: s.configKey()}
	if a.Err = s.probeServer(ctx, &a); a.Err != nil {
		return a
	}
	a.Config, a.Err = s.Config(ctx)
	if errors.Is(a.Err, subnet.ErrNoConfig) {
		a.ConfigErr, a.SetConfig, a.Err = subnet.ErrNoConfig, s.setConfigCommand(a.Err), nil
	}
	if a.ConfigErr != nil || errors.Is(a.Err, errV2Off) {
		a.InV3 = s.inV3(ctx, a.ConfigKey)
	}
	if a.Err == nil {
		a.Leases, a.Err = s.List(ctx)
	}
	return a
}

// probeServer asks for what is not part of the keys: version, health, clock and
// certificate.
func (s *Store) probeServer(ctx context.Context, a *Answer) error {
	began := time.Now()
	resp, body, err := s.get(ctx, "/version")
	if err != nil {
		var unverified *tls.CertificateVerificationError
		if errors.As(err, &unverified) && len(unverified.UnverifiedCertificates) > 0 {
			a.Cert = unverified.UnverifiedCertificates[0]
		}
		return err
	}
	if resp.TLS != nil && len(resp.TLS.PeerCertificates) > 0 {
		a.Cert = resp.TLS.PeerCertificates[0]
	}
	if date, err := http.ParseTime(resp.Header.Get("Date")); err == nil {
		// The header has whole seconds, cut off.
		middle := began.Add(time.Since(began) / 2)
		a.Skew = date.Add(500 * time.Millisecond).Sub(middle)
	}
	var version struct{ Etcdserver string }
	if json.Unmarshal(body, &version) == nil {
		a.Version = version.Etcdserver
	}

	if resp, body, err = s.get(ctx, "/health"); err != nil {
		return err
	}
	var health struct{ Health, Reason string }
	if json.Unmarshal(body, &health) == nil && health.Health != "" && health.Health != "true" {
		a.Unhealthy = fmt.Sprintf("%s, health %q %s", resp.Status, health.Health, health.Reason)
	}

	began = time.Now()
	if resp, _, err = s.get(ctx, "/v2/keys"+s.configKey()); err != nil {
		return err
	}
	a.Latency = time.Since(began)
	a.ClusterID = resp.Header.Get("X-Etcd-Cluster-Id")
	return nil
}

// maxAnswer bounds what is read of an answer.
const maxAnswer = 1 << 20

// get asks the only endpoint for a path. Any status is an answer.
func (s *Store) get(ctx context.Context, path string) (*http.Response, []byte, error) {
	return s.request(ctx, http.MethodGet, path, nil)
}

func (s *Store) request(ctx context.Context, method, path string, body io.Reader) (*http.Response, []byte, error) {
	ep := s.endpoints[0]
	limited, cancel := context.WithTimeout(ctx, s.opts.RequestTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(limited, method, ep.url+path, body)
	if err != nil {
		return nil, nil, fmt.Errorf("ask %s for %s: %w", ep.url, path, err)
	}
	if ep.username != "" {
		req.SetBasicAuth(ep.username, ep.password)
	}
	resp, err := s.transports.current().RoundTrip(req)
	var text []byte
	if err == nil {
		defer resp.Body.Close()
		text, err = io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	}
	switch {
	case err == nil && resp.StatusCode == http.StatusBadRequest && bytes.Contains(text, []byte("HTTP request to an HTTPS server")):
		err = errPlainHTTP
	case err != nil && limited.Err() != nil && ctx.Err() == nil:
		err = fmt.Errorf("%w within %v", errNoAnswer, s.opts.RequestTimeout)
	case err != nil && ctx.Err() != nil:
		err = fmt.Errorf("%w: %w", errNoAnswer, context.Cause(ctx))
	case err != nil:
		err = s.explain(err)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", ep.url, err)
	}
	return resp, text, nil
}

// inV3 reports whether the key exists in the API v3, which has keys of its own.
// It asks the JSON gateway that etcd 3.4 and later have (grpc-gateway,
// /v3/kv/range).
func (s *Store) inV3(ctx context.Context, key string) bool {
	ask, err := json.Marshal(map[string]any{"key": base64.StdEncoding.EncodeToString([]byte(key)), "count_only": true})
	if err != nil {
		return false
	}
	resp, body, err := s.request(ctx, http.MethodPost, "/v3/kv/range", bytes.NewReader(ask))
	var answer struct{ Count string }
	return err == nil && resp.StatusCode == http.StatusOK && json.Unmarshal(body, &answer) == nil && answer.Count != "" && answer.Count != "0"
}

// IsV2Off reports whether err says that the endpoint has the v2 API switched
// off.
func IsV2Off(err error) bool { return errors.Is(err, errV2Off) }
