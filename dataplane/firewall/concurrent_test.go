package firewall

import (
	"log/slog"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/vishvananda/netns"
)

// Daemons of several networks on one host start at once: none disturbs another.
func TestDaemonsAtOnce(t *testing.T) {
	networks := []string{"10.5.0.0/16", "10.6.0.0/16", "10.7.0.0/16"}
	for _, v := range variants {
		t.Run(v, func(t *testing.T) {
			enter(t, v)
			path := os.Getenv("PATH")
			if v == "nftables" {
				path = ""
				sh(t, "iptables -P FORWARD DROP")
			}
			here, err := netns.Get()
			must(t, err)
			defer here.Close()
			daemons := make([]*Firewall, len(networks))
			for i := range daemons {
				daemons[i] = withPath(t, path, func() *Firewall { return open(slog.New(slog.DiscardHandler)) })
			}
			rules := func(i int) Rules {
				n := prefix(networks[i])
				return Rules{Network: n, Subnet: prefix(strings.Replace(networks[i], ".0.0/16", ".1.0/24", 1)), Masquerade: true, Forward: true}
			}
			var wg sync.WaitGroup
			for i, f := range daemons {
				wg.Go(func() {
					runtime.LockOSThread() // for good: the thread ends with the goroutine
					if err := netns.Set(here); err != nil {
						t.Error(err)
						return
					}
					for n := range 5 {
						done, err := f.Ensure(t.Context(), rules(i))
						if err != nil || len(done) > 0 != (n == 0) {
							t.Errorf("%s, call %d: changed %v, error %v", networks[i], n, done, err)
						}
					}
				})
			}
			wg.Wait()
			for i, f := range daemons {
				ensure(t, f, rules(i), false)
			}
		})
	}
}

func TestNoDescriptorsLeak(t *testing.T) {
	count := func() int {
		d, err := os.ReadDir("/proc/self/fd")
		must(t, err)
		return len(d)
	}
	for _, v := range variants {
		t.Run(v, func(t *testing.T) {
			f := enter(t, v)
			ensure(t, f, testRules(), true)
			before := count()
			for range 10 {
				ensure(t, f, testRules(), false)
			}
			if after := count(); after > before {
				t.Errorf("%d descriptors became %d", before, after)
			}
		})
	}
}
