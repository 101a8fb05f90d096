package main

import (
	"bytes"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"tweed/cmd/flanneld/flags"
)

func TestNotify(t *testing.T) {
	for name, socket := range map[string]string{
		"path":     filepath.Join(t.TempDir(), "notify"),
		"abstract": "@tweed-test-" + filepath.Base(t.TempDir()) + t.Name() + time.Now().Format(time.StampNano),
	} {
		t.Run(name, func(t *testing.T) {
			conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			conn.SetReadDeadline(time.Now().Add(5 * time.Second))
			t.Setenv("NOTIFY_SOCKET", socket)
			var out bytes.Buffer
			log := slog.New(newGlogHandler(&out, flags.LogOptions{}))
			for want, notify := range map[string]func(*slog.Logger){"READY=1": notifyReady, "STOPPING=1\nSTATUS=stopping": notifyStopping} {
				notify(log)
				b := make([]byte, 100)
				n, err := conn.Read(b)
				if err != nil || string(b[:n]) != want {
					t.Errorf("got %q (%v), want %q", b[:n], err, want)
				}
			}
			if out.Len() > 0 {
				t.Errorf("logged %q", out.String())
			}
		})
	}
}

func TestNotifyFailureIsOnlyLogged(t *testing.T) {
	for socket, want := range map[string]string{
		"":                                   "",
		filepath.Join(t.TempDir(), "nobody"): "no such file",
		"@tweed-test-nobody":                 "connection refused",
		"/" + strings.Repeat("x", 200):       "invalid argument",
		"/dev/null":                          "connection refused",
	} {
		t.Setenv("NOTIFY_SOCKET", socket)
		var out bytes.Buffer
		notifyReady(slog.New(newGlogHandler(&out, flags.LogOptions{})))
		if !strings.Contains(out.String(), want) || (want == "") != (out.Len() == 0) {
			t.Errorf("%q: logged %q, want %q", socket, out.String(), want)
		}
	}
}

// TestNotifyNobodyReads fills the queue of a socket that nobody reads from.
func TestNotifyNobodyReads(t *testing.T) {
	socket := listenNotify(t)
	var out bytes.Buffer
	log := slog.New(newGlogHandler(&out, flags.LogOptions{}))
	for range 10_000 { // net.unix.max_dgram_qlen is 10 to 512
		notifyReady(log)
		if out.Len() > 0 {
			break
		}
	}
	if !strings.Contains(out.String(), "i/o timeout") {
		t.Errorf("logged %q, want a timeout", out.String())
	}
	socket.SetReadDeadline(time.Now().Add(5 * time.Second))
	if _, err := socket.Read(make([]byte, 100)); err != nil {
		t.Error(err)
	}
}

// listenNotify makes the socket that NOTIFY_SOCKET names.
func listenNotify(t *testing.T) *net.UnixConn {
	t.Helper()
	path := filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	t.Setenv("NOTIFY_SOCKET", path)
	return conn
}

// told returns the next message, or "" if none has come yet.
func told(t *testing.T, conn *net.UnixConn) string {
	t.Helper()
	b := make([]byte, 4096)
	conn.SetReadDeadline(time.Now().Add(20 * time.Millisecond)) // it is there already: notify is synchronous
	n, err := conn.Read(b)
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatal(err)
	}
	return string(b[:n])
}
