// Package flags is the command line and the environment of flanneld: what there
// is, what it means, and what is refused. It is a package of its own because
// `tweed check` must read both exactly as the daemon does.
package flags

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"time"

	"tweed/backend"
	"tweed/subnet/etcdv2"
)

// Options is what flags and environment say, checked.
type Options struct {
	Etcd           etcdv2.Options
	Iface          backend.Selector
	SubnetFile     string
	StateDir       string
	RenewMargin    time.Duration // before its end a lease is renewed
	IPMasq         bool
	ForwardRules   bool
	BlackholeRoute bool
	IPTablesResync time.Duration
	HealthzIP      string // or host name; empty for all addresses
	HealthzPort    int    // 0 switches the health checks off
	Log            LogOptions

	ExitOnConfigChange bool // see subnet.Manager
}

// A Note is something that was noticed and does not keep flanneld from
// starting, to be logged once there is a log.
type Note struct {
	Level slog.Level // slog.LevelWarn or slog.LevelError
	Text  string
}

// ErrTold is the error of Parse after -version, -h, and a command line that
// cannot be parsed: all that there is to say has been said, and the exit status
// is 0, as with flannel.
var ErrTold = errors.New("told on stderr")

// Parse reads the command line and the FLANNELD_* variables. args[0] is the
// program's name, and version what -version tells.
//
// As in flannel, parsing stops silently at the first word that is not a flag. A
// value that parses but is no use is an error, which names the flag, the value
// and what is valid; notes, and Options.Log to log them by, are there all the
// same.
func Parse(args, environ []string, version string, stderr io.Writer) (Options, []Note, error) {
	s := New(args[0])
	notes, err := s.ParseWords(args)
	if err != nil {
		s.usage(stderr)
		if !errors.Is(err, flag.ErrHelp) {
			// Last, where it can be seen below so long a text.
			fmt.Fprintf(stderr, "\n%s: %v\n", args[0], err)
		}
		return Options{}, nil, ErrTold
	}
	if s.raw.version {
		fmt.Fprintln(stderr, version)
		return Options{}, nil, ErrTold
	}
	notes = append(notes, s.ApplyEnv(environ)...)
	opts, more, err := s.Options()
	return opts, append(notes, more...), err
}
