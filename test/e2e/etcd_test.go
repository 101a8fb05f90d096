package e2e

import (
	"fmt"
	"strings"
	"syscall"

	"tweed/test/lab"
)

// A member is one etcd-server on a host of its own.
type member struct {
	*lab.Host
	s    *site
	name string
	proc *lab.Process
}

func (m *member) client() string { return fmt.Sprintf("https://%s:2379", m.Addr) }
func (m *member) peer() string   { return fmt.Sprintf("https://%s:2380", m.Addr) }

// endpoints is the list for -etcd-endpoints.
func (s *site) endpoints() string {
	var urls []string
	for _, m := range s.members {
		urls = append(urls, m.client())
	}
	return strings.Join(urls, ",")
}

// startEtcd starts all members and waits until they have a leader.
func (s *site) startEtcd() {
	s.t.Helper()
	for _, m := range s.members {
		m.start()
	}
	for _, m := range s.members {
		s.must(m.proc.WaitReady(s.ctx))
	}
}

// start starts the member, for the first time or again, and does not wait.
func (m *member) start() {
	m.s.t.Helper()
	var initial []string
	for _, o := range m.s.members {
		initial = append(initial, o.name+"="+o.peer())
	}
	var err error
	m.proc, err = m.Start(m.s.ctx, lab.Command{
		Name: "etcd",
		Path: "etcd",
		Args: []string{
			"--name=" + m.name,
			"--data-dir=" + m.Path("etcd"),
			"--enable-v2",
			"--listen-client-urls=" + m.client(),
			"--advertise-client-urls=" + m.client(),
			"--listen-peer-urls=" + m.peer(),
			"--initial-advertise-peer-urls=" + m.peer(),
			"--initial-cluster=" + strings.Join(initial, ","),
			"--initial-cluster-state=new",
			"--client-cert-auth", "--trusted-ca-file=" + m.s.pki.file("ca.pem"),
			"--cert-file=" + m.s.pki.file("server.pem"), "--key-file=" + m.s.pki.file("server-key.pem"),
			"--peer-client-cert-auth", "--peer-trusted-ca-file=" + m.s.pki.file("ca.pem"),
			"--peer-cert-file=" + m.s.pki.file("peer.pem"), "--peer-key-file=" + m.s.pki.file("peer-key.pem"),
			"--heartbeat-interval=50", "--election-timeout=500",
		},
	})
	m.s.must(err)
}

// kill ends the member as a crash does.
func (m *member) kill() {
	m.s.t.Helper()
	m.s.must(m.proc.Signal(syscall.SIGKILL))
	_, err := m.proc.Wait(m.s.ctx)
	m.s.must(err)
}

// etcdctl runs the operator's tool with the v2 API on the first host, and
// returns what it printed.
func (s *site) etcdctl(args ...string) (string, error) {
	s.t.Helper()
	flags := append(s.pki.etcdctl(), "--endpoints="+s.endpoints())
	p, err := s.members[0].Start(s.ctx, lab.Command{
		Name: "etcdctl",
		Path: "etcdctl",
		Args: append(flags, args...),
		Env:  []string{"ETCDCTL_API=2"},
	})
	s.must(err)
	state, err := p.Wait(s.ctx)
	s.must(err)
	out := strings.Join(p.Lines(), "\n")
	if !state.Success() {
		return out, fmt.Errorf("etcdctl %s: %s: %s", strings.Join(args, " "), state, out)
	}
	return out, nil
}

// mustEtcdctl is etcdctl that has to work.
func (s *site) mustEtcdctl(args ...string) string {
	s.t.Helper()
	out, err := s.etcdctl(args...)
	s.must(err)
	return out
}

// leaseKey is that of the record of a node's subnet.
func (n *node) leaseKey() string {
	return subnetDir + strings.Replace(n.subnet.String(), "/", "-", 1)
}

// lease returns the record of a node's subnet.
func (n *node) lease() string {
	n.s.t.Helper()
	return n.s.mustEtcdctl("get", n.leaseKey())
}
