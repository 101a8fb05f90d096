package lab

import (
	"bytes"
	"os"
	"slices"
	"sync"
)

// maxLines bounds what is kept in memory of one process; the file has it all.
const maxLines = 1 << 16

// output splits what a process writes into lines, and keeps it in a file.
type output struct {
	mu    sync.Mutex
	file  *os.File
	lines []string
	part  []byte        // of a line that has no end yet
	more  chan struct{} // closed and replaced when lines grows
}

func newOutput(path string) (*output, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, err
	}
	return &output{file: f, more: make(chan struct{})}, nil
}

// Write never fails, so that the process never gets stuck on a full disk.
func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.file.Write(b)
	o.part = append(o.part, b...)
	for {
		line, rest, ok := bytes.Cut(o.part, []byte("\n"))
		if !ok {
			break
		}
		o.add(string(line))
		o.part = rest
	}
	return len(b), nil
}

func (o *output) add(line string) {
	if len(o.lines) == maxLines {
		return
	}
	o.lines = append(o.lines, line)
	close(o.more)
	o.more = make(chan struct{})
}

// since returns the lines from number from on, and a channel that is closed
// when there are more.
func (o *output) since(from int) ([]string, <-chan struct{}) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Clone(o.lines[min(from, len(o.lines)):]), o.more
}

func (o *output) close() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.part) > 0 {
		o.add(string(o.part))
		o.part = nil
	}
	return o.file.Close()
}
