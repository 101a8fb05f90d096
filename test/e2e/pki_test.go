package e2e

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// pki is the work of cfssl with the profiles and requests in packaging/cfssl.
type pki struct {
	t       *testing.T
	dir     string
	example string
}

// members are the addresses that the certificates of etcd are for.
const members = "20.0.0.30,20.0.0.40,20.0.0.50,127.0.0.1"

// newPKI makes an authority and one certificate of each kind: ca, server, peer
// and client, each as NAME.pem and NAME-key.pem in dir.
func newPKI(t *testing.T, dir string) *pki {
	t.Helper()
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	p := &pki{t: t, dir: dir, example: repo(t, "packaging", "cfssl")}
	p.cfssl("ca", "gencert", "-initca", filepath.Join(p.example, "ca-csr.json"))
	p.issue("server", "server", "", "-hostname="+members)
	p.issue("peer", "peer", "", "-hostname="+members)
	p.issue("client", "client", "")
	return p
}

// issue makes a certificate from the request of that profile. An expiry other
// than that of the profiles is counted from five minutes ago, as cfssl
// predates what it signs.
func (p *pki) issue(name, profile, expiry string, args ...string) {
	p.t.Helper()
	config := filepath.Join(p.example, "ca-config.json")
	if expiry != "" {
		b, err := os.ReadFile(config)
		if err != nil {
			p.t.Fatal(err)
		}
		config = filepath.Join(p.dir, "config-"+expiry+".json")
		if err := os.WriteFile(config, bytes.ReplaceAll(b, []byte("87600h"), []byte(expiry)), 0o644); err != nil {
			p.t.Fatal(err)
		}
	}
	words := []string{"gencert", "-ca=" + p.file("ca.pem"), "-ca-key=" + p.file("ca-key.pem"), "-config=" + config, "-profile=" + profile}
	words = append(words, args...)
	p.cfssl(name, append(words, filepath.Join(p.example, profile+"-csr.json"))...)
}

// cfssl runs it and writes NAME.pem, NAME-key.pem and NAME.csr, as the guides
// do by a pipe into cfssljson.
func (p *pki) cfssl(name string, args ...string) {
	p.t.Helper()
	var stderr bytes.Buffer
	sign := exec.Command("cfssl", args...)
	sign.Stderr = &stderr
	out, err := sign.Output()
	if err != nil {
		p.t.Fatalf("cfssl %s: %v: %s", strings.Join(args, " "), err, stderr.String())
	}
	write := exec.Command("cfssljson", "-bare", p.file(name))
	write.Stdin = bytes.NewReader(out)
	if out, err := write.CombinedOutput(); err != nil {
		p.t.Fatalf("cfssljson -bare %s: %v: %s", name, err, out)
	}
}

func (p *pki) file(name string) string { return filepath.Join(p.dir, name) }

// read returns the content of a file.
func (p *pki) read(name string) string {
	p.t.Helper()
	b, err := os.ReadFile(p.file(name))
	if err != nil {
		p.t.Fatal(err)
	}
	return string(b)
}

// etcdctl are its flags for TLS.
func (p *pki) etcdctl() []string {
	return []string{"--ca-file=" + p.file("ca.pem"), "--cert-file=" + p.file("client.pem"), "--key-file=" + p.file("client-key.pem")}
}

// flanneld are its flags for TLS, with files in this directory.
func flannelTLS(dir string) []string {
	return []string{
		fmt.Sprintf("-etcd-cafile=%s/ca.pem", dir),
		fmt.Sprintf("-etcd-certfile=%s/client.pem", dir),
		fmt.Sprintf("-etcd-keyfile=%s/client-key.pem", dir),
	}
}
