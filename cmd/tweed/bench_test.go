package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"tweed/test/nstest"
)

// outcome is what a benchmark has left behind.
type outcome struct {
	status         int
	stdout, stderr string
	files          []string     // in the directory of -out
	saved          *benchResult // bench.json, nil if there is none
}

// fakeBench runs the benchmark on the fake flanneld, with a measurement that
// finds the number of its variant for every metric, unless change says
// otherwise. Nothing but kept logs may be left of it.
func fakeBench(t *testing.T, ctx context.Context, fault, args string, change func(*benchmark), on trigger) outcome {
	t.Helper()
	nstest.NeedRoot(t)
	t.Setenv(fakeEnv, fault)
	t.Setenv("TMPDIR", t.TempDir())
	o, err := parseBench(append(strings.Fields(args), "-out="+t.TempDir()))
	if err != nil {
		t.Fatal(err)
	}
	if o.flanneld, err = os.Executable(); err != nil {
		t.Fatal(err)
	}
	progress := watcher{on: on}
	b := newBenchmark(o, newProgress(&progress))
	b.patience = 500 * time.Millisecond
	b.measure = fakeMeasure
	if change != nil {
		change(b)
	}
	var stdout strings.Builder
	status := b.whole(ctx, &stdout, &progress)
	if left := ours(t); len(left) > 0 {
		t.Errorf("left over: %q", left)
	}
	return outcome{status, stdout.String(), progress.String(), list(t, o.out), readSaved(t, o.out)}
}

func fakeMeasure(_ context.Context, test benchTest, s *site) (sample, error) {
	found := make(sample)
	for _, m := range test.metrics() {
		found[m.name] = 1 + float64(slices.Index(names(benchVariants()), s.name))
	}
	return found, nil
}

func readSaved(t *testing.T, dir string) *benchResult {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, "bench.json"))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	r := new(benchResult)
	if err == nil {
		err = json.Unmarshal(b, r)
	}
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func noFilesLeft(t *testing.T, what string) {
	t.Helper()
	if dirs, err := os.ReadDir(os.TempDir()); err != nil || len(dirs) > 0 {
		t.Errorf("%s: files left: %v, %v", what, dirs, err)
	}
}

// TestBench: the rounds are interleaved, each variant has its own path, and
// the results are told and written.
func TestBench(t *testing.T) {
	var order []string
	paths := make(map[string]string)
	got := fakeBench(t, t.Context(), "none", "-rounds=2 -tests=tcp-1,latency", func(b *benchmark) {
		b.measure = func(ctx context.Context, test benchTest, s *site) (sample, error) {
			order = append(order, test.name+" "+s.name)
			paths[s.name] = s.path.FromAddr.String() + " " + s.path.ToAddr.String()
			return fakeMeasure(ctx, test, s)
		}
	}, trigger{})
	if got.status != exitOK || got.saved == nil || !got.saved.OK {
		t.Fatalf("%+v", got)
	}
	var want []string
	for range 2 {
		for _, test := range []string{"tcp-1", "latency"} {
			for _, v := range []string{"underlay", "vxlan", "udp", "udp-plain"} {
				want = append(want, test+" "+v)
			}
		}
	}
	if !slices.Equal(order, want) {
		t.Errorf("order %q, want %q", order, want)
	}
	for name, want := range map[string]string{
		"underlay": "20.0.0.2 20.0.0.3", "vxlan": "10.5.2.2 10.5.3.2", "udp": "10.6.2.2 10.6.3.2", "udp-plain": "10.7.2.2 10.7.3.2",
	} {
		if paths[name] != want {
			t.Errorf("%s runs from %q, want %q", name, paths[name], want)
		}
	}
	if f := got.saved.figures("tcp-1", "udp")[bitsPerSecond]; len(f.Rounds) != 2 || f.Median != 3 || f.VsVXLAN.Median != 1.5 || f.VsPlain.Median != 0.75 {
		t.Errorf("%+v", f)
	}
	if len(got.saved.Memory) != 6 || got.saved.Memory[0].Bytes < 1<<20 || got.saved.Machine.Congestion == "" {
		t.Errorf("%+v", got.saved)
	}
	if want := []string{"bench.json", "cpu.svg", "latency.svg", "throughput.svg"}; !slices.Equal(got.files, want) {
		t.Errorf("%q, want %q", got.files, want)
	}
	for _, text := range []string{"tcp-1: one TCP stream", "MISSED", "throughput.svg"} {
		if !strings.Contains(got.stdout, text) {
			t.Errorf("no %q in:\n%s", text, got.stdout)
		}
	}
	if lines := strings.Split(strings.TrimSpace(got.stderr), "\n"); len(lines) != 10 || strings.Contains(got.stderr, "\r") || !strings.Contains(got.stderr, "75%, about 0s left: round 2 of 2, latency\n") {
		t.Errorf("progress = %q, want 10 plain lines", got.stderr)
	}
	noFilesLeft(t, "success")
}

// TestBenchCheck: a missed floor counts only with -check; -json prints what is
// written.
func TestBenchCheck(t *testing.T) {
	for args, want := range map[string]int{
		"-check -json -tests=tcp-1 -variants=vxlan,udp":           exitOK,
		"-check -json -tests=tcp-1 -variants=vxlan,udp,udp-plain": exitFailed, // 3/4, not 10 times as fast
		"-json -tests=tcp-1 -variants=vxlan,udp,udp-plain":        exitOK,
	} {
		got := fakeBench(t, t.Context(), "none", "-rounds=1 "+args, nil, trigger{})
		if got.status != want || !got.saved.OK || got.saved.missed() != strings.Contains(args, "udp-plain") {
			t.Errorf("%s: %+v", args, got)
		}
		var printed benchResult
		if err := json.Unmarshal([]byte(got.stdout), &printed); err != nil || len(printed.Tests) != 1 {
			t.Errorf("%s: %v:\n%s", args, err, got.stdout)
		}
	}
}

func TestBenchFailures(t *testing.T) {
	second := func(b *benchmark, fail func(s *site) (sample, error)) {
		n := 0
		b.measure = func(ctx context.Context, test benchTest, s *site) (sample, error) {
			if n++; n == 5 { // vxlan in the second round
				return fail(s)
			}
			return fakeMeasure(ctx, test, s)
		}
	}
	for _, tc := range []struct {
		name, fault string
		change      func(*benchmark)
		want        string // in the error
		log         string // the one whose end is shown
		rounds      int    // of vxlan that are kept
	}{
		{"crash", "crash", nil, "starting a flanneld of every variant on both hosts: ", "n2/flanneld-", 0},
		{"unrouted", "unrouted", nil, "pinging over every variant: ", "n1/flanneld-", 0},
		{"measurement", "none", func(b *benchmark) {
			second(b, func(*site) (sample, error) { return nil, errors.New("not one byte") })
		}, "round 2 of 3, tcp-1 over vxlan: n1/flanneld: not one byte", "n1/flanneld-", 1},
		{"late", "none", func(b *benchmark) {
			second(b, func(s *site) (sample, error) {
				err := s.daemons[1].Kill()
				return sample{bitsPerSecond: 1}, err
			})
		}, "round 2 of 3, tcp-1 over vxlan: n2/flanneld: the daemon has ended", "n2/flanneld-", 1},
	} {
		got := fakeBench(t, t.Context(), tc.fault, "-rounds=3 -tests=tcp-1 -variants=underlay,vxlan,udp", tc.change, trigger{})
		if got.status != exitFailed || got.saved == nil {
			t.Errorf("%s: %+v", tc.name, got)
			continue
		}
		if got.saved.OK || !strings.Contains(got.saved.Error, tc.want) || !strings.Contains(got.stderr, "FAILED: "+got.saved.Error) || !strings.Contains(got.stdout, "It FAILED.") {
			t.Errorf("%s: %q, want %q in:\n%s\nstdout:\n%s", tc.name, got.saved.Error, tc.want, got.stderr, got.stdout)
		}
		if !strings.Contains(got.stderr, "the last lines of "+got.saved.Logs+"/"+tc.log) {
			t.Errorf("%s: no end of a log of %s in:\n%s", tc.name, tc.log, got.stderr)
		}
		if _, err := os.Stat(filepath.Join(got.saved.Logs, "n1", "flanneld-1.log")); err != nil {
			t.Errorf("%s: %v", tc.name, err)
		}
		if n := len(got.saved.figures("tcp-1", "vxlan")[bitsPerSecond].Rounds); n != tc.rounds {
			t.Errorf("%s: %d rounds are kept, want %d", tc.name, n, tc.rounds)
		}
	}
}

// TestBenchInterrupted ends the context at every stage: all is removed, and
// nothing written over the results of an earlier run.
func TestBenchInterrupted(t *testing.T) {
	for _, stage := range []string{"starting etcd", "starting a flanneld", "adding a pod", "pinging", "looking at", "round 1 of", "100ms over"} {
		ctx, cancel := context.WithCancel(t.Context())
		start := time.Now()
		got := fakeBench(t, ctx, "none", "-rounds=100 -tests=tcp-1 -variants=underlay,vxlan", func(b *benchmark) {
			b.measure = func(ctx context.Context, _ benchTest, _ *site) (sample, error) {
				b.progress.note("100ms over")
				<-ctx.Done()
				return nil, ctx.Err()
			}
		}, trigger{stage, cancel})
		if got.status != exitInterrupted || !strings.Contains(got.stderr, "removing everything") || strings.Contains(got.stdout+got.stderr, "FAILED") || len(got.files) > 0 {
			t.Errorf("%s: %+v", stage, got)
		}
		noFilesLeft(t, stage)
		if took := time.Since(start); took > 10*time.Second {
			t.Errorf("%s: ended only after %s", stage, took)
		}
	}
}

// TestBenchSignal: the process itself, interrupted while real traffic runs.
func TestBenchSignal(t *testing.T) {
	nstest.NeedRoot(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	var stderr watcher
	cmd := exec.CommandContext(t.Context(), self, "bench", "-time=30s", "-tests=tcp-4", "-variants=vxlan", "-flanneld="+self, "-out="+t.TempDir())
	cmd.Env = append(os.Environ(), fakeEnv+"=none", "TMPDIR="+dir)
	cmd.Stderr = &stderr
	stderr.on = trigger{"round 1 of 5", func() { cmd.Process.Signal(syscall.SIGINT) }}
	start := time.Now()
	cmd.Run()
	if status := cmd.ProcessState.ExitCode(); status != exitInterrupted || time.Since(start) > 20*time.Second {
		t.Errorf("%s after %s, stderr:\n%s", cmd.ProcessState, time.Since(start), stderr.String())
	}
	left, _ := filepath.Glob(fmt.Sprintf("/run/netns/tweed-%d-*", cmd.Process.Pid))
	if dirs, err := os.ReadDir(dir); err != nil || len(dirs)+len(left) > 0 {
		t.Errorf("left over: %q, %v, %v", left, dirs, err)
	}
}

// TestNotRoot: who lacks the rights is told what to type.
func TestNotRoot(t *testing.T) {
	nstest.NeedRoot(t)
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	tweed := filepath.Join(t.TempDir(), "tweed")
	for dir := filepath.Dir(tweed); dir != os.TempDir(); dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil { // nobody must get there
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(tweed, self, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"demo", "-nodes=2"}, {"bench", "-quick"}} {
		cmd := exec.CommandContext(t.Context(), tweed, args...)
		cmd.Env = append(os.Environ(), fakeEnv+"=none")
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		var stderr strings.Builder
		cmd.Stderr = &stderr
		cmd.Run()
		if want := "needs root; run:\n  sudo " + tweed + " " + strings.Join(args, " ") + "\n"; cmd.ProcessState.ExitCode() != exitFailed || !strings.Contains(stderr.String(), want) {
			t.Errorf("%q: %s, stderr %q, want %q", args, cmd.ProcessState, stderr.String(), want)
		}
	}
}

// TestBenchOut: a directory that cannot be made is told before the work.
func TestBenchOut(t *testing.T) {
	nstest.NeedRoot(t)
	var stdout, stderr strings.Builder
	status := run(t.Context(), []string{"bench", "-flanneld=/bin/sh", "-out=/dev/null/x"}, &stdout, &stderr)
	if want := "tweed bench: mkdir /dev/null: not a directory\n"; status != exitFailed || stderr.String() != want {
		t.Errorf("status %d, stderr %q, want %q", status, stderr.String(), want)
	}
}

// buildFlanneld builds the real one, and returns its path.
func buildFlanneld(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "flanneld")
	build := exec.CommandContext(t.Context(), "go", "build", "-buildvcs=false", "-o", path, "tweed/cmd/flanneld")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return path
}

// TestBenchReal measures the real daemons for a moment.
func TestBenchReal(t *testing.T) {
	nstest.NeedRoot(t)
	flanneld := buildFlanneld(t)
	t.Setenv("TMPDIR", t.TempDir())
	out := filepath.Join(t.TempDir(), "new", "results")
	var stdout, stderr strings.Builder
	status := run(t.Context(), []string{"bench", "-rounds=1", "-time=100ms", "-tests=tcp-1,udp-64,latency",
		"-variants=underlay,vxlan,udp", "-flanneld=" + flanneld, "-out=" + out}, &stdout, &stderr)
	if status != exitOK {
		t.Fatalf("status %d, stdout:\n%s\nstderr:\n%s", status, stdout.String(), stderr.String())
	}
	r := readSaved(t, out)
	for _, v := range []string{"underlay", "vxlan", "udp"} {
		for test, least := range map[string]map[string]float64{
			"tcp-1":   {bitsPerSecond: 1e6, cpuPer64K: 0.1},
			"udp-64":  {packetsPerSecond: 100, cpuPerPacket: 0.1},
			"latency": {p50: 1, p99: 1, p999: 1},
		} {
			for metric, least := range least {
				if f := r.figures(test, v)[metric]; len(f.Rounds) != 1 || f.Median < least {
					t.Errorf("%s of %s over %s: %+v, want at least %g", metric, test, v, f, least)
				}
			}
		}
	}
	// The Go runtime alone has some megabytes.
	if len(r.Memory) != 4 || slices.ContainsFunc(r.Memory, func(m memoryResult) bool { return m.Bytes < 1<<20 }) {
		t.Errorf("memory: %+v", r.Memory)
	}
	if !regexp.MustCompile(`(?m)^  udp / vxlan +tcp-1 +throughput +at least 0.70 +\d`).MatchString(stdout.String()) {
		t.Errorf("no floor in:\n%s", stdout.String())
	}
	if left := ours(t); len(left) > 0 {
		t.Errorf("left over: %q", left)
	}
	noFilesLeft(t, "the end")
}
