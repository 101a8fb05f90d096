package etcdv2

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"tweed/test/embedetcd"
)

// TestOtherKey: a server that answers about another key than it was asked for, as
// a cache that looks at half of the URL would, is not believed: its directory is
// not our leases, even if it is empty.
func TestOtherKey(t *testing.T) {
	etcd := startEtcd(t, embedetcd.Options{})
	for name, node := range map[string]string{
		"empty directory": `{"key":"/other","dir":true}`,
		"no key":          `{"dir":true}`,
		"its parent":      `{"key":"/net","dir":true,"nodes":[]}`,
		"records":         `{"key":"/other/subnets","dir":true,"nodes":[{"key":"/other/subnets/10.5.7.0-24","value":"{\"PublicIP\":\"192.0.2.7\"}","modifiedIndex":3}]}`,
		"value":           `{"key":"/other/config","value":"{\"Network\":\"10.9.0.0/16\"}","modifiedIndex":3}`,
	} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("X-Etcd-Index", "7")
			w.Header().Set("Content-Type", "application/json")
			io.WriteString(w, `{"action":"get","node":`+node+`}`)
		}))
		defer server.Close()
		for i, verb := range verbs {
			if verb.name == "watch" {
				continue // TestEvent
			}
			t.Run(name+"/"+verb.name, func(t *testing.T) {
				prefix := "/net" + strings.ReplaceAll(name, " ", "-") + string(rune('0'+i))
				l := prepare(t, etcd, prefix)
				alone := open(t, Options{Endpoints: []string{server.URL}, Prefix: prefix})
				if err := verb.call(t.Context(), alone, l); err == nil || !strings.Contains(err.Error(), "not one of etcd: it is about the key") {
					t.Errorf("error %v", err)
				}
				s := open(t, Options{Endpoints: []string{server.URL, etcd.Endpoints()[0]}, Prefix: prefix})
				s.pinned.Store(0)
				if err := verb.call(t.Context(), s, l); err != nil {
					t.Error(err)
				}
			})
		}
	}
}

// TestDeepDirectory: one request makes 5000 directories inside of each other,
// which a recursive list would show with 27 MB of keys. The leases stay readable.
func TestDeepDirectory(t *testing.T) {
	etcd := startEtcd(t, embedetcd.Options{})
	s := open(t, Options{Endpoints: etcd.Endpoints(), Prefix: "/net"})
	l := prepare(t, etcd, "/net")
	set(t, etcd, "/net/subnets/10.5.4.0-24"+strings.Repeat("/a", 5200), "x", 0)
	snap, err := s.List(t.Context())
	if err != nil || len(snap.Leases) != 1 || snap.Leases[0].Subnet != l.Subnet || len(snap.Bad) != 1 || snap.Bad[0].Subnet != subnetOf("10.5.4.0/24") {
		t.Errorf("%d leases, %d bad: %v", len(snap.Leases), len(snap.Bad), err)
	}
}
