package flags

import (
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"math"
	"strings"
	"time"
)

// raw holds the flags whose values need a check or a change of form before
// they are options.
type raw struct {
	Options
	endpoints     string
	marginMinutes int
	resyncSeconds int
	publicIPv6    string
	version       bool
}

// Options turns the values into options. The error is what flanneld refuses,
// and names the flag, its value and what is valid; the options are there all the
// same, as far as they make sense.
func (s *Set) Options() (Options, []Note, error) {
	o := s.raw.Options
	o.Etcd.Endpoints = nil
	for endpoint := range strings.SplitSeq(s.raw.endpoints, ",") {
		if endpoint != "" {
			o.Etcd.Endpoints = append(o.Etcd.Endpoints, endpoint)
		}
	}
	o.RenewMargin = time.Duration(s.raw.marginMinutes) * time.Minute
	o.IPTablesResync = time.Duration(s.raw.resyncSeconds) * time.Second
	o.HealthzPort = max(o.HealthzPort, 0)
	notes, err := s.check()
	return o, notes, err
}

// check returns the first thing that is refused, and what was noticed before
// it.
func (s *Set) check() ([]Note, error) {
	var notes []Note
	warn := func(format string, a ...any) {
		notes = append(notes, Note{slog.LevelWarn, fmt.Sprintf(format, a...)})
	}
	r := &s.raw

	var kube []string
	s.Visit(func(f *flag.Flag) {
		isKube := strings.HasPrefix(f.Name, "kube") || f.Name == "net-config-path" || f.Name == "set-node-network-unavailable"
		if isKube && f.Value.String() != f.DefValue {
			kube = append(kube, "-"+f.Name)
		}
	})
	if len(kube) > 0 {
		return notes, fmt.Errorf("%s is not supported yet: want etcd, by -etcd-endpoints", strings.Join(kube, " with "))
	}
	if r.publicIPv6 != "" {
		return notes, fmt.Errorf("-public-ipv6 %q is not supported yet: only IPv4 networks are", r.publicIPv6)
	}

	given := 0
	for endpoint := range strings.SplitSeq(r.endpoints, ",") {
		if endpoint == "" {
			warn("-etcd-endpoints has an empty element") // its other elements may hold a password
			continue
		}
		given++
	}
	if given == 0 {
		return notes, errors.New("-etcd-endpoints is empty: want URLs such as http://192.0.2.10:2379, separated by commas")
	}
	if (r.Etcd.CertFile == "") != (r.Etcd.KeyFile == "") {
		return notes, fmt.Errorf("-etcd-certfile %q and -etcd-keyfile %q: want both or neither", r.Etcd.CertFile, r.Etcd.KeyFile)
	}

	if r.marginMinutes < 1 || r.marginMinutes > 1439 {
		return notes, fmt.Errorf("-subnet-lease-renew-margin %d: want 1 to 1439 minutes, which is less than a lease's 24 hours", r.marginMinutes)
	}
	if r.resyncSeconds < 1 || r.resyncSeconds > math.MaxInt32 {
		return notes, fmt.Errorf("-iptables-resync %d: want 1 second or more", r.resyncSeconds)
	}
	if r.HealthzPort > math.MaxUint16 {
		return notes, fmt.Errorf("-healthz-port %d: want a port from 1 to 65535, or 0 for no health checks", r.HealthzPort)
	}
	if r.HealthzPort < 0 {
		warn("-healthz-port %d switches the health checks off: want 0 for that", r.HealthzPort)
	}
	return notes, nil
}
