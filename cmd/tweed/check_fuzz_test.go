package main

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"tweed/subnet"
	"tweed/subnet/etcdv2"
	"tweed/test/embedetcd"
)

// FuzzSplitWords: words that are quoted come back, and no word is longer than
// what it was cut from.
func FuzzSplitWords(f *testing.F) {
	f.Add(`-iface="eth 0" '' -x='a "b'`, "it's", "a\\\n")
	f.Add("\\", "\"", "")
	f.Fuzz(func(t *testing.T, text, a, b string) {
		n := 0
		for _, w := range splitWords(text) {
			n += len(w)
		}
		if n > len(text) {
			t.Errorf("%q became %d bytes", text, n)
		}
		quote := func(s string) string {
			var q strings.Builder
			for i := range len(s) {
				q.WriteString("\\" + s[i:i+1])
			}
			return `"` + q.String() + `"`
		}
		if got := splitWords(quote(a) + " \t" + quote(b)); len(got) != 2 || got[0] != a || got[1] != b {
			t.Errorf("%q and %q became %q", a, b, got)
		}
		// The same through a line of the file.
		e := parseEnvFile("X=" + quoteEnv(a) + "\nFLANNEL_OPTIONS=" + quoteEnv(quote(b)) + "\n")
		if strings.ContainsAny(a+b, "\n\r\x00") {
			return
		}
		if words := e.options(); e["X"] != a || len(words) != 1 || words[0] != b {
			t.Errorf("X=%q, %q, want %q, %q", e["X"], words, a, b)
		}
	})
}

// quoteEnv is a value as systemd.exec(5) wants it.
func quoteEnv(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "`", "\\`", "$", `\$`).Replace(s) + `"`
}

// FuzzTLSFiles: whatever is in the files, the check tells of them without a
// panic, in findings that are complete, and nothing of the key is in them.
func FuzzTLSFiles(f *testing.F) {
	dir := f.TempDir()
	ca, err := embedetcd.NewCA(dir, "ca")
	if err != nil {
		f.Fatal(err)
	}
	files, err := ca.Issue("client", nil, time.Now().Add(10*24*time.Hour))
	if err != nil {
		f.Fatal(err)
	}
	read := func(name string) []byte {
		b, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		return b
	}
	caPEM, cert, key := read(ca.File), read(files.CertFile), read(files.KeyFile)
	f.Add(caPEM, cert, key)
	f.Add(cert, caPEM, key)
	f.Add(key, key, key)
	f.Add(append(bytes.Clone(caPEM), cert...), cert[:len(cert)/2], key[1:])
	f.Add([]byte("-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n"), cert, []byte{})
	o := etcdv2.Options{Endpoints: []string{"https://192.0.2.1:2379"}, Prefix: "/x",
		CAFile: filepath.Join(dir, "x-ca"), CertFile: filepath.Join(dir, "x-cert"), KeyFile: filepath.Join(dir, "x-key")}
	f.Fuzz(func(t *testing.T, ca, cert, key []byte) {
		for name, b := range map[string][]byte{o.CAFile: ca, o.CertFile: cert, o.KeyFile: key} {
			if err := os.WriteFile(name, b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		var c checker
		c.checkTLSFiles(o)
		text := ""
		for _, x := range c.found {
			if x.Name != checkTLS || x.Result == "" || x.Found == "" || len(x.Found) > 2000+len(ca)+len(cert) {
				t.Errorf("%+v", x)
			}
			text += fmt.Sprintf("%+v", x)
		}
		if _, err := json.Marshal(c.found); err != nil {
			t.Error(err)
		}
		for block, rest := pem.Decode(key); block != nil; block, rest = pem.Decode(rest) {
			coded := base64.StdEncoding.EncodeToString(block.Bytes)
			if strings.HasSuffix(block.Type, "PRIVATE KEY") && len(coded) > 60 && strings.Contains(text, coded[40:60]) {
				t.Errorf("the key is told: %s", text)
			}
		}
	})
}

// FuzzCheckConfig: what the check accepts as a network config, flanneld starts
// with, and what it takes of the host is possible; what it refuses, it says why.
func FuzzCheckConfig(f *testing.F) {
	f.Add(`{"Network":"10.5.0.0/16"}`)
	f.Add(`{"Network":"10.5.0.0/16","SubnetLen":24,"SubnetMin":"10.5.1.0","SubnetMax":"10.5.9.0","Backend":{"Type":"vxlan","VNI":7,"Port":4789,"GBP":true,"DirectRouting":true}}`)
	f.Add(`{"Network":"10.5.0.0/16","Backend":{"Type":"UDP","Port":65536,"Offload":false,"SourceCheck":"strict"}}`)
	f.Add(`{"network":"10.5.0.0/16","Backend":{"type":"host-gw","x":null}}`)
	f.Add(`{"Network":"10.5.0.0/16","Backend":{"Type":"alloc","Type":1}}`)
	f.Fuzz(func(t *testing.T, text string) {
		c := checker{text: []byte(text)}
		c.checkConfig()
		c.checkNetwork()
		failures := 0
		for _, x := range c.found {
			if x.Found == "" || x.Name == "" {
				t.Errorf("%+v", x)
			}
			if x.Result == verdictFailure {
				failures++
			}
		}
		cfg, err := subnet.ParseConfig([]byte(text))
		if (c.cfg != nil) != (err == nil) {
			t.Fatalf("config %v, %v", c.cfg, err)
		}
		if (c.profile == nil) != (failures > 0) {
			t.Fatalf("profile %+v with %d failures", c.profile, failures)
		}
		p := c.profile
		if p == nil {
			return
		}
		if cfg.Total() < 1 || cfg.BackendType != p.Type || p.Port < 0 || p.Port > 65535 || p.VNI < 0 || p.VNI >= 1<<24 || len(p.Link) > 15 {
			t.Errorf("%q is accepted: %+v, %d subnets", text, p, cfg.Total())
		}
		if mtu, err := p.MTU(1500); err != nil || mtu < 1280 || mtu > 1500 {
			t.Errorf("MTU %d, %v", mtu, err)
		}
	})
}
