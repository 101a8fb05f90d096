package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"tweed/backend"
	"tweed/subnet/etcdv2"
)

// checkOptions is what the flags of `tweed check` and the variables FLANNELD_*
// say.
type checkOptions struct {
	file    string // of the network config; "-" is standard input, "" is etcd
	json    bool
	timeout time.Duration

	// Of flanneld.
	etcd         etcdv2.Options
	askEtcd      bool // without file, or if endpoints were given
	iface        backend.Selector
	subnetFile   string
	stateDir     string
	forwardRules bool
	healthzIP    string
	healthzPort  int

	refused []string // what flanneld would end with status 1 for
	ignored []string // what flanneld would ignore
}

// A stringList is the flag.Value of a flag that may be repeated.
type stringList []string

func (l *stringList) String() string     { return strings.Join(*l, ",") }
func (l *stringList) Set(s string) error { *l = append(*l, s); return nil }

// number parses as flanneld's whole numbers do.
type number int

func (n *number) String() string { return strconv.Itoa(int(*n)) }

func (n *number) Set(s string) error {
	v, err := strconv.ParseInt(s, 0, strconv.IntSize)
	if err != nil {
		return errors.New("want a whole number")
	}
	*n = number(v)
	return nil
}

// flanneldFlags has the values that need a look before they are options.
type flanneldFlags struct {
	checkOptions
	endpoints  string
	publicIPv6 string
	kube       bool
	margin     number
	resync     number
	port       number
}

// define adds all flags of flanneld, with its defaults. A test compares them
// with those of the program.
func (f *flanneldFlags) define(fs *flag.FlagSet) {
	fs.StringVar(&f.endpoints, "etcd-endpoints", "http://127.0.0.1:4001,http://127.0.0.1:2379", "")
	fs.StringVar(&f.etcd.Prefix, "etcd-prefix", "/coreos.com/network", "")
	fs.StringVar(&f.etcd.CAFile, "etcd-cafile", "", "")
	fs.StringVar(&f.etcd.CertFile, "etcd-certfile", "", "")
	fs.StringVar(&f.etcd.KeyFile, "etcd-keyfile", "", "")
	fs.StringVar(&f.etcd.Username, "etcd-username", "", "")
	fs.StringVar(&f.etcd.Password, "etcd-password", "", "")
	fs.Var((*stringList)(&f.iface.Ifaces), "iface", "")
	fs.Var((*stringList)(&f.iface.Regexes), "iface-regex", "")
	fs.StringVar(&f.iface.CanReach, "iface-can-reach", "", "")
	fs.StringVar(&f.iface.PublicIP, "public-ip", "", "")
	fs.StringVar(&f.publicIPv6, "public-ipv6", "", "")
	fs.StringVar(&f.subnetFile, "subnet-file", "/run/flannel/subnet.env", "")
	fs.StringVar(&f.stateDir, "state-dir", "/var/lib/flanneld", "")
	fs.BoolVar(&f.forwardRules, "iptables-forward-rules", true, "")
	fs.StringVar(&f.healthzIP, "healthz-ip", "0.0.0.0", "")
	fs.Var(&f.port, "healthz-port", "")
	f.margin, f.resync = 60, 5
	fs.Var(&f.margin, "subnet-lease-renew-margin", "")
	fs.Var(&f.resync, "iptables-resync", "")
	fs.BoolVar(&f.kube, "kube-subnet-mgr", false, "")

	for _, name := range []string{"ip-blackhole-route", "ip-masq", "ip-masq-fully-random-disable", "set-node-network-unavailable", "version"} {
		fs.Bool(name, false, "")
	}
	for _, name := range []string{"kube-annotation-prefix", "kube-api-url", "kubeconfig-file", "net-config-path", "log_backtrace_at", "vmodule"} {
		fs.String(name, "", "")
	}
	fs.Var(new(number), "v", "")
}

// parseCheck returns flag.ErrHelp, or an error that names the flag, its value
// and what is valid. Of words that are not flags it tells nothing: one may be
// the rest of a password.
func parseCheck(args, environ []string) (checkOptions, error) {
	var f flanneldFlags
	var format string
	fs := flag.NewFlagSet("check", flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	f.define(fs)
	fs.StringVar(&format, "o", "text", "")
	fs.DurationVar(&f.timeout, "timeout", 10*time.Second, "")

	words, last, err := parseAnywhere(fs, args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return checkOptions{}, err
	case err != nil:
		return checkOptions{}, usageError{explainFlag(fs, err)}
	case len(words) > 1:
		return checkOptions{}, usageError{fmt.Errorf("%d words are not flags, the first of them behind %s: want one CONFIGFILE or -, and switches as -flag=true", len(words), last)}
	case len(words) == 1 && (last == "-etcd-password" || boolText(words[0])):
		return checkOptions{}, usageError{fmt.Errorf("the word behind %s and its value is not a flag, and flanneld would ignore whatever follows: want switches as -flag=true, and blanks in quotes", last)}
	case format != "text" && format != "json":
		return checkOptions{}, usageError{fmt.Errorf("-o %q: want text or json", format)}
	case f.timeout < 100*time.Millisecond || f.timeout > 10*time.Minute:
		return checkOptions{}, usageError{fmt.Errorf("-timeout %s: want 100ms to 10m", f.timeout)}
	}
	f.json = format == "json"
	if len(words) == 1 {
		f.file = words[0]
	}
	f.ignored = flagsFromEnv(fs, environ)
	f.settle(fs)
	return f.checkOptions, nil
}

// boolText reports whether word looks like the value of a switch, as in
// "-ip-masq true", rather than a file.
func boolText(word string) bool {
	_, err := strconv.ParseBool(word)
	return err == nil && len(word) > 1
}

// parseAnywhere reads flags also behind words that are none. last is the flag
// before the first such word.
func parseAnywhere(fs *flag.FlagSet, args []string) (words []string, last string, err error) {
	last = "the command"
	for {
		if err := fs.Parse(args); err != nil {
			return nil, "", err
		}
		rest := fs.Args()
		if len(words) == 0 {
			for _, word := range args[:len(args)-len(rest)] {
				name, _, _ := strings.Cut(strings.TrimLeft(word, "-"), "=")
				if strings.HasPrefix(word, "-") && fs.Lookup(name) != nil {
					last = "-" + name
				}
			}
		}
		if len(rest) == 0 {
			return words, last, nil
		}
		words, args = append(words, rest[0]), rest[1:]
	}
}

// settle turns values into options, and says what flanneld would refuse.
func (f *flanneldFlags) settle(fs *flag.FlagSet) {
	given := make(map[string]bool)
	fs.Visit(func(fl *flag.Flag) { given[fl.Name] = true })
	f.askEtcd = f.file == "" || given["etcd-endpoints"]
	f.healthzPort = int(f.port)
	for endpoint := range strings.SplitSeq(f.endpoints, ",") {
		if endpoint != "" {
			f.etcd.Endpoints = append(f.etcd.Endpoints, endpoint)
		}
	}
	if f.kube {
		f.refused = append(f.refused, "-kube-subnet-mgr is not supported yet: want etcd, by -etcd-endpoints")
	}
	if f.publicIPv6 != "" {
		f.refused = append(f.refused, fmt.Sprintf("-public-ipv6 %q is not supported yet: only IPv4 networks are", f.publicIPv6))
	}
	for _, n := range []struct {
		flag              string
		value             number
		smallest, largest number
	}{
		{"-subnet-lease-renew-margin", f.margin, 1, 1439},
		{"-iptables-resync", f.resync, 1, 1<<31 - 1},
		{"-healthz-port", f.port, -1 << 31, 65535}, // below 1 it is off
	} {
		if n.value < n.smallest || n.value > n.largest {
			f.refused = append(f.refused, fmt.Sprintf("%s %d: want %d to %d", n.flag, n.value, max(n.smallest, 0), n.largest))
		}
	}
}

// checkFlags tells what flanneld would make of flags and variables.
func (c *checker) checkFlags() {
	for _, text := range c.opts.refused {
		c.add(finding{Name: checkFlags, Result: verdictFailure, Found: text, Advice: "flanneld would not start: change or remove it"})
	}
	for _, text := range c.opts.ignored {
		c.add(finding{Name: checkFlags, Result: verdictWarning, Found: text, Advice: "correct or remove it: flanneld goes on without"})
	}
}

const envPrefix = "FLANNELD_"

// flagsFromEnv sets the flags that the command line did not give from their
// variables, as flanneld does, and says what it ignores. Values of unknown
// variables are not told: one may be a password.
func flagsFromEnv(fs *flag.FlagSet, environ []string) (ignored []string) {
	vars := make(map[string]string)
	for _, kv := range environ {
		name, value, _ := strings.Cut(kv, "=")
		if _, twice := vars[name]; strings.HasPrefix(name, envPrefix) && !twice {
			vars[name] = value
		}
	}
	given := map[string]bool{"version": true, "o": true, "timeout": true}
	fs.Visit(func(f *flag.Flag) { given[f.Name] = true })
	var known []string
	fs.VisitAll(func(f *flag.Flag) {
		if f.Name == "o" || f.Name == "timeout" {
			return
		}
		name := envPrefix + strings.ToUpper(strings.ReplaceAll(f.Name, "-", "_"))
		known = append(known, name)
		value := vars[name]
		delete(vars, name)
		if value == "" || given[f.Name] {
			return
		}
		if err := fs.Set(f.Name, value); err != nil {
			ignored = append(ignored, fmt.Sprintf("%s=%q cannot be read", name, value))
		}
	})
	for _, name := range slices.Sorted(maps.Keys(vars)) {
		text := "there is no variable " + name
		if near := closest(name, known); near != "" {
			text += ", did you mean " + near + "?"
		}
		ignored = append(ignored, text)
	}
	return ignored
}

// explainFlag adds a guess to the error of an unknown flag.
func explainFlag(fs *flag.FlagSet, err error) error {
	name, ok := strings.CutPrefix(err.Error(), "flag provided but not defined: -")
	if !ok {
		return err
	}
	var names []string
	fs.VisitAll(func(f *flag.Flag) { names = append(names, f.Name) })
	if near := closest(name, names); near != "" {
		return fmt.Errorf("%w (did you mean -%s?)", err, near)
	}
	return err
}
