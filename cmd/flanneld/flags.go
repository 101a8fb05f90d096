package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"tweed/backend"
	"tweed/subnet/etcdv2"
)

// options is what flags and environment say, checked.
type options struct {
	etcd           etcdv2.Options
	iface          backend.Selector
	subnetFile     string
	stateDir       string
	renewMargin    time.Duration // before its end a lease is renewed
	ipMasq         bool
	forwardRules   bool
	blackholeRoute bool
	iptablesResync time.Duration
	healthzIP      string // or host name; empty for all addresses
	healthzPort    int    // 0 switches the health checks off
	logging        logOptions
}

// A note is something that parse noticed, to be logged once there is a log.
type note struct {
	level slog.Level
	text  string
}

// An exitStatus ends the process; all that there is to say has been said.
type exitStatus struct{ code int }

// parse reads the command line and the FLANNELD_* variables. args[0] is the
// program's name.
//
// As in flannel, parsing stops silently at the first word that is not a flag,
// and -version, -h and whatever cannot be parsed exit with status 0; a value
// that parses but is no use exits with 1. Where exit is not nil, what was wrong
// has been written to stderr.
func parse(args, environ []string, stderr io.Writer) (opts options, notes []note, exit *exitStatus) {
	r := raw{}
	fs := r.flagSet(args[0])
	if err := fs.Parse(args[1:]); err != nil {
		usage(fs, stderr)
		if !errors.Is(err, flag.ErrHelp) {
			// Last, where it can be seen below so long a text.
			fmt.Fprintf(stderr, "\n%s: %s\n", args[0], explain(fs, err))
		}
		return options{}, nil, &exitStatus{0}
	}
	if r.version {
		fmt.Fprintln(stderr, versionText())
		return options{}, nil, &exitStatus{0}
	}
	if rest := fs.Args(); len(rest) > 0 {
		notes = append(notes, note{slog.LevelWarn, fmt.Sprintf("ignoring the rest of the command line behind %s, %d word(s), because the first of them is not a flag (write -flag=true, not -flag true)",
			lastFlag(fs, args[:len(args)-len(rest)]), len(rest))})
	}
	notes = append(notes, applyEnv(fs, environ)...)

	opts, more, err := r.check(fs)
	notes = append(notes, more...)
	if err != nil {
		log := slog.New(newGlogHandler(stderr, r.logging))
		for _, n := range notes {
			log.Log(context.Background(), n.level, n.text)
		}
		log.Error(err.Error())
		return options{}, nil, &exitStatus{1}
	}
	return opts, notes, nil
}

// lastFlag returns the last word of parsed that is one of our flags, without
// its value. Neither values nor stray words are ever told, as one may be a
// password or, behind a blank, the rest of it.
func lastFlag(fs *flag.FlagSet, parsed []string) string {
	for _, word := range slices.Backward(parsed[1:]) {
		name, _, _ := strings.Cut(strings.TrimLeft(word, "-"), "=")
		if strings.HasPrefix(word, "-") && fs.Lookup(name) != nil {
			return "-" + name
		}
	}
	return parsed[0]
}

// raw holds the flags whose values need a check or a change of form before
// they are options.
type raw struct {
	options
	endpoints     string
	marginMinutes int
	resyncSeconds int
	publicIPv6    string
	version       bool
}

// check turns raw values into options.
func (r *raw) check(fs *flag.FlagSet) (options, []note, error) {
	var notes []note
	warn := func(format string, a ...any) {
		notes = append(notes, note{slog.LevelWarn, fmt.Sprintf(format, a...)})
	}
	o := r.options

	var kube []string
	fs.Visit(func(f *flag.Flag) {
		isKube := strings.HasPrefix(f.Name, "kube") || f.Name == "net-config-path" || f.Name == "set-node-network-unavailable"
		if isKube && f.Value.String() != f.DefValue {
			kube = append(kube, "-"+f.Name)
		}
	})
	if len(kube) > 0 {
		return o, notes, fmt.Errorf("%s is not supported yet: want etcd, by -etcd-endpoints", strings.Join(kube, " with "))
	}
	if r.publicIPv6 != "" {
		return o, notes, fmt.Errorf("-public-ipv6 %q is not supported yet: only IPv4 networks are", r.publicIPv6)
	}

	for endpoint := range strings.SplitSeq(r.endpoints, ",") {
		if endpoint == "" {
			warn("-etcd-endpoints has an empty element") // its other elements may hold a password
			continue
		}
		o.etcd.Endpoints = append(o.etcd.Endpoints, endpoint)
	}
	if len(o.etcd.Endpoints) == 0 {
		return o, notes, errors.New("-etcd-endpoints is empty: want URLs such as http://192.0.2.10:2379, separated by commas")
	}
	if (o.etcd.CertFile == "") != (o.etcd.KeyFile == "") {
		return o, notes, fmt.Errorf("-etcd-certfile %q and -etcd-keyfile %q: want both or neither", o.etcd.CertFile, o.etcd.KeyFile)
	}

	if r.marginMinutes < 1 || r.marginMinutes > 1439 {
		return o, notes, fmt.Errorf("-subnet-lease-renew-margin %d: want 1 to 1439 minutes, which is less than a lease's 24 hours", r.marginMinutes)
	}
	o.renewMargin = time.Duration(r.marginMinutes) * time.Minute
	if r.resyncSeconds < 1 || r.resyncSeconds > math.MaxInt32 {
		return o, notes, fmt.Errorf("-iptables-resync %d: want 1 second or more", r.resyncSeconds)
	}
	o.iptablesResync = time.Duration(r.resyncSeconds) * time.Second

	if o.healthzPort > math.MaxUint16 {
		return o, notes, fmt.Errorf("-healthz-port %d: want a port from 1 to 65535, or 0 for no health checks", o.healthzPort)
	}
	if o.healthzPort < 0 {
		warn("-healthz-port %d switches the health checks off: want 0 for that", o.healthzPort)
		o.healthzPort = 0
	}
	return o, notes, nil
}

// list is the flag.Value of a flag that may be repeated.
type list []string

func (l *list) String() string     { return strings.Join(*l, ",") }
func (l *list) Set(s string) error { *l = append(*l, s); return nil }

// number and boolean parse as the flag package does, with errors that say what
// is valid.
type (
	number  int
	boolean bool
)

func (n *number) String() string { return strconv.Itoa(int(*n)) }

func (n *number) Set(s string) error {
	v, err := strconv.ParseInt(s, 0, strconv.IntSize)
	if err != nil {
		return errors.New("want a whole number")
	}
	*n = number(v)
	return nil
}

func (b *boolean) String() string   { return strconv.FormatBool(bool(*b)) }
func (b *boolean) IsBoolFlag() bool { return true }

func (b *boolean) Set(s string) error {
	v, err := strconv.ParseBool(s)
	if err != nil {
		return errors.New("want true or false")
	}
	*b = boolean(v)
	return nil
}
