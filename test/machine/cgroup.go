package machine

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"tweed/test/lab"
)

// cgroupRoot is where every distribution mounts the hierarchies (cgroups(7)).
const cgroupRoot = "/sys/fs/cgroup"

// hierarchies returns the directory of every mounted cgroup hierarchy.
func hierarchies() ([]string, error) {
	f, err := os.Open("/proc/self/mounts")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var dirs []string
	for s := bufio.NewScanner(f); s.Scan(); {
		fields := strings.Fields(s.Text())
		if len(fields) > 2 && strings.HasPrefix(fields[2], "cgroup") && strings.HasPrefix(fields[1], cgroupRoot) {
			dirs = append(dirs, fields[1])
		}
	}
	if len(dirs) == 0 {
		return nil, fmt.Errorf("no cgroup hierarchy is mounted below %s", cgroupRoot)
	}
	return dirs, nil
}

// makeCgroups makes a cgroup of that name in every hierarchy.
func makeCgroups(name string) ([]string, error) {
	roots, err := hierarchies()
	if err != nil {
		return nil, err
	}
	var made []string
	for _, root := range roots {
		dir := filepath.Join(root, name)
		if err := os.Mkdir(dir, 0o755); err != nil {
			return made, err
		}
		made = append(made, dir)
		// A new cpuset has no processors, and takes no process (cpuset(7)).
		for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
			all, err := os.ReadFile(filepath.Join(root, file))
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err == nil {
				err = os.WriteFile(filepath.Join(dir, file), all, 0)
			}
			if err != nil {
				return made, err
			}
		}
	}
	return made, nil
}

// removeCgroups removes the directories with all that is in them. The kernel
// refuses as long as a process is left, and those of a machine that was just
// killed take a moment to go.
func removeCgroups(dirs []string) error {
	deadline := time.Now().Add(10 * time.Second)
	var errs []error
	for _, dir := range dirs {
		for {
			err := removeTree(dir)
			if err == nil || !errors.Is(err, unix.EBUSY) || time.Now().After(deadline) {
				errs = append(errs, err)
				break
			}
			time.Sleep(5 * time.Millisecond)
		}
	}
	return errors.Join(errs...)
}

// removeTree removes a cgroup and the ones below it, the deepest first. Its
// files are no obstacle.
func removeTree(dir string) error {
	var all []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err == nil && d.IsDir() {
			all = append(all, path)
		}
		return err
	})
	if err != nil {
		return err
	}
	for _, path := range slices.Backward(all) {
		if err := unix.Rmdir(path); err != nil && err != unix.ENOENT {
			return &os.PathError{Op: "remove cgroup", Path: path, Err: err}
		}
	}
	return nil
}

// removeStaleCgroups removes what machines have left whose lab was killed. What
// cannot be removed does no harm.
func removeStaleCgroups() {
	roots, err := hierarchies()
	if err != nil {
		return
	}
	for _, root := range roots {
		entries, _ := os.ReadDir(root)
		for _, e := range entries {
			if lab.IsStale(e.Name()) {
				removeTree(filepath.Join(root, e.Name()))
			}
		}
	}
}
