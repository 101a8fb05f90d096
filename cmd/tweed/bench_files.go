package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/google/renameio/v2"
)

// writeResults writes bench.json and the plots, and returns what it has
// written.
func writeResults(dir string, r *benchResult) (written []string, err error) {
	return writeOutput(dir, "bench.json", r, charts(r))
}

// writeOutput writes a result as JSON, and its plots. A plot for which nothing
// was measured is removed: one of an earlier run must not stand beside the new
// figures.
func writeOutput(dir, name string, result any, charts []chart) (written []string, err error) {
	path := filepath.Join(dir, name)
	err = writeFile(path, func(w io.Writer) error { return writeJSON(w, result) })
	if err == nil {
		written = append(written, path)
	}
	for _, c := range charts {
		path := filepath.Join(dir, c.file)
		if c.empty() {
			if rmErr := os.Remove(path); !errors.Is(rmErr, os.ErrNotExist) {
				err = errors.Join(err, rmErr)
			}
			continue
		}
		if svgErr := writeFile(path, c.writeSVG); svgErr != nil {
			err = errors.Join(err, svgErr)
			continue
		}
		written = append(written, path)
	}
	return written, err
}

// writeFile replaces a file as a whole or not at all.
func writeFile(path string, write func(io.Writer) error) (err error) {
	f, err := renameio.NewPendingFile(path, renameio.WithPermissions(0o644))
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	defer f.Cleanup()
	if err := write(f); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := f.CloseAtomicallyReplace(); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}
