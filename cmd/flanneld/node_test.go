package main

import (
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"tweed/cmd/flanneld/flags"
	"tweed/subnet"
)

// TestSubnetFileIsWrittenOnce for each subnet and MTU: a lease that was lost and
// taken again must not undo what mk-docker-opts made of the file.
func TestSubnetFileIsWrittenOnce(t *testing.T) {
	dir := t.TempDir()
	n := newNode(flags.Options{SubnetFile: filepath.Join(dir, "run", "subnet.env"), StateDir: filepath.Join(dir, "state")}, slog.New(slog.DiscardHandler))
	f := envFile{node: n}
	attrs := subnet.Attrs{PublicIP: netip.MustParseAddr("192.0.2.1")}
	write := func(sn string, mtu int) bool {
		return f.write(subnet.Env{Network: netip.MustParsePrefix("10.5.0.0/16"), Subnet: netip.MustParsePrefix(sn), MTU: mtu}, attrs)
	}
	want := func(text string) {
		t.Helper()
		b, err := os.ReadFile(n.opts.SubnetFile)
		if err != nil || !strings.Contains(string(b), text) {
			t.Errorf("the file is %q (%v), want %s in it", b, err, text)
		}
	}

	if err := os.WriteFile(filepath.Join(dir, "run"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if write("10.5.1.0/24", 1450) { // into what is no folder
		t.Error("wrote into what is no folder")
	}
	if err := os.Remove(filepath.Join(dir, "run")); err != nil {
		t.Fatal(err)
	}
	write("10.5.1.0/24", 1450)
	want("FLANNEL_SUBNET=10.5.1.1/24")

	if err := os.WriteFile(n.opts.SubnetFile, []byte("DOCKER_OPTS=x"), 0o600); err != nil {
		t.Fatal(err)
	}
	write("10.5.1.0/24", 1450)
	attrs.PublicIP = netip.MustParseAddr("192.0.2.9") // goes into the state file only
	if !write("10.5.1.0/24", 1450) {
		t.Error("the files are not as they should be")
	}
	want("DOCKER_OPTS")
	if state, err := subnet.ReadState(n.statePath()); err != nil || !state.Attrs.Equal(attrs) {
		t.Errorf("the state file has %+v (%v)", state, err)
	}
	write("10.5.1.0/24", 1400)
	want("FLANNEL_MTU=1400")

	write("10.5.2.0/24", 1400)
	want("FLANNEL_SUBNET=10.5.2.1/24\nFLANNEL_MTU=1400")
	// To another subnet, which cannot be told, and back again.
	file := n.opts.SubnetFile
	f.opts.SubnetFile = filepath.Join(file, "no", "folder")
	write("10.5.3.0/24", 1400)
	f.opts.SubnetFile = file
	write("10.5.2.0/24", 1400)
	if _, conditions := n.ready.state(); !conditions[slices.IndexFunc(conditions, func(c condition) bool { return c.Name == condEnvFile })].OK {
		t.Errorf("not ready: %+v", conditions)
	}
	if state, err := subnet.ReadState(n.statePath()); err != nil || state.Subnet.String() != "10.5.2.0/24" {
		t.Errorf("the state file has %v (%v)", state, err)
	}
}
