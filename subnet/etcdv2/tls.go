package etcdv2

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"time"
)

// authorities is one reading of -etcd-cafile. The zero value stands for the
// CAs of the system.
type authorities struct {
	text []byte
	pool *x509.CertPool
	last *x509.Certificate // the one that is valid the longest
}

// identity is one reading of -etcd-certfile and -etcd-keyfile. The zero value
// is that of a client without a certificate.
type identity struct {
	certText, keyText []byte
	cert              *tls.Certificate // with Leaf
}

// tlsConfig leaves all verification to crypto/tls.
func tlsConfig(ca authorities, id identity) *tls.Config {
	cfg := &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: ca.pool}
	if id.cert != nil {
		// Shown whatever CAs the server says it knows, as flannel does, so that
		// it is the server that says what is wrong. Certificates would show
		// nothing then.
		cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return id.cert, nil }
	}
	return cfg
}

// loadAuthorities reads the CA file again after old, or for the first time.
func loadAuthorities(o Options, old authorities) (authorities, error) {
	if o.CAFile == "" {
		return authorities{}, nil
	}
	const want = "want a PEM file with CA certificates"
	text, err := readAgain(o.CAFile, old.text)
	if err != nil {
		return old, fmt.Errorf("-etcd-cafile: %w: %s", err, want)
	}
	if bytes.Equal(text, old.text) && old.pool != nil {
		return old, nil
	}
	ca := authorities{text: text, pool: x509.NewCertPool()}
	rest := text
	for block, tail := pem.Decode(rest); block != nil; block, tail = pem.Decode(rest) {
		rest = tail
		// What is no certificate is passed over, as AppendCertsFromPEM does.
		cert, err := x509.ParseCertificate(block.Bytes)
		if block.Type != "CERTIFICATE" || err != nil {
			continue
		}
		ca.pool.AddCert(cert)
		if ca.last == nil || cert.NotAfter.After(ca.last.NotAfter) {
			ca.last = cert
		}
	}
	switch {
	case ca.last == nil:
		return old, fmt.Errorf("-etcd-cafile: %s holds no certificate: %s", o.CAFile, want)
	case old.pool != nil && cutOff(rest):
		return old, fmt.Errorf("-etcd-cafile: %s is cut off: %s", o.CAFile, want)
	}
	return ca, nil
}

// loadIdentity reads certificate and key again after old, or for the first
// time.
func loadIdentity(o Options, old identity) (identity, error) {
	switch {
	case o.CertFile == "" && o.KeyFile == "":
		return identity{}, nil
	case o.KeyFile == "":
		return old, fmt.Errorf("-etcd-certfile is %s, but -etcd-keyfile is empty: want both or neither", o.CertFile)
	case o.CertFile == "":
		return old, fmt.Errorf("-etcd-keyfile is %s, but -etcd-certfile is empty: want both or neither", o.KeyFile)
	}
	const wantCert, wantKey = "want a PEM file with the client certificate", "want a PEM file with the key of the client certificate"
	certText, err := readAgain(o.CertFile, old.certText)
	if err != nil {
		return old, fmt.Errorf("-etcd-certfile: %w: %s", err, wantCert)
	}
	keyText, err := readAgain(o.KeyFile, old.keyText)
	if err != nil {
		return old, fmt.Errorf("-etcd-keyfile: %w: %s", err, wantKey)
	}
	if bytes.Equal(certText, old.certText) && bytes.Equal(keyText, old.keyText) && old.cert != nil {
		return old, nil
	}
	switch {
	case !bytes.Contains(certText, []byte("-----BEGIN CERTIFICATE-----")):
		return old, fmt.Errorf("-etcd-certfile: %s holds no certificate: %s", o.CertFile, wantCert)
	case !bytes.Contains(keyText, []byte("PRIVATE KEY-----")):
		return old, fmt.Errorf("-etcd-keyfile: %s holds no private key: %s", o.KeyFile, wantKey)
	case bytes.Contains(keyText, []byte("ENCRYPTED")): // PKCS #8 (RFC 5958), or Proc-Type of RFC 1421
		return old, fmt.Errorf("-etcd-keyfile: %s is encrypted: want a key without a passphrase", o.KeyFile)
	}
	cert, err := tls.X509KeyPair(certText, keyText)
	if err == nil && old.cert != nil && (cutOff(certText) || cutOff(keyText)) {
		err = errors.New("one of them is cut off")
	}
	if err != nil {
		return old, fmt.Errorf("-etcd-certfile %s with -etcd-keyfile %s: %w: want a PEM certificate and its key", o.CertFile, o.KeyFile, err)
	}
	return identity{certText: certText, keyText: keyText, cert: &cert}, nil
}

// readAgain reads a file. What can be read only once, such as the pipe that a
// shell makes of <(command), is taken to be as it was.
func readAgain(path string, old []byte) ([]byte, error) {
	const once = os.ModeNamedPipe | os.ModeSocket | os.ModeDevice
	if info, err := os.Stat(path); err == nil && old != nil && info.Mode()&once != 0 {
		return old, nil
	}
	return os.ReadFile(path)
}

// cutOff reports whether something begins behind the last whole PEM block, as
// it does while the file is being written.
func cutOff(text []byte) bool {
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(text) {
		text = rest
	}
	return bytes.Contains(text, []byte("-----BEGIN "))
}

// soon is how long before the end of a certificate that is warned of: a week,
// or a quarter of its life where that is less.
func soon(cert *x509.Certificate) time.Duration {
	const week = 7 * 24 * time.Hour
	return min(week, cert.NotAfter.Sub(cert.NotBefore)/4)
}

// aging says so if the certificates are past their time, or will soon be; else
// it is empty. The text does not change while what it says stays the same.
func aging(o Options, ca authorities, id identity, now time.Time) (warnings []string) {
	warn := func(cert *x509.Certificate, subject string) {
		if cert == nil {
			return
		}
		end := cert.NotAfter.Local().Format(time.RFC3339)
		switch left := cert.NotAfter.Sub(now); {
		case left < 0:
			warnings = append(warnings, fmt.Sprintf("%s expired at %s", subject, end))
		case left < soon(cert):
			warnings = append(warnings, fmt.Sprintf("%s expires at %s", subject, end))
		}
	}
	warn(ca.last, "the CA certificate that lasts longest in -etcd-cafile "+o.CAFile)
	if id.cert != nil {
		warn(id.cert.Leaf, "the client certificate -etcd-certfile "+o.CertFile)
	}
	return warnings
}
