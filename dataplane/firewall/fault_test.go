package firewall

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// wantError calls Ensure, which must fail soon with the sentinel and the texts.
func wantError(t *testing.T, f *Firewall, sentinel error, texts ...string) {
	t.Helper()
	start := time.Now()
	_, err := f.Ensure(t.Context(), testRules())
	if d := time.Since(start); d > 20*time.Second {
		t.Errorf("took %v", d)
	}
	if err == nil {
		t.Fatal("no error")
	}
	if sentinel != nil && !errors.Is(err, sentinel) {
		t.Errorf("error %q is not %q", err, sentinel)
	}
	for _, text := range texts {
		if !strings.Contains(err.Error(), text) {
			t.Errorf("error %q does not name %q", err, text)
		}
	}
}

// fake returns a Firewall that runs the script as iptables.
func fake(t *testing.T, script string) *Firewall {
	t.Helper()
	dir := t.TempDir()
	writeScript(t, filepath.Join(dir, "iptables"), script)
	return withPath(t, dir, func() *Firewall { return open(slog.New(slog.DiscardHandler)) })
}

// A program that hangs is killed with its children, wherever it hangs.
func TestIPTablesHangs(t *testing.T) {
	for _, at := range []string{"--version", "-S", "-A"} {
		t.Run(at, func(t *testing.T) {
			pidFile := filepath.Join(t.TempDir(), "pid")
			f := fake(t, `PATH=/usr/bin:/bin; case "$*" in *`+at+`*) sleep 1000 & echo $! >`+pidFile+`.new; mv `+pidFile+`.new `+pidFile+`; wait;; esac`)
			_, err := f.Ensure(cancelWhenExists(t, pidFile), testRules())
			if !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), f.iptables.path+" was stopped before it finished") {
				t.Errorf("error %v", err)
			}
			b, err := os.ReadFile(pidFile)
			if err != nil {
				t.Fatal(err)
			}
			pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
			if err != nil {
				t.Fatal(err)
			}
			for end := time.Now().Add(10 * time.Second); alive(pid); time.Sleep(5 * time.Millisecond) {
				if time.Now().After(end) {
					t.Fatalf("process %d lives on", pid)
				}
			}
		})
	}
}

func TestIPTablesTimeLimit(t *testing.T) {
	f := fake(t, "exec /bin/sleep 1000")
	f.limit = 100 * time.Millisecond
	wantError(t, f, context.DeadlineExceeded, f.iptables.path)
}

// cancelWhenExists returns a context that ends when the file is there.
func cancelWhenExists(t *testing.T, file string) context.Context {
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	t.Cleanup(wg.Wait)
	t.Cleanup(cancel)
	wg.Go(func() {
		for ctx.Err() == nil {
			if _, err := os.Stat(file); err == nil {
				cancel()
			}
			time.Sleep(time.Millisecond)
		}
	})
	return ctx
}

// alive reports whether the process runs; one that waits for a parent to read
// its status does not.
func alive(pid int) bool {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	return err == nil && !strings.Contains(string(b), ") Z ")
}

func TestContextEnds(t *testing.T) {
	for _, v := range variants {
		t.Run(v, func(t *testing.T) {
			f := enter(t, v)
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			if _, err := f.Ensure(ctx, testRules()); !errors.Is(err, context.Canceled) {
				t.Errorf("error %v, want %v", err, context.Canceled)
			}
		})
	}
}

func TestBadRulesTouchNothing(t *testing.T) {
	f := fake(t, "echo called >&2; exit 1")
	r := testRules()
	r.Subnet = prefix("10.6.0.0/24")
	if _, err := f.Ensure(t.Context(), r); err == nil || strings.Contains(err.Error(), "called") {
		t.Errorf("error %v", err)
	}
}

// What the variants of iptables say, and what we make of it.
func TestIPTablesComplains(t *testing.T) {
	for _, tt := range []struct {
		stderr string
		want   error
	}{
		{"iptables v1.8.9 (nf_tables): Could not fetch rule set generation id: Permission denied (you must be root)", ErrPermission},
		{"iptables v1.8.9 (legacy): can't initialize iptables table `nat': Permission denied (you must be root)", ErrPermission},
		{"Fatal: can't open lock file /run/xtables.lock: Permission denied", ErrPermission},
		{"Another app is currently holding the xtables lock. Stopped waiting after 5s.", ErrLocked},
		{"Another app is currently holding the xtables lock. Perhaps you want to use the -w option?", ErrLocked},
		{"iptables v1.8.9 (legacy): can't initialize iptables table `nat': Table does not exist (do you need to insmod?)\nPerhaps iptables or your kernel needs to be upgraded.", ErrUnsupported},
		{"iptables: No chain/target/match by that name.", ErrUnsupported},
		{"iptables/1.8.9 Failed to initialize nft: Protocol not supported", ErrUnsupported},
		{"Warning: Extension MASQUERADE revision 0 not supported, missing kernel module?\niptables v1.8.9 (nf_tables):  RULE_APPEND failed (No such file or directory): rule in chain POSTROUTING", ErrUnsupported},
		{"# Warning: iptables-legacy tables present, use iptables-legacy to see them\nan unknown fault", nil},
		{"", nil},
	} {
		f := fake(t, "test \"$1\" = --version || { cat >&2 <<'X'\n"+tt.stderr+"\nX\nexit 3; }")
		t.Setenv("PATH", os.Getenv("PATH")+":/usr/bin:/bin")
		wantError(t, f, tt.want, "table nat", "chain POSTROUTING", "table filter", "chain FORWARD",
			f.iptables.path, "exit status 3", lastLine(tt.stderr))
		_, err := f.Ensure(t.Context(), testRules())
		for _, other := range []error{ErrPermission, ErrLocked, ErrUnsupported} {
			if other != tt.want && errors.Is(err, other) {
				t.Errorf("%q taken for %q", tt.stderr, other)
			}
		}
		if strings.Count(err.Error(), "\n") > 1 {
			t.Errorf("more than one line for each table: %q", err)
		}
	}
}

func lastLine(s string) string {
	ls := lines(s, nil)
	if len(ls) == 0 {
		return "no message"
	}
	return ls[len(ls)-1]
}

func TestIPTablesIsNoProgram(t *testing.T) {
	f := fake(t, "")
	if err := os.WriteFile(f.iptables.path, []byte("\x7fELFrubbish"), 0o755); err != nil {
		t.Fatal(err)
	}
	wantError(t, f, nil, f.iptables.path, "exec format error")
	if err := os.Remove(f.iptables.path); err != nil {
		t.Fatal(err)
	}
	wantError(t, f, os.ErrNotExist, f.iptables.path)
}

// We can only read messages in English.
func TestIPTablesLocale(t *testing.T) {
	t.Setenv("LC_ALL", "de_DE.UTF-8")
	wantError(t, fake(t, `echo "locale $LC_ALL" >&2; exit 1`), nil, "locale C")
}

func TestIPTablesVersions(t *testing.T) {
	for version, want := range map[string]string{
		"iptables v1.8.9 (nf_tables)": "-w 5 -t",
		"iptables v1.6.0":             "-w 5 -t",
		"iptables v1.4.21":            "-w -t",
		"iptables v1.4.20":            "-w -t",
		"iptables v1.4.7":             "-t",
		"iptables v2.0.0":             "-w 5 -t",
		"something else":              "-w 5 -t",
	} {
		f := fake(t, `test "$1" = --version && echo "`+version+`" && exit; echo "args: $*" >&2; exit 1`)
		wantError(t, f, nil, "args: "+want+" nat")
	}
}

func TestLockHeld(t *testing.T) {
	f := enter(t, "iptables-legacy")
	f.iptables.wait = time.Second
	lock, err := os.Create(os.Getenv("XTABLES_LOCKFILE"))
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	wantError(t, f, ErrLocked, "table nat", "Stopped waiting after 1s")
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_UN); err != nil {
		t.Fatal(err)
	}
	ensure(t, f, testRules(), true)
}

func TestNoPermission(t *testing.T) {
	for _, v := range variants {
		t.Run(v, func(t *testing.T) {
			f := enter(t, v)
			dropNetAdmin(t)
			wantError(t, f, ErrPermission)
		})
	}
}

// dropNetAdmin takes CAP_NET_ADMIN from the test's thread and its children.
func dropNetAdmin(t *testing.T) {
	t.Helper()
	if err := unix.Prctl(unix.PR_CAPBSET_DROP, unix.CAP_NET_ADMIN, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	h := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var d [2]unix.CapUserData
	if err := unix.Capget(&h, &d[0]); err != nil {
		t.Fatal(err)
	}
	for _, set := range []*uint32{&d[0].Effective, &d[0].Permitted, &d[0].Inheritable} {
		*set &^= 1 << unix.CAP_NET_ADMIN
	}
	if err := unix.Capset(&h, &d[0]); err != nil {
		t.Fatal(err)
	}
}

// When appending fails half way, what was appended is taken back, however
// often that happens: the chain must not grow.
func TestIPTablesFailsHalfWay(t *testing.T) {
	eachIPTables(t, func(t *testing.T, f *Firewall) {
		sh(t, "iptables -t nat -A POSTROUTING -s 192.0.2.1 -j ACCEPT")
		want := listNAT(t)
		spy(t, f, `case "$*" in *-A*MASQUERADE*) echo "iptables: No chain/target/match by that name." >&2; exit 1;; esac`)
		for range 3 {
			wantError(t, f, ErrUnsupported, "append to table nat, chain POSTROUTING",
				`"-s 10.5.0.0/16 ! -d 224.0.0.0/4 -j MASQUERADE"`)
			if got := listNAT(t); got != want {
				t.Fatalf("left behind\n%s", got)
			}
		}
		equalLines(t, "the other table", lines(listForward(t), nil), lines(goldenForward, nil))
	})
}

// The same when it hangs half way: there is time left to take back.
func TestIPTablesHangsHalfWay(t *testing.T) {
	eachIPTables(t, func(t *testing.T, f *Firewall) {
		reached := filepath.Join(t.TempDir(), "reached")
		spy(t, f, `case "$*" in *-A*MASQUERADE*) : >`+reached+`; sleep 1000;; esac`)
		_, err := f.Ensure(cancelWhenExists(t, reached), testRules())
		if !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "append to table nat") {
			t.Errorf("error %v", err)
		}
		if s := listNAT(t); strings.Contains(s, "-A") {
			t.Errorf("left behind\n%s", s)
		}
	})
}

// We are told to end just when the set is complete: it stays, for packets are
// to flow on without us.
func TestIPTablesStopsAfterAppending(t *testing.T) {
	eachIPTables(t, func(t *testing.T, f *Firewall) {
		dir := t.TempDir()
		reached, appended := filepath.Join(dir, "reached"), filepath.Join(dir, "appended")
		spy(t, f, `case "$*" in *-A*FORWARD*-d*) : >`+appended+`;; *-S*FORWARD*) [ ! -e `+appended+` ] || { : >`+reached+`; sleep 1000; };; esac`)
		_, err := f.Ensure(cancelWhenExists(t, reached), testRules())
		if !errors.Is(err, context.Canceled) {
			t.Errorf("error %v", err)
		}
		equalLines(t, "after the stop", lines(listForward(t), nil), lines(goldenForward, nil))
	})
}

// A listing in a form that we do not understand must not make the chain grow.
func TestIPTablesUnknownForm(t *testing.T) {
	eachIPTables(t, func(t *testing.T, f *Firewall) {
		spy(t, f, `case "$*" in *-S*) `+f.iptables.path+` "$@" | sed 's/ -j / --jump /'; exit;; esac`)
		for range 3 {
			wantError(t, f, ErrInterfered, "unknown form", "table nat", "table filter")
		}
		if s := listNAT(t) + listForward(t); strings.Contains(s, "-A") {
			t.Errorf("left behind\n%s", s)
		}
	})
}

// A chain that iptables-nft cannot read, because nft made it.
func TestIPTablesMeetsForeignForm(t *testing.T) {
	f := enter(t, "iptables-nft")
	sh(t, `nft add table ip filter
		nft add chain ip filter FORWARD '{ type filter hook forward priority 0; }'
		nft add rule ip filter FORWARD ct state established,related accept`)
	wantError(t, f, nil, "table filter, chain FORWARD", "incompatible, use 'nft' tool")
	equalLines(t, "nat", lines(listNAT(t), nil), lines(goldenNAT, nil))
}
