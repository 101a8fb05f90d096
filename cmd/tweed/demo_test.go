package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"tweed/test/nstest"
)

// fakeDemo runs the demo on the fake flanneld; nothing but kept logs may be
// left of it.
func fakeDemo(t *testing.T, ctx context.Context, fault string, change func(*demoOptions), on trigger) (status int, stdout, stderr string) {
	t.Helper()
	nstest.NeedRoot(t)
	t.Setenv(fakeEnv, fault)
	t.Setenv("TMPDIR", t.TempDir())
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	o := demoOptions{
		backends: []string{"host-gw"},
		nodes:    2,
		underlay: netip.MustParsePrefix("20.0.0.0/24"),
		duration: 100 * time.Millisecond,
		patience: 500 * time.Millisecond,
		flanneld: self,
	}
	if change != nil {
		change(&o)
	}
	var out strings.Builder
	progress := watcher{on: on}
	status = showAll(ctx, o, &out, &progress)
	if left := ours(t); len(left) > 0 {
		t.Errorf("left over: %q", left)
	}
	return status, out.String(), progress.String()
}

// A trigger calls do when text is first seen.
type trigger struct {
	text string
	do   func()
}

// watcher is a strings.Builder with a trigger.
type watcher struct {
	mu sync.Mutex
	b  strings.Builder
	on trigger
}

func (w *watcher) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.b.Write(p)
	if w.on.do != nil && strings.Contains(w.b.String(), w.on.text) {
		do := w.on.do
		w.on.do = nil
		do()
	}
	return len(p), nil
}

func (w *watcher) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.b.String()
}

// ours lists the namespaces of this process.
func ours(t *testing.T) []string {
	t.Helper()
	list, err := filepath.Glob(fmt.Sprintf("/run/netns/tweed-%d-*", os.Getpid()))
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func TestDemo(t *testing.T) {
	status, stdout, stderr := fakeDemo(t, t.Context(), "none", func(o *demoOptions) { o.nodes = 3 }, trigger{})
	if status != exitOK {
		t.Fatalf("status %d, stdout:\n%s\nstderr:\n%s", status, stdout, stderr)
	}
	for _, want := range []string{
		`{"Network":"10.5.0.0/16","Backend":{"Type":"host-gw"}}`,
		"n3    20.0.0.4  10.5.0.0/16      10.5.4.1/24     1500",
		"n1  10.5.3.0/24 via 20.0.0.3 dev eth0",
		"6 of 6 reached",
		"ttl 62",
		"bit/s",
		"All namespaces and processes of the demo were removed.",
	} {
		if !strings.Contains(stdout, want) {
			t.Errorf("no %q in:\n%s", want, stdout)
		}
	}
	if lines := strings.Split(strings.TrimSpace(stderr), "\n"); len(lines) != 7 || strings.Contains(stderr, "\r") {
		t.Errorf("progress = %q, want 7 plain lines", stderr)
	}
	if dirs, err := os.ReadDir(os.TempDir()); err != nil || len(dirs) > 0 {
		t.Errorf("files left: %v, %v", dirs, err)
	}
}

func TestDemoJSON(t *testing.T) {
	status, stdout, _ := fakeDemo(t, t.Context(), "none", func(o *demoOptions) { o.json = true }, trigger{})
	var s summary
	if err := json.Unmarshal([]byte(stdout), &s); err != nil {
		t.Fatalf("%v: %s", err, stdout)
	}
	r := s.Backends[0]
	if status != exitOK || !s.OK || len(r.Pings) != 2 || r.Pings[0].TTL != 62 || !r.Removed || r.Throughput.BitsPerSecond < 1e6 {
		t.Errorf("status %d: %s", status, stdout)
	}
}

func TestDemoFailures(t *testing.T) {
	for _, tc := range []struct {
		fault string
		want  []string
	}{
		{"crash", []string{"host-gw FAILED: starting flanneld on every host: n2/flanneld: ended before it was ready: exit status 1", "fake: crash as told"}},
		{"unrouted", []string{"host-gw FAILED: pinging from pod to pod: n1/flanneld: ping 10.5.3.2"}},
	} {
		status, stdout, stderr := fakeDemo(t, t.Context(), tc.fault, nil, trigger{})
		if status != exitFailed || !strings.Contains(stdout, "FAILED") {
			t.Errorf("%s: status %d, stdout:\n%s", tc.fault, status, stdout)
		}
		for _, want := range tc.want {
			if !strings.Contains(stderr, want) {
				t.Errorf("%s: no %q in:\n%s", tc.fault, want, stderr)
			}
		}
		kept := regexp.MustCompile(`all logs are kept in (\S+)`).FindStringSubmatch(stderr)
		if kept == nil {
			t.Errorf("%s: no word about logs in:\n%s", tc.fault, stderr)
		} else if _, err := os.Stat(filepath.Join(kept[1], "n1", "flanneld-1.log")); err != nil {
			t.Errorf("%s: %v", tc.fault, err)
		}
	}
}

// TestDemoWithoutEtcd: what was not written to etcd is not shown as if it were.
func TestDemoWithoutEtcd(t *testing.T) {
	status, stdout, stderr := fakeDemo(t, t.Context(), "none", func(o *demoOptions) {
		t.Setenv("TMPDIR", filepath.Join(os.TempDir(), "none"))
	}, trigger{})
	if want := "host-gw FAILED: starting etcd and 2 hosts: lab directory"; status != exitFailed || !strings.Contains(stderr, want) {
		t.Errorf("status %d, want %q in:\n%s", status, want, stderr)
	}
	if strings.Contains(stdout, "in etcd") || !strings.Contains(stdout, "FAILED") {
		t.Errorf("stdout:\n%s", stdout)
	}
}

// TestDemoInterrupted ends the context at every stage.
func TestDemoInterrupted(t *testing.T) {
	for _, stage := range []string{"starting etcd", "starting flanneld", "adding a pod", "pinging", "reading", "measuring"} {
		ctx, cancel := context.WithCancel(t.Context())
		start := time.Now()
		status, stdout, stderr := fakeDemo(t, ctx, "none", func(o *demoOptions) {
			o.backends, o.duration = backends(), 30*time.Second
		}, trigger{stage, cancel})
		if status != exitInterrupted || !strings.Contains(stderr, "removing everything") || strings.Contains(stdout+stderr, "FAILED") {
			t.Errorf("%s: status %d, stdout:\n%s\nstderr:\n%s", stage, status, stdout, stderr)
		}
		if dirs, err := os.ReadDir(os.TempDir()); err != nil || len(dirs) > 0 {
			t.Errorf("%s: files left: %v, %v", stage, dirs, err)
		}
		if took := time.Since(start); took > 10*time.Second {
			t.Errorf("%s: ended only after %s", stage, took)
		}
	}
}

// TestDemoKeep: the demo stays up until a signal, which is then no failure.
func TestDemoKeep(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var pods []string
	status, stdout, stderr := fakeDemo(t, ctx, "none", func(o *demoOptions) { o.keep = true },
		trigger{"Ctrl-C ends it", func() {
			pods, _ = filepath.Glob(fmt.Sprintf("/run/netns/tweed-%d-*-pod1", os.Getpid()))
			cancel()
		}})
	if status != exitOK || len(pods) != 2 || !strings.Contains(stdout, "2 of 2 reached") {
		t.Errorf("status %d, pods %q, stdout:\n%s\nstderr:\n%s", status, pods, stdout, stderr)
	}
	if !strings.Contains(stderr, "curl '") {
		t.Errorf("the URL with a question mark is not quoted in:\n%s", stderr)
	}
	for _, want := range pods {
		if !strings.Contains(want, "n2-") && !strings.Contains(stderr, "ip netns exec "+filepath.Base(want)+" ping 10.5.3.2") {
			t.Errorf("no command for %s in:\n%s", want, stderr)
		}
	}
}

// TestSignals: the process itself, with the signals that may end it. SIGPIPE
// stands for `tweed demo | head`.
func TestSignals(t *testing.T) {
	nstest.NeedRoot(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGPIPE} {
		dir := t.TempDir()
		var stderr watcher
		cmd := exec.CommandContext(t.Context(), self, "demo", "-backend=host-gw", "-duration=30s", "-flanneld="+self)
		cmd.Env = append(os.Environ(), fakeEnv+"=none", "TMPDIR="+dir)
		cmd.Stderr = &stderr
		stderr.on = trigger{"measuring", func() { cmd.Process.Signal(sig) }}
		cmd.Run()
		if status := cmd.ProcessState.ExitCode(); status != exitInterrupted {
			t.Errorf("%s: %s, stderr:\n%s", sig, cmd.ProcessState, stderr.String())
		}
		left, _ := filepath.Glob(fmt.Sprintf("/run/netns/tweed-%d-*", cmd.Process.Pid))
		if dirs, err := os.ReadDir(dir); err != nil || len(dirs)+len(left) > 0 {
			t.Errorf("%s: left over: %q, %v, %v", sig, left, dirs, err)
		}
	}
}

func TestProgressTerminal(t *testing.T) {
	var b strings.Builder
	p := &progress{w: &b, live: true}
	end := p.step("building %d", 3)
	p.note("by the way")
	end()
	p.note("done")
	got := regexp.MustCompile(`\d+\.\d s`).ReplaceAllString(b.String(), "N s")
	line := eraseLine + "building 3 ... N s"
	if want := line + eraseLine + "by the way\n" + line + eraseLine + "done\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestBitRate(t *testing.T) {
	for bits, want := range map[float64]string{
		0: "0 bit/s", 999: "999 bit/s", 999.9: "1 kbit/s", 12345: "12.3 kbit/s",
		5e6: "5 Mbit/s", 999.6e6: "1.00 Gbit/s", 12.345e9: "12.35 Gbit/s", 1e12: "1000.00 Gbit/s",
	} {
		if got := bitRate(bits); got != want {
			t.Errorf("bitRate(%g) = %q, want %q", bits, got, want)
		}
	}
}
