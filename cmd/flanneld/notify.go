package main

import (
	"log/slog"
	"net"
	"os"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
)

// notifyReady and notifyStopping tell the service manager by the socket in
// NOTIFY_SOCKET, a path or an abstract name with "@" in front; without the
// variable they do nothing. See sd_notify(3). A failure never stops the daemon,
// but a unit of Type=notify will run into its start timeout. EXTEND_TIMEOUT_USEC
// is not sent while etcd is waited for: how long a start may take is for the
// unit to say.
func notifyReady(log *slog.Logger) { notify(log, daemon.SdNotifyReady) }

func notifyStopping(log *slog.Logger) { notify(log, daemon.SdNotifyStopping+"\nSTATUS=stopping") }

// notifyTime bounds the wait for a service manager that does not read.
const notifyTime = time.Second

func notify(log *slog.Logger, state string) {
	socket := os.Getenv("NOTIFY_SOCKET")
	if socket == "" {
		return
	}
	// daemon.SdNotify would wait for ever where nobody reads.
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err == nil {
		conn.SetWriteDeadline(time.Now().Add(notifyTime))
		_, err = conn.Write([]byte(state))
		conn.Close()
	}
	if err != nil {
		log.Warn("Couldn't notify systemd (NOTIFY_SOCKET)", "state", state, "err", err)
	}
}
