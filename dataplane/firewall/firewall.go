// Package firewall keeps the masquerade and forward rules of one overlay
// network in the kernel. Where an iptables program is installed the rules are
// those of flannel v0.10, in the built-in chains; elsewhere the same rules go
// into an nftables table of their own, by netlink, without any program.
//
// A packet leaving through POSTROUTING, with network N and own subnet S, meets
// these rules (see Rules):
//
//	from N to N                      as it is: pod to pod
//	from N to elsewhere              masqueraded, unless multicast
//	from outside N to a pod in S     as it is: pods here see the real client
//	from outside N to a pod in N     masqueraded, so that the answer comes back
//	                                 through this node
//
// and in FORWARD packets from or to N are accepted.
package firewall

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// Errors that Ensure promises; they are worth different advice to the
// operator. All others are unexpected failures of a program or of the kernel.
var (
	// ErrPermission: the process lacks CAP_NET_ADMIN (or CAP_NET_RAW, which
	// iptables wants too).
	ErrPermission = errors.New("no permission to change the firewall: CAP_NET_ADMIN and CAP_NET_RAW are needed")
	// ErrLocked: another program kept the xtables lock for the whole time
	// that Ensure waits for it.
	ErrLocked = errors.New("another program holds the xtables lock")
	// ErrUnsupported: the kernel has no such table, chain type or target.
	ErrUnsupported = errors.New("not supported by the kernel: is a module missing?")
	// ErrInterfered: what was read back is not what was written.
	ErrInterfered = errors.New("another program may have changed them")
)

// A Mode is a way to reach the kernel's firewall.
type Mode string

const (
	IPTables Mode = "iptables" // by running iptables, be it the legacy or the nft variant
	NFTables Mode = "nftables" // by netlink
)

// These bound how long Ensure takes: lockWait for one iptables call that meets
// a locked table, limit for all that it does together, but for taking back a
// change that failed half way. That may last takeBackLimit more, which leaves a
// daemon that was told to end time to do so within 5 s.
const (
	lockWait = 5 * time.Second
	limit    = 15 * time.Second

	takeBackLimit = 3 * time.Second
)

// A Firewall checks and repairs rules. It keeps no descriptor or goroutine, so
// there is nothing to close. Calls of Ensure must not overlap.
type Firewall struct {
	iptables *iptables    // nil in mode NFTables
	tidied   netip.Prefix // network whose nftables remnants are gone, in mode IPTables
	limit    time.Duration
}

// Open chooses the mode: IPTables if PATH or one of the usual directories for
// system programs has an executable iptables, NFTables otherwise. The choice
// lasts as long as the Firewall; the program itself is first run by Ensure.
func Open(log *slog.Logger) *Firewall {
	return open(log, "/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/local/bin", "/usr/bin", "/bin")
}

// open looks into PATH, then into dirs: a service's PATH often lacks sbin.
func open(log *slog.Logger, dirs ...string) *Firewall {
	f := &Firewall{limit: limit}
	path, err := exec.LookPath("iptables")
	for i := 0; err != nil && i < len(dirs); i++ {
		path, err = exec.LookPath(filepath.Join(dirs[i], "iptables"))
	}
	if err == nil {
		f.iptables = &iptables{path: path, wait: lockWait, log: log}
	}
	return f
}

// Mode says which way was chosen.
func (f *Firewall) Mode() Mode {
	if f.iptables != nil {
		return IPTables
	}
	return NFTables
}

// A Change is what Ensure did to a chain, or to the whole of our own nftables
// table, which it replaces at once.
type Change struct {
	Table, Chain   string // no chain: all of the table
	Added, Removed int    // rules; of a whole table the added ones only
}

func (c Change) String() string {
	if c.Chain == "" {
		return fmt.Sprintf("%s: %d rules", c.Table, c.Added)
	}
	return fmt.Sprintf("%s %s: %d added, %d removed", c.Table, c.Chain, c.Added, c.Removed)
}

// Ensure makes the kernel hold exactly the rules of r for r.Network, in the
// network namespace of the calling thread, and returns what it had to change,
// or tried to if it fails. Rules that are present, once each and in the right
// order, are not touched; other networks' and other programs' rules never are. It
// returns within 20 seconds, sooner if ctx ends, and is safe to repeat after a
// failure: ErrPermission, ErrLocked, ErrUnsupported, ErrInterfered.
//
// While it repairs, the new rules work before the old ones go.
//
// The modes differ in what becomes of rules that r no longer asks for. NFTables
// removes them. IPTables leaves them alone, as flannel does, because they look
// like an operator's own; only a rule for a former subnet of the same network
// goes, and whatever mode NFTables had left behind.
func (f *Firewall) Ensure(ctx context.Context, r Rules) (done []Change, err error) {
	r, err = r.check()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, f.limit)
	defer cancel()

	if f.iptables == nil {
		return ensureNFT(ctx, r)
	}
	for _, s := range r.sets() {
		c, e := f.iptables.ensure(ctx, s)
		done, err = append(done, c...), errors.Join(err, e)
	}
	if err != nil || f.tidied == r.Network {
		return done, err
	}
	c, err := ensureNFT(ctx, Rules{Network: r.Network})
	if err != nil && !errors.Is(err, ErrUnsupported) {
		return done, fmt.Errorf("remove what nftables mode left: %w", err)
	}
	f.tidied = r.Network
	return append(done, c...), nil
}

// classify adds the sentinel that fits an error number of the kernel. Which
// numbers beside the obvious ones mean a missing part depends on the request.
func classify(err error, missing ...unix.Errno) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, os.ErrPermission) {
		return fmt.Errorf("%w (%w)", err, ErrPermission)
	}
	for _, no := range append(missing, unix.EPROTONOSUPPORT, unix.EAFNOSUPPORT, unix.EOPNOTSUPP) {
		if errors.Is(err, no) {
			return fmt.Errorf("%w (%w)", err, ErrUnsupported)
		}
	}
	return err
}
