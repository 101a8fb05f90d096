package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestEnvFile has the forms of systemd.exec(5).
func TestEnvFile(t *testing.T) {
	for text, want := range map[string]string{
		"":                                     "map[]",
		"A=1\n#B=2\n ; C=3\nD = 4 5 \t\nE=":    "map[A:1 D:4 5 E:]",
		"A=1\r\nB=2\r\n":                       "map[A:1 B:2]",
		"A='a b'\nB=\"c \\\"d\\\" \\x $HOME\"": `map[A:a b B:c "d" \x $HOME]`,
		"A='it''s'":                            "map[A:its]",
		"A=x\"y\"":                             `map[A:x"y"]`,
		"A='a'  b \nB=1":                       "map[A:ab B:1]",
		"A=one \\\ntwo\nB=1":                   "map[A:one two B:1]",
		"A=\"one \\\n two\"\nB=1":              "map[A:one  two B:1]",
		"A='one\ntwo'\nB=1":                    "map[A:one\ntwo B:1]",
		"# a comment \\\nA=1\nB=2":             "map[B:2]",
		"A=\\#1\\\\":                           `map[A:#1\]`,
		"export A=1\nno value\n1A=2\n=x\nB=1":  "map[B:1]",
		"A=1\nA=2":                             "map[A:2]",
		"A=$(touch /x)`y`":                     "map[A:$(touch /x)`y`]",
		"A=\"open":                             "map[A:open]",
		"A=end\\":                              "map[A:end]",
		"A":                                    "map[]",
	} {
		if got := fmt.Sprint(map[string]string(parseEnvFile(text))); got != want {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
	}
}

func TestSplitWords(t *testing.T) {
	for text, want := range map[string][]string{
		"":                            nil,
		" -a  -b=c\t-d\n":             {"-a", "-b=c", "-d"},
		`-iface="eth 0" '' -x='a "b'`: {"-iface=eth 0", "", `-x=a "b`},
		`a\ b \"c "d\"e" f\`:          {"a b", `"c`, `d"e`, `f\`},
		`"open`:                       {"open"},
	} {
		if got := splitWords(text); !slices.Equal(got, want) {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
	}
}

func FuzzEnvFile(f *testing.F) {
	f.Add("FLANNEL_OPTIONS=\"-iface=eth0 \\\n -ip-masq\"\n# x\nA='b'\\")
	f.Fuzz(func(t *testing.T, text string) {
		for name, value := range parseEnvFile(text) {
			if !validName(name) || len(value) > len(text) {
				t.Errorf("%q=%q", name, value)
			}
			splitWords(value)
		}
	})
}

func TestCheckEnvFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "flanneld")
	parse := func(text string, args ...string) (checkOptions, error) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return parseCheck(append([]string{"-env-file", file}, args...), []string{"FLANNELD_ETCD_PREFIX=/environment"})
	}
	// Typed flags win over FLANNEL_OPTIONS, those over variables, and this
	// process' variables do not count.
	o, err := parse("FLANNELD_ETCD_USERNAME=file\nFLANNELD_SUBNET_FILE=file\nFLANNELD_STATE_DIR=file\nFLANNELD_ETCD_PASSWORD='a b'\n"+
		"FLANNEL_OPTIONS='-subnet-file=options -state-dir=options -iface=eth0 -iface=eth1'\n", "-state-dir=typed", "-iface=eth2", "c.json")
	got := fmt.Sprint(o.Etcd.Prefix, o.Etcd.Username, o.Etcd.Password, o.SubnetFile, o.StateDir, o.Iface.Ifaces, o.file, o.askEtcd, o.refused, o.ignored)
	if want := "/coreos.com/networkfilea boptionstyped[eth2]c.jsonfalse [] []"; got != want || err != nil {
		t.Errorf("got %s, %v, want %s", got, err, want)
	}
	for text, want := range map[string]string{
		"FLANNEL_OPTIONS=-vmodule=a":                    "FLANNEL_OPTIONS of " + file + `: invalid value "a" for flag -vmodule`,
		"FLANNEL_OPTIONS=-ip-mask":                      "did you mean -ip-masq?",
		"FLANNEL_OPTIONS=-version":                      "-version",
		"FLANNEL_OPTIONS=-kube-api-url=http://x":        "-kube-api-url is not supported",
		"FLANNEL_OPTIONS=-h":                            "help requested",
		"FLANNELD_HEALTHZ_PORT=70000":                   "-healthz-port 70000",
		"FLANNEL_OPTIONS=-iface eth0 -public-ipv6 fd::": "-public-ipv6",
	} {
		o, err := parse(text)
		if err != nil || len(o.refused) != 1 || !strings.Contains(o.refused[0].Error(), want) {
			t.Errorf("%s: %q, %v, want %s", text, o.refused, err, want)
		}
	}
	o, err = parse("FLANNEL_OPTIONS=-ip-masq s3cr3t -iface=eth0\nFLANNELD_IFAC=x")
	if text := fmt.Sprint(o.ignored); err != nil || len(o.ignored) != 2 || !strings.Contains(text, "behind -ip-masq, 2 word(s)") ||
		!strings.Contains(text, "FLANNELD_IFACE?") || strings.Contains(text, "s3cr3t") || o.Iface.Ifaces != nil {
		t.Errorf("a stray word: %v, %v", text, err)
	}
	if _, err := parseCheck([]string{"-env-file=" + file + "x"}, nil); !errors.As(err, new(usageError)) || !strings.Contains(err.Error(), file+"x") {
		t.Errorf("missing file: %v", err)
	}
}
