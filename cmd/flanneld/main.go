// flanneld leases this node a subnet of the overlay network and carries the
// packets of its containers to the other nodes. It is a drop-in for the
// flanneld of flannel v0.10.0.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// graceful bounds the time from SIGINT or SIGTERM to the exit.
const graceful = 5 * time.Second

func main() { os.Exit(run()) }

// run returns the exit status: 0 after a signal, and for usage errors because
// flannel's is 0 then; 1 for what keeps the daemon from working.
func run() int {
	opts, notes, exit := parse(os.Args, os.Environ(), os.Stderr)
	if exit != nil {
		return exit.code
	}
	log := slog.New(newGlogHandler(os.Stderr, opts.logging))
	for _, n := range notes {
		log.Log(context.Background(), n.level, n.text)
	}

	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	// From the first signal on, the default action is back: a second one kills.
	context.AfterFunc(ctx, stop)

	done := make(chan error, 1)
	go func() { done <- newNode(opts, log).run(ctx) }()
	select {
	case err := <-done:
		return status(ctx, err, log)
	case <-ctx.Done():
	}
	notifyStopping(log)
	log.Info("Waiting for all goroutines to exit")
	select {
	case err := <-done:
		return status(ctx, err, log)
	case <-time.After(graceful):
		log.Error(fmt.Sprintf("still busy %s after the signal, exiting anyway", graceful))
		return 1
	}
}

func status(ctx context.Context, err error, log *slog.Logger) int {
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
