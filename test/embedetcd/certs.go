package embedetcd

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// CA is a throw-away certificate authority. Its files, and those that it
// issues, lie in one directory.
type CA struct {
	File string // its own certificate, PEM

	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// NewCA makes an authority that is valid for a day, and writes <name>.pem.
func NewCA(dir, name string) (*CA, error) {
	return NewCAUntil(dir, name, time.Now().Add(24*time.Hour))
}

// NewCAUntil makes an authority that is valid until notAfter, which may be in
// the past, and writes <name>.pem.
func NewCAUntil(dir, name string, notAfter time.Time) (*CA, error) {
	template, key, err := newTemplate(name, notAfter)
	if err != nil {
		return nil, err
	}
	template.IsCA = true
	template.BasicConstraintsValid = true
	template.KeyUsage = x509.KeyUsageCertSign
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("make CA %s: %w", name, err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("make CA %s: %w", name, err)
	}
	ca := &CA{File: filepath.Join(dir, name+".pem"), dir: dir, cert: cert, key: key}
	return ca, writePEM(ca.File, "CERTIFICATE", der, 0o644)
}

// Issue makes a certificate for a server at the given host names and IP
// addresses, or, without any, for a client; its common name is name. It writes
// <name>.pem and <name>-key.pem. A zero notAfter means in a day; one in the
// past makes an expired certificate.
func (ca *CA) Issue(name string, hosts []string, notAfter time.Time) (TLS, error) {
	if notAfter.IsZero() {
		notAfter = time.Now().Add(24 * time.Hour)
	}
	template, key, err := newTemplate(name, notAfter)
	if err != nil {
		return TLS{}, err
	}
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	if len(hosts) > 0 { // members of a cluster are clients of one another
		template.ExtKeyUsage = append(template.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
	}
	for _, h := range hosts {
		if ip := net.ParseIP(h); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, h)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca.cert, key.Public(), ca.key)
	if err != nil {
		return TLS{}, fmt.Errorf("issue certificate %s: %w", name, err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return TLS{}, fmt.Errorf("issue certificate %s: %w", name, err)
	}
	files := TLS{
		CertFile: filepath.Join(ca.dir, name+".pem"),
		KeyFile:  filepath.Join(ca.dir, name+"-key.pem"),
		CAFile:   ca.File,
	}
	if err := writePEM(files.CertFile, "CERTIFICATE", der, 0o644); err != nil {
		return TLS{}, err
	}
	return files, writePEM(files.KeyFile, "PRIVATE KEY", keyDER, 0o600)
}

func newTemplate(name string, notAfter time.Time) (*x509.Certificate, *ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("make key for %s: %w", name, err)
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, nil, fmt.Errorf("make serial number for %s: %w", name, err)
	}
	return &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: name},
		NotBefore:    time.Now().Add(-48 * time.Hour),
		NotAfter:     notAfter,
	}, key, nil
}

func writePEM(file, kind string, der []byte, mode os.FileMode) error {
	return os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), mode)
}
