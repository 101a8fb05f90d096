package main

import (
	"log/slog"

	"github.com/coreos/go-systemd/v22/daemon"
)

// notifyReady and notifyStopping tell the service manager by the socket in
// NOTIFY_SOCKET, a path or an abstract name with "@" in front; without the
// variable they do nothing. See sd_notify(3). A failure never stops the daemon,
// but a unit of Type=notify will run into its start timeout.
func notifyReady(log *slog.Logger) { notify(log, daemon.SdNotifyReady) }

func notifyStopping(log *slog.Logger) { notify(log, daemon.SdNotifyStopping) }

func notify(log *slog.Logger, state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		log.Warn("Couldn't notify systemd (NOTIFY_SOCKET)", "state", state, "err", err)
	}
}
