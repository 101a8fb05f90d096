package etcdv2

import (
	"context"
	"net"
	"reflect"
	"testing"

	"tweed/test/embedetcd"
)

func TestAddresses(t *testing.T) {
	etcd := startEtcd(t, embedetcd.Options{})
	set(t, etcd, "/coreos.com/network/config", "{}", 0)
	_, port, err := net.SplitHostPort(etcd.Endpoints()[0][len("http://"):])
	if err != nil {
		t.Fatal(err)
	}
	texts := func(s *Store) (all []string) {
		for _, a := range s.Addresses() {
			all = append(all, a.String())
		}
		return all
	}
	s := open(t, Options{Endpoints: []string{"http://etcd.test:" + port, "http://192.0.2.9:1", "https://[fd00::1]:2", "http://192.0.2.1:3", "http://192.0.2.9:4", "http://[::ffff:192.0.2.3]:5"}})
	literal := []string{"192.0.2.1", "192.0.2.3", "192.0.2.9", "fd00::1"}
	if got := texts(s); !reflect.DeepEqual(got, literal) {
		t.Errorf("before a request: %v, want %v", got, literal)
	}
	s.transports.peers.by = func(ctx context.Context, network, address string) (net.Conn, error) {
		if address != "etcd.test:"+port {
			t.Errorf("dialled %s", address)
		}
		return newDialer().DialContext(ctx, network, net.JoinHostPort("127.0.0.1", port))
	}
	if _, err := s.Config(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got, want := texts(s), append([]string{"127.0.0.1"}, literal...); !reflect.DeepEqual(got, want) {
		t.Errorf("after a request: %v, want %v", got, want)
	}
}
