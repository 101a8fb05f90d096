// flanneld leases this node a subnet of the overlay network and carries the
// packets of its containers to the other nodes. It is a drop-in for the
// flanneld of flannel v0.10.0.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"
	"time"

	"tweed/cmd/flanneld/flags"
)

// graceful bounds the time from SIGINT or SIGTERM to the exit.
const graceful = 5 * time.Second

// version is set by the linker: -ldflags "-X main.version=v1.2.3".
var version string

func main() { os.Exit(run()) }

// run returns the exit status: 0 after a signal, and for usage errors because
// flannel's is 0 then; 1 for what keeps the daemon from working.
func run() int {
	// Signals that come faster than they are answered become one, as in the
	// kernel.
	dump := make(chan os.Signal, 1)
	signal.Notify(dump, syscall.SIGUSR1)
	defer signal.Stop(dump)
	opts, log, err := configure(os.Args, os.Environ(), os.Stderr)
	switch {
	case errors.Is(err, flags.ErrTold):
		return 0
	case err != nil:
		return 1
	}
	if err := checkDescriptors(); err != nil {
		log.Error(err.Error())
		return 1
	}

	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	// From the first signal on, the default action is back: a second one kills.
	context.AfterFunc(ctx, stop)

	n := newNode(opts, log)
	done := make(chan error, 1)
	go func() { done <- n.run(ctx) }()
	dog := newWatchdog(n.alive, log)
	defer dog.stop()
	status := statusTeller{log: log}
	look := time.NewTicker(statusEvery)
	defer look.Stop()
	stopping := ctx.Done()
	var late <-chan time.Time
	for {
		select {
		case err := <-done:
			return exitCode(ctx, err, log)
		case <-dump:
			n.dump()
		case <-dog.C:
			dog.ping()
		case <-look.C:
			s := n.snapshot()
			status.tell(&s, dog.stuck)
		case <-stopping:
			notifyStopping(log)
			log.Info("Waiting for all goroutines to exit")
			look.Stop()
			stopping, late = nil, time.After(graceful)
		case <-late:
			log.Error(fmt.Sprintf("still busy %s after the signal, exiting anyway", graceful))
			return 1
		}
	}
}

// configure reads the command line and the environment, and opens the log. What
// was wrong has been told on stderr.
func configure(args, environ []string, stderr io.Writer) (flags.Options, *slog.Logger, error) {
	opts, notes, err := flags.Parse(args, environ, versionText(), stderr)
	log := slog.New(newGlogHandler(stderr, opts.Log))
	for _, n := range notes {
		log.Log(context.Background(), n.Level, n.Text)
	}
	if err != nil && !errors.Is(err, flags.ErrTold) {
		log.Error(err.Error())
	}
	return opts, log, err
}

func exitCode(ctx context.Context, err error, log *slog.Logger) int {
	if err != nil && ctx.Err() == nil {
		log.Error(err.Error())
		return 1
	}
	if err != nil && !errors.Is(err, context.Canceled) {
		log.Warn("while shutting down", "err", err)
	}
	log.Info("Exiting cleanly...")
	return 0
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
