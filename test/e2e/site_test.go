// Package e2e follows the well-known installation guides with the real
// programs: cfssl, three members of etcd-server with TLS, systemd, our units,
// dockerd, containers.
//
//	20.0.0.30       20.0.0.40            20.0.0.50          20.0.0.100
//	etcd m1         etcd m2, node n2     etcd m3, node n3   outside: no node
//	                systemd, flanneld, dockerd, container "web"
package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"tweed/test/lab"
	"tweed/test/machine"
	"tweed/test/nstest"
)

const (
	network   = "172.17.0.0/16" // that of the guides, and docker's own default
	configKey = "/coreos.com/network/config"
	subnetDir = "/coreos.com/network/subnets/"
)

// A site is a data centre as the guides build it.
type site struct {
	*lab.Lab
	t       *testing.T
	ctx     context.Context
	pki     *pki
	members []*member
	nodes   []*node
	outside *lab.Host
}

// need names programs that test/setup.sh installs.
func need(t *testing.T, programs ...string) {
	t.Helper()
	nstest.NeedRoot(t)
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			nstest.Missing(t, p)
		}
	}
}

// binary returns the path of one of our programs, which `make build` made.
func binary(t *testing.T, name string) string {
	t.Helper()
	path := repo(t, "bin", name)
	if _, err := os.Stat(path); err != nil {
		nstest.Missing(t, path+" (run make build)")
	}
	return path
}

// repo names a file of this repository.
func repo(t *testing.T, elem ...string) string {
	t.Helper()
	path, err := filepath.Abs(filepath.Join(append([]string{"..", ".."}, elem...)...))
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// newSite makes certificates, starts etcd on three hosts, and boots n2 and n3.
// All is gone, without leftovers, when the test ends; if it failed, the logs
// are shown.
func newSite(t *testing.T) *site {
	t.Helper()
	need(t, "cfssl", "cfssljson", "etcd", "etcdctl", "dockerd", "docker", "/lib/systemd/systemd", "busybox")
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	l, err := lab.New(ctx, lab.Options{NoEtcd: true, TempDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	s := &site{Lab: l, t: t, ctx: ctx}
	t.Cleanup(func() {
		cancel()
		s.t = t
		if t.Failed() {
			s.showLogs()
		}
		for _, n := range s.nodes {
			if err := n.Halt(); err != nil {
				t.Error(err)
			}
		}
		for _, m := range s.members {
			// The last members wait for a majority when they are told to end.
			if m.proc != nil {
				m.proc.Kill()
			}
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		if left := lab.Leftovers(l.ID(), l.Dir()); len(left) > 0 {
			t.Errorf("left over: %v", left)
		}
	})

	s.pki = newPKI(t, filepath.Join(l.Dir(), "pki"))
	for i := range 3 {
		addr := netip.AddrFrom4([4]byte{20, 0, 0, byte(30 + 10*i)})
		h, err := l.AddHostWith(ctx, fmt.Sprintf("n%d", i+1), lab.HostOptions{Addr: addr})
		s.must(err)
		s.members = append(s.members, &member{Host: h, s: s, name: fmt.Sprintf("m%d", i+1)})
	}
	s.outside, err = l.AddHostWith(ctx, "outside", lab.HostOptions{Addr: netip.MustParseAddr("20.0.0.100"), Outside: true})
	s.must(err)
	s.startEtcd()
	for _, m := range s.members[1:] {
		s.boot(m.Host)
	}
	return s
}

// boot makes a node of a host.
func (s *site) boot(h *lab.Host) *node {
	s.t.Helper()
	m, err := machine.Boot(s.ctx, s.Lab, h)
	s.must(err)
	n := &node{Machine: m, s: s}
	s.nodes = append(s.nodes, n)
	return n
}

func (s *site) showLogs() {
	logs, _ := filepath.Glob(filepath.Join(s.Dir(), "*", "*.log"))
	for _, f := range logs {
		b, err := os.ReadFile(f)
		lines := strings.Split(string(b), "\n")
		s.t.Logf("the end of %s (%v):\n%s", strings.TrimPrefix(f, s.Dir()+"/"), err, strings.Join(lines[max(0, len(lines)-40):], "\n"))
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	for _, n := range s.nodes {
		for _, unit := range []string{"flanneld", "docker"} {
			s.t.Logf("journal of %s on %s:\n%s", unit, n.Name, n.Journal(ctx, unit))
		}
	}
}

func (s *site) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

// step is t.Run for a part of a test that goes on with the same site. It
// reports whether nothing went wrong.
func (s *site) step(name string, f func()) bool {
	outer := s.t
	defer func() { s.t = outer }()
	return outer.Run(name, func(t *testing.T) {
		s.t = t
		f()
	})
}

// eventually waits until check finds nothing to complain about.
func (s *site) eventually(what string, check func() error) {
	s.t.Helper()
	if err := nstest.Await(s.ctx, 40*time.Second, check); err != nil {
		s.t.Fatalf("waited for %s: %v", what, err)
	}
}

// contains is a check that text has all the parts.
func contains(text string, parts ...string) error {
	var errs []error
	for _, part := range parts {
		if !strings.Contains(text, part) {
			errs = append(errs, fmt.Errorf("nowhere is %q in:\n%s", part, text))
		}
	}
	return errors.Join(errs...)
}
