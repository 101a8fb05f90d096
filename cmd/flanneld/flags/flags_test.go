package flags

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"
)

// flannelFlags are the flags of flannel v0.10.0 and those of later versions
// that are accepted, with their defaults.
var flannelFlags = map[string]string{
	"etcd-endpoints": "http://127.0.0.1:4001,http://127.0.0.1:2379", "etcd-prefix": "/coreos.com/network",
	"etcd-keyfile": "", "etcd-certfile": "", "etcd-cafile": "", "etcd-username": "", "etcd-password": "",
	"iface": "", "iface-regex": "", "iface-can-reach": "", "public-ip": "", "public-ipv6": "",
	"subnet-file": "/run/flannel/subnet.env", "subnet-lease-renew-margin": "60",
	"ip-masq": "false", "ip-masq-fully-random-disable": "false", "ip-blackhole-route": "false",
	"iptables-resync": "5", "iptables-forward-rules": "true",
	"kube-subnet-mgr": "false", "kube-api-url": "", "kubeconfig-file": "", "kube-annotation-prefix": "flannel.alpha.coreos.com",
	"net-config-path": "/etc/kube-flannel/net-conf.json", "set-node-network-unavailable": "true",
	"healthz-ip": "0.0.0.0", "healthz-port": "0", "version": "false",
	"v": "0", "vmodule": "", "log_backtrace_at": "",
}

func TestFlagsAndDefaults(t *testing.T) {
	got := make(map[string]string)
	New("flanneld").VisitAll(func(f *flag.Flag) { got[f.Name] = f.DefValue })
	if got["state-dir"] != "/var/lib/flanneld" {
		t.Errorf("-state-dir defaults to %q", got["state-dir"])
	}
	delete(got, "state-dir")
	if got["exit-on-config-change"] != "false" {
		t.Errorf("-exit-on-config-change defaults to %q", got["exit-on-config-change"])
	}
	delete(got, "exit-on-config-change")
	for name, want := range flannelFlags {
		if value, ok := got[name]; !ok || value != want {
			t.Errorf("-%s defaults to %q (%v), want %q", name, value, ok, want)
		}
		delete(got, name)
	}
	if len(got) > 0 {
		t.Errorf("not in flannel: %v", got)
	}
}

// runParse is Parse, with the notes as text.
func runParse(t *testing.T, args, environ []string) (o Options, notes, stderr string, err error) {
	t.Helper()
	var out bytes.Buffer
	o, list, err := Parse(append([]string{"flanneld"}, args...), environ, "v1.2.3", &out)
	var b strings.Builder
	for _, n := range list {
		fmt.Fprintf(&b, "%v %s\n", n.Level, n.Text)
	}
	return o, b.String(), out.String(), err
}

func TestParse(t *testing.T) {
	tests := []struct {
		name string
		args []string
		env  []string
		want func(o Options) bool
		note string // text in the notes; none at all if empty
	}{
		{name: "defaults", want: func(o Options) bool {
			return slices.Equal(o.Etcd.Endpoints, []string{"http://127.0.0.1:4001", "http://127.0.0.1:2379"}) &&
				o.Etcd.Prefix == "/coreos.com/network" && o.SubnetFile == "/run/flannel/subnet.env" && o.StateDir == "/var/lib/flanneld" &&
				o.RenewMargin == time.Hour && o.IPTablesResync == 5*time.Second && o.ForwardRules && !o.IPMasq && !o.BlackholeRoute &&
				o.HealthzIP == "0.0.0.0" && o.HealthzPort == 0 && len(o.Iface.Ifaces) == 0 && !o.ExitOnConfigChange
		}},
		{name: "all", args: strings.Fields("-etcd-endpoints=https://a:1,https://b:2 --etcd-prefix /p -etcd-cafile ca -etcd-certfile cert -etcd-keyfile key " +
			"-etcd-username u -etcd-password p -iface eth0 -iface=192.0.2.1 -iface-regex ^eth -iface-regex ^en -iface-can-reach 192.0.2.2 -public-ip 192.0.2.3 " +
			"-subnet-file f -state-dir d -subnet-lease-renew-margin 1439 -ip-masq -ip-masq-fully-random-disable -iptables-resync 0x10 -iptables-forward-rules=false " +
			"-ip-blackhole-route=T -exit-on-config-change -healthz-ip ::1 -healthz-port 65535 -v 2 -vmodule a=1 -log_backtrace_at a.go:1"),
			want: func(o Options) bool {
				return slices.Equal(o.Etcd.Endpoints, []string{"https://a:1", "https://b:2"}) && o.Etcd.Prefix == "/p" &&
					o.Etcd.CAFile == "ca" && o.Etcd.CertFile == "cert" && o.Etcd.KeyFile == "key" && o.Etcd.Username == "u" && o.Etcd.Password == "p" &&
					slices.Equal(o.Iface.Ifaces, []string{"eth0", "192.0.2.1"}) && slices.Equal(o.Iface.Regexes, []string{"^eth", "^en"}) &&
					o.Iface.CanReach == "192.0.2.2" && o.Iface.PublicIP == "192.0.2.3" && o.SubnetFile == "f" && o.StateDir == "d" &&
					o.RenewMargin == 1439*time.Minute && o.IPMasq && o.IPTablesResync == 16*time.Second && !o.ForwardRules && o.BlackholeRoute && o.ExitOnConfigChange &&
					o.HealthzIP == "::1" && o.HealthzPort == 65535 && o.Log.Verbosity == 2 && len(o.Log.Modules) == 1 && o.Log.TraceAt.line == 1
			}},
		{name: "endpoints are not trimmed", args: []string{"-etcd-endpoints", "http://a:1, http://b:2"},
			want: func(o Options) bool { return slices.Equal(o.Etcd.Endpoints, []string{"http://a:1", " http://b:2"}) }},
		{name: "empty endpoint", args: []string{"-etcd-endpoints", "http://a:1,"},
			want: func(o Options) bool { return slices.Equal(o.Etcd.Endpoints, []string{"http://a:1"}) }, note: "has an empty element"},
		{name: "stops at the first word", args: strings.Fields("-ip-masq true -iface eth1"),
			want: func(o Options) bool { return o.IPMasq && o.Iface.Ifaces == nil }, note: `behind -ip-masq, 3 word(s), because`},
		{name: "smallest margin", args: []string{"-subnet-lease-renew-margin=1"}, want: func(o Options) bool { return o.RenewMargin == time.Minute }},
		{name: "negative port is off", args: []string{"-healthz-port=-1"}, want: func(o Options) bool { return o.HealthzPort == 0 }, note: "-healthz-port -1 switches"},
		{name: "kubernetes flags at their defaults", args: []string{"-kube-subnet-mgr=false", "-kube-api-url=", "-set-node-network-unavailable"}, want: func(Options) bool { return true }},
		{name: "a password with a blank is not told", args: []string{"-etcd-password", "-pa55", "word", "x"}, want: func(o Options) bool { return o.Etcd.Password == "-pa55" }, note: "behind -etcd-password, 2 word(s)"},
		{name: "nor one behind an empty value", args: []string{"-etcd-password=", "pa55word"}, want: func(o Options) bool { return o.Etcd.Password == "" }, note: "behind -etcd-password, 1 word(s)"},
		{name: "a word before all flags", args: []string{"word", "-ip-masq"}, want: func(o Options) bool { return !o.IPMasq }, note: "behind flanneld, 2 word(s)"},
		{name: "last value counts", args: []string{"-etcd-prefix=/a", "-etcd-prefix=/b"}, want: func(o Options) bool { return o.Etcd.Prefix == "/b" }},

		{name: "environment", env: []string{"FLANNELD_ETCD_PREFIX=/env", "FLANNELD_IP_MASQ=true", "FLANNELD_V=3", "FLANNELD_VMODULE=a=1", "FLANNELD_LOG_BACKTRACE_AT=a.go:1", "FLANNELD_ETCD_PASSWORD=x=y"},
			want: func(o Options) bool {
				return o.Etcd.Prefix == "/env" && o.IPMasq && o.Log.Verbosity == 3 && o.Log.MostVerbose() == 3 && o.Log.TraceAt.line == 1 && o.Etcd.Password == "x=y"
			}},
		{name: "exit on config change", env: []string{"FLANNELD_EXIT_ON_CONFIG_CHANGE=true"}, want: func(o Options) bool { return o.ExitOnConfigChange }},
		{name: "command line wins", args: []string{"-etcd-prefix=/arg", "-iface=eth0"}, env: []string{"FLANNELD_ETCD_PREFIX=/env", "FLANNELD_IFACE=eth1"},
			want: func(o Options) bool { return o.Etcd.Prefix == "/arg" && slices.Equal(o.Iface.Ifaces, []string{"eth0"}) }},
		{name: "even with the default", args: []string{"-healthz-port=0"}, env: []string{"FLANNELD_HEALTHZ_PORT=1"}, want: func(o Options) bool { return o.HealthzPort == 0 }},
		{name: "empty is unset", env: []string{"FLANNELD_ETCD_PREFIX=", "FLANNELD_IFACE=", "FLANNELD_V="}, want: func(o Options) bool { return o.Etcd.Prefix == "/coreos.com/network" && o.Iface.Ifaces == nil }},
		{name: "one element", env: []string{"FLANNELD_IFACE=eth0,eth1 eth2"}, want: func(o Options) bool { return slices.Equal(o.Iface.Ifaces, []string{"eth0,eth1 eth2"}) }},
		{name: "first of two", env: []string{"FLANNELD_V=1", "FLANNELD_V=2"}, want: func(o Options) bool { return o.Log.Verbosity == 1 }},
		{name: "version has no effect", env: []string{"FLANNELD_VERSION=v0.10.0"}, want: func(Options) bool { return true }},
		{name: "other programs' variables", env: []string{"FLANNEL_ETCD_PREFIX=/x", "flanneld_v=1", "XFLANNELD_V=1", "novalue", ""}, want: func(o Options) bool { return o.Log.Verbosity == 0 }},
		{name: "bad number", env: []string{"FLANNELD_HEALTHZ_PORT=80a"}, want: func(o Options) bool { return o.HealthzPort == 0 },
			note: `ERROR ignoring FLANNELD_HEALTHZ_PORT="80a": want a whole number; going on with -healthz-port=0`},
		{name: "bad switch", env: []string{"FLANNELD_IP_MASQ=yes"}, want: func(o Options) bool { return !o.IPMasq }, note: `FLANNELD_IP_MASQ="yes": want true or false; going on with -ip-masq=false`},
		{name: "bad module list", env: []string{"FLANNELD_VMODULE=x"}, want: func(o Options) bool { return o.Log.Modules == nil }, note: `FLANNELD_VMODULE="x": element "x": want`},
		{name: "unknown", env: []string{"FLANNELD_ETCD_PREFX=/x"}, want: func(Options) bool { return true }, note: "WARN ignoring the unknown environment variable FLANNELD_ETCD_PREFX, did you mean FLANNELD_ETCD_PREFIX?"},
		{name: "quite unknown", env: []string{"FLANNELD_SERVICE_HOST=10.0.0.1"}, want: func(Options) bool { return true }, note: "variable FLANNELD_SERVICE_HOST\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			o, notes, stderr, err := runParse(t, tt.args, tt.env)
			if err != nil {
				t.Fatalf("%v: %s", err, stderr)
			}
			if !tt.want(o) {
				t.Errorf("got %+v", o)
			}
			if !strings.Contains(notes, tt.note) || (tt.note == "") != (notes == "") {
				t.Errorf("notes %q, want %q", notes, tt.note)
			}
			if stderr != "" {
				t.Errorf("stderr %q", stderr)
			}
		})
	}
}

func TestParseExits(t *testing.T) {
	const usage = "Usage: flanneld [OPTION]...\n  -etcd-cafile "
	tests := []struct {
		name string
		args []string
		env  []string
		code int
		want string // texts, separated by |
	}{
		{name: "-h", args: []string{"-h"}, want: usage + "|FLANNELD_ETCD_ENDPOINTS|  ETCDCTL_API=2 etcdctl set "},
		{name: "-help", args: []string{"-help"}, want: usage},
		{name: "-version", args: []string{"-version"}, want: "v1.2.3\n"},
		{name: "-version comes before the environment", args: []string{"-version"}, env: []string{"FLANNELD_V=x", "FLANNELD_NONSENSE=1"}, want: "v1.2.3\n"},
		{name: "-version behind a word", args: []string{"x", "-version", "-kube-subnet-mgr"}, env: []string{"FLANNELD_KUBE_SUBNET_MGR=1"}, code: 1, want: "not supported yet"},
		{name: "flags behind -version are parsed", args: []string{"-version", "-nonsense"}, want: usage + "|flanneld: flag provided but not defined: -nonsense\n"},
		{name: "unknown, near another", args: []string{"-ifcae", "eth0"}, want: usage + "|\nflanneld: flag provided but not defined: -ifcae (did you mean -iface?)\n"},
		{name: "flags that flannel hides", args: []string{"-logtostderr"}, want: "not defined: -logtostderr"},
		{name: "flags that flannel removed", args: []string{"-networks", "a"}, want: "not defined: -networks"},
		{name: "exit on config change is no word", args: []string{"-exit-on-config-change=sometimes"}, want: `invalid boolean value "sometimes" for -exit-on-config-change: want true or false`},
		{name: "no value", args: []string{"-iface"}, want: "flag needs an argument: -iface"},
		{name: "bad number", args: []string{"-healthz-port", "http"}, want: usage + `|invalid value "http" for flag -healthz-port: want a whole number`},
		{name: "huge number", args: []string{"-v", "99999999999999999999"}, want: "for flag -v: want a whole number"},
		{name: "fraction", args: []string{"-iptables-resync=0.5"}, want: "want a whole number"},
		{name: "duration", args: []string{"-iptables-resync=5s"}, want: "want a whole number"},
		{name: "bad switch", args: []string{"-ip-masq=yes"}, want: `invalid boolean value "yes" for -ip-masq: want true or false`},
		{name: "bad module list", args: []string{"-vmodule", "a"}, want: "for flag -vmodule: element \"a\": want"},
		{name: "bad line", args: []string{"-log_backtrace_at", "a"}, want: "for flag -log_backtrace_at: want FILE.go:LINE"},
		{name: "bad flag syntax", args: []string{"-=x"}, want: "bad flag syntax: -: want -name or -name=value"},

		{name: "margin 0", args: []string{"-subnet-lease-renew-margin=0"}, code: 1, want: "-subnet-lease-renew-margin 0: want 1 to 1439"},
		{name: "margin of a day", args: []string{"-subnet-lease-renew-margin=1440"}, code: 1, want: "-subnet-lease-renew-margin 1440"},
		{name: "negative margin", env: []string{"FLANNELD_SUBNET_LEASE_RENEW_MARGIN=-5"}, code: 1, want: "-subnet-lease-renew-margin -5"},
		{name: "margin past all bounds", args: []string{"-subnet-lease-renew-margin=9223372036"}, code: 1, want: "want 1 to 1439"},
		{name: "resync 0", args: []string{"-iptables-resync=0"}, code: 1, want: "-iptables-resync 0: want 1 second or more"},
		{name: "negative resync", args: []string{"-iptables-resync=-5"}, code: 1, want: "-iptables-resync -5"},
		{name: "port", args: []string{"-healthz-port=65536"}, code: 1, want: "-healthz-port 65536: want a port from 1 to 65535, or 0"},
		{name: "kubernetes", args: []string{"-kube-subnet-mgr"}, code: 1, want: "-kube-subnet-mgr is not supported yet"},
		{name: "kubernetes' other flags", args: []string{"-kube-api-url=http://k", "-net-config-path=/x"}, code: 1, want: "-kube-api-url with -net-config-path is not supported yet"},
		{name: "kubernetes by environment", env: []string{"FLANNELD_KUBE_SUBNET_MGR=true"}, code: 1, want: "not supported yet"},
		{name: "IPv6", args: []string{"-public-ipv6=2001:db8::1"}, code: 1, want: `-public-ipv6 "2001:db8::1" is not supported yet`},
		{name: "no endpoint", args: []string{"-etcd-endpoints="}, code: 1, want: "-etcd-endpoints is empty"},
		{name: "only commas", args: []string{"-etcd-endpoints=,,"}, code: 1, want: "-etcd-endpoints is empty"},
		{name: "certificate without key", args: []string{"-etcd-certfile=c"}, code: 1, want: `-etcd-certfile "c" and -etcd-keyfile "": want both or neither`},
		{name: "key without certificate", args: []string{"-etcd-keyfile=k"}, code: 1, want: "want both or neither"},
		{name: "notes are told too", args: []string{"-healthz-port=65536", "word"}, env: []string{"FLANNELD_V=x"}, code: 1, want: `behind -healthz-port, 1 word(s)|FLANNELD_V="x"|65536`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, notes, stderr, err := runParse(t, tt.args, tt.env)
			if err == nil || errors.Is(err, ErrTold) != (tt.code == 0) {
				t.Fatalf("error %v, want exit status %d", err, tt.code)
			}
			if tt.code == 1 && stderr != "" {
				t.Errorf("stderr %q, want nothing: there is no log yet", stderr)
			}
			for want := range strings.SplitSeq(tt.want, "|") {
				if all := notes + stderr + err.Error(); !strings.Contains(all, want) {
					t.Errorf("told %q, want %q", all, want)
				}
			}
			if strings.HasPrefix(tt.name, "-version") && tt.code == 0 && stderr != tt.want {
				t.Errorf("stderr %q, want just %q", stderr, tt.want)
			}
		})
	}
}

func TestSecretsAreNotTold(t *testing.T) {
	const secret = "hunter2"
	for _, env := range [][]string{
		{"FLANNELD_ETCD_PASSWORD=" + secret, "FLANNELD_HEALTHZ_PORT=70000"},
		{"FLANNELD_ETCD_PASWORD=" + secret},
		{"FLANNELD_ETCD_PASSWORD=" + secret, "FLANNELD_ETCD_PASSWORD=" + secret, "FLANNELD_V=x"},
	} {
		for _, args := range [][]string{nil, {"-h"}, {"-etcd-password", secret, "-nonsense"}, {"-etcd-password=" + secret, "-healthz-port=-1"},
			{"-etcd-endpoints=http://root:" + secret + "@192.0.2.1:2379,"},
			{"-ip-masq", "-etcd-password", "my", secret}, {"-etcd-password=my", secret}} {
			_, notes, stderr, err := runParse(t, args, env)
			if told := fmt.Sprint(notes, stderr, err); strings.Contains(told, secret) {
				t.Errorf("%q %q: told %s", args, env, told)
			}
		}
	}
}

func TestUsageNamesEveryFlagAndItsUnit(t *testing.T) {
	_, _, text, _ := runParse(t, []string{"-h"}, nil)
	New("flanneld").VisitAll(func(f *flag.Flag) {
		if !strings.Contains(text, "\n  -"+f.Name) {
			t.Errorf("-%s is not in the usage", f.Name)
		}
		if strings.Contains(text, "\n  -"+f.Name+" value\n") {
			t.Errorf("-%s does not name its value", f.Name)
		}
	})
	for line := range strings.Lines(text) {
		if len(line) > 120 {
			t.Errorf("long line: %s", line)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("-ip-masq -iface eth0 word", "FLANNELD_V=1 FLANNELD_ETCD_PREFIX=/x")
	f.Add("-subnet-lease-renew-margin 1440 -healthz-port=-1", "FLANNELD_=1 FLANNELD_IFACE=")
	f.Fuzz(func(t *testing.T, line, environ string) {
		var out bytes.Buffer
		o, notes, err := Parse(append([]string{"flanneld"}, strings.Fields(line)...), strings.Fields(environ), "v1", &out)
		if err != nil {
			if errors.Is(err, ErrTold) == (out.Len() == 0) {
				t.Errorf("%v, printed %q", err, out.String())
			}
			return
		}
		if out.Len() > 0 || len(o.Etcd.Endpoints) == 0 || o.RenewMargin < time.Minute || o.RenewMargin >= 24*time.Hour ||
			o.IPTablesResync < time.Second || o.HealthzPort < 0 || o.HealthzPort > 65535 {
			t.Errorf("accepted %+v, printed %q", o, out.String())
		}
		for _, n := range notes {
			if n.Text == "" || n.Level < slog.LevelWarn {
				t.Errorf("note %+v", n)
			}
		}
	})
}
