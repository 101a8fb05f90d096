// Package lab builds a small data centre out of network namespaces of this
// machine: a switch with an etcd on it, hosts that run the real flanneld, and
// pods behind docker0-like bridges. The integration tests, `tweed demo` and
// `tweed bench` use it.
//
//	   n1-pod1        n2-pod1         pods: eth0 .2, default route by docker0
//	      |              |
//	   docker0        docker0         FLANNEL_SUBNET and FLANNEL_MTU
//	+-----+----+   +-----+----+
//	|    n1    |   |    n2    |       hosts: flanneld, ip_forward, eth0 mtu 1500
//	+---eth0---+   +---eth0---+       20.0.0.2, 20.0.0.3, default route by 20.0.0.1
//	      |              |
//	   ===+=====br0======+===         switch: 20.0.0.1, etcd on port 2379
//
// Nothing is made in the namespace of the caller, no other program is needed,
// and no packet can leave: the switch has no way out. It needs root.
//
//	l, err := lab.New(ctx, lab.Options{Flanneld: "bin/flanneld"})
//	if err != nil {
//		return err
//	}
//	defer l.Close() // daemons, etcd, namespaces and files
//	err = l.Etcd.Set(ctx, "/coreos.com/network/config", `{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan"}}`, 0)
//	...
//	n1, err := l.AddHost(ctx, "n1")
//	daemon, err := n1.StartFlanneld(ctx, "-ip-masq")
//	err = daemon.WaitReady(ctx)       // READY=1 by sd_notify
//	env, err := n1.SubnetEnv()        // what it wrote
//	pod, err := n1.AddPod(ctx, env)
//	reply, err := pod.NS.Ping(ctx, otherPod.Addr)
//
// All waiting is bounded by the context of the call. The methods of a Lab and
// of what is in it are safe for concurrent use.
package lab

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/vishvananda/netlink"

	"tweed/test/embedetcd"
)

// ErrClosed is returned by everything that would add to a closed Lab.
var ErrClosed = errors.New("the lab is closed")

// Options of a new Lab. The zero value is good for a lab whose hosts run no
// flanneld.
type Options struct {
	// Segments are the IPv4 networks of the underlay, each a bridge of its
	// own, with the switch as router between them at the first address of
	// each. Default: 20.0.0.0/24 alone.
	Segments []netip.Prefix
	// NoEtcd leaves the switch without an etcd: Lab.Etcd is nil then.
	NoEtcd bool
	// Flanneld is the path of the binary that StartFlanneld runs.
	Flanneld string
	// TempDir is where the directory of the lab is made; default os.TempDir.
	TempDir string
	// Env is added to the environment of every process, as "NAME=value".
	Env []string
}

// A Lab is one run of it. Make it with New.
type Lab struct {
	Etcd *embedetcd.Server // on the switch; nil if Options.NoEtcd
	opts Options
	id   string // "tweed-PID-RANDOM", the start of every name
	dir  string
	sw   NS
	exec *executor

	mu     sync.Mutex
	closed bool
	keep   bool // files
	spaces []NS
	procs  []*Process
	used   map[netip.Addr]bool
}

// New removes what crashed runs have left behind, and starts a lab with a
// switch and an etcd, but no hosts. The context bounds New alone. After an
// error nothing is left.
func New(ctx context.Context, o Options) (_ *Lab, err error) {
	if len(o.Segments) == 0 {
		o.Segments = []netip.Prefix{netip.MustParsePrefix("20.0.0.0/24")}
	}
	for _, s := range o.Segments {
		if err := checkSegment(s); err != nil {
			return nil, err
		}
	}
	if err := RemoveStale(o.TempDir); err != nil {
		return nil, fmt.Errorf("remove stale labs: %w", err)
	}
	l := &Lab{opts: o, id: newID(), used: make(map[netip.Addr]bool), exec: newExecutor()}
	defer func() {
		if err != nil {
			err = errors.Join(err, l.Close())
		}
	}()
	l.dir = filepath.Join(tempDir(o.TempDir), l.id)
	if err := os.Mkdir(l.dir, 0o755); err != nil {
		return nil, fmt.Errorf("lab directory: %w", err)
	}
	if l.sw, err = l.newNS(ctx, "switch"); err != nil {
		return nil, err
	}
	if err := l.setUpSwitch(); err != nil {
		return nil, fmt.Errorf("switch: %w", err)
	}
	if !o.NoEtcd {
		if err := l.startEtcd(ctx); err != nil {
			return nil, err
		}
	}
	return l, nil
}

func checkSegment(s netip.Prefix) error {
	if !s.IsValid() || !s.Addr().Is4() || s != s.Masked() || s.Bits() < 8 || s.Bits() > 29 {
		return fmt.Errorf("underlay %s: want an IPv4 network of length 8 to 29, such as 20.0.0.0/24", s)
	}
	return nil
}

func newID() string {
	return fmt.Sprintf("%s%d-%s", namePrefix, os.Getpid(), strings.ToLower(rand.Text()[:4]))
}

func tempDir(dir string) string {
	if dir == "" {
		return os.TempDir()
	}
	return dir
}

// newNS makes a namespace of this lab, so that Close will remove it.
func (l *Lab) newNS(ctx context.Context, name string) (NS, error) {
	if err := ctx.Err(); err != nil {
		return "", err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return "", ErrClosed
	}
	n, err := newNS(l.id + "-" + name)
	if err == nil {
		l.spaces = append(l.spaces, n)
	}
	return n, err
}

func (l *Lab) setUpSwitch() error {
	err := l.sw.Netlink(func(h *netlink.Handle) error {
		for i := range l.opts.Segments {
			if err := addBridge(h, bridgeName(i), underlayMTU, l.gateway(i)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	forward := "0"
	if len(l.opts.Segments) > 1 {
		forward = "1"
	}
	return l.sw.Sysctl("ipv4/ip_forward", forward)
}

func bridgeName(segment int) string { return fmt.Sprintf("br%d", segment) }

// gateway is the address of the switch in a segment.
func (l *Lab) gateway(segment int) netip.Prefix {
	s := l.opts.Segments[segment]
	return netip.PrefixFrom(s.Addr().Next(), s.Bits())
}

func (l *Lab) startEtcd(ctx context.Context) error {
	at := netip.AddrPortFrom(l.gateway(0).Addr(), 2379)
	return l.sw.Do(func() (err error) {
		l.Etcd, err = embedetcd.Start(ctx, embedetcd.Options{
			Dir:    filepath.Join(l.dir, "etcd"),
			Listen: at.String(),
			NoSync: true,
			Log:    filepath.Join(l.dir, "etcd.log"),
		})
		if err != nil {
			return fmt.Errorf("etcd on %s: %w", at, err)
		}
		return nil
	})
}

// ID is the start of every namespace name of this lab.
func (l *Lab) ID() string { return l.id }

// Dir holds everything that the lab and its daemons write.
func (l *Lab) Dir() string { return l.dir }

// KeepFiles makes Close, and RemoveStale of later runs, leave Dir with its logs
// behind.
func (l *Lab) KeepFiles() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.keep = true
	return os.WriteFile(filepath.Join(l.dir, keepMark), nil, 0o644)
}

// Switch is the namespace of the bridges and of etcd.
func (l *Lab) Switch() NS { return l.sw }

// Close stops all processes and etcd, and removes all namespaces and files. It
// takes at most about stopTime, and later calls do nothing.
func (l *Lab) Close() error {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return nil
	}
	l.closed = true
	procs, spaces, keep := l.procs, l.spaces, l.keep
	l.mu.Unlock()

	errs := make([]error, len(procs))
	var wg sync.WaitGroup
	for i, p := range procs {
		wg.Go(func() { errs[i] = p.Stop() })
	}
	wg.Wait()
	err := errors.Join(errs...)
	if l.Etcd != nil {
		err = errors.Join(err, l.Etcd.Close())
	}
	l.exec.close()
	for _, n := range spaces {
		err = errors.Join(err, n.remove())
	}
	if l.dir != "" && !keep {
		err = errors.Join(err, os.RemoveAll(l.dir))
	}
	return err
}
