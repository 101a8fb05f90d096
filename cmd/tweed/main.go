// tweed is the operator's tool of Tweed. `tweed check` says what flanneld
// would meet on a host, `tweed demo` shows a whole overlay network on one
// machine, `tweed bench` measures one.
//
// Exit status: 0 when all went well, 1 when something failed, 2 for wrong
// usage, 130 when a signal cut it short.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"
)

// The exit statuses.
const (
	exitOK          = 0
	exitFailed      = 1
	exitUsage       = 2
	exitInterrupted = 130
)

// version is set by the linker: -ldflags "-X main.version=v1.2.3".
var version string

const usage = `tweed is the tool beside flanneld, the overlay network daemon.

Usage:
  tweed check [flags] [CONFIGFILE | -]
                          say what flanneld would meet on this host
  tweed demo [flags]      run a whole overlay network on this machine and show it
  tweed bench [flags]     measure how fast one is, in ratio to the kernel's VXLAN
  tweed version           print the version
  tweed help [COMMAND]    print this text, or that of check, demo or bench

Exit status: 0 all went well, 1 something failed, 2 wrong usage,
130 interrupted by a signal.
`

func main() {
	// SIGPIPE: when the reader of our output goes, there is still a lab to
	// remove.
	ctx, stop := signal.NotifyContext(context.Background(),
		syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGPIPE)
	// From the first signal on, the default action is back: a second one kills.
	context.AfterFunc(ctx, stop)
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// run is main without the process around it; it returns the exit status.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	if len(args) == 0 {
		fmt.Fprint(stderr, usage)
		return exitUsage
	}
	switch command, rest := args[0], args[1:]; command {
	case "check":
		return check(ctx, rest, os.Environ(), os.Stdin, stdout, stderr)
	case "demo":
		return demo(ctx, rest, stdout, stderr)
	case "bench":
		return bench(ctx, rest, stdout, stderr)
	case "version", "-version", "--version":
		fmt.Fprintln(stdout, versionText())
	case "help", "-h", "-help", "--help":
		return help(rest, stdout, stderr)
	default:
		fmt.Fprintf(stderr, "tweed: unknown command %q: want check, demo, bench, version or help\n", command)
		return exitUsage
	}
	return exitOK
}

func help(args []string, stdout, stderr io.Writer) int {
	switch topic := strings.Join(args, " "); topic {
	case "":
		fmt.Fprint(stdout, usage)
	case "check":
		fmt.Fprint(stdout, checkUsage)
	case "demo":
		fmt.Fprint(stdout, demoUsage)
	case "bench":
		fmt.Fprint(stdout, benchUsage)
	default:
		fmt.Fprintf(stderr, "tweed help: no text about %q: want check, demo, bench, or nothing\n", topic)
		return exitUsage
	}
	return exitOK
}

func versionText() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "unknown"
}
