package subnet

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

var sampleEnv = Env{
	Network: netip.MustParsePrefix("10.5.0.0/16"),
	Subnet:  netip.MustParsePrefix("10.5.34.0/24"),
	MTU:     1450,
}

const sampleEnvText = "FLANNEL_NETWORK=10.5.0.0/16\nFLANNEL_SUBNET=10.5.34.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=false\n"

func TestEnvWriteFile(t *testing.T) {
	defer unix.Umask(unix.Umask(0o077))
	path := filepath.Join(t.TempDir(), "new", "flannel", "subnet.env")
	for range 2 { // once into nothing, once over itself
		if err := sampleEnv.WriteFile(path); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(path)
	if err != nil || string(b) != sampleEnvText {
		t.Errorf("got %q (%v), want %q", b, err, sampleEnvText)
	}
	fi, err := os.Stat(path)
	if err != nil || fi.Mode() != 0o644 {
		t.Errorf("mode %v (%v), want 0644 in spite of the umask", fi.Mode(), err)
	}
	if left, _ := os.ReadDir(filepath.Dir(path)); len(left) != 1 {
		t.Errorf("files left beside it: %v", left)
	}
	if sn, err := ReadEnvSubnet(path); err != nil || sn != sampleEnv.Subnet {
		t.Errorf("reads back as %v (%v)", sn, err)
	}
}

func TestEnvWriteFileErrors(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{filepath.Join(file, "subnet.env"), dir} {
		if err := sampleEnv.WriteFile(path); err == nil || !strings.Contains(err.Error(), dir) {
			t.Errorf("%s: error %v, want one with the path", path, err)
		}
	}
	if left, _ := os.ReadDir(dir); len(left) != 1 {
		t.Errorf("files left after failures: %v", left)
	}
}

func TestReadEnvSubnet(t *testing.T) {
	tests := []struct{ name, in, want, err string }{
		{name: "ours", in: sampleEnvText, want: "10.5.34.0/24"},
		{name: "comment, export, quotes", in: "# x\nexport FLANNEL_SUBNET=\"10.5.34.1/24\" # y\n", want: "10.5.34.0/24"},
		{name: "colon", in: "FLANNEL_SUBNET: 10.5.34.1/24\n", want: "10.5.34.0/24"},
		{name: "no newline", in: "FLANNEL_SUBNET=10.5.34.1/24", want: "10.5.34.0/24"},
		{name: "overwritten by mk-docker-opts", in: "DOCKER_OPT_BIP=\"--bip=10.5.34.1/24\"\nDOCKER_OPTS=\" --bip=10.5.34.1/24\"\n", want: "invalid Prefix"},
		{name: "empty", in: "", want: "invalid Prefix"},
		{name: "empty value", in: "FLANNEL_SUBNET=\n", want: "invalid Prefix"},
		{name: "no subnet", in: "FLANNEL_SUBNET=10.5.34.1\n", err: `FLANNEL_SUBNET "10.5.34.1": want an IPv4 subnet`},
		{name: "IPv6", in: "FLANNEL_SUBNET=fd00::1/64\n", err: "want an IPv4 subnet"},
		{name: "garbage", in: "\x00\x01\xff no variables here", err: "read "},
		{name: "too large", in: strings.Repeat("A=b\n", 20000), err: "larger than 65536 bytes"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "subnet.env")
			if err := os.WriteFile(path, []byte(tt.in), 0o600); err != nil {
				t.Fatal(err)
			}
			sn, err := ReadEnvSubnet(path)
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) || !strings.Contains(err.Error(), path) {
					t.Fatalf("error %v, want %q and the path in it", err, tt.err)
				}
				return
			}
			if err != nil || sn.String() != tt.want {
				t.Errorf("got %v (%v), want %s", sn, err, tt.want)
			}
		})
	}
	if sn, err := ReadEnvSubnet(filepath.Join(t.TempDir(), "none")); err != nil || sn.IsValid() {
		t.Errorf("missing file: %v, %v", sn, err)
	}
	if _, err := ReadEnvSubnet(t.TempDir()); err == nil {
		t.Error("a folder is read as a file")
	}
}

func FuzzReadEnvFile(f *testing.F) {
	f.Add([]byte(sampleEnvText))
	f.Add([]byte("export A='b\" c'\nB: $A${A}\n"))
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, b []byte) {
		path := filepath.Join(dir, "env")
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		if sn, err := ReadEnvSubnet(path); err == nil && sn.IsValid() && (sn != sn.Masked() || !sn.Addr().Is4()) {
			t.Errorf("%q gives %v", b, sn)
		}
	})
}
