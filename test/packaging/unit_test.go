package packaging

import (
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

const (
	unitFile   = sources + "/packaging/systemd/flanneld.service"
	dropInFile = sources + "/packaging/systemd/docker.service.d/flannel.conf"
)

// dockerUnit is what Debian's docker.service and docker-ce's have in common, as
// far as the drop-in meets it.
const dockerUnit = `[Unit]
Description=Docker Application Container Engine
After=network-online.target
[Service]
Type=notify
EnvironmentFile=-/etc/default/docker
ExecStart=/usr/bin/dockerd -H fd:// $DOCKER_OPTS
Restart=on-failure
StartLimitBurst=3
[Install]
WantedBy=multi-user.target
`

// host is a root folder with both units and stubs of the programs they start.
func host(t *testing.T, unit, dropIn string) string {
	t.Helper()
	root := t.TempDir()
	for _, p := range []string{"sh", "test", "flanneld", "mk-docker-opts", "dockerd"} {
		write(t, filepath.Join(root, "usr/bin", p), "#!/bin/sh\n", 0o755)
	}
	write(t, filepath.Join(root, "bin/sh"), "#!/bin/sh\n", 0o755)
	dir := filepath.Join(root, "usr/lib/systemd/system")
	write(t, filepath.Join(dir, "flanneld.service"), unit, 0o644)
	write(t, filepath.Join(dir, "docker.service"), dockerUnit, 0o644)
	write(t, filepath.Join(dir, "docker.service.d/flannel.conf"), dropIn, 0o644)
	for _, target := range []string{"sysinit", "basic", "shutdown", "network-online", "multi-user"} {
		write(t, filepath.Join(dir, target+".target"), "[Unit]\nDescription=stub\n", 0o644)
	}
	return root
}

// verify returns all that systemd finds wrong. It says so in words only: its
// exit status is 0 on bad values.
func verify(t *testing.T, unit, dropIn string) string {
	t.Helper()
	out, code := command{}.run(t, "systemd-analyze", "verify", "--man=no", "--root="+host(t, unit, dropIn), "flanneld.service", "docker.service")
	if code != 0 && out == "" {
		t.Errorf("systemd-analyze verify: exit status %d without a word", code)
	}
	return out
}

func TestUnitVerifies(t *testing.T) {
	need(t, "systemd-analyze")
	unit, dropIn := read(t, unitFile), read(t, dropInFile)
	if out := verify(t, unit, dropIn); out != "" {
		t.Errorf("systemd-analyze verify:\n%s", out)
	}
	for _, bad := range []struct{ old, new string }{
		{"Type=notify", "Type=notifies"},
		{"WatchdogSec=60", "WatchdogSec=soon"},
		{"ProtectSystem=strict", "ProtectSystem=very"},
		{"DevicePolicy=closed", "DevicePolicy=ajar"},
		{"/usr/bin/mk-docker-opts -k", "/usr/bin/nonsense -k"},
		{"RuntimeDirectoryPreserve", "RuntimeDirectoryKeep"},
		{"@system-service", "@system-servant"},
	} {
		broken := strings.Replace(unit, bad.old, bad.new, 1)
		if broken == unit {
			t.Errorf("the unit has no %q", bad.old)
		} else if out := verify(t, broken, dropIn); out == "" {
			t.Errorf("%s is accepted in flanneld.service: this test sees nothing", bad.new)
		}
	}
	broken := strings.Replace(dropIn, "ExecStart=\n", "", 1) // two of them
	if out := verify(t, unit, broken); broken == dropIn || !strings.Contains(out, "ExecStart") {
		t.Errorf("a drop-in that does not empty ExecStart= first: got %q", out)
	}
}

// TestUnitPromises looks at the lines that containers depend on; the reasons
// are in the unit.
func TestUnitPromises(t *testing.T) {
	unit, dropIn := read(t, unitFile), read(t, dropInFile)
	for _, line := range []string{
		"Type=notify", "NotifyAccess=main", "Before=docker.service", "TimeoutStartSec=infinity",
		"StartLimitIntervalSec=0", "RuntimeDirectory=flannel", "RuntimeDirectoryPreserve=yes",
		"ExecStartPost=/usr/bin/mk-docker-opts -k DOCKER_NETWORK_OPTIONS -d /run/flannel/subnet.env",
	} {
		if !strings.Contains(unit, "\n"+line+"\n") {
			t.Errorf("flanneld.service has no line %s", line)
		}
	}
	ties := regexp.MustCompile(`(?m)^(Requires|RequiredBy|BindsTo|PartOf|Requisite)=`)
	if found := ties.FindString(unit + dropIn); found != "" {
		t.Errorf("%s would stop the containers with flanneld", found)
	}
	if !strings.Contains(dropIn, "\nEnvironmentFile=/run/flannel/subnet.env\n") {
		t.Error("the drop-in lets docker start without subnet.env, on its own bridge")
	}
}

// TestUnitSecurity compares systemd's rating with what the unit says of itself.
// Other versions rate by other tables: there it may be better than stated.
func TestUnitSecurity(t *testing.T) {
	need(t, "systemd-analyze")
	said := regexp.MustCompile(`systemd ([0-9]+) rates the exposure ([0-9.]+) of 10`).FindStringSubmatch(read(t, unitFile))
	if said == nil {
		t.Fatal("the unit does not state its rating")
	}
	limit, err := strconv.ParseFloat(said[2], 64)
	if err != nil {
		t.Fatal(err)
	}
	rate := func(unit string, threshold float64) int {
		path := filepath.Join(t.TempDir(), "flanneld.service")
		write(t, path, unit, 0o644)
		// The threshold is in tenths, and reaching it is allowed.
		_, code := command{}.run(t, "systemd-analyze", "security", "--offline=true",
			"--threshold="+strconv.Itoa(int(threshold*10+0.5)), path)
		return code
	}
	unit := read(t, unitFile)
	if rate(unit, limit) != 0 {
		t.Errorf("systemd-analyze security rates the unit worse than the stated %v", limit)
	}
	same := strings.HasPrefix(command{}.must(t, "systemd-analyze", "--version"), "systemd "+said[1]+" ")
	if same && rate(unit, limit-0.1) == 0 {
		t.Errorf("systemd %s rates the unit better than the stated %v: state that", said[1], limit)
	}
	if rate(strings.Replace(unit, "NoNewPrivileges=yes", "", 1), limit) == 0 {
		t.Error("a unit with less protection passes: this test sees nothing")
	}
}
