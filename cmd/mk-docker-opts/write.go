package main

import (
	"errors"
	"os"
	"path/filepath"

	"github.com/google/renameio/v2"
)

// writeFile replaces the content of path at one stroke. A new file gets the
// mode that the umask allows, and an old one keeps its own; of a symbolic link
// the file behind it is replaced, or made if it is not there. What is not a
// regular file, such as /dev/stdout or a pipe, is written to.
func writeFile(path string, b []byte) error {
	info, err := os.Stat(path)
	if _, noLink := os.Readlink(path); noLink == nil && errors.Is(err, os.ErrNotExist) {
		// A link to a file that is not there yet, as one into /run after a
		// reboot: let the kernel find the place.
		if err = writeInto(path, nil, os.O_CREATE); err == nil {
			info, err = os.Stat(path)
		}
	}
	switch {
	case err == nil && !info.Mode().IsRegular():
		return writeInto(path, b, 0)
	case err == nil:
		if path, err = filepath.EvalSymlinks(path); err != nil {
			return err
		}
	case !errors.Is(err, os.ErrNotExist):
		return err
	}
	return renameio.WriteFile(path, b, 0o666, renameio.WithTempDir(filepath.Dir(path)))
}

func writeInto(path string, b []byte, flag int) error {
	f, err := os.OpenFile(path, os.O_WRONLY|flag, 0o666)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	return errors.Join(err, f.Close())
}
