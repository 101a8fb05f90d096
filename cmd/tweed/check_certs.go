package main

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"time"

	"tweed/subnet/etcdv2"
)

// expiresSoon is how long before its end a certificate is worth a warning.
const expiresSoon = 30 * 24 * time.Hour

// checkTLSFiles looks at the TLS files as flanneld does when it starts, and at
// what it does not look at: the time that is left, and who can read the key.
func (c *checker) checkTLSFiles(o etcdv2.Options) {
	if o.CAFile == "" && o.CertFile == "" && o.KeyFile == "" {
		return
	}
	s, err := etcdv2.Open(o)
	if err != nil {
		if !errors.Is(err, etcdv2.ErrEndpoints) {
			c.add(finding{Name: checkTLS, Result: verdictFailure, Found: err.Error(), Advice: "flanneld would not start: correct the file or the flag"})
		}
		return
	}
	s.Close()
	cas := c.checkCertFile("-etcd-cafile", o.CAFile)
	certs := c.checkCertFile("-etcd-certfile", o.CertFile)
	if len(certs) > 0 && len(cas) > 0 {
		c.checkClientCert(o, certs, cas)
	}
	if info, err := os.Stat(o.KeyFile); err == nil && info.Mode()&0o004 != 0 {
		c.add(finding{Name: checkTLS, Result: verdictWarning, Data: data{"file": o.KeyFile, "mode": fmt.Sprintf("%04o", info.Mode().Perm())},
			Found:  fmt.Sprintf("-etcd-keyfile %s can be read by every user (mode %04o)", o.KeyFile, info.Mode().Perm()),
			Advice: "chmod 0600 " + o.KeyFile})
	}
}

// checkCertFile tells of each certificate in a file how long it is valid.
func (c *checker) checkCertFile(flag, file string) (certs []*x509.Certificate) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil // nothing was given; what cannot be read was told
	}
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if cert, err := x509.ParseCertificate(block.Bytes); block.Type == "CERTIFICATE" && err == nil {
			certs = append(certs, cert)
		}
	}
	for i, cert := range certs {
		f := validity(cert, time.Now())
		f.Name, f.Data["file"] = checkTLS, file
		f.Found = fmt.Sprintf("%s %s: %s", flag, file, f.Found)
		if flag == "-etcd-cafile" && len(certs) > 1 && f.Result == verdictFailure {
			f.Result = verdictNote // another CA of the file may be in use
		}
		if flag == "-etcd-certfile" && i > 0 && f.Result == verdictOK {
			continue // of the chain
		}
		c.add(f)
	}
	return certs
}

// checkClientCert looks whether the CA that we check etcd against has issued
// our certificate, which is so in most clusters, and whether it is for clients.
func (c *checker) checkClientCert(o etcdv2.Options, certs, cas []*x509.Certificate) {
	leaf := certs[0]
	if len(leaf.ExtKeyUsage)+len(leaf.UnknownExtKeyUsage) > 0 && !hasUsage(leaf, x509.ExtKeyUsageClientAuth) {
		c.add(finding{Name: checkTLS, Result: verdictWarning, Data: data{"file": o.CertFile},
			Found:  fmt.Sprintf("-etcd-certfile %s is not for clients: its extended key usage lacks clientAuth", o.CertFile),
			Advice: "issue one with \"client auth\" among its usages: etcd refuses this one if it wants client certificates"})
	}
	for _, ca := range append(cas, certs[1:]...) {
		if bytes.Equal(ca.RawSubject, leaf.RawIssuer) && leaf.CheckSignatureFrom(ca) == nil {
			return
		}
	}
	c.add(finding{Name: checkTLS, Result: verdictNote, Data: data{"file": o.CertFile},
		Found:  fmt.Sprintf("-etcd-certfile %s was issued by %q, which is not in -etcd-cafile %s", o.CertFile, leaf.Issuer, o.CAFile),
		Advice: "that is right only if etcd's --trusted-ca-file is another file than its servers' CA"})
}

func hasUsage(cert *x509.Certificate, want x509.ExtKeyUsage) bool {
	for _, u := range cert.ExtKeyUsage {
		if u == want || u == x509.ExtKeyUsageAny {
			return true
		}
	}
	return false
}

// checkServerCert tells how long the certificate of an endpoint is valid; what
// is wrong with it besides is in the endpoint's own error.
func (c *checker) checkServerCert(a etcdv2.Answer) {
	if a.Cert == nil {
		return
	}
	f := validity(a.Cert, time.Now())
	if f.Result == verdictFailure {
		return // told as the endpoint's error
	}
	f.Name, f.Data["url"] = checkEndpoint, a.URL
	f.Found = fmt.Sprintf("%s: server certificate %s, issued by %q", a.URL, f.Found, a.Cert.Issuer)
	c.add(f)
}

// validity is a finding without a name.
func validity(cert *x509.Certificate, now time.Time) finding {
	const day = 24 * time.Hour
	end := cert.NotAfter.Local().Format("2006-01-02 15:04")
	f := finding{Result: verdictOK, Data: data{"subject": cert.Subject.String(), "issuer": cert.Issuer.String(), "not_before": cert.NotBefore, "not_after": cert.NotAfter}}
	switch left := cert.NotAfter.Sub(now); {
	case now.Before(cert.NotBefore):
		f.Result = verdictFailure
		f.Found = fmt.Sprintf("%q is valid only from %s on", cert.Subject, cert.NotBefore.Local().Format("2006-01-02 15:04"))
		f.Advice = "see that the clock of this host is right (timedatectl)"
	case left < 0:
		f.Result, f.Found = verdictFailure, fmt.Sprintf("%q expired at %s", cert.Subject, end)
		f.Advice = "issue it anew; flanneld takes up a new file without a restart"
	case left < expiresSoon:
		f.Result, f.Found = verdictWarning, fmt.Sprintf("%q expires at %s, in %.1f days", cert.Subject, end, left.Hours()/day.Hours())
		f.Advice = "issue it anew before that"
	default:
		f.Found = fmt.Sprintf("%q is valid until %s, for %d days", cert.Subject, end, left/day)
	}
	return f
}
