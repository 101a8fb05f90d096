package firewall

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// iptables runs the program of that name. A child inherits the network
// namespace of the thread that starts it, so all calls stay on the caller's
// goroutine.
type iptables struct {
	path     string
	wait     time.Duration // for the xtables lock; whole seconds
	waitArgs []string      // how this version is told so; nil until asked
	kind     variant       // zero until asked
	log      *slog.Logger
}

// A variant of the program keeps its rules in one of two places.
type variant int

const (
	legacyVariant variant = 1 + iota // in x_tables; also all versions before 1.8
	nftVariant                       // in nf_tables
)

// ensure makes the chain hold the rules of s once each and in order, among
// whatever else is there.
//
// To repair, it appends the whole set and only then deletes the earlier copies
// and the stale rules: deleting by content takes the first match, which is the
// earlier one. There is no moment without a complete set, unlike in flannel.
func (t *iptables) ensure(ctx context.Context, s ruleSet) ([]Change, error) {
	if err := t.version(ctx); err != nil {
		return nil, err
	}
	old, err := t.list(ctx, s)
	if err != nil || slices.Equal(old, s.rules) {
		return nil, err
	}
	done := []Change{{s.table, s.chain, len(s.rules), len(old)}}
	if err := t.append(ctx, s, old); err != nil {
		return done, err
	}
	for _, x := range old {
		if err := t.change(ctx, "-D", s, x); err != nil {
			return done, err
		}
	}
	return done, nil
}

// append adds all rules of s behind old, or none. It lists the chain again: a
// version of iptables whose output we misread would otherwise let the chain
// grow with every call.
func (t *iptables) append(ctx context.Context, s ruleSet, old []rule) error {
	var done []rule
	err := func() error {
		for _, x := range s.rules {
			if err := t.change(ctx, "-A", s, x); err != nil {
				return err
			}
			done = append(done, x)
		}
		now, err := t.list(ctx, s)
		if err != nil {
			// The set is complete and stays, also if we are to end just now.
			// While listing fails, nothing more is appended.
			done = nil
			return err
		}
		if want := slices.Concat(old, s.rules); !slices.Equal(now, want) {
			return fmt.Errorf("%s, table %s, chain %s: listed %q after appending, want %q: its output is of an unknown form, or %w",
				t.path, s.table, s.chain, now, want, ErrInterfered)
		}
		return nil
	}()
	if err == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), takeBackLimit)
	defer cancel()
	for _, x := range done {
		err = errors.Join(err, t.change(ctx, "-D", s, x))
	}
	return err
}

func (t *iptables) list(ctx context.Context, s ruleSet) ([]rule, error) {
	out, err := t.run(ctx, "-t", s.table, "-S", s.chain)
	if err != nil {
		return nil, fmt.Errorf("list table %s, chain %s: %w", s.table, s.chain, err)
	}
	return s.owned(strings.Split(out, "\n")), nil
}

// change appends (-A) or deletes (-D) one rule.
func (t *iptables) change(ctx context.Context, op string, s ruleSet, x rule) error {
	if _, err := t.run(ctx, slices.Concat([]string{"-t", s.table, op, s.chain}, x.args())...); err != nil {
		verb := map[string]string{"-A": "append to", "-D": "delete from"}[op]
		return fmt.Errorf("%s table %s, chain %s the rule %q: %w", verb, s.table, s.chain, x, err)
	}
	return nil
}

// version finds out once which variant this is, and how to wait for the xtables
// lock: from 1.4.20 on with
// -w, from 1.6.0 on with a bound in seconds. The first of these needs no bound
// of its own, since ours ends it.
func (t *iptables) version(ctx context.Context) error {
	if t.waitArgs != nil {
		return nil
	}
	out, err := t.run(ctx, "--version")
	if err != nil {
		return fmt.Errorf("ask iptables for its version: %w", err)
	}
	t.kind = legacyVariant
	if strings.Contains(out, "nf_tables") { // such as "iptables v1.8.9 (nf_tables)"
		t.kind = nftVariant
	}
	t.waitArgs = []string{"-w", strconv.Itoa(int(t.wait.Seconds()))}
	var v [3]int
	if _, err := fmt.Sscanf(out, "iptables v%d.%d.%d", &v[0], &v[1], &v[2]); err == nil {
		if slices.Compare(v[:], []int{1, 6, 0}) < 0 {
			t.waitArgs = t.waitArgs[:1]
		}
		if slices.Compare(v[:], []int{1, 4, 20}) < 0 {
			t.waitArgs = t.waitArgs[:0]
		}
	}
	t.log.Debug("found iptables", "path", t.path, "version", strings.TrimSpace(out))
	return nil
}

// run runs the program and returns what it printed. When ctx ends, the program
// and its children are killed.
func (t *iptables) run(ctx context.Context, args ...string) (string, error) {
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, t.path, slices.Concat(t.waitArgs, args)...)
	cmd.Env = append(os.Environ(), "LC_ALL=C") // we read its messages
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second

	err := cmd.Run()
	switch {
	case err == nil:
		t.log.Debug("ran iptables", "args", cmd.Args)
		return stdout.String(), nil
	case ctx.Err() != nil:
		return "", fmt.Errorf("%s was stopped before it finished: %w", t.path, ctx.Err())
	}
	message := complaint(stderr.String())
	if sentinel := recognise(message); sentinel != nil {
		return "", fmt.Errorf("%s: %w: %s (%w)", t.path, err, message, sentinel)
	}
	return "", fmt.Errorf("%s: %w: %s", t.path, err, message)
}

// messages maps what iptables says on stderr, in any of its variants, to what
// it means. The exit status does not tell these apart.
var messages = []struct {
	text string
	err  error
}{
	{"Permission denied", ErrPermission},
	{"Operation not permitted", ErrPermission},
	{"you must be root", ErrPermission},
	{"xtables lock", ErrLocked},
	{"Table does not exist", ErrUnsupported},     // legacy: no such table module
	{"Failed to initialize nft", ErrUnsupported}, // nft: no nf_tables
	{"missing kernel module", ErrUnsupported},    // nft: no such target
	{"No chain/target/match", ErrUnsupported},    // legacy: no such target
	{"RULE_APPEND failed (No such file", ErrUnsupported},
}

func recognise(message string) error {
	for _, m := range messages {
		if strings.Contains(message, m.text) {
			return m.err
		}
	}
	return nil
}

// complaint puts what a program wrote on stderr into one line of bounded length,
// without the remarks that begin with "#".
func complaint(s string) string {
	var lines []string
	for line := range strings.Lines(s) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
			lines = append(lines, line)
		}
	}
	if len(lines) == 0 {
		return "no message"
	}
	s = strings.Join(lines, "; ")
	return s[:min(len(s), 300)]
}
