package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"tweed/test/lab"
)

// What the commands that build a lab have in common.

// usageError is answered with exit status 2.
type usageError struct{ error }

// checkCommand answers for a command: with its text where err asks for help,
// with what is wrong where it is a usageError, and with how to get root where
// that is missing. It reports whether the command may go on; otherwise status
// is that to exit with.
func checkCommand(name, text string, err error, stdout, stderr io.Writer) (status int, ok bool) {
	var wrong usageError
	switch {
	case errors.Is(err, flag.ErrHelp):
		fmt.Fprint(stdout, text)
		return exitOK, false
	case errors.As(err, &wrong):
		fmt.Fprintf(stderr, "tweed %s: %v\nsee: tweed %s -h\n", name, err, name)
		return exitUsage, false
	case os.Geteuid() != 0:
		fmt.Fprintf(stderr, "tweed %s: making network namespaces needs root; run:\n  sudo %s\n", name, commandLine(os.Args))
		return exitFailed, false
	}
	return exitOK, true
}

// commandLine quotes words for a shell where they need it.
func commandLine(words []string) string {
	quoted := make([]string, len(words))
	for i, w := range words {
		quoted[i] = w
		if w == "" || strings.ContainsAny(w, " \t\n'\"\\$`&|;<>()*?[]#~!{}") {
			quoted[i] = "'" + strings.ReplaceAll(w, "'", `'\''`) + "'"
		}
	}
	return strings.Join(quoted, " ")
}

// findFlanneld returns the absolute path of the daemon: that of the flag, or
// the one beside tweed itself where path is empty.
func findFlanneld(path string) (string, error) {
	if path == "" {
		self, err := os.Executable()
		if err != nil {
			return "", fmt.Errorf("find flanneld beside tweed: %w: name it with -flanneld", err)
		}
		path = filepath.Join(filepath.Dir(self), "flanneld")
	}
	abs, err := filepath.Abs(path)
	if err != nil {
		return "", fmt.Errorf("-flanneld %s: %w", path, err)
	}
	info, err := os.Stat(abs)
	switch {
	case err != nil:
		return "", fmt.Errorf("no flanneld: %w: build it with `make build`, or name it with -flanneld", err)
	case info.IsDir() || info.Mode()&0o111 == 0:
		return "", fmt.Errorf("-flanneld %s: not a program", abs)
	}
	return abs, nil
}

// newLab is lab.New with a word about what root may lack.
func newLab(ctx context.Context, o lab.Options) (*lab.Lab, error) {
	l, err := lab.New(ctx, o)
	if errors.Is(err, syscall.EPERM) {
		return nil, fmt.Errorf("%w: root needs CAP_SYS_ADMIN and CAP_NET_ADMIN; in a container, add --privileged", err)
	}
	return l, err
}

// A step is a part of a command's work that is bounded in time.
type step struct {
	text string
	max  time.Duration
	do   func(context.Context) error
}

// runSteps does one step after the other, and says so with the prefix before
// each. The error says which failed.
func runSteps(ctx context.Context, p *progress, prefix string, steps []step) error {
	for _, s := range steps {
		end := p.step("%s%s", prefix, s.text)
		ctx, cancel := context.WithTimeout(ctx, s.max)
		err := s.do(ctx)
		cancel()
		end()
		if err != nil {
			return fmt.Errorf("%s: %w", s.text, err)
		}
	}
	return nil
}

// tellSignal says at once that a signal ended ctx, since removing the lab
// takes its time. The returned function waits until that was said, or will not
// be.
func tellSignal(ctx context.Context, p *progress, name string) (done func()) {
	told := make(chan struct{})
	unsaid := context.AfterFunc(ctx, func() {
		defer close(told)
		p.note("signal: removing everything; a second one leaves that to the next run of the %s", name)
	})
	return func() {
		if !unsaid() {
			<-told
		}
	}
}

// writeJSON writes v for scripts and for eyes.
func writeJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// reportCause shows the last lines of the process that err is about, if it is
// about one, and where all logs are, if they were kept.
func reportCause(w io.Writer, err error, logs string) {
	var perr *lab.ProcessError
	if errors.As(err, &perr) {
		fmt.Fprintf(w, "  the last lines of %s:\n", perr.Process.Log)
		for _, line := range perr.Tail {
			fmt.Fprintf(w, "    %s\n", line)
		}
	}
	if logs != "" {
		fmt.Fprintf(w, "  all logs are kept in %s\n", logs)
	}
}
