package main

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"tweed/test/nstest"
)

// fakeScale runs `tweed bench -scale` with another program as flanneld; empty
// is the fake one, which never makes a route. Nothing but kept logs may be left.
func fakeScale(t *testing.T, ctx context.Context, flanneld string, on trigger) (status int, stderr string, saved *scaleResult) {
	t.Helper()
	nstest.NeedRoot(t)
	t.Setenv(fakeEnv, "none")
	t.Setenv("TMPDIR", t.TempDir())
	o, err := parseBench([]string{"-scale", "-quick", "-out=" + t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	if o.flanneld = flanneld; flanneld == "" {
		if o.flanneld, err = os.Executable(); err != nil {
			t.Fatal(err)
		}
	}
	progress := watcher{on: on}
	var stdout strings.Builder
	s := &scaling{opts: o, progress: newProgress(&progress)}
	status = s.whole(ctx, &stdout, &progress)
	if left := ours(t); len(left) > 0 {
		t.Errorf("left over: %q", left)
	}
	return status, progress.String(), readScale(t, o.out)
}

// readScale returns nil where there is no scale.json.
func readScale(t *testing.T, dir string) *scaleResult {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, "scale.json"))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	r := new(scaleResult)
	if err == nil {
		err = json.Unmarshal(b, r)
	}
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// TestScaleReal measures the real daemons in a small way, twice: the second
// result replaces the first, and -check has nothing to say to sizes without
// limits.
func TestScaleReal(t *testing.T) {
	nstest.NeedRoot(t)
	flanneld := buildFlanneld(t)
	t.Setenv("TMPDIR", t.TempDir())
	out := filepath.Join(t.TempDir(), "new", "results")
	for _, args := range []string{"-daemons=3", "-check -json -daemons=0 -sizes=10,30 -rounds=2 -samples=2 -rest=100ms"} {
		var stdout, stderr strings.Builder
		status := run(t.Context(), append([]string{"bench", "-scale", "-quick", "-flanneld=" + flanneld, "-out=" + out}, strings.Fields(args)...), &stdout, &stderr)
		if status != exitOK {
			t.Fatalf("%s: status %d, stdout:\n%s\nstderr:\n%s", args, status, stdout.String(), stderr.String())
		}
		r := readScale(t, out)
		json := strings.Contains(args, "-json")
		rounds, peers, sizes := 1, 50, []int{50}
		if json {
			rounds, peers, sizes = 2, 30, []int{10, 30}
		}
		if !r.OK || r.Error != "" || r.Logs != "" || r.missed() || r.Outlook != nil || len(r.Limits) != 9 || !slices.Equal(r.Options.Sizes, sizes) {
			t.Errorf("%s: %+v", args, r)
		}
		for i, size := range sizes {
			s := r.start(size)
			if s == nil || r.Starts[i].Leases != size {
				t.Fatalf("%s: no start with %d leases in %+v", args, size, r.Starts)
			}
			if len(s.Seconds.Rounds) != rounds || s.Seconds.Min <= 0 || s.CPU.Min <= 0 || s.Peak.Min < 1<<20 || s.EtcdLists.Min <= 0 || s.Early > 0 {
				t.Errorf("%s: %d leases: %+v", args, size, s)
			}
			// The config, the lease and at least one list; each record has
			// well over a hundred bytes.
			if s.Requests.Min < 3 || s.Bytes.Min < float64(100*size) {
				t.Errorf("%s: %d leases: requests %+v, bytes %+v", args, size, s.Requests, s.Bytes)
			}
		}
		c := r.Changes
		if c == nil || c.Peers != peers || c.Added.Samples != r.Options.Samples || c.Added.P50 <= c.Written.P50 || c.Added.P99 > c.Added.Max || c.Removed.P50 <= 0 || c.CPU.P50 <= 0 ||
			c.Changed != 20 || len(c.SinceFirst.Rounds) != rounds || c.SinceFirst.Min < c.SinceLast.Min || c.SinceFirst.Min < c.Writing.Min || c.EventBytes < 100 {
			t.Errorf("%s: changes %+v", args, c)
		}
		rest := r.Rest
		if rest == nil || rest.Peers != peers || len(rest.Relist.Rounds) != rounds || rest.Relist.Min <= 0 || rest.ListBytes < int64(100*peers) ||
			rest.Idle == nil || rest.Disconnected == nil || !json && rest.Disconnected.CPUPercent <= 0 {
			t.Errorf("%s: rest %+v", args, rest)
		}
		switch crowds := r.Crowds; {
		case json && len(crowds) > 0:
			t.Errorf("%s: crowds %+v", args, crowds)
		case json:
		case len(crowds) != 2 || crowds[0].Daemons != 1 || crowds[1].Daemons != 3:
			t.Errorf("%s: crowds %+v", args, crowds)
		default:
			// Each daemon asks for the config, for the leases, for its own and
			// for news.
			if c := crowds[1]; c.Last <= 0 || c.Median > c.Last || c.Settled < c.Last/2 || c.Asked.Polls < 3 || c.Asked.Lists < 3 || c.Asked.Others < 6 || c.MemoryBytes < 3<<20 || c.CPUSeconds <= 0 || c.EtcdCPUSeconds <= 0 {
				t.Errorf("%s: crowd %+v", args, c)
			}
		}
		want := []string{"scale-memory.svg", "scale-requests.svg", "scale-start.svg", "scale.json"}
		if json {
			want = slices.Delete(want, 1, 2)
		}
		if files := list(t, out); !slices.Equal(files, want) {
			t.Errorf("%s: files %q, want %q", args, files, want)
		}
		for _, text := range []string{"== Start: ", "== Limits ==", "scale-start.svg"} {
			if strings.Contains(stdout.String(), text) == json {
				t.Errorf("%s: %q or none in:\n%s", args, text, stdout.String())
			}
		}
		if left := ours(t); len(left) > 0 {
			t.Errorf("%s: left over: %q", args, left)
		}
		noFilesLeft(t, args)
	}
}

// TestScaleCrash: a daemon that ends is told at once, with its last lines.
func TestScaleCrash(t *testing.T) {
	began := time.Now()
	status, stderr, saved := fakeScale(t, t.Context(), "/bin/sh", trigger{}) // it knows no -etcd-endpoints
	if status != exitFailed || saved == nil || saved.OK || !strings.Contains(saved.Error, "with 50 leases: 50 leases: starting flanneld, round 1 of 1: n1/flanneld: ended before all routes were there: exit status 2") {
		t.Fatalf("status %d, saved %+v, stderr:\n%s", status, saved, stderr)
	}
	if !strings.Contains(stderr, "FAILED: "+saved.Error) || !strings.Contains(stderr, "the last lines of "+saved.Logs+"/n1/flanneld-") {
		t.Errorf("stderr:\n%s", stderr)
	}
	if _, err := os.Stat(filepath.Join(saved.Logs, "n1", "flanneld-1.log")); err != nil {
		t.Error(err)
	}
	if took := time.Since(began); took > startTime/2 {
		t.Errorf("took %s", took)
	}
}

// TestScaleInterrupted ends the context at several stages: all is removed, and
// nothing written. The fake never makes a route, so that a start waits.
func TestScaleInterrupted(t *testing.T) {
	for _, stage := range []string{"starting etcd", "writing 50 leases", "starting flanneld, round 1"} {
		ctx, cancel := context.WithCancel(t.Context())
		status, stderr, saved := fakeScale(t, ctx, "", trigger{stage, cancel})
		if status != exitInterrupted || saved != nil || !strings.Contains(stderr, "removing everything") || strings.Contains(stderr, "FAILED") {
			t.Errorf("%s: status %d, saved %+v, stderr:\n%s", stage, status, saved, stderr)
		}
		noFilesLeft(t, stage)
	}
}

// TestScaleInterruptedLater is the same with real daemons, also while etcd is
// stopped.
func TestScaleInterruptedLater(t *testing.T) {
	nstest.NeedRoot(t)
	flanneld := buildFlanneld(t)
	t.Setenv("TMPDIR", t.TempDir())
	for _, stage := range []string{"one more, 1000 times", "1m0s at rest", "1m0s without etcd", "starting 3 flannelds"} {
		rest, samples := "1m", "1"
		switch stage {
		case "one more, 1000 times":
			samples = "1000"
		case "1m0s without etcd", "starting 3 flannelds":
			rest = "100ms"
			stage = strings.Replace(stage, "1m0s", rest, 1)
		}
		ctx, cancel := context.WithCancel(t.Context())
		stderr := watcher{on: trigger{stage, cancel}}
		out := t.TempDir()
		status := run(ctx, []string{"bench", "-scale", "-quick", "-samples=" + samples, "-rest=" + rest, "-flanneld=" + flanneld, "-out=" + out}, new(strings.Builder), &stderr)
		if status != exitInterrupted || len(list(t, out)) > 0 {
			t.Errorf("%s: status %d, files %q, stderr:\n%s", stage, status, list(t, out), stderr.String())
		}
		if left := ours(t); len(left) > 0 {
			t.Errorf("%s: left over: %q", stage, left)
		}
		noFilesLeft(t, stage)
	}
}
