package subnet

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"syscall"
	"time"

	"github.com/google/renameio/v2"
)

// replaceFile writes b to path by way of a synced temporary file beside it. Such
// files of earlier writers that were killed are removed.
func replaceFile(path string, b []byte, mode os.FileMode) error {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close() // and the lock ends
	removeStale(d, filepath.Base(path))

	err = renameio.WriteFile(path, b, mode, renameio.WithTempDir(dir), renameio.WithStaticPermissions(mode))
	if err != nil {
		return fmt.Errorf("write %s: %w", path, cause(err))
	}
	// The rename itself is on disk only once the folder is. Some file systems
	// cannot sync a folder and answer EINVAL.
	if err := d.Sync(); err != nil && !errors.Is(err, errors.ErrUnsupported) && !errors.Is(err, syscall.EINVAL) {
		return fmt.Errorf("sync %s: %w", dir, err)
	}
	return nil
}

// cause leaves out the name of the temporary file, which is another each time.
func cause(err error) error {
	var p *os.PathError
	var l *os.LinkError
	switch {
	case errors.As(err, &p):
		return p.Err
	case errors.As(err, &l):
		return l.Err
	}
	return err
}

// removeStale removes what writers of name left behind in the folder when they were
// killed, and leaves the folder locked for a writer if that is possible at once.
// Every writer holds the lock for reading: whoever has it alone is alone. All of
// this is optional, since a lock that someone else holds must not keep a node from
// starting.
func removeStale(dir *os.File, name string) {
	fd := int(dir.Fd())
	if syscall.Flock(fd, syscall.LOCK_EX|syscall.LOCK_NB) == nil {
		// The names that renameio gives: "." before and a random int64 behind it.
		stale := regexp.MustCompile(`^\.` + regexp.QuoteMeta(name) + `\d{15,19}$`)
		entries, _ := dir.ReadDir(-1)
		for _, e := range entries {
			if e.Type().IsRegular() && stale.MatchString(e.Name()) {
				_ = os.Remove(filepath.Join(dir.Name(), e.Name()))
			}
		}
	}
	// One who removes is done in no time.
	for try := 0; try < 100 && syscall.Flock(fd, syscall.LOCK_SH|syscall.LOCK_NB) == syscall.EWOULDBLOCK; try++ {
		time.Sleep(time.Millisecond)
	}
}
