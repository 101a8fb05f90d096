// Package nstest puts kernel tests into fresh network namespaces, says what is
// missing on a machine, and waits for conditions. Only tests import it.
package nstest

import (
	"os"
	"runtime"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// StrictEnv names the variable that, set to 1, turns every skip for a missing
// part into a failure. `make test` sets it.
const StrictEnv = "TWEED_TEST_STRICT"

// Enter moves the calling test into a new network namespace with its loopback
// up, for as long as the test runs; the namespace vanishes with it. Only the
// test's own goroutine is inside: subtests and other goroutines are not, but
// sockets and netlink handles opened inside keep working everywhere.
//
// The thread is never given back to the scheduler, so no other goroutine can
// wander into the namespace.
func Enter(t testing.TB) {
	t.Helper()
	NeedRoot(t)
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatalf("new network namespace: %v", err)
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		t.Fatalf("find lo: %v", err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		t.Fatalf("set lo up: %v", err)
	}
}

// NeedRoot skips the test unless it runs as root.
func NeedRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		Missing(t, "root privileges (CAP_NET_ADMIN)")
	}
}

// Missing skips the test because part is missing on this machine, or fails it
// where StrictEnv says that set-up should have installed the part.
func Missing(t testing.TB, part string) {
	t.Helper()
	if os.Getenv(StrictEnv) == "1" {
		t.Fatalf("missing: %s (%s=1 forbids skipping)", part, StrictEnv)
	}
	t.Skipf("missing: %s", part)
}
