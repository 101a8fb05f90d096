package lab

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// namePrefix begins the name of all that belongs to a lab; the process id of
// its maker follows.
const namePrefix = "tweed-"

// keepMark is a file in the directory of a lab whose logs are to stay.
const keepMark = "keep"

// labName is a name that starts with the ID of a lab: that of its directory
// alone, that of a namespace followed by the host. Process ids have at most 7
// digits (pid_max in proc(5)), so a date is none.
var labName = regexp.MustCompile(`^(` + namePrefix + `([1-9][0-9]{0,6})-[a-z2-7]{4})(-|$)`)

// staleLab returns the ID of the lab that name belongs to, if its maker is no
// more.
func staleLab(name string) (id string, ok bool) {
	m := labName.FindStringSubmatch(name)
	if m == nil {
		return "", false
	}
	pid, err := strconv.Atoi(m[2])
	return m[1], err == nil && unix.Kill(pid, 0) == unix.ESRCH
}

// IsStale reports whether name, of whatever kind of thing, starts with the ID
// of a lab whose process has died.
func IsStale(name string) bool {
	_, stale := staleLab(name)
	return stale
}

// RemoveStale removes the namespaces of all labs whose process has died, and
// their directories in dir (default os.TempDir) unless KeepFiles was called.
// Their daemons have died with that process.
func RemoveStale(dir string) error {
	var errs []error
	for _, name := range names(netnsDir) {
		if _, ok := staleLab(name); ok {
			errs = append(errs, NS(name).remove())
		}
	}
	dir = tempDir(dir)
	for _, name := range names(dir) {
		if id, ok := staleLab(name); !ok || id != name {
			continue
		}
		path := filepath.Join(dir, name)
		if _, err := os.Stat(filepath.Join(path, keepMark)); errors.Is(err, os.ErrNotExist) {
			errs = append(errs, os.RemoveAll(path))
		}
	}
	return errors.Join(errs...)
}

// Leftovers lists what still exists of the lab with that ID: namespaces,
// mounts, processes, and its directory in dir (default os.TempDir). After Close
// it is empty, but for the directory if KeepFiles was called.
func Leftovers(id, dir string) []string {
	var left []string
	mine := func(name string) bool { return name == id || strings.HasPrefix(name, id+"-") }
	for _, name := range names(netnsDir) {
		if mine(name) {
			left = append(left, "namespace "+name)
		}
	}
	for _, name := range names(tempDir(dir)) {
		if mine(name) {
			left = append(left, "directory "+filepath.Join(tempDir(dir), name))
		}
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		left = append(left, err.Error())
	}
	for line := range bytes.Lines(mounts) {
		if bytes.Contains(line, []byte("/"+id)) {
			left = append(left, "mount "+string(bytes.TrimSpace(line)))
		}
	}
	return append(left, processes(id)...)
}

// processes lists those that have the ID in their command line, as all daemons
// of a lab do: it is in the name of their directory.
func processes(id string) []string {
	var found []string
	for _, name := range names("/proc") {
		pid, err := strconv.Atoi(name)
		if err != nil || pid == os.Getpid() {
			continue
		}
		cmd, err := os.ReadFile(filepath.Join("/proc", name, "cmdline"))
		if err == nil && bytes.Contains(cmd, []byte(id)) {
			found = append(found, fmt.Sprintf("process %d: %s", pid, bytes.ReplaceAll(cmd, []byte{0}, []byte{' '})))
		}
	}
	return found
}

// names of a directory; none if it cannot be read.
func names(dir string) []string {
	entries, _ := os.ReadDir(dir)
	list := make([]string, len(entries))
	for i, e := range entries {
		list[i] = e.Name()
	}
	return list
}
