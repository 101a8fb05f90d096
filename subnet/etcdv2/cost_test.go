package etcdv2

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"syscall"
	"testing"
	"time"

	"tweed/subnet"
	"tweed/test/embedetcd"
)

// fill writes n lease records.
func fill(tb testing.TB, etcd *embedetcd.Server, n int) {
	tb.Helper()
	for i := range n {
		set(tb, etcd, fmt.Sprintf("/coreos.com/network/subnets/10.%d.%d.%d-28", i>>12&255, i>>4&255, i<<4&255),
			fmt.Sprintf(`{"PublicIP":"192.%d.%d.%d","BackendType":"vxlan","BackendData":{"VtepMAC":"0e:00:00:00:%02x:%02x"}}`, i>>16, i>>8&255, i&255, i>>8&255, i&255), subnet.TTL)
	}
}

func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkList lists n leases over TCP from a server that has the answer ready.
// The CPU time is that of both sides.
func BenchmarkList(b *testing.B) {
	for _, n := range []int{100, 10000, 50000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			text := answer("/coreos.com/network/subnets", n)
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", "application/json")
				w.Header().Set("X-Etcd-Index", "7")
				w.Write(text)
			}))
			defer server.Close()
			s := open(b, Options{Endpoints: []string{server.URL}})
			b.ReportAllocs()
			before := cpuTime()
			for b.Loop() {
				if snap, err := s.List(b.Context()); err != nil || len(snap.Leases) != n {
					b.Fatal(len(snap.Leases), err)
				}
			}
			b.ReportMetric(float64(cpuTime()-before)/float64(b.N), "cpu-ns/op")
		})
	}
}

// BenchmarkEtcd measures what tooFar weighs, with an etcd in the same process: a
// list of n leases, and a poll that has its answer at once.
func BenchmarkEtcd(b *testing.B) {
	for _, n := range []int{1000, 10000} {
		etcd := startEtcd(b, embedetcd.Options{})
		fill(b, etcd, n)
		s := open(b, Options{Endpoints: etcd.Endpoints()})
		snap, err := s.List(b.Context())
		if err != nil || len(snap.Leases) != n {
			b.Fatal(len(snap.Leases), err)
		}
		b.Run(fmt.Sprintf("list/%d", n), func(b *testing.B) {
			for b.Loop() {
				if _, err := s.List(b.Context()); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(fmt.Sprintf("poll/%d", n), func(b *testing.B) {
			s.records.Store(1 << 30) // do not give up
			enough := errors.New("enough")
			for done := 0; done < b.N; {
				err := s.Watch(context.Background(), snap.Revision-900, func([]subnet.Event) error {
					if done++; done%900 == 0 || done == b.N {
						return enough
					}
					return nil
				})
				if err != enough {
					b.Fatal(err)
				}
			}
		})
	}
}
