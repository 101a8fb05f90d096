package main

import (
	"errors"
	"flag"
	"fmt"
	"slices"
	"strings"
	"testing"
)

func TestParseCheck(t *testing.T) {
	const defaults = "http://127.0.0.1:4001,http://127.0.0.1:2379"
	for args, want := range map[string]string{
		"":                        " text 10s " + defaults + " true",
		"-":                       "- text 10s " + defaults + " false",
		"c.json -o json":          "c.json json 10s " + defaults + " false",
		"-o=json --timeout 3s c":  "c json 3s " + defaults + " false",
		"c -etcd-endpoints=a,,b":  "c text 10s a,b true",
		"-ip-masq -v=2 -iface x":  " text 10s " + defaults + " true",
		"-etcd-endpoints a c -v9": "unknown",
	} {
		o, err := parseCheck(strings.Fields(args), nil)
		if want == "unknown" {
			if err == nil {
				t.Errorf("%q: no error", args)
			}
			continue
		}
		got := fmt.Sprint(o.file, " ", map[bool]string{true: "json", false: "text"}[o.json], " ", o.timeout, " ", strings.Join(o.Etcd.Endpoints, ","), " ", o.askEtcd)
		if err != nil || got != want {
			t.Errorf("%q: %q, %v, want %q", args, got, err, want)
		}
	}
}

func TestParseCheckErrors(t *testing.T) {
	for args, want := range map[string]string{
		"-ip-mask":                  "did you mean -ip-masq?",
		"-o yaml":                   `-o "yaml": want text or json`,
		"-timeout 1ms":              "-timeout 1ms: want 100ms to 10m",
		"-timeout 1h":               "-timeout 1h0m0s",
		"-timeout soon":             "soon",
		"-healthz-port http":        "want a whole number",
		"-iface":                    "needs an argument",
		"-ip-masq true -iface eth1": "behind -ip-masq",
		"a -v 1 b":                  "2 words are not flags, the first of them behind the command",
		"-ip-masq=maybe":            "maybe",
	} {
		_, err := parseCheck(strings.Fields(args), nil)
		if !errors.As(err, new(usageError)) || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", args, err, want)
		}
	}
	for _, args := range []string{"-h", "-help", "-iface x --help"} {
		if _, err := parseCheck(strings.Fields(args), nil); !errors.Is(err, flag.ErrHelp) {
			t.Errorf("%s: %v", args, err)
		}
	}
}

// TestCheckTellsNoPassword: also not one that was cut in pieces by a shell.
func TestCheckTellsNoPassword(t *testing.T) {
	for _, args := range [][]string{
		{"-etcd-password", "s3cr3t", "-o", "xml"},
		{"-etcd-password=my", "s3cr3t"},
		{"-etcd-password=my", "s3cr3t", "word"},
		{"-etcd-username=root", "-etcd-password=s3cr3t", "-etcd-endpoints=http://127.0.0.1:1,http://u:s3cr3t@127.0.0.1:2", "-timeout=1s"},
		{"-etcd-endpoints=http://u:s3cr3t,x@127.0.0.1:2", "-timeout=1s"},
		{"-etcd-endpoints=root:s3cr3t@127.0.0.1:2", "-timeout=1s", "-o=json"},
	} {
		var stdout, stderr strings.Builder
		environ := []string{"FLANNELD_ETCD_PASWORD=s3cr3t", "FLANNELD_ETCD_USERNAME=u"}
		if status := check(t.Context(), args, environ, strings.NewReader(""), &stdout, &stderr); status == exitOK {
			t.Errorf("%q: status 0", args)
		}
		if out := stdout.String() + stderr.String(); strings.Contains(out, "s3cr3t") || out == "" {
			t.Errorf("%q: %s", args, out)
		}
	}
}

func TestCheckEnvironment(t *testing.T) {
	o, err := parseCheck([]string{"-iface=eth1", "f"}, []string{
		"FLANNELD_ETCD_ENDPOINTS=http://192.0.2.1:2379", "FLANNELD_IFACE=eth0", "FLANNELD_PUBLIC_IP=192.0.2.9", "FLANNELD_PUBLIC_IP=192.0.2.10",
		"FLANNELD_HEALTHZ_PORT=http", "FLANNELD_ETCD_PREFFIX=/x", "FLANNELD_VERSION=true", "FLANNELD_SUBNET_FILE=", "FLANNELD_O=json", "PATH=/bin",
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprintf("%v %t %v %s %s %t", o.Etcd.Endpoints, o.askEtcd, o.Iface.Ifaces, o.Iface.PublicIP, o.SubnetFile, o.json); got != "[http://192.0.2.1:2379] true [eth1] 192.0.2.9 /run/flannel/subnet.env false" {
		t.Errorf("got %s", got)
	}
	var ignored []string
	for _, n := range o.ignored {
		ignored = append(ignored, n.Text)
	}
	want := []string{`ignoring FLANNELD_HEALTHZ_PORT="http": want a whole number; going on with -healthz-port=0`,
		"ignoring the unknown environment variable FLANNELD_ETCD_PREFFIX, did you mean FLANNELD_ETCD_PREFIX?", "ignoring the unknown environment variable FLANNELD_O"}
	if !slices.Equal(ignored[:2], want[:2]) || len(ignored) != 3 || !strings.HasPrefix(ignored[2], want[2]) {
		t.Errorf("ignored %q, want %q", ignored, want)
	}
}

// TestCheckRefusedFlags: flanneld would end with status 1 for these.
func TestCheckRefusedFlags(t *testing.T) {
	for args, want := range map[string]string{
		"-kube-subnet-mgr":              "-kube-subnet-mgr is not supported",
		"-public-ipv6=fd00::1":          "-public-ipv6",
		"-subnet-lease-renew-margin=0":  "1 to 1439",
		"-subnet-lease-renew-margin=2h": "",
		"-iptables-resync=0":            "-iptables-resync 0",
		"-healthz-port=70000":           "-healthz-port 70000: want a port from 1 to 65535",
		"-kube-api-url=http://x":        "-kube-api-url is not supported",
		"-etcd-certfile=c":              "both or neither",
		"-etcd-endpoints=,":             "-etcd-endpoints is empty",
		"-version":                      "-version",
		"-vmodule=a":                    "",
		"-log_backtrace_at=a":           "",
	} {
		o, err := parseCheck([]string{args}, nil)
		if want == "" {
			if err == nil {
				t.Errorf("%s: no error", args)
			}
			continue
		}
		if err != nil || len(o.refused) != 1 || !strings.Contains(o.refused[0].Error(), want) {
			t.Errorf("%s: %q, %v", args, o.refused, err)
		}
		c := checker{opts: o}
		c.checkFlags()
		wantFinding(t, c.found, checkFlags, verdictFailure, want)
	}
	o, err := parseCheck([]string{"-healthz-port=-1"}, nil)
	if err != nil || len(o.refused) > 0 {
		t.Errorf("-healthz-port=-1: %v, %v: want it to be off", o.refused, err)
	}
}
