package etcdv2

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"tweed/subnet"
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

// TestMemberOfAnotherCluster: a member that was set up anew as a cluster of its
// own, empty or not, is not asked for the leases as long as another one answers.
// If there is none, the whole cluster may have been made anew.
func TestMemberOfAnotherCluster(t *testing.T) {
	other := startAnotherCluster(t)
	for i, what := range []string{"without leases", "with others", "never used"} {
		t.Run(what, func(t *testing.T) {
			prefix := "/net" + strconv.Itoa(i)
			etcd := startEtcd(t, embedetcd.Options{})
			l := prepare(t, etcd, prefix)
			if what != "never used" {
				s := open(t, Options{Endpoints: other.Endpoints(), Prefix: prefix})
				theirs, err := s.Create(t.Context(), subnetOf("10.5.4.0/24"), subnet.Attrs{PublicIP: netip.MustParseAddr("192.0.2.4")}, subnet.TTL)
				if err == nil && what == "without leases" {
					err = s.Delete(t.Context(), theirs)
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			list := func(s *Store) []netip.Prefix {
				t.Helper()
				snap, err := s.List(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				var all []netip.Prefix
				for _, l := range snap.Leases {
					all = append(all, l.Subnet)
				}
				return all
			}
			s := open(t, Options{Endpoints: []string{etcd.Endpoints()[0], other.Endpoints()[0]}, Prefix: prefix})
			for range 3 {
				if got := list(s); !slices.Equal(got, []netip.Prefix{l.Subnet}) {
					t.Fatalf("leases %v, want %s", got, l.Subnet)
				}
				if at := s.pinned.Load(); at != 0 {
					t.Errorf("endpoint %d is in use, want that of the cluster", at)
				}
				s.pinned.Store(1)
			}
			s.endpoints[0].url = "http://127.0.0.1:1" // where nobody listens
			var want []netip.Prefix
			if what == "with others" {
				want = []netip.Prefix{subnetOf("10.5.4.0/24")}
			}
			for range 2 {
				if got := list(s); !slices.Equal(got, want) {
					t.Errorf("of the new cluster: leases %v, want %v", got, want)
				}
			}
		})
	}
}

// TestClusterWithoutLeader: members that answer without any use for a while, as in
// an election, do not make the one of another cluster right; in the end they do.
func TestClusterWithoutLeader(t *testing.T) {
	etcd, other := startEtcd(t, embedetcd.Options{}), startAnotherCluster(t)
	prepare(t, etcd, "/net")
	election := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusInternalServerError)
		io.WriteString(w, `{"errorCode":300,"message":"Raft Internal Error","cause":"etcdserver: no leader","index":7}`)
	}))
	defer election.Close()
	s := open(t, Options{Endpoints: []string{etcd.Endpoints()[0], other.Endpoints()[0]}, Prefix: "/net"})
	lists := func(want int) {
		t.Helper()
		snap, err := s.List(t.Context())
		if err != nil || len(snap.Leases) != want {
			t.Errorf("%d leases, %v, want %d", len(snap.Leases), err, want)
		}
	}
	lists(1)
	alive := s.endpoints[0].url
	for range 2 {
		s.endpoints[0].url = election.URL
		for range 3 {
			if snap, err := s.List(t.Context()); !errors.Is(err, errNewCluster) || !strings.Contains(err.Error(), "no leader") {
				t.Errorf("%d leases, %v, want both errors", len(snap.Leases), err)
			}
		}
		s.endpoints[0].url = alive
		lists(1)
	}
	if s.replaced.Load() != nil {
		t.Error("the cluster has answered, but is about to be replaced")
	}

	s.endpoints[0].url = election.URL
	if _, err := s.List(t.Context()); err == nil {
		t.Error("another cluster is believed at once")
	}
	long := time.Now().Add(-replacedAfter)
	s.replaced.Store(&long)
	lists(0)
	lists(0)
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
