package main

import (
	"net/netip"
	"sync"
	"time"

	"tweed/backend"
	"tweed/backend/udp"
	"tweed/dataplane"
	"tweed/subnet"
	"tweed/subnet/etcdv2"
)

// The names of numbers about what is in the store.
const (
	badRecords    = "badRecords"    // records that cannot be read
	refusedLeases = "refusedLeases" // leases that would do harm
	configDiffers = "configDiffers" // 1 if the network config is no longer the one in use
)

// vitals collects what is told of a running node beside its readiness. It is
// safe for concurrent use.
type vitals struct {
	mu   sync.Mutex
	last snapshot         // guarded by mu; without what readiness and udp know
	udp  func() udp.Stats // guarded by mu; nil unless the backend counts packets
	etcd *etcdv2.Store    // guarded by mu; nil before it is open
}

// A snapshot is what /metrics and the dump tell, all read at one moment. It
// holds neither secrets nor anything that grows with the number of peers.
type snapshot struct {
	ready      bool
	conditions []condition

	backend    string       // type, as in the network config; empty before it is open
	subnet     netip.Prefix // leased; the zero value while there is none
	leasesLost uint64       // since the start
	synced     bool         // whether peers is known
	peers      int          // that the backend was last told of
	listed     bool         // whether the next three are known
	badRecords int64        // in the store
	refused    int64        // leases in the store
	differs    bool         // the network config is no longer the one in use
	udp        *udp.Stats   // nil unless the backend is udp

	silentSince time.Time // no etcd endpoint has answered; zero if one has, or was not asked yet
	silentWhy   error
	certExpires time.Time // of the client certificate for etcd; zero if there is none
}

// stored says where the leases are.
func (v *vitals) stored(s *etcdv2.Store) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.etcd = s
}

// opened says which backend there is.
func (v *vitals) opened(backendType string, be backend.Backend) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.last.backend = backendType
	if u, ok := be.(*udp.Backend); ok {
		v.udp = u.Stats
	}
}

// leased says which lease this node holds.
func (v *vitals) leased(l subnet.Lease) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.last.subnet = l.Subnet
}

// lost says that it is gone.
func (v *vitals) lost() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.last.subnet = netip.Prefix{}
	v.last.leasesLost++
}

// told says how many peers the backend was told of.
func (v *vitals) told(peers int) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.last.synced, v.last.peers = true, peers
}

// snapshot may be called at any time. It stops nothing.
func (n *node) snapshot() snapshot {
	n.vitals.mu.Lock()
	s, stats, etcd := n.vitals.last, n.vitals.udp, n.vitals.etcd
	n.vitals.mu.Unlock()
	s.ready, s.conditions = n.ready.state()
	numbers := n.ready.numbers()
	s.badRecords, s.listed = numbers[badRecords]
	s.refused = numbers[refusedLeases]
	s.differs = numbers[configDiffers] != 0
	if etcd != nil {
		s.silentSince, s.silentWhy = etcd.Outage()
		s.certExpires = etcd.ClientCertificateExpiry()
	}
	if stats != nil {
		u := stats()
		s.udp = &u
	}
	return s
}

// A direction is one way that packets take through the udp backend.
type direction struct {
	name string // in the snake case of a metrics label
	dataplane.Stats
}

// directions returns none of nil.
func directions(s *udp.Stats) []direction {
	if s == nil {
		return nil
	}
	return []direction{{"to_peers", s.ToPeers}, {"from_peers", s.FromPeers}}
}

// An ioDevice is one end of the udp backend.
type ioDevice struct {
	name string // in the snake case of a metrics label
	dataplane.IOStats
}

// ioDevices returns none of nil.
func ioDevices(s *udp.Stats) []ioDevice {
	if s == nil {
		return nil
	}
	return []ioDevice{{"tun", s.TUN}, {"socket", s.Socket}}
}
