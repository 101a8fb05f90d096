package test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// onSmallDisk runs etcd on a disk of its own that can be filled, in a mount
// namespace that nobody else sees, and starts it again when it dies: $0 is the
// directory. etcd allocates 64 MB for its log at once, twice.
const onSmallDisk = `
mkdir -p "$0"
mount -t tmpfs -o size=160M tmpfs "$0"
while :; do
	"$@"
	echo "etcd ended with status $?"
	sleep 0.5
done`

// disk is the member's data directory as seen from here.
func (m *member) disk(elem ...string) string {
	return filepath.Join(append([]string{fmt.Sprintf("/proc/%d/root", m.proc.PID), m.Path("data")}, elem...)...)
}

// fill takes all that is left of the disk.
func (m *member) fill() {
	m.e.t.Helper()
	f, err := os.Create(m.disk("filler"))
	m.e.must(err)
	defer f.Close()
	block := make([]byte, 1<<16)
	for err == nil {
		_, err = f.Write(block)
	}
	if !errors.Is(err, unix.ENOSPC) {
		m.e.t.Fatalf("fill the disk of %s: %v", m.Name, err)
	}
}

func (m *member) free() {
	m.e.t.Helper()
	m.e.must(os.Remove(m.disk("filler")))
}

// deaths counts how often the member's etcd has ended.
func (m *member) deaths() int {
	return strings.Count(strings.Join(m.proc.Lines(), "\n"), "etcd ended with status")
}

// TestEtcdDiskFull fills the disk of one member, which dies of it, then those
// of all, and frees them: packets flow on, and news come again.
func TestEtcdDiskFull(t *testing.T) {
	t.Parallel()
	e := newEnsemble(t, config(`"vxlan"`), func(m *member) {
		m.wrap = onSmallDisk
		// It writes a snapshot, and notices, every ten changes.
		m.args = []string{"--snapshot-count=10"}
	})
	a, b := e.addNode(), e.addNode()
	calm := e.keepVigil(a, b)
	calm.fickle = true

	full := e.inUse()
	full.fill()
	e.writeUntilDead(full)
	e.wantNews(1, "the disk of the member in use is full", a, b)

	for _, m := range e.members {
		if m != full {
			m.fill()
		}
	}
	from := []int{len(a.daemon.Notified()), len(b.daemon.Notified())}
	e.writeUntilDead(e.members...)
	a.wantTold(from[0], "etcd does not answer since ")
	b.wantTold(from[1], "etcd does not answer since ")

	for _, m := range e.members {
		m.free()
	}
	began := time.Now()
	e.wantHealthy(e.members...)
	t.Logf("etcd is back %.1f s after its disks were freed", time.Since(began).Seconds())
	e.wantNews(2, "all disks were full and are free again", a, b)
	calm.end("full disks", 3*calmLines)
}

// writeUntilDead writes records until these members have died of it.
func (e *ensemble) writeUntilDead(members ...*member) {
	e.t.Helper()
	key, p := stranger("vxlan", 99)
	e.eventually("etcd to die of its full disk", func() error {
		for i := range 20 {
			p.mac = fmt.Sprintf("0e:00:00:00:01:%02x", i)
			for _, m := range e.members {
				if m.put(key, p.value(), time.Hour) == nil {
					break
				}
			}
		}
		for _, m := range members {
			if m.deaths() == 0 {
				return fmt.Errorf("%s lives", m.Name)
			}
		}
		return nil
	})
}
