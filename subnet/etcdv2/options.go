// Package etcdv2 is the subnet.Store on the v2 API of etcd, with the keys and
// values of flannel v0.10:
//
//	<prefix>/config                 network config, written by an operator
//	<prefix>/subnets/10.5.3.0-24    lease record, with a TTL
package etcdv2

import (
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/url"
	"path"
	"strings"
	"sync/atomic"
	"time"

	"tweed/subnet"
)

const (
	dialTimeout    = 2 * time.Second
	requestTimeout = 5 * time.Second
	// pollTimeout stays below the 50 s and 60 s after which proxies commonly
	// cut a connection that carries nothing.
	pollTimeout = 45 * time.Second
)

// Options say where the store is and how to reach it. The comments name the
// flags of the daemon, as the errors of Open do.
type Options struct {
	Endpoints []string // -etcd-endpoints: URLs with scheme http or https, without blanks
	Prefix    string   // -etcd-prefix: with or without slashes around it

	CAFile   string // -etcd-cafile: PEM; empty means the CAs of the system
	CertFile string // -etcd-certfile: PEM, and KeyFile with it, or neither
	KeyFile  string // -etcd-keyfile

	Username string // -etcd-username; if empty, the one in an endpoint's URL
	Password string // -etcd-password

	RequestTimeout time.Duration // for an answer of one endpoint; 0 means 5 s
	PollTimeout    time.Duration // of one long poll of a watch; 0 means 45 s
	Log            *slog.Logger  // is told of endpoints that fail and of TLS files; nil for nobody
}

// Store is a subnet.Store on etcd. It uses one endpoint as long as that works,
// and then the next. TLS files that are replaced are used from the next request
// on; where they are unusable, those read before stay in use, and Options.Log is
// told. The CAs of the system are read once.
type Store struct {
	opts       Options // with defaults filled in, Endpoints only counted
	prefix     string  // "/coreos.com/network", or "" for the root
	endpoints  []endpoint
	transports *transports
	outage     outage

	pinned   atomic.Int32              // index of the endpoint in use
	cluster  atomic.Pointer[string]    // ID of the cluster that the last List came from
	replaced atomic.Pointer[time.Time] // since when only another cluster has answered lists; nil if that is not so
	records  atomic.Int64              // how many there were in the last List
	narrow   atomic.Bool               // the log was told that changes of the config are not seen
}

// endpoint is one client URL of the cluster.
type endpoint struct {
	url                string // without userinfo: fit for logs
	host               string // name or address in it
	username, password string
}

var _ subnet.Store = (*Store)(nil)

// ErrEndpoints is in those errors of Open that are about Options.Endpoints.
var ErrEndpoints = errors.New("-etcd-endpoints")

// Open checks the options and reads the TLS files. It does not talk to etcd:
// every error is an operator's mistake, and names the flag, its value and what
// is valid.
func Open(o Options) (*Store, error) {
	if len(o.Endpoints) == 0 {
		return nil, fmt.Errorf("%w is empty: want a list such as %s", ErrEndpoints, wantEndpoint)
	}
	s := &Store{opts: o, prefix: strings.TrimSuffix(path.Clean("/"+o.Prefix), "/")}
	if s.opts.RequestTimeout == 0 {
		s.opts.RequestTimeout = requestTimeout
	}
	if s.opts.PollTimeout == 0 {
		s.opts.PollTimeout = pollTimeout
	}
	if s.opts.Log == nil {
		s.opts.Log = slog.New(slog.DiscardHandler)
	}
	for _, raw := range o.Endpoints {
		ep, err := parseEndpoint(raw)
		if err != nil && !strings.Contains(raw, "@") && strings.Contains(strings.Join(o.Endpoints, ","), "@") {
			// It may be one half of a password.
			err = fmt.Errorf("%w: an element is not a URL (write %%2C for a comma in a password): want a list such as %s", ErrEndpoints, wantEndpoint)
		}
		if err != nil {
			return nil, err
		}
		if o.Username != "" {
			ep.username, ep.password = o.Username, o.Password
		}
		s.endpoints = append(s.endpoints, ep)
	}
	var err error
	if s.transports, err = openTransports(s.opts); err != nil {
		return nil, err
	}
	// Nodes that share a list of endpoints should not share the first of them.
	s.pinned.Store(int32(rand.IntN(len(s.endpoints))))
	return s, nil
}

// Close drops the idle connections. Running calls are ended by their context.
func (s *Store) Close() error {
	s.Reconnect()
	return nil
}

// Reconnect drops the idle connections: the next call makes a new one. It is for
// when this host has lost the address that they come from, which neither end is
// told of.
func (s *Store) Reconnect() { s.transports.close() }

func (s *Store) configKey() string          { return s.prefix + "/config" }
func (s *Store) leaseDir() string           { return s.prefix + "/subnets" }
func (s *Store) leaseKey(key string) string { return s.leaseDir() + "/" + key }

const wantEndpoint = "http://192.0.2.1:2379,https://etcd.example:2379"

func parseEndpoint(raw string) (endpoint, error) {
	bad := func(why string) (endpoint, error) {
		return endpoint{}, fmt.Errorf("%w: %q: %s: want a list such as %s", ErrEndpoints, hideUserinfo(raw), why, wantEndpoint)
	}
	u, err := url.Parse(raw)
	switch {
	case err != nil && strings.Contains(raw, "@"):
		return bad("not a URL") // the error might quote a part of the password
	case err != nil:
		return bad(errors.Unwrap(err).Error())
	case u.Scheme != "http" && u.Scheme != "https":
		return bad("no http:// or https:// in front")
	case u.Hostname() == "":
		return bad("no host")
	case u.RawQuery != "" || u.Fragment != "" || strings.Contains(u.Path, "@"):
		return bad("something follows the host and port")
	}
	ep := endpoint{username: u.User.Username(), host: u.Hostname()}
	ep.password, _ = u.User.Password()
	u.User = nil
	u.Path = strings.TrimRight(u.Path, "/")
	ep.url = u.String()
	return ep, nil
}

// hideUserinfo replaces all that may be a password in something that is meant
// to be a URL.
func hideUserinfo(raw string) string {
	i := strings.LastIndex(raw, "@")
	if i < 0 {
		return raw
	}
	scheme, _, found := strings.Cut(raw, "://")
	if !found || strings.Contains(scheme, "@") {
		return "..." + raw[i:]
	}
	return scheme + "://..." + raw[i:]
}
