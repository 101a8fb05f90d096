package tun

import (
	"errors"
	"runtime"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// While no daemon holds a persistent interface, only its owner may attach to
// it, even where everybody may open /dev/net/tun.
func TestPersistentHasOwner(t *testing.T) {
	quietNamespace(t)
	d := mustOpen(t, "flannel%d", Options{})
	if err := d.SetPersistent(true); err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if err := attachAsNobody(t, d.Name()); !errors.Is(err, syscall.EPERM) {
		t.Errorf("attaching as nobody: %v, want EPERM", err)
	}
	d, err := Open(d.Name(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := d.SetPersistent(false); err != nil {
		t.Error(err)
	}
	d.Close()
}

// attachAsNobody gives up root on a thread that ends with it; the file is
// opened before, as if its mode allowed it.
func attachAsNobody(t *testing.T, name string) error {
	ifr, err := unix.NewIfreq(name)
	if err != nil {
		t.Fatal(err)
	}
	ifr.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
	fd, err := unix.Open(devNetTun, unix.O_RDWR|unix.O_CLOEXEC, 0) // in the namespace of the test's thread
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	result := make(chan error)
	go func() {
		runtime.LockOSThread()
		const nobody = 65534
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, nobody, nobody, nobody); errno != 0 {
			result <- errno
			return
		}
		result <- unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr)
	}()
	return <-result
}
