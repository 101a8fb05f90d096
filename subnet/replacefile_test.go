package subnet

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

func ls(t *testing.T, dir string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// Only what an earlier writer of the same file left behind is removed.
func TestReplaceFileRemovesStale(t *testing.T) {
	dir := t.TempDir()
	keep := []string{
		".subnet.env", ".subnet.env1", ".subnet.env12345678901234x", ".subnet.env.bak", ".other.env8041246353154183719",
		".subnetxenv8041246353154183719", "subnet.env8041246353154183719", ".subnet.env80412463531541837190000",
	}
	stale := []string{".subnet.env8041246353154183719", ".subnet.env804124635315418"}
	for _, name := range slices.Concat(keep, stale) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	folder, link := ".subnet.env1111111111111111111", ".subnet.env2222222222222222222"
	if err := os.Mkdir(filepath.Join(dir, folder), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("subnet.env", filepath.Join(dir, link)); err != nil {
		t.Fatal(err)
	}
	want := append(slices.Clone(keep), folder, link, "subnet.env")
	slices.Sort(want)
	path := filepath.Join(dir, "subnet.env")

	// A writer at work holds the lock.
	d, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if err := syscall.Flock(int(d.Fd()), syscall.LOCK_SH); err != nil {
		t.Fatal(err)
	}
	if err := sampleEnv.WriteFile(path); err != nil {
		t.Fatal(err)
	}
	if got := ls(t, dir); len(got) != len(want)+len(stale) {
		t.Errorf("beside another writer, left are %v", got)
	}
	// Nor does one who holds it for good keep a node from starting.
	if err := syscall.Flock(int(d.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	if err := sampleEnv.WriteFile(path); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Flock(int(d.Fd()), syscall.LOCK_UN); err != nil {
		t.Fatal(err)
	}
	if err := sampleEnv.WriteFile(path); err != nil {
		t.Fatal(err)
	}
	if got := ls(t, dir); !slices.Equal(got, want) {
		t.Errorf("left are %v, want %v", got, want)
	}
}

// Writers of the same file at once do not take each other's work away.
func TestReplaceFileTogether(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "subnet.env")
	var writers sync.WaitGroup
	failed := make(chan error, 400)
	for range 4 {
		writers.Go(func() {
			for range 100 {
				if err := replaceFile(path, []byte(sampleEnvText), 0o644); err != nil {
					failed <- err
				}
			}
		})
	}
	writers.Wait()
	if len(failed) > 0 {
		t.Errorf("%d writes failed, such as: %v", len(failed), <-failed)
	}
	if got := ls(t, dir); !slices.Equal(got, []string{"subnet.env"}) {
		t.Errorf("left are %v", got)
	}
}

// A process that writes all the time is killed at any moment: the file is whole,
// and the next write leaves nothing behind.
func TestReplaceFileKilled(t *testing.T) {
	if dir := os.Getenv("TEST_REPLACE_DIR"); dir != "" {
		for {
			_ = sampleState.WriteFile(filepath.Join(dir, "state.json"))
		}
	}
	dir := t.TempDir()
	path := filepath.Join(dir, "state.json")
	if err := sampleState.WriteFile(path); err != nil {
		t.Fatal(err)
	}
	left := 0
	for i := range 20 {
		cmd := exec.Command(os.Args[0], "-test.run=TestReplaceFileKilled$")
		cmd.Env = append(os.Environ(), "TEST_REPLACE_DIR="+dir)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(20+i) * time.Millisecond) // at any moment
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait() // it was killed
		if len(ls(t, dir)) > 1 {
			left++
		}
		if s, err := ReadState(path); err != nil || s.Subnet != sampleState.Subnet {
			t.Fatalf("after a kill: %+v, %v", s, err)
		}
		if err := sampleState.WriteFile(path); err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(ls(t, dir), " "); got != "state.json" {
			t.Fatalf("left are %s", got)
		}
	}
	t.Logf("%d of 20 kills left a file", left)
}
