package etcdv2

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/client/v2"

	"tweed/subnet"
	"tweed/test/embedetcd"
)

func subnetOf(s string) netip.Prefix { return netip.MustParsePrefix(s) }
func addr(s string) netip.Addr       { return netip.MustParseAddr(s) }

// recordStore needs no server: it only decodes.
func recordStore(t testing.TB) *Store {
	return open(t, Options{Endpoints: []string{"http://127.0.0.1:1"}, Prefix: "/p"})
}

func TestEvent(t *testing.T) {
	s := recordStore(t)
	const good = `{"PublicIP":"192.0.2.1"}`
	due := time.Now()
	tests := []struct {
		name   string
		action string
		node   client.Node
		want   string // "put", "bad", "removed", "config", "nothing" or "compacted"
		subnet string
	}{
		{"create", "create", client.Node{Key: "/p/subnets/10.5.3.0-24", Value: good}, "put", "10.5.3.0/24"},
		{"set", "set", client.Node{Key: "/p/subnets/10.5.3.0-24", Value: good}, "put", "10.5.3.0/24"},
		{"update", "update", client.Node{Key: "/p/subnets/10.5.3.0-24", Value: good}, "put", "10.5.3.0/24"},
		{"swap", "compareAndSwap", client.Node{Key: "/p/subnets/10.5.3.0-24", Value: good}, "put", "10.5.3.0/24"},
		{"dual stack", "set", client.Node{Key: "/p/subnets/10.5.3.0-24&fd00:5:3::-64", Value: good}, "put", "10.5.3.0/24"},
		{"delete", "delete", client.Node{Key: "/p/subnets/10.5.3.0-24"}, "removed", "10.5.3.0/24"},
		{"expire", "expire", client.Node{Key: "/p/subnets/10.5.3.0-24"}, "removed", "10.5.3.0/24"},
		{"compare and delete", "compareAndDelete", client.Node{Key: "/p/subnets/10.5.3.0-24"}, "removed", "10.5.3.0/24"},
		{"directory record deleted", "delete", client.Node{Key: "/p/subnets/10.5.3.0-24", Dir: true}, "removed", "10.5.3.0/24"},

		{"bad value", "set", client.Node{Key: "/p/subnets/10.5.3.0-24", Value: "x"}, "bad", "10.5.3.0/24"},
		{"bad key", "set", client.Node{Key: "/p/subnets/x", Value: good}, "bad", ""},
		{"directory", "set", client.Node{Key: "/p/subnets/10.5.3.0-24", Dir: true}, "bad", "10.5.3.0/24"},
		{"below a record", "set", client.Node{Key: "/p/subnets/10.5.3.0-24/x/y", Value: good}, "bad", "10.5.3.0/24"},
		{"below an alien", "set", client.Node{Key: "/p/subnets/x/10.5.3.0-24", Value: good}, "bad", ""},
		{"alien removed", "delete", client.Node{Key: "/p/subnets/x"}, "nothing", ""},
		{"removed below a record", "expire", client.Node{Key: "/p/subnets/10.5.3.0-24/x"}, "nothing", ""},

		{"all deleted", "delete", client.Node{Key: "/p/subnets", Dir: true}, "compacted", ""},
		{"all expired", "expire", client.Node{Key: "/p/subnets", Dir: true}, "compacted", ""},
		{"directory made", "set", client.Node{Key: "/p/subnets", Dir: true}, "compacted", ""},
		{"parent deleted", "delete", client.Node{Key: "/p", Dir: true}, "compacted", ""},
		{"root", "delete", client.Node{Key: "/", Dir: true}, "compacted", ""},
		{"trailing slash", "set", client.Node{Key: "/p/subnets/"}, "compacted", ""},
		{"outside", "set", client.Node{Key: "/q/subnets/10.5.3.0-24", Value: good}, "compacted", ""},
		{"neighbour", "delete", client.Node{Key: "/p2", Dir: true}, "compacted", ""},
		{"elsewhere", "set", client.Node{Key: "/p/subnets2/10.5.3.0-24", Value: good}, "nothing", ""},
		{"elsewhere, unknown action", "refresh", client.Node{Key: "/p/x"}, "nothing", ""},

		{"config", "set", client.Node{Key: "/p/config", Value: "{}"}, "config", ""},
		{"config garbage", "update", client.Node{Key: "/p/config", Value: "x"}, "config", ""},
		{"config deleted", "delete", client.Node{Key: "/p/config"}, "config", ""},
		{"config expired", "expire", client.Node{Key: "/p/config"}, "config", ""},
		{"config swapped", "compareAndSwap", client.Node{Key: "/p/config"}, "config", ""},
		{"config is a directory", "create", client.Node{Key: "/p/config", Dir: true}, "config", ""},
		{"below config", "set", client.Node{Key: "/p/config/x"}, "config", ""},
		{"config, unknown action", "refresh", client.Node{Key: "/p/config"}, "config", ""},
		{"no config", "set", client.Node{Key: "/p/config2"}, "nothing", ""},
		{"unknown action", "refresh", client.Node{Key: "/p/subnets/10.5.3.0-24", Value: good, Expiration: &due}, "compacted", ""},
		{"no action", "", client.Node{Key: "/p/subnets/10.5.3.0-24", Value: good}, "compacted", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.node.ModifiedIndex = 9
			e, ok, err := s.event(reply{&client.Response{Action: tt.action, Node: &tt.node}, time.Now()})
			got, sn := "nothing", netip.Prefix{}
			switch {
			case errors.Is(err, subnet.ErrCompacted):
				got = "compacted"
			case err != nil:
				t.Fatal(err)
			case ok && e.Kind == subnet.Put:
				got, sn = "put", e.Lease.Subnet
			case ok && e.Kind == subnet.Configured:
				got = "config"
			case ok && e.Kind == subnet.Removed:
				got, sn = "removed", e.Subnet
			case ok:
				got, sn = "bad", e.Bad.Subnet
			}
			if got != tt.want || e.Revision != 9 {
				t.Errorf("%s at revision %d, want %s", got, e.Revision, tt.want)
			}
			if tt.subnet == "" && sn.IsValid() || tt.subnet != "" && sn.String() != tt.subnet {
				t.Errorf("subnet %s, want %q", sn, tt.subnet)
			}
		})
	}
}

// TestDueIsNoReservation: between its end and its removal, etcd shows a record
// with an expiration, but no TTL.
func TestDueIsNoReservation(t *testing.T) {
	asked := time.Now()
	due := asked.Add(-time.Second)
	for _, tt := range []struct {
		node client.Node
		want time.Time
	}{
		{client.Node{Expiration: &due}, asked},
		{client.Node{Expiration: &due, TTL: -1}, asked.Add(-time.Second)},
		{client.Node{Expiration: &due, TTL: 86400}, asked.Add(24 * time.Hour)},
		{client.Node{}, time.Time{}},
	} {
		if got := expires(&tt.node, asked); !got.Equal(tt.want) {
			t.Errorf("%+v expires at %v, want %v", tt.node, got, tt.want)
		}
	}
}

// TestDirectories: etcd allows them where records belong.
func TestDirectories(t *testing.T) {
	ctx := t.Context()
	etcd := startEtcd(t, embedetcd.Options{})
	s := open(t, Options{Endpoints: etcd.Endpoints()})
	const dir = "/coreos.com/network/subnets"
	set(t, etcd, dir+"/10.5.3.0-24/x", `{"PublicIP":"192.0.2.1"}`, 0)
	snap, err := s.List(ctx)
	if err != nil || len(snap.Leases) != 0 || len(snap.Bad) != 1 || snap.Bad[0].Subnet != subnetOf("10.5.3.0/24") {
		t.Fatalf("list with a directory: %+v, %v", snap, err)
	}
	a := subnet.Attrs{PublicIP: addr("192.0.2.1")}
	if _, err := s.Create(ctx, subnetOf("10.5.3.0/24"), a, subnet.TTL); !errors.Is(err, subnet.ErrExists) {
		t.Errorf("create over a directory: %v", err)
	}
	l := subnet.Lease{Subnet: subnetOf("10.5.3.0/24"), Attrs: a, Revision: snap.Bad[0].Revision}
	if _, err := s.Update(ctx, l, subnet.TTL); !errors.Is(err, subnet.ErrConflict) {
		t.Errorf("update of a directory: %v", err)
	}
	if err := s.Delete(ctx, l); !errors.Is(err, subnet.ErrConflict) {
		t.Errorf("delete of a directory: %v", err)
	}

	remove(t, etcd, dir)
	set(t, etcd, dir, "a plain key", 0)
	if _, err := s.List(ctx); err == nil || !strings.Contains(err.Error(), dir+": it is a plain key: want a directory") {
		t.Errorf("list of a plain key: %v", err)
	}
	if _, err := s.Create(ctx, subnetOf("10.5.3.0/24"), a, subnet.TTL); err == nil || !strings.Contains(err.Error(), dir+" is a plain key") {
		t.Errorf("create below a plain key: %v", err)
	}
	set(t, etcd, "/coreos.com/network/config/x", "{}", 0)
	if _, err := s.Config(ctx); err == nil || !strings.Contains(err.Error(), "/coreos.com/network/config: it is a directory") {
		t.Errorf("config is a directory: %v", err)
	}
}

func TestNoConfigTellsCommand(t *testing.T) {
	etcd := startEtcd(t, embedetcd.Options{})
	s := open(t, Options{Endpoints: etcd.Endpoints(), Prefix: "/net", Username: "root", Password: "s3cr3t"})
	_, err := s.Config(t.Context())
	want := "ETCDCTL_API=2 etcdctl --endpoints " + etcd.Endpoints()[0] + " --username root set /net/config '{"
	if !errors.Is(err, subnet.ErrNoConfig) || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "s3cr3t") {
		t.Errorf("error %v, want %v with %q", err, subnet.ErrNoConfig, want)
	}
}

// FuzzDecode: a record is a lease or bad, never both, and a lease that is
// written again reads the same.
func FuzzDecode(f *testing.F) {
	s := recordStore(f)
	for _, seed := range []struct{ key, value string }{
		{"10.5.3.0-24", `{"PublicIP":"192.0.2.1"}`},
		{"10.5.3.0-24", `{"PublicIP":"192.0.2.1","BackendType":"vxlan","BackendData":{"VtepMAC":"0e:01:02:03:04:05"}}`},
		{"10.5.3.0-24&fd00::-64", `{"PublicIP":"192.0.2.1","PublicIPv6":null,"BackendData":{ "VNI" : 1 }}`},
		{"10.5.3.0-24", `{"publicip":"192.0.2.1","BackendData":null,"PublicIP":"192.0.2.2"}`},
		{"10.5.3.1-24", `{"PublicIP":"fd00::1"}`},
		{"x/y", "[]"},
		{"", ""},
		{"10.5.3.0-24", `{"PublicIP":"192.0.2.1","BackendData":"<\u2028>"}`},
	} {
		f.Add(seed.key, seed.value, false)
	}
	asked := time.Now()
	f.Fuzz(func(t *testing.T, key, value string, dir bool) {
		n := &client.Node{Key: "/p/subnets/" + key, Value: value, Dir: dir, ModifiedIndex: 9}
		l, bad := s.decode(n, asked)
		if bad != nil {
			if bad.Err == nil || bad.Revision != 9 || strings.Contains(bad.Key, "/") || l.Subnet.IsValid() {
				t.Fatalf("bad record %+v, lease %+v", bad, l)
			}
			return
		}
		if dir || l.Revision != 9 || !l.Reserved() {
			t.Fatalf("lease %+v", l)
		}
		again, err := encode(l)
		if err != nil {
			t.Fatalf("lease %+v cannot be written: %v", l, err)
		}
		n.Key, n.Value = s.leaseKey(subnet.Key(l.Subnet)), again
		l2, bad := s.decode(n, asked)
		if bad != nil {
			t.Fatalf("%s: %v", again, bad.Err)
		}
		third, err := encode(l2)
		if err != nil || third != again || l2.Subnet != l.Subnet || l2.Attrs.PublicIP != l.Attrs.PublicIP {
			t.Fatalf("%q became %q became %q, %v", value, again, third, err)
		}
	})
}
