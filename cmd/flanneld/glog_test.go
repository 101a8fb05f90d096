package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/slogtest"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"tweed/cmd/flanneld/flags"
)

var glogLine = regexp.MustCompile(`^([IWE])(\d{4} \d\d:\d\d:\d\d\.\d{6}) ([ \d]{7}) ([^ :]+):(\d+)\] (.*)$`)

func TestHeader(t *testing.T) {
	at := time.Date(2018, 1, 23, 4, 5, 6, 7000, time.Local)
	for _, tt := range []struct {
		level slog.Level
		want  string
	}{
		{slog.LevelInfo, "I0123 04:05:06.000007 %7d ???:1] Lease renewed, new expiration: never\n"},
		{slog.LevelInfo + 1, "I0123"}, {slog.LevelWarn, "W0123"}, {slog.LevelError, "E0123"}, {slog.LevelError + 9, "E0123"},
	} {
		var out bytes.Buffer
		h := newGlogHandler(&out, flags.LogOptions{})
		want := tt.want
		if strings.Contains(want, "%") {
			want = fmt.Sprintf(want, os.Getpid())
		}
		h.Handle(t.Context(), slog.NewRecord(at, tt.level, "Lease renewed, new expiration: never", 0))
		if !strings.HasPrefix(out.String(), want) {
			t.Errorf("got %q, want %q", out.String(), want)
		}
	}
}

func TestSourceIsTheCaller(t *testing.T) {
	var out bytes.Buffer
	slog.New(newGlogHandler(&out, flags.LogOptions{})).Info("here")
	m := glogLine.FindStringSubmatch(strings.TrimSuffix(out.String(), "\n"))
	if m == nil || m[4] != "glog_test.go" || m[6] != "here" {
		t.Errorf("got %q", out.String())
	}
}

func TestAttributes(t *testing.T) {
	text := func(args ...any) string {
		var out bytes.Buffer
		slog.New(newGlogHandler(&out, flags.LogOptions{})).Info("m", args...)
		_, after, _ := strings.Cut(strings.TrimSuffix(out.String(), "\n"), "] m")
		return after
	}
	for _, tt := range []struct {
		args []any
		want string
	}{
		{nil, ""},
		{[]any{"subnet", netip.MustParsePrefix("10.5.3.0/24"), "mtu", 1450}, " subnet=10.5.3.0/24 mtu=1450"},
		{[]any{"err", errors.New(`open "x": no such file`)}, ` err="open \"x\": no such file"`},
		{[]any{"err", errors.Join(io.EOF, io.ErrClosedPipe)}, ` err="EOF\nio: read/write on closed pipe"`},
		{[]any{"err", error(nil)}, " err=<nil>"},
		{[]any{"k", ""}, ` k=""`},
		{[]any{"k", "a=b"}, ` k="a=b"`},
		{[]any{"k", "\x1b[31m"}, ` k="\x1b[31m"`},
		{[]any{"k", "\xff"}, ` k="\xff"`},
		{[]any{"a key", "é"}, ` "a key"=é`},
		{[]any{"k", time.Date(2018, 1, 23, 4, 5, 6, 0, time.UTC)}, " k=2018-01-23T04:05:06Z"},
		{[]any{"k", 90 * time.Second}, " k=1m30s"},
		{[]any{"k", []byte("raw")}, " k=raw"},
		{[]any{"k", (*netip.Addr)(nil)}, " k=<nil>"},
		{[]any{slog.Group("g", "a", 1, slog.Group("h", "b", 2))}, " g.a=1 g.h.b=2"},
		{[]any{"odd"}, " !BADKEY=odd"},
	} {
		if got := text(tt.args...); got != tt.want {
			t.Errorf("%v: got %q, want %q", tt.args, got, tt.want)
		}
	}
}

func TestOneLineEach(t *testing.T) {
	var out bytes.Buffer
	slog.New(newGlogHandler(&out, flags.LogOptions{})).Info("a\nE1123 faked\x1b[2J", "k", "b\nc")
	if strings.Count(out.String(), "\n") != 1 || strings.Contains(out.String(), "\x1b") {
		t.Errorf("got %q", out.String())
	}
}

// TestSlogRules runs the standard library's check of what every handler must do.
// TestLongLine has an error quote a megabyte: what is cut is cut between two
// characters.
func TestLongLine(t *testing.T) {
	for _, c := range []string{"x", "\u00e9", "\u20ac", "\U0001f600"} {
		var out bytes.Buffer
		slog.New(newGlogHandler(&out, flags.LogOptions{})).Warn("a bad record", "err", strings.Repeat(c, 1<<20))
		line := out.String()
		if len(line) > maxText+100 || len(line) < maxText || !utf8.ValidString(line) || !strings.HasSuffix(line, c+"...\n") || strings.Count(line, "\n") != 1 {
			t.Errorf("%d bytes: %.100q ... %q", len(line), line, line[max(0, len(line)-20):])
		}
	}
}

func TestSlogRules(t *testing.T) {
	var out *bytes.Buffer
	slogtest.Run(t, func(*testing.T) slog.Handler {
		out = new(bytes.Buffer)
		return newGlogHandler(out, flags.LogOptions{})
	}, func(t *testing.T) map[string]any {
		got := parseLine(t, out.String())
		if strings.HasSuffix(t.Name(), "/zero-time") {
			delete(got, slog.TimeKey) // a glog header always has one
		}
		return got
	})
}

// parseLine is the inverse of a handler, for simple messages and values.
func parseLine(t *testing.T, line string) map[string]any {
	m := glogLine.FindStringSubmatch(strings.TrimSuffix(line, "\n"))
	if m == nil {
		t.Fatalf("not a glog line: %q", line)
	}
	words := strings.Fields(m[6])
	top := map[string]any{slog.LevelKey: m[1], slog.TimeKey: m[2]}
	var message []string
	for _, w := range words {
		key, value, ok := strings.Cut(w, "=")
		if !ok {
			message = append(message, w)
			continue
		}
		group := top
		path := strings.Split(key, ".")
		for _, name := range path[:len(path)-1] {
			if group[name] == nil {
				group[name] = map[string]any{}
			}
			group = group[name].(map[string]any)
		}
		group[path[len(path)-1]] = value
	}
	top[slog.MessageKey] = strings.Join(message, " ")
	return top
}

func TestVerbosity(t *testing.T) {
	shown := func(o flags.LogOptions, l slog.Level) bool {
		var out bytes.Buffer
		slog.New(newGlogHandler(&out, o)).Log(context.Background(), l, "m")
		if out.Len() > 0 && l < slog.LevelInfo && out.String()[0] != 'I' {
			t.Errorf("letter of %v: %q", l, out.String())
		}
		return out.Len() > 0
	}
	module := func(s string) (l flags.ModuleList) {
		if err := l.Set(s); err != nil {
			t.Fatal(err)
		}
		return l
	}
	for _, tt := range []struct {
		o    flags.LogOptions
		l    slog.Level
		want bool
	}{
		{flags.LogOptions{}, slog.LevelDebug, false},
		{flags.LogOptions{}, slog.LevelInfo - 1, false},
		{flags.LogOptions{Verbosity: -3}, slog.LevelInfo, true},
		{flags.LogOptions{Verbosity: -3}, slog.LevelDebug, false},
		{flags.LogOptions{Verbosity: 1}, slog.LevelDebug, true},
		{flags.LogOptions{Verbosity: 1}, slog.LevelDebug - 1, false},
		{flags.LogOptions{Verbosity: 2}, slog.LevelDebug - 4, true},
		{flags.LogOptions{Modules: module("glog_test=1")}, slog.LevelDebug, true},
		{flags.LogOptions{Modules: module("glog*=1")}, slog.LevelDebug, true},
		{flags.LogOptions{Modules: module("other=1")}, slog.LevelDebug, false},
		{flags.LogOptions{Modules: module("glog*=1,glog_test=2")}, slog.LevelDebug - 4, false},
		{flags.LogOptions{Verbosity: 1, Modules: module("glog_test=0")}, slog.LevelDebug, true},
	} {
		if got := shown(tt.o, tt.l); got != tt.want {
			t.Errorf("%+v shows %v: %v", tt.o, tt.l, got)
		}
	}
}

func TestBacktrace(t *testing.T) {
	var out bytes.Buffer
	log := slog.New(newGlogHandler(&out, flags.LogOptions{}))
	say := func() { log.Info("m") }
	say()
	line, err := strconv.Atoi(glogLine.FindStringSubmatch(strings.TrimSpace(out.String()))[5])
	if err != nil {
		t.Fatal(err)
	}
	out.Reset()
	var at flags.TracePoint
	if err := at.Set(fmt.Sprintf("glog_test.go:%d", line)); err != nil {
		t.Fatal(err)
	}
	log = slog.New(newGlogHandler(&out, flags.LogOptions{TraceAt: at}))
	say()
	if !strings.Contains(out.String(), "TestBacktrace") {
		t.Errorf("no stack trace: %q", out.String())
	}
	out.Reset()
	log.Info("elsewhere")
	if strings.Contains(out.String(), "TestBacktrace") {
		t.Errorf("stack trace of another line: %q", out.String())
	}
}

func TestFloodControl(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		log := slog.New(newGlogHandler(&out, flags.LogOptions{}))
		lines := func() []string {
			defer out.Reset()
			return strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
		}
		begin := time.Now()
		for range 150 { // one each second: at 0, 60 and 120 s
			log.Error("etcd is down", "err", io.EOF)
			log.Info("trying")
			time.Sleep(time.Second)
		}
		got := lines()
		var errs []string
		for _, l := range got {
			if l[0] == 'E' {
				errs = append(errs, glogLine.FindStringSubmatch(l)[6])
			}
		}
		want := []string{"etcd is down err=EOF",
			"etcd is down err=EOF (60 times since " + begin.Format("15:04:05") + ")",
			"etcd is down err=EOF (60 times since " + begin.Add(time.Minute).Format("15:04:05") + ")"}
		if fmt.Sprint(errs) != fmt.Sprint(want) {
			t.Errorf("got %q, want %q", errs, want)
		}
		if len(got) != len(want)+150 {
			t.Errorf("%d lines: info lines must all be shown", len(got))
		}

		// What differs in level, text, attribute or group is another line.
		log.Warn("etcd is down", "err", io.EOF)
		log.Error("etcd is up", "err", io.EOF)
		log.Error("etcd is down", "err", io.ErrClosedPipe)
		log.With("peer", 1).Error("etcd is down", "err", io.EOF)
		log.WithGroup("g").Error("etcd is down", "err", io.EOF)
		if got := lines(); len(got) != 5 {
			t.Errorf("got %q", got)
		}

		// After a minute of silence it is shown as it is.
		time.Sleep(2 * time.Minute)
		log.Warn("etcd is down", "err", io.EOF)
		if got := lines(); len(got) != 1 || strings.Contains(got[0], "times") {
			t.Errorf("got %q", got)
		}
	})
}

// TestManyAlike has ten thousand different complaints from one place, and one
// from another.
func TestManyAlike(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		log := slog.New(newGlogHandler(&out, flags.LogOptions{}))
		begin := time.Now()
		complain := func(n int) []string {
			for i := range n {
				log.Warn("a bad record", "key", i)
			}
			defer out.Reset()
			return strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
		}
		lines := complain(10_000)
		if len(lines) != maxAlike || !strings.HasSuffix(lines[maxAlike-1], "key=49 (others like this are left out for a while)") {
			t.Errorf("%d lines, the last %q", len(lines), lines[len(lines)-1])
		}
		log.Warn("something else")
		if !strings.HasSuffix(out.String(), "] something else\n") {
			t.Errorf("another place is silent: %q", out.String())
		}
		out.Reset()
		time.Sleep(repeatEvery)
		lines = complain(2 * maxAlike)
		want := fmt.Sprintf("key=0 (%d others like this were left out since %s)", 10_000-maxAlike, begin.Format("15:04:05"))
		if len(lines) != maxAlike || !strings.HasSuffix(lines[0], want) || !strings.HasSuffix(lines[1], "key=1") {
			t.Errorf("%d lines, the first %q", len(lines), lines[:2])
		}
	})
}

func TestFloodGateIsBounded(t *testing.T) {
	var g floodGate
	now := time.Unix(1e9, 0)
	for i := range 10 * maxRepeats {
		line := strconv.Itoa(i)
		if _, ok := g.admit(line, line, now); !ok {
			t.Fatalf("new line %d is held back", i)
		}
		if _, ok := g.admit(line, line, now); ok {
			t.Fatalf("repeated line %d is shown", i)
		}
		now = now.Add(time.Millisecond)
		if len(g.lines) > maxRepeats {
			t.Fatalf("%d lines remembered", len(g.lines))
		}
	}
	// The newest are kept.
	if _, ok := g.admit("there", strconv.Itoa(10*maxRepeats-1), now); ok {
		t.Error("the newest line was forgotten")
	}
	if _, ok := g.admit("there", "0", now); !ok {
		t.Error("the oldest line is remembered")
	}
}

func TestConcurrentLogging(t *testing.T) {
	var out bytes.Buffer
	log := slog.New(newGlogHandler(&out, flags.LogOptions{}))
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			mine := log.With("from", i)
			for j := range 200 {
				mine.Info("m", "n", j, "v", logging{mine})
				mine.Warn("w", "n", j%3)
			}
		})
	}
	wg.Wait()
	seen := make(map[string]int)
	for line := range strings.Lines(out.String()) {
		m := glogLine.FindStringSubmatch(strings.TrimSuffix(line, "\n"))
		if m == nil {
			t.Fatalf("torn line %q", line)
		}
		seen[m[1]]++
	}
	if want := map[string]int{"I": 8 * 200 * 2, "W": 8 * 3}; !maps.Equal(seen, want) {
		t.Errorf("got %v, want %v", seen, want)
	}
}

// logging is a value that logs while it is being logged.
type logging struct{ log *slog.Logger }

func (l logging) LogValue() slog.Value {
	l.log.Info("inner")
	return slog.StringValue("outer")
}

func FuzzGlogLine(f *testing.F) {
	f.Add("message", "key", "value")
	f.Add("a\nb", "k k", "\x1b\xff\u2028")
	f.Add(strings.Repeat("\xc4", maxText), "", "")
	f.Fuzz(func(t *testing.T, msg, key, value string) {
		var out bytes.Buffer
		slog.New(newGlogHandler(&out, flags.LogOptions{})).Info(msg, key, value)
		line, rest, ok := strings.Cut(out.String(), "\n")
		m := glogLine.FindStringSubmatch(line)
		if !ok || rest != "" || m == nil || len(m[6]) > maxText+len("...") {
			t.Fatalf("not one glog line: %q", out.String())
		}
		said, cut := strings.CutSuffix(m[6], "...")
		if want := printable(msg); !strings.HasPrefix(m[6], want) && !(cut && len(m[6]) > maxText && strings.HasPrefix(want, said)) {
			t.Errorf("%q is told as %q", msg, m[6])
		}
	})
}
