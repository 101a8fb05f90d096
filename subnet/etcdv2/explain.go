package etcdv2

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"time"
)

// explain adds to a failure to talk to an endpoint what an operator can do.
func (s *Store) explain(err error) error {
	if why := s.explainServer(err); why != "" {
		return fmt.Errorf("%s: %w", why, err)
	}
	var op *net.OpError
	switch text := err.Error(); {
	// crypto/tls does not export the type of an alert that the peer sent.
	case errors.As(err, &op) && op.Op == "remote error":
		return fmt.Errorf("%s: %w", s.explainAlert(text), err)
	case errors.Is(err, http.ErrSchemeMismatch), errors.As(err, new(tls.RecordHeaderError)):
		return fmt.Errorf("the server does not speak TLS: write http:// in -etcd-endpoints: %w", err)
	case strings.Contains(text, `malformed HTTP response "\x15\x03`): // an alert (RFC 8446, 5.1)
		return errPlainHTTP
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return fmt.Errorf("connection closed without an answer (is http:// or https:// right?%s): %w", s.suspicion(), err)
	}
	return err
}

// explainServer says what is wrong with the server's certificate, or nothing.
func (s *Store) explainServer(err error) string {
	var (
		authority x509.UnknownAuthorityError
		host      x509.HostnameError
		invalid   x509.CertificateInvalidError
	)
	switch {
	case errors.As(err, &authority) && s.opts.CAFile == "":
		return fmt.Sprintf("the server's certificate%s is not from a CA that this system knows, and -etcd-cafile names no other", issuer(authority.Cert))
	case errors.As(err, &authority):
		return fmt.Sprintf("the server's certificate%s is not from a CA in -etcd-cafile %s", issuer(authority.Cert), s.opts.CAFile)
	case errors.As(err, &host):
		return "the server's certificate is for another host: want it among the names and addresses (SANs) of the certificate"
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		whose := "the server's certificate"
		if invalid.Cert.IsCA {
			whose = fmt.Sprintf("the CA %q of the server's certificate", invalid.Cert.Subject)
		}
		return fmt.Sprintf("%s is valid from %s to %s", whose,
			invalid.Cert.NotBefore.Local().Format(time.RFC3339), invalid.Cert.NotAfter.Local().Format(time.RFC3339))
	case errors.As(err, &invalid) && invalid.Reason == x509.IncompatibleUsage:
		return "the server's certificate is not one for servers: want the extended key usage serverAuth in it"
	}
	return ""
}

// issuer is what cert says of where it comes from.
func issuer(cert *x509.Certificate) string {
	if cert == nil || len(cert.Issuer.String()) == 0 {
		return ""
	}
	return fmt.Sprintf(" (issued by %.100q)", cert.Issuer)
}

// explainAlert says what a TLS alert of the server is about. With TLS 1.3 one
// about our certificate comes in the place of the first answer, because the
// handshake is over for the client before the server has checked it (RFC 8446,
// 4.4.2). Most mean the client certificate, whatever they are called: etcd 3.4
// says "bad certificate" to all that it does not like.
func (s *Store) explainAlert(text string) string {
	switch {
	case strings.Contains(text, "protocol version"):
		return "the server has no TLS version that flanneld speaks: want TLS 1.2 or newer"
	case !strings.Contains(text, "certificate") && !strings.Contains(text, "handshake failure"):
		return "the server ended the TLS session"
	case s.opts.CertFile == "":
		return "the server may want a client certificate (-etcd-certfile, -etcd-keyfile)"
	}
	return "the server does not like the client certificate -etcd-certfile " + s.opts.CertFile + s.ownExpiry(issuer(s.transports.leaf.Load()))
}

// suspicion names a reason that a server has to close the connection: what it
// said may be lost.
func (s *Store) suspicion() string {
	if end := s.ownExpiry(""); end != "" {
		return " the client certificate -etcd-certfile " + s.opts.CertFile + end
	}
	return ""
}

// ownExpiry is otherwise unless our own certificate is out of date.
func (s *Store) ownExpiry(otherwise string) string {
	end := s.ClientCertificateExpiry()
	if end.IsZero() || time.Now().Before(end) {
		return otherwise
	}
	return ", which expired at " + end.Local().Format(time.RFC3339)
}
