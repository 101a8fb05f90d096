package e2e

import (
	"os"
	"path/filepath"
	"strings"
)

// stranger is the lease record of a node that is not there.
func (s *site) stranger(subnet string) {
	s.t.Helper()
	own := s.nodes[0].lease()
	record := strings.Replace(own, s.nodes[0].Addr.String(), "20.0.0.99", 1)
	if i := strings.Index(record, `"VtepMAC":"`); i >= 0 {
		i += len(`"VtepMAC":"`)
		record = record[:i] + "02:00:00:00:00:99" + record[i+17:]
	}
	s.mustEtcdctl("set", subnetDir+strings.Replace(subnet, "/", "-", 1), record)
}

// loseMembers kills one member of etcd, then another, so that there is no
// majority, then the last: packets go on, and when the members return so does
// all the rest.
func (s *site) loseMembers() {
	s.t.Helper()
	pids := s.daemons()
	all := s.pingAll()
	s.members[2].kill()
	s.stranger("172.17.201.0/24") // two of three can still write
	s.wantPeers(2)
	s.members[1].kill()
	if out, err := s.etcdctl("--timeout=2s", "set", subnetDir+"172.17.202.0-24", "x"); err == nil {
		s.t.Errorf("etcd can be written without a majority: %s", out)
	}
	s.wantTraffic()
	s.members[0].kill()
	for _, n := range s.nodes {
		s.eventually("the status to tell that etcd is away", func() error {
			return contains(n.show("flanneld", "StatusText"), "etcd does not answer since")
		})
	}
	s.wantTraffic()
	s.stopPings(all, "etcd without a majority, then without a member", 0)

	for _, m := range s.members {
		m.start()
	}
	s.wantHealthyEtcd()
	s.stranger("172.17.203.0/24")
	s.wantPeers(3)
	s.wantSameDaemons(pids)
	s.mustEtcdctl("rm", subnetDir+"172.17.201.0-24")
	s.mustEtcdctl("rm", subnetDir+"172.17.203.0-24")
	s.wantPeers(1)
}

// daemons returns the process of flanneld on each node.
func (s *site) daemons() (pids []string) {
	s.t.Helper()
	for _, n := range s.nodes {
		pids = append(pids, n.show("flanneld", "MainPID"))
	}
	return pids
}

// wantSameDaemons checks that no flanneld has been started anew.
func (s *site) wantSameDaemons(pids []string) {
	s.t.Helper()
	for i, pid := range s.daemons() {
		if pid != pids[i] {
			s.t.Errorf("flanneld of %s is process %s, was %s", s.nodes[i].Name, pid, pids[i])
		}
	}
}

// replaceCertificates makes a new authority and new certificates for all, as
// an operator does before the old ones expire: flanneld goes on with the new
// files without a restart.
func (s *site) replaceCertificates() {
	s.t.Helper()
	pids := s.daemons()
	all := s.pingAll()
	for _, m := range s.members {
		m.kill()
	}
	old := s.pki.dir
	s.must(os.Rename(old, old+".old"))
	s.pki = newPKI(s.t, old)
	s.startEtcd()
	s.wantHealthyEtcd()
	for _, n := range s.nodes {
		n.journalSays("not from a CA in -etcd-cafile " + filepath.Join(certDir, "ca.pem"))
	}
	for _, n := range s.nodes {
		n.installCerts()
	}
	s.stranger("172.17.204.0/24")
	s.wantPeers(2)
	s.stopPings(all, "certificates replaced", 0)
	s.wantSameDaemons(pids)
	s.mustEtcdctl("rm", subnetDir+"172.17.204.0-24")
	s.wantPeers(1)
}
