package etcdv2

import (
	"errors"
	"strings"
	"testing"

	"tweed/subnet"
	"tweed/test/embedetcd"
)

// TestOutage: a failure of each method begins an outage, and an answer ends it,
// be it a refusal.
func TestOutage(t *testing.T) {
	etcd := startEtcd(t, embedetcd.Options{})
	l := prepare(t, etcd, "/net")
	remove(t, etcd, "/net/config")
	dead := "http://" + deadAddress(t)
	s := open(t, Options{Endpoints: []string{dead}, Prefix: "/net"})
	for _, verb := range verbs {
		s.endpoints[0].url = dead
		err := verb.call(t.Context(), s, l)
		if since, why := s.Outage(); err == nil || since.IsZero() || why == nil || !strings.Contains(err.Error(), why.Error()) {
			t.Errorf("%s: %v, but an outage since %v: %v", verb.name, err, since, why)
		}
		s.endpoints[0].url = etcd.Endpoints()[0]
		if _, err := s.Config(t.Context()); !errors.Is(err, subnet.ErrNoConfig) {
			t.Errorf("config: %v, want %v", err, subnet.ErrNoConfig)
		}
		if since, why := s.Outage(); !since.IsZero() || why != nil {
			t.Errorf("%s: an outage since %v: %v, but etcd has answered", verb.name, since, why)
		}
	}
}
