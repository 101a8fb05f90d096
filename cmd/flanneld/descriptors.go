package main

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// minDescriptors is how many files a daemon of any backend has open at most while
// nobody asks for its health, twice over: udp at rest has 25, and iptables takes 6.
const minDescriptors = 64

// checkDescriptors tells at once what the first to need one more descriptor would
// tell in its own way: for the runtime of Go, that is a panic with all stacks.
func checkDescriptors() error {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return fmt.Errorf("read the limit of open files: %w", err)
	}
	if limit.Cur < minDescriptors {
		return fmt.Errorf("this process may have only %d files open: want %d or more, see ulimit -n, or LimitNOFILE= of its unit", limit.Cur, minDescriptors)
	}
	return nil
}
