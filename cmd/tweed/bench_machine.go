package main

import (
	"bufio"
	"cmp"
	"fmt"
	"io"
	"os"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// readMachine fills in what the machine says about itself.
func readMachine() (machine, error) {
	m := machine{Arch: runtime.GOARCH, Go: runtime.Version(), Tweed: versionText()}
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return machine{}, os.NewSyscallError("uname", err)
	}
	m.Kernel = unix.ByteSliceToString(u.Release[:])
	model, err := readProc("/proc/cpuinfo", cpuModel)
	if err != nil {
		return machine{}, err
	}
	m.CPU = cmp.Or(model, "unknown processor")
	// The processors that are online and that steal time is accounted for:
	// runtime.NumCPU knows only those that we may run on.
	if m.Cores, err = readProc("/proc/stat", countCPUs); err == nil && m.Cores == 0 {
		err = fmt.Errorf("/proc/stat: no line of a processor")
	}
	return m, err
}

func readProc[T any](path string, read func(io.Reader) (T, error)) (v T, err error) {
	f, err := os.Open(path)
	if err != nil {
		return v, err
	}
	defer f.Close()
	if v, err = read(f); err != nil {
		return v, fmt.Errorf("%s: %w", path, err)
	}
	return v, nil
}

// cpuModel finds the name of the processor; empty where the architecture's
// cpuinfo has none (proc_cpuinfo(5)).
func cpuModel(r io.Reader) (string, error) {
	found := make(map[string]string)
	s := bufio.NewScanner(r)
	for s.Scan() {
		key, value, ok := strings.Cut(s.Text(), ":")
		if key = strings.TrimSpace(key); ok && found[key] == "" {
			found[key] = strings.Join(strings.Fields(value), " ")
		}
	}
	// x86 and 32-bit Arm; Power; RISC-V; Arm boards.
	return cmp.Or(found["model name"], found["cpu"], found["uarch"], found["Hardware"]), s.Err()
}

// countCPUs counts the lines "cpuN ..." of proc_stat(5).
func countCPUs(r io.Reader) (int, error) {
	n := 0
	s := bufio.NewScanner(r)
	s.Buffer(nil, 1<<20) // the line of interrupts may be long
	for s.Scan() {
		if number, ok := strings.CutPrefix(s.Text(), "cpu"); ok && number != "" && number[0] != ' ' {
			n++
		}
	}
	return n, s.Err()
}

// peakMemory finds VmHWM, the most memory that a process has had resident, in
// a proc_pid_status(5), in bytes.
func peakMemory(r io.Reader) (int64, error) {
	s := bufio.NewScanner(r)
	for s.Scan() {
		value, ok := strings.CutPrefix(s.Text(), "VmHWM:")
		if !ok {
			continue
		}
		kib, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(value, " kB")), 10, 64)
		if err != nil {
			return 0, fmt.Errorf("VmHWM: %w", err)
		}
		return kib << 10, nil
	}
	if err := s.Err(); err != nil {
		return 0, err
	}
	return 0, fmt.Errorf("no line VmHWM: the process has ended")
}
