package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tweed/cmd/flanneld/flags"
	"tweed/test/nstest"
)

const testWait = 100 * time.Millisecond

// mustClaim claims for a daemon of that network and file, and wants no warning.
func mustClaim(t *testing.T, network, file string) *claim {
	t.Helper()
	var out bytes.Buffer
	c, err := claimHost(t.Context(), netip.MustParsePrefix(network), file, testWait, slog.New(newGlogHandler(&out, flags.LogOptions{})))
	if err != nil || out.Len() > 0 {
		t.Fatalf("%s %s: %v, logged %q", network, file, err, &out)
	}
	return c
}

// wantClaimed wants the claim to be refused, with the holder's pid and the text.
func wantClaimed(t *testing.T, network, file, text string) {
	t.Helper()
	c, err := claimHost(t.Context(), netip.MustParsePrefix(network), file, testWait, slog.New(slog.DiscardHandler))
	if err == nil {
		c.Close()
	}
	if pid := fmt.Sprintf("another flanneld (pid %d) ", os.Getpid()); err == nil || !strings.Contains(err.Error(), pid) || !strings.Contains(err.Error(), text) {
		t.Errorf("%s %s: got %v, want %q and %q", network, file, err, pid, text)
	}
}

func TestClaim(t *testing.T) {
	nstest.Enter(t)
	dir := t.TempDir()
	file := func(name string) string { return filepath.Join(dir, name) }
	first := mustClaim(t, "10.5.0.0/16", file("run/subnet.env"))
	mustClaim(t, "10.6.0.0/16", file("run/other.env")).Close()
	mustClaim(t, "10.5.0.0/17", file("run/other.env")).Close()

	wantClaimed(t, "10.5.0.0/16", file("new/other.env"), "carries network 10.5.0.0/16 on this host already: stop it first, ")
	if _, err := os.Stat(file("new")); err == nil {
		t.Error("the refused one has made a folder")
	}
	// The same file by other ways.
	if err := os.Symlink("run", file("link")); err != nil {
		t.Fatal(err)
	}
	t.Chdir(file("run"))
	for _, path := range []string{file("run/subnet.env"), file("link/subnet.env"), file("run/../link//subnet.env"), "subnet.env"} {
		wantClaimed(t, "10.6.0.0/16", path, "writes the subnet file "+path+" on this host already: stop it first, or choose another file with -subnet-file")
	}
	// What was refused has given up the claim that it had.
	mustClaim(t, "10.6.0.0/16", file("run/other.env")).Close()

	first.Close()
	mustClaim(t, "10.5.0.0/16", file("run/subnet.env")).Close()
}

// TestClaimHandover: whoever goes within the time is waited for.
func TestClaimHandover(t *testing.T) {
	nstest.Enter(t)
	path := filepath.Join(t.TempDir(), "subnet.env")
	first := mustClaim(t, "10.5.0.0/16", path)
	var released atomic.Bool
	time.AfterFunc(handover/4, func() {
		released.Store(true)
		first.Close()
	})
	second, err := claimHost(t.Context(), netip.MustParsePrefix("10.5.0.0/16"), path, handover, slog.New(slog.DiscardHandler))
	if err != nil || !released.Load() {
		t.Fatalf("got %v, the first has gone: %t", err, released.Load())
	}

	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(10*time.Millisecond, cancel)
	if _, err := claimHost(ctx, netip.MustParsePrefix("10.5.0.0/16"), path, handover, slog.New(slog.DiscardHandler)); !errors.Is(err, context.Canceled) {
		t.Errorf("interrupted: %v", err)
	}
	second.Close()
}

// TestClaimOften asks more often than the kernel keeps who was not accepted.
func TestClaimOften(t *testing.T) {
	nstest.Enter(t)
	c := mustClaim(t, "10.5.0.0/16", filepath.Join(t.TempDir(), "subnet.env"))
	defer c.Close()
	addr := &net.UnixAddr{Name: "@flanneld network 10.5.0.0/16", Net: "unix"}
	unknown := 0
	for range 10000 {
		if held := holder(addr); held.unknown != nil {
			unknown++
			runtime.Gosched() // for serve to catch up
		} else if int(held.cred.Pid) != os.Getpid() {
			t.Fatal(held)
		}
	}
	// Who asks without a pause may overtake serve.
	if err := nstest.Await(t.Context(), 5*time.Second, func() error { return holder(addr).unknown }); err != nil {
		t.Errorf("%d of 10000 times unknown, and at last: %v", unknown, err)
	}
}

// TestClaimSquatter: a name that another user has, or that nobody listens at, is
// no reason not to start.
func TestClaimSquatter(t *testing.T) {
	nstest.Enter(t)
	path := filepath.Join(t.TempDir(), "subnet.env")
	network := netip.MustParsePrefix("10.5.0.0/16")

	names := []string{"@flanneld network 10.5.0.0/16", "@flanneld subnet-file " + fileIdentity(path)}
	var squatters []*net.UnixListener
	asUser(t, 65534, func() {
		for _, name := range names {
			l, err := net.ListenUnix("unix", &net.UnixAddr{Name: name, Net: "unix"})
			if err != nil {
				t.Fatal(err)
			}
			squatters = append(squatters, l)
		}
	})
	wantWarned(t, network, path, "cannot make sure that no other flanneld of this host carries network 10.5.0.0/16", "writes the subnet file "+path, "taken by user 65534, pid ")
	for _, l := range squatters {
		l.Close()
	}

	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: "@flanneld network 10.5.0.0/16"}); err != nil {
		t.Fatal(err)
	}
	wantWarned(t, network, path, "carries network", "by whom is not known", "connection refused")
}

// wantWarned wants a claim that is made all the same.
func wantWarned(t *testing.T, network netip.Prefix, path string, texts ...string) {
	t.Helper()
	var out bytes.Buffer
	c, err := claimHost(t.Context(), network, path, testWait, slog.New(newGlogHandler(&out, flags.LogOptions{})))
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	for _, text := range texts {
		if !strings.Contains(out.String(), text) {
			t.Errorf("nowhere is %q in %q", text, &out)
		}
	}
}

// asUser runs f with another effective user id on this thread alone, to which
// the test is locked.
func asUser(t *testing.T, uid int, f func()) {
	t.Helper()
	set := func(uid int) {
		if _, _, errno := syscall.RawSyscall(unix.SYS_SETRESUID, ^uintptr(0), uintptr(uid), ^uintptr(0)); errno != 0 {
			t.Fatal(errno)
		}
	}
	set(uid)
	defer set(0)
	f()
}

// TestClaimWithoutDescriptors: a holder that has none left still is known, and
// ends at once.
func TestClaimWithoutDescriptors(t *testing.T) {
	nstest.Enter(t)
	c := mustClaim(t, "10.5.0.0/16", filepath.Join(t.TempDir(), "subnet.env"))
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	small := limit
	small.Cur = 3
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &small); err != nil {
		t.Fatal(err)
	}
	err = unix.Connect(fd, &unix.SockaddrUnix{Name: "@flanneld network 10.5.0.0/16"})
	began := time.Now()
	c.Close()
	took := time.Since(began)
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if err != nil || took > time.Second/2 {
		t.Errorf("connect: %v; closed within %v", err, took)
	}
}

func TestFileIdentity(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "plain"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		"plain/no/../subnet.env": filepath.Join(dir, "plain/subnet.env"), // where there can be no folder
		"new/folder/subnet.env":  "/subnet.env",
	} {
		if got := fileIdentity(filepath.Join(dir, path)); !strings.HasSuffix(got, want) || strings.Contains(got, "..") {
			t.Errorf("%s: %q, want %q at its end", path, got, want)
		}
	}
	// A name too long for a socket is told apart all the same.
	long := filepath.Join(dir, strings.Repeat("x", 200))
	nstest.Enter(t)
	c := mustClaim(t, "10.5.0.0/16", long+"1")
	defer c.Close()
	mustClaim(t, "10.6.0.0/16", long+"2").Close()
	wantClaimed(t, "10.6.0.0/16", long+"1", "writes the subnet file")
}
