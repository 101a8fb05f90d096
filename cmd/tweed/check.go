package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"path"
	"time"

	"golang.org/x/sys/unix"

	"tweed/backend"
	"tweed/subnet"
)

// check runs `tweed check` and returns the exit status.
func check(ctx context.Context, args, environ []string, stdin io.Reader, stdout, stderr io.Writer) int {
	o, err := parseCheck(args, environ)
	switch {
	case errors.Is(err, flag.ErrHelp):
		fmt.Fprint(stdout, checkUsage)
		return exitOK
	case err != nil:
		fmt.Fprintf(stderr, "tweed check: %v\nsee: tweed check -h\n", err)
		return exitUsage
	}
	limited, cancel := context.WithTimeout(ctx, o.timeout)
	defer cancel()
	c := &checker{opts: o, stdin: stdin, privileged: hasCapability(unix.CAP_NET_ADMIN)}
	c.run(limited)
	if ctx.Err() != nil {
		return exitInterrupted
	}
	r := newCheckReport(c.source(), c.found)
	if o.json {
		err = writeJSON(stdout, r)
	} else {
		err = r.write(stdout)
	}
	switch {
	case err != nil:
		fmt.Fprintf(stderr, "tweed check: %v\n", err)
		return exitFailed
	case !r.OK:
		return exitFailed
	}
	return exitOK
}

// A checker looks at one thing after the other, in the network namespace of the
// calling thread. What a check learns and a later one needs is kept here; it is
// nil or zero where it could not be learned.
type checker struct {
	opts       checkOptions
	stdin      io.Reader
	privileged bool // CAP_NET_ADMIN
	found      []finding

	under   *backend.Underlay
	host    hostState
	text    []byte // of the network config
	cfg     *subnet.Config
	profile *backend.Profile
	leases  *subnet.Snapshot
	own     netip.Prefix // leased, by what etcd says
	prev    netip.Prefix // of an earlier run, by what its files say
}

// run does all checks, in the order in which flanneld meets what they are about.
func (c *checker) run(ctx context.Context) {
	c.checkFlags()
	c.checkInterface()
	c.readHost()
	// Before etcd is asked, which may take its time.
	text, err := c.readFile(ctx)
	answers := c.checkEndpoints(ctx)
	c.settleConfig(text, err, answers)
	c.checkConfig()
	c.checkNetwork()
	c.checkLeases()
	c.checkOverlap()
	c.checkMTU()
	c.checkPrivileges()
	c.checkKernel()
	c.checkPort(ctx)
	c.checkDevices()
	c.checkSysctls()
	c.checkFirewall(ctx)
	c.checkSubnetFile()
	c.checkHealthzPort(ctx)
	c.checkDocker()
}

// share is a context that ends when two thirds of the time that ctx has left are
// over, so that what comes later has some, too.
func share(ctx context.Context) (context.Context, context.CancelFunc) {
	end, ok := ctx.Deadline()
	if !ok {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, time.Until(end)*2/3)
}

// source names where the network config comes from.
func (c *checker) source() string {
	switch c.opts.file {
	case "":
		return "etcd, " + path.Join("/", c.opts.Etcd.Prefix, "config")
	case "-":
		return "standard input"
	}
	return c.opts.file
}

func (c *checker) add(f finding) { c.found = append(c.found, f) }

func (c *checker) ok(name string, d data, format string, args ...any) {
	c.add(finding{Name: name, Result: verdictOK, Found: fmt.Sprintf(format, args...), Data: d})
}

func (c *checker) skip(name, format string, args ...any) {
	c.add(finding{Name: name, Result: verdictSkipped, Found: fmt.Sprintf(format, args...)})
}

// needs reports whether config and interface are known, without which the
// named check has nothing to look at.
func (c *checker) needs(name string, config, underlay bool) bool {
	switch {
	case config && c.cfg == nil:
		c.skip(name, "needs a valid network config")
	case config && c.profile == nil:
		c.skip(name, "needs a valid backend in the network config")
	case underlay && c.under == nil:
		c.skip(name, "needs an interface")
	default:
		return true
	}
	return false
}

// checkInterface chooses the interface as flanneld would.
func (c *checker) checkInterface() {
	var log captureHandler
	u, err := c.opts.Iface.Select(slog.New(&log))
	if err != nil {
		c.add(finding{Name: checkInterface, Result: verdictFailure, Found: err.Error(),
			Advice: "name the interface that reaches the other nodes with -iface, or give it an address"})
		return
	}
	c.under = &u
	asked := c.askedInterfaces()
	misses := log.texts(slog.LevelInfo, missedInterface)
	for i, miss := range misses {
		c.add(finding{Name: checkInterface, Result: verdictNote, Found: miss,
			Advice: fmt.Sprintf("leave %s out, if it is not meant for another host", asked[min(i, len(asked)-1)])})
	}
	d := data{"interface": u.Name, "address": u.Addr, "mtu": u.MTU, "public_ip": u.PublicIP, "chosen_by": asked[min(len(misses), len(asked)-1)]}
	c.ok(checkInterface, d, "%s with address %s, MTU %d, by %s; publishes %s", u.Name, u.Addr, u.MTU, d["chosen_by"], u.PublicIP)
	for _, text := range log.texts(slog.LevelWarn, "") {
		c.add(finding{Name: checkInterface, Result: verdictWarning, Found: u.Name + ": " + text,
			Advice: "set it up, or choose another one with -iface", Data: data{"interface": u.Name}})
	}
}

// askedInterfaces lists the ways to choose, in the order of backend.Selector.
func (c *checker) askedInterfaces() (asked []string) {
	s := c.opts.Iface
	for _, name := range s.Ifaces {
		asked = append(asked, "-iface="+name)
	}
	for _, expr := range s.Regexes {
		asked = append(asked, "-iface-regex="+expr)
	}
	if s.CanReach != "" {
		asked = append(asked, "-iface-can-reach="+s.CanReach)
	}
	if asked == nil {
		asked = []string{"the default route"}
	}
	return asked
}

// hasCapability reports whether this process has it, effectively
// (capabilities(7)).
func hasCapability(capability int) bool {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var sets [2]unix.CapUserData // 32 capabilities each
	return unix.Capget(&header, &sets[0]) == nil && sets[capability/32].Effective&(1<<(capability%32)) != 0
}

// checkPrivileges tells root what it lacks; of others it is not known as whom
// they will run flanneld.
func (c *checker) checkPrivileges() {
	admin, raw := c.privileged, hasCapability(unix.CAP_NET_RAW)
	d := data{"cap_net_admin": admin, "cap_net_raw": raw, "uid": os.Geteuid()}
	switch {
	case admin && raw:
		c.ok(checkPrivileges, d, "CAP_NET_ADMIN and CAP_NET_RAW")
	case admin:
		c.add(finding{Name: checkPrivileges, Result: verdictWarning, Found: "CAP_NET_RAW is missing, which iptables wants",
			Advice: "give it to flanneld: AmbientCapabilities in systemd, --cap-add NET_RAW in a container", Data: d})
	case os.Geteuid() == 0:
		c.add(finding{Name: checkPrivileges, Result: verdictFailure, Found: "root without CAP_NET_ADMIN, which every backend but alloc needs",
			Advice: "in a container, add --cap-add NET_ADMIN --cap-add NET_RAW", Data: d})
	default:
		c.add(finding{Name: checkPrivileges, Result: verdictSkipped, Data: d,
			Found:  fmt.Sprintf("user %d has no CAP_NET_ADMIN; flanneld needs it, and some checks do", os.Geteuid()),
			Advice: "run tweed check as root to see all"})
	}
}
