// Package embedetcd runs a real etcd with the v2 API inside the process, for
// tests and for `tweed demo`, and makes the throw-away certificates that such
// an etcd needs.
package embedetcd

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/url"
	"os"
	"time"

	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver/api/etcdhttp"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v2http"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// Options say how to run one etcd.
type Options struct {
	Dir    string // data directory, kept over a restart; required
	Listen string // host:port for clients; empty means 127.0.0.1:0, and port 0 a free one
	TLS    *TLS   // nil for plain http
	NoV2   bool   // leave the v2 API switched off, as etcd 3.4 and later do by default
	NoSync bool   // never fsync: faster, and data is lost when the machine stops
	Log    string // file to append etcd's log to; empty means nowhere

	// Wrap, if not nil, returns what answers clients in place of etcd's own
	// handler: to count requests, or to disturb them.
	Wrap func(http.Handler) http.Handler
}

// TLS names the PEM files of an https listener.
type TLS struct {
	CertFile, KeyFile string
	CAFile            string // if set, a client must show a certificate signed by it
}

// Server is a running etcd.
type Server struct {
	etcd *embed.Etcd
	http *http.Server
	url  string
	log  io.Closer
	done chan error // result of http.Serve, once
}

// Start runs a one-member etcd and waits until it answers, or until ctx ends.
// The listener is opened on the calling thread, and nothing inside dials: a
// caller locked into a network namespace gets an etcd in that namespace.
func Start(ctx context.Context, o Options) (*Server, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("start etcd: not ready: %w", err)
	}
	// A lone member has no peers to listen for; the address is only a name.
	s, err := open(o, member{name: "etcd", peerURL: "http://127.0.0.1:2380"})
	if err != nil {
		return nil, err
	}
	if err := s.ready(ctx); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// member is what a Server needs to know about its place in a cluster. The
// zero values of the last three make it a cluster of its own.
type member struct {
	name    string
	peerURL string
	cluster string // name=url pairs of all members
	listen  bool   // for peers, at peerURL
	peerTLS *TLS
}

// open starts a member without waiting for the cluster to have a leader.
//
// etcd's own client listeners are not used: they wait seconds for long polls
// to end before they close, and cannot tell which port 0 became before the
// server has started. The handler behind ours is etcd's.
func open(o Options, m member) (s *Server, err error) {
	if o.Dir == "" {
		return nil, errors.New("start etcd: no data directory")
	}
	if o.Listen == "" {
		o.Listen = "127.0.0.1:0"
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("start etcd on %s: %w", o.Listen, err)
		}
	}()

	listener, address, err := listen(o)
	if err != nil {
		return nil, err
	}
	logger, logFile, err := openLog(o.Log)
	if err != nil {
		return nil, errors.Join(err, listener.Close())
	}
	cfg, err := config(o, m, address, logger)
	if err != nil {
		return nil, errors.Join(err, listener.Close(), logFile.Close())
	}
	etcd, err := embed.StartEtcd(cfg)
	if err != nil {
		return nil, errors.Join(err, listener.Close(), logFile.Close())
	}

	handler := clientHandler(logger, etcd, o.NoV2)
	if o.Wrap != nil {
		handler = o.Wrap(handler)
	}
	s = &Server{etcd: etcd, url: address.String(), log: logFile, done: make(chan error, 1)}
	s.http = &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: 10 * time.Second,
		ErrorLog:          log.New(io.Discard, "", 0),
	}
	go func() { s.done <- s.http.Serve(listener) }()
	return s, nil
}

func clientHandler(logger *zap.Logger, etcd *embed.Etcd, noV2 bool) http.Handler {
	if !noV2 {
		return v2http.NewClientHandler(logger, etcd.Server, etcd.Server.Cfg.ReqTimeout())
	}
	mux := http.NewServeMux()
	etcdhttp.HandleBasic(logger, mux, etcd.Server)
	etcdhttp.HandleHealth(logger, mux, etcd.Server)
	return mux
}

func listen(o Options) (net.Listener, *url.URL, error) {
	l, err := net.Listen("tcp", o.Listen)
	if err != nil {
		return nil, nil, err
	}
	address := &url.URL{Scheme: "http", Host: l.Addr().String()}
	if o.TLS == nil {
		return l, address, nil
	}
	cfg, err := o.TLS.config()
	if err != nil {
		return nil, nil, errors.Join(err, l.Close())
	}
	address.Scheme = "https"
	return tls.NewListener(l, cfg), address, nil
}

func (t *TLS) config() (*tls.Config, error) {
	cert, err := tls.LoadX509KeyPair(t.CertFile, t.KeyFile)
	if err != nil {
		return nil, err
	}
	cfg := &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{cert}}
	if t.CAFile == "" {
		return cfg, nil
	}
	pem, err := os.ReadFile(t.CAFile)
	if err != nil {
		return nil, err
	}
	cfg.ClientCAs = x509.NewCertPool()
	if !cfg.ClientCAs.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s: no certificate in it", t.CAFile)
	}
	cfg.ClientAuth = tls.RequireAndVerifyClientCert
	return cfg, nil
}

func config(o Options, m member, address *url.URL, logger *zap.Logger) (*embed.Config, error) {
	peer, err := url.Parse(m.peerURL)
	if err != nil {
		return nil, err
	}
	cfg := embed.NewConfig()
	cfg.Name = m.name
	cfg.Dir = o.Dir
	cfg.ListenClientUrls = nil
	cfg.AdvertiseClientUrls = []url.URL{*address}
	cfg.ListenPeerUrls = nil
	cfg.AdvertisePeerUrls = []url.URL{*peer}
	cfg.InitialCluster = m.name + "=" + m.peerURL
	if m.listen {
		cfg.ListenPeerUrls = []url.URL{*peer}
		cfg.InitialCluster = m.cluster
	}
	if m.peerTLS != nil {
		cfg.PeerTLSInfo.CertFile = m.peerTLS.CertFile
		cfg.PeerTLSInfo.KeyFile = m.peerTLS.KeyFile
		cfg.PeerTLSInfo.TrustedCAFile = m.peerTLS.CAFile
		cfg.PeerTLSInfo.ClientCertAuth = true
	}
	cfg.TickMs, cfg.ElectionMs = 50, 500
	cfg.UnsafeNoFsync = o.NoSync
	cfg.EnableV2 = !o.NoV2
	cfg.EnableGRPCGateway = false // it dials
	cfg.ZapLoggerBuilder = embed.NewZapLoggerBuilder(logger)
	return cfg, nil
}

func openLog(file string) (*zap.Logger, io.Closer, error) {
	if file == "" {
		return zap.NewNop(), io.NopCloser(nil), nil
	}
	f, err := os.OpenFile(file, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, nil, err
	}
	encoder := zap.NewProductionEncoderConfig()
	encoder.EncodeTime = zapcore.ISO8601TimeEncoder
	return zap.New(zapcore.NewCore(zapcore.NewJSONEncoder(encoder), f, zap.InfoLevel)), f, nil
}

// ready waits until the member has joined a cluster with a leader.
func (s *Server) ready(ctx context.Context) error {
	select {
	case <-s.etcd.Server.ReadyNotify():
		return nil
	case err := <-s.etcd.Err():
		return fmt.Errorf("start etcd at %s: %w", s.url, err)
	case err := <-s.done:
		s.done <- err // for Close
		return fmt.Errorf("start etcd at %s: %w", s.url, err)
	case <-ctx.Done():
		return fmt.Errorf("start etcd at %s: not ready: %w", s.url, ctx.Err())
	}
}

// Endpoints returns the URLs for clients: http://127.0.0.1:40123.
func (s *Server) Endpoints() []string { return []string{s.url} }

// Close cuts all connections, stops etcd and waits for it. The data stay.
func (s *Server) Close() error {
	err := s.http.Close()
	if serveErr := <-s.done; !errors.Is(serveErr, http.ErrServerClosed) {
		err = errors.Join(err, serveErr)
	}
	s.etcd.Close()
	return errors.Join(err, s.log.Close())
}
