package main

import (
	"bytes"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"
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
			log := slog.New(newGlogHandler(&out, logOptions{}))
			for want, notify := range map[string]func(*slog.Logger){"READY=1": notifyReady, "STOPPING=1": notifyStopping} {
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
		notifyReady(slog.New(newGlogHandler(&out, logOptions{})))
		if !strings.Contains(out.String(), want) || (want == "") != (out.Len() == 0) {
			t.Errorf("%q: logged %q, want %q", socket, out.String(), want)
		}
	}
}
