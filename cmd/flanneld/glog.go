package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode"

	"tweed/cmd/flanneld/flags"
)

// A glogHandler writes each record as one line in the form of glog, which
// flannel's users know how to read and to search:
//
//	W1123 05:31:20.012345   12345 run.go:88] text key=value key="another value"
//
// that is the level's letter, month and day, local time, process id, the place
// in the source, the message and the attributes. Records below slog.LevelInfo
// carry the letter I and are written only as far as -v and -vmodule allow:
// slog.LevelDebug needs 1, and every four levels below it one more. Lines of
// slog.LevelWarn and above pass through a floodGate.
type glogHandler struct {
	out    *glogOutput
	attrs  string // rendered, each with a leading blank
	prefix string // of the open groups: "a.b."
}

// glogOutput is what all handlers derived from one share.
type glogOutput struct {
	flags.LogOptions
	pid int

	mu   sync.Mutex // guards what follows, and keeps lines whole
	w    io.Writer
	gate floodGate
}

// maxText is how much of a line is written, in bytes: it may quote what someone
// has put into etcd.
const maxText = 4096

func newGlogHandler(w io.Writer, o flags.LogOptions) slog.Handler {
	return &glogHandler{out: &glogOutput{LogOptions: o, pid: os.Getpid(), w: w}}
}

// Enabled cannot know the file yet, so it lets pass what any file may log.
func (h *glogHandler) Enabled(_ context.Context, l slog.Level) bool {
	return verbosityOf(l) <= h.out.MostVerbose()
}

func (h *glogHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	d := *h
	d.attrs = string(appendAttrs([]byte(h.attrs), h.prefix, attrs))
	return &d
}

func (h *glogHandler) WithGroup(name string) slog.Handler {
	d := *h
	if name != "" {
		d.prefix += name + "."
	}
	return &d
}

func (h *glogHandler) Handle(_ context.Context, r slog.Record) error {
	file, line := source(r.PC)
	if verbosityOf(r.Level) > h.out.VerbosityFor(file) {
		return nil
	}
	now := r.Time
	if now.IsZero() {
		now = time.Now()
	}
	// Attributes are rendered before the lock is taken: a LogValuer may log.
	text := append([]byte(printable(r.Message)), h.attrs...)
	r.Attrs(func(a slog.Attr) bool {
		text = appendAttrs(text, h.prefix, []slog.Attr{a})
		return true
	})
	if len(text) > maxText {
		text = append(bytes.ToValidUTF8(text[:maxText], nil), "..."...)
	}
	header := fmt.Sprintf("%c%s %7d %s:%d] ", letter(r.Level), now.Format("0102 15:04:05.000000"), h.out.pid, file, line)

	h.out.mu.Lock()
	defer h.out.mu.Unlock()
	if r.Level >= slog.LevelWarn {
		again, ok := h.out.gate.admit(fmt.Sprintf("%s:%d", file, line), string(letter(r.Level))+string(text), now)
		if !ok {
			return nil
		}
		text = append(text, again...)
	}
	b := append(append([]byte(header), text...), '\n')
	if h.out.TraceAt.Matches(file, line) {
		b = append(b, debug.Stack()...)
	}
	_, err := h.out.w.Write(b)
	return err
}

// verbosityOf returns the least -v at which a record is written.
func verbosityOf(l slog.Level) int {
	if l >= slog.LevelInfo {
		return 0
	}
	return (int(slog.LevelInfo-l) + 3) / 4
}

func letter(l slog.Level) byte {
	switch {
	case l < slog.LevelWarn:
		return 'I'
	case l < slog.LevelError:
		return 'W'
	default:
		return 'E'
	}
}

// source returns the file's base name, and what glog has where it is unknown.
func source(pc uintptr) (file string, line int) {
	if pc == 0 {
		return "???", 1
	}
	f, _ := runtime.CallersFrames([]uintptr{pc}).Next()
	return filepath.Base(f.File), f.Line
}

func appendAttrs(b []byte, prefix string, attrs []slog.Attr) []byte {
	for _, a := range attrs {
		v := a.Value.Resolve()
		switch {
		case a.Equal(slog.Attr{}):
			// slog.Handler demands that an empty attribute is ignored.
		case v.Kind() == slog.KindGroup && a.Key == "":
			b = appendAttrs(b, prefix, v.Group())
		case v.Kind() == slog.KindGroup:
			b = appendAttrs(b, prefix+a.Key+".", v.Group())
		default:
			b = append(b, ' ')
			b = append(b, quoted(prefix+a.Key)...)
			b = append(b, '=')
			b = append(b, quoted(valueText(v))...)
		}
	}
	return b
}

func valueText(v slog.Value) string {
	switch v.Kind() {
	case slog.KindTime:
		return v.Time().Format(time.RFC3339Nano)
	case slog.KindAny:
		if raw, ok := v.Any().([]byte); ok {
			return string(raw)
		}
	}
	return v.String()
}

// quoted leaves alone what can be told apart without quotes.
func quoted(s string) string {
	special := func(r rune) bool {
		return r == '"' || r == '=' || r == unicode.ReplacementChar || unicode.IsSpace(r) || !unicode.IsPrint(r)
	}
	if s == "" || strings.ContainsFunc(s, special) {
		return strconv.Quote(s)
	}
	return s
}

// printable keeps a message on one line and free of terminal escapes.
func printable(s string) string {
	if strings.ContainsFunc(s, func(r rune) bool { return r == unicode.ReplacementChar || !unicode.IsPrint(r) }) {
		q := strconv.Quote(s)
		return q[1 : len(q)-1]
	}
	return s
}
