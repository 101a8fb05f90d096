package etcdv2

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"
)

// loadTLS reads the files of o. A client certificate is read again at every
// handshake, so that a renewed one is used without a restart.
func loadTLS(o Options) (*tls.Config, error) {
	cfg := &tls.Config{MinVersion: tls.VersionTLS12}
	if o.CAFile != "" {
		pem, err := os.ReadFile(o.CAFile)
		if err != nil {
			return nil, fmt.Errorf("-etcd-cafile: %w: want a PEM file with CA certificates", err)
		}
		cfg.RootCAs = x509.NewCertPool()
		if !cfg.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("-etcd-cafile: %s holds no certificate: want a PEM file with CA certificates", o.CAFile)
		}
	}
	switch {
	case o.CertFile == "" && o.KeyFile == "":
		return cfg, nil
	case o.KeyFile == "":
		return nil, fmt.Errorf("-etcd-certfile is %s, but -etcd-keyfile is empty: want both or neither", o.CertFile)
	case o.CertFile == "":
		return nil, fmt.Errorf("-etcd-keyfile is %s, but -etcd-certfile is empty: want both or neither", o.KeyFile)
	}
	load := func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		cert, err := tls.LoadX509KeyPair(o.CertFile, o.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("-etcd-certfile %s, -etcd-keyfile %s: %w: want a PEM certificate and its key", o.CertFile, o.KeyFile, err)
		}
		return &cert, nil
	}
	if _, err := load(nil); err != nil {
		return nil, err
	}
	cfg.GetClientCertificate = load
	return cfg, nil
}

// explain adds to a failure to talk to an endpoint what an operator can do.
func (s *Store) explain(err error) error {
	var (
		authority x509.UnknownAuthorityError
		invalid   x509.CertificateInvalidError
		noTLS     tls.RecordHeaderError
		op        *net.OpError
	)
	// crypto/tls does not export the type of an alert that the peer sent.
	alert := errors.As(err, &op) && op.Op == "remote error"
	switch {
	case errors.As(err, &authority) && s.opts.CAFile == "":
		return fmt.Errorf("the server's certificate is not from a CA that this system knows, and -etcd-cafile names no other: %w", err)
	case errors.As(err, &authority):
		return fmt.Errorf("the server's certificate is not from a CA in -etcd-cafile %s: %w", s.opts.CAFile, err)
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return fmt.Errorf("the server's certificate is valid from %s to %s: %w",
			invalid.Cert.NotBefore.Format(time.RFC3339), invalid.Cert.NotAfter.Format(time.RFC3339), err)
	case alert && s.opts.CertFile == "":
		return fmt.Errorf("the server may want a client certificate (-etcd-certfile, -etcd-keyfile): %w", err)
	case alert:
		return fmt.Errorf("the server does not like the client certificate -etcd-certfile %s%s: %w", s.opts.CertFile, s.clientCertExpiry(), err)
	case errors.As(err, &noTLS):
		return fmt.Errorf("the server does not speak TLS: write http:// in -etcd-endpoints: %w", err)
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("connection closed without an answer (is http:// or https:// right?): %w", err)
	}
	return err
}

// clientCertExpiry says so if our own certificate is out of date.
func (s *Store) clientCertExpiry() string {
	cert, err := tls.LoadX509KeyPair(s.opts.CertFile, s.opts.KeyFile)
	if err != nil || cert.Leaf == nil || time.Now().Before(cert.Leaf.NotAfter) {
		return ""
	}
	return ", which expired at " + cert.Leaf.NotAfter.Format(time.RFC3339)
}
