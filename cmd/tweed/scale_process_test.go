package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"strings"
	"testing"
	"time"

	"tweed/test/embedetcd"
)

// TestProcessCPU compares with what wait4 tells of the same process at its end.
func TestProcessCPU(t *testing.T) {
	// The shell's child works and ends, then the shell works itself, then waits.
	const script = `sh -c 'i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done'; i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done; echo done; read x`
	cmd := exec.CommandContext(t.Context(), "sh", "-c", script)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(out, make([]byte, 5)); err != nil {
		t.Fatal(err)
	}
	used, err := awaitQuiet(t.Context(), cmd.Process.Pid, 50*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	memory, err := readProc(fmt.Sprintf("/proc/%d/smaps_rollup", cmd.Process.Pid), proportionalMemory)
	if err != nil || memory < 4096 || memory > 64<<20 {
		t.Errorf("memory %d, %v", memory, err)
	}
	in.Close()
	cmd.Wait()
	whole := cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	if used < 10*time.Millisecond || (used-whole).Abs() > 40*time.Millisecond { // two figures are in steps of 10 ms
		t.Errorf("used %s, and %s at the end", used, whole)
	}
	if _, err := processCPU(cmd.Process.Pid); err == nil {
		t.Error("no error of a process that has ended")
	}
}

// TestAwaitQuiet: a process that works is never at rest.
func TestAwaitQuiet(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cmd := exec.CommandContext(t.Context(), "sh", "-c", "while :; do :; done")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer cmd.Process.Kill()
	time.AfterFunc(time.Second, cancel)
	if used, err := awaitQuiet(ctx, cmd.Process.Pid, 300*time.Millisecond); !errors.Is(err, context.Canceled) {
		t.Errorf("quiet after %s, %v", used, err)
	}
}

func TestProcFiles(t *testing.T) {
	const stat = "7 (a) b (c)) S 1 7 7 0 -1 4194560 1 2 3 4 50 60 %s 20 0 1 0 123 4 5"
	if d, err := childrenCPU(strings.NewReader(fmt.Sprintf(stat, "12 3"))); err != nil || d != 150*time.Millisecond {
		t.Errorf("children %s, %v", d, err)
	}
	for _, bad := range []string{"", "7 (a) S 1 2 3", fmt.Sprintf(stat, "x 3"), fmt.Sprintf(stat, "1 -")} {
		if d, err := childrenCPU(strings.NewReader(bad)); err == nil {
			t.Errorf("%q: children %s", bad, d)
		}
	}
	if n, err := proportionalMemory(strings.NewReader("a-b ---p 0 00:00 0 [rollup]\nRss:  9 kB\nPss:   123 kB\nPss_Dirty: 4 kB\n")); err != nil || n != 123<<10 {
		t.Errorf("memory %d, %v", n, err)
	}
	if n, err := countPrefixes(strings.NewReader("Basic info: x\nMain:\n\tLeaves:  7\n\tPrefixes:       5\nLocal:\n\tPrefixes:       6\n")); err != nil || n != 5 {
		t.Errorf("prefixes %d, %v", n, err)
	}
	for name, read := range map[string]func() error{
		"Pss":      func() error { _, err := proportionalMemory(strings.NewReader("Rss: 9 kB\n")); return err },
		"Pss: x":   func() error { _, err := proportionalMemory(strings.NewReader("Pss: x kB\n")); return err },
		"Prefixes": func() error { _, err := countPrefixes(strings.NewReader("Main:\n")); return err },
	} {
		if read() == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// TestEtcdCounter: what goes through it is counted by its kind, all of it is
// answered as by etcd itself, and polls can be ended.
func TestEtcdCounter(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	c := newEtcdCounter()
	etcd, err := embedetcd.Start(ctx, embedetcd.Options{Dir: t.TempDir(), NoSync: true, Wrap: c.wrap})
	if err != nil {
		t.Fatal(err)
	}
	defer etcd.Close()
	for _, key := range []string{"/p/config", "/p/subnets/a", "/p/subnets/b"} {
		if err := etcd.Set(ctx, key, "x", 0); err != nil {
			t.Fatal(err)
		}
	}
	get := func(query string) (string, error) {
		req, err := http.NewRequestWithContext(ctx, "GET", etcd.Endpoints()[0]+"/v2/keys/p"+query, nil)
		if err != nil {
			return "", err
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return "", err
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		return string(b), err
	}
	list, err := get("/subnets?recursive=true")
	if err != nil || !strings.Contains(list, "/p/subnets/b") {
		t.Fatalf("%q, %v", list, err)
	}
	if config, err := get("/config"); err != nil || !strings.Contains(config, `"value":"x"`) {
		t.Fatalf("%q, %v", config, err)
	}
	poll := func() <-chan string {
		answer := make(chan string, 1)
		before := c.counts().Polls
		go func() {
			text, err := get("/subnets?wait=true&recursive=true")
			if err != nil {
				text = err.Error()
			}
			answer <- text
		}()
		if err := c.await(ctx, func(n etcdCounts) bool { return n.Polls > before }); err != nil {
			t.Fatal(err)
		}
		return answer
	}
	told := poll()
	// The count comes before the watch is there; so write until it is told.
	var event string
	for event == "" {
		if err := etcd.Set(ctx, "/p/subnets/c", "y", 0); err != nil {
			t.Fatal(err)
		}
		select {
		case event = <-told:
		case <-time.After(10 * time.Millisecond):
		}
	}
	if !strings.Contains(event, "/p/subnets/c") {
		t.Errorf("event %q", event)
	}
	before := c.counts()
	ended := poll()
	c.endPolls()
	if text := <-ended; text != "" {
		t.Errorf("an ended poll answers %q", text)
	}
	all, last, err := c.awaitSilence(ctx, 50*time.Millisecond)
	if err != nil || time.Since(last) < 50*time.Millisecond {
		t.Errorf("silent since %s, %v", last, err)
	}
	if all.Polls != 2 || all.PollBytes != int64(len(event)) || all.Lists != 1 || all.ListBytes != int64(len(list)) || all.ListTime <= 0 || all.Others != 1 || all.requests() != 4 {
		t.Errorf("counts %+v", all)
	}
	if d := all.minus(before); d != (etcdCounts{Polls: 1, PollBytes: all.PollBytes - before.PollBytes}) {
		t.Errorf("difference %+v", d)
	}
	cancel()
	if err := c.await(ctx, func(etcdCounts) bool { return false }); err == nil {
		t.Error("await has no end")
	}
}
