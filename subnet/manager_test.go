package subnet_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"tweed/ipam"
	"tweed/subnet"
	"tweed/subnet/subnettest"
)

var (
	self = subnet.Attrs{PublicIP: netip.MustParseAddr("192.0.2.1")}
	bob  = subnet.Attrs{PublicIP: netip.MustParseAddr("192.0.2.2")}
	eve  = subnet.Attrs{PublicIP: netip.MustParseAddr("192.0.2.3")}
)

const network = `{"Network":"10.5.0.0/16"}`

func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

func manager(t *testing.T, store subnet.Store, config string) *subnet.Manager {
	t.Helper()
	cfg, err := subnet.ParseConfig([]byte(config))
	if err != nil {
		t.Fatal(err)
	}
	return subnet.NewManager(store, cfg, time.Hour, slog.New(slog.DiscardHandler))
}

func create(t *testing.T, store subnet.Store, sn string, a subnet.Attrs) subnet.Lease {
	t.Helper()
	l, err := store.Create(t.Context(), prefix(sn), a, subnet.TTL)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// subnets returns what the store holds, as "10.5.1.0/24 192.0.2.1".
func subnets(t *testing.T, store subnet.Store) []string {
	t.Helper()
	snap, err := store.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, l := range snap.Leases {
		s := l.Subnet.String() + " " + l.Attrs.PublicIP.String()
		if l.Reserved() {
			s += " reserved"
		}
		all = append(all, s)
	}
	slices.Sort(all)
	return all
}

func TestAcquire(t *testing.T) {
	type record struct {
		key, value string
		ttl        time.Duration
	}
	const day = 24 * time.Hour
	rec := func(sn, ip string) record {
		return record{strings.Replace(sn, "/", "-", 1), `{"PublicIP":"` + ip + `"}`, day}
	}
	tests := []struct {
		name    string
		config  string // default: network
		records []record
		prev    []string
		want    string // subnet, or "any"
		left    []string
	}{
		{name: "empty store", want: "any"},
		{name: "previous subnet", prev: []string{"10.5.9.0/24"}, want: "10.5.9.0/24"},
		{name: "second previous when the first does not fit", prev: []string{"10.9.9.0/24", "10.5.9.0/24"}, want: "10.5.9.0/24"},
		{name: "second previous when the first is taken", records: []record{rec("10.5.8.0/24", "192.0.2.2")}, prev: []string{"10.5.8.0/24", "10.5.9.0/24"}, want: "10.5.9.0/24"},
		{name: "invalid previous", prev: []string{""}, want: "any"},
		{name: "own record", records: []record{rec("10.5.7.0/24", "192.0.2.1")}, prev: []string{"10.5.9.0/24"}, want: "10.5.7.0/24"},
		{name: "own record that was the previous one goes first", records: []record{rec("10.5.6.0/24", "192.0.2.1"), rec("10.5.7.0/24", "192.0.2.1")}, prev: []string{"10.5.7.0/24"}, want: "10.5.7.0/24"},
		{name: "own record of another length is deleted", records: []record{rec("10.5.7.0/25", "192.0.2.1")}, prev: []string{"10.5.7.0/24"}, want: "10.5.7.0/24", left: []string{"10.5.7.0/24 192.0.2.1"}},
		{name: "own record below SubnetMin is deleted", records: []record{rec("10.5.0.0/24", "192.0.2.1")}, prev: []string{"10.5.9.0/24"}, want: "10.5.9.0/24", left: []string{"10.5.9.0/24 192.0.2.1"}},
		{name: "foreign record of the previous subnet is left alone", records: []record{rec("10.5.9.0/24", "192.0.2.2")}, prev: []string{"10.5.9.0/24"}, want: "any"},
		{name: "foreign record inside the previous subnet", records: []record{rec("10.5.9.128/25", "192.0.2.2")}, prev: []string{"10.5.9.0/24"}, want: "any"},
		{name: "unreadable record of the previous subnet is left alone", records: []record{{"10.5.9.0-24", "{", day}}, prev: []string{"10.5.9.0/24"}, want: "any"},
		{name: "reservation", records: []record{{"10.5.7.0-24", `{"PublicIP":"192.0.2.1"}`, 0}}, want: "10.5.7.0/24", left: []string{"10.5.7.0/24 192.0.2.1 reserved"}},
		{name: "reservation before own record and previous", records: []record{rec("10.5.6.0/24", "192.0.2.1"), {"10.5.7.0-24", `{"PublicIP":"192.0.2.1"}`, 0}}, prev: []string{"10.5.6.0/24"}, want: "10.5.7.0/24"},
		{name: "reservation that does not fit stays, and is not used", records: []record{{"10.5.7.0-25", `{"PublicIP":"192.0.2.1"}`, 0}}, prev: []string{"10.5.9.0/24"}, want: "10.5.9.0/24",
			left: []string{"10.5.7.0/25 192.0.2.1 reserved", "10.5.9.0/24 192.0.2.1"}},
		{name: "reservation of another node is not picked", config: `{"Network":"10.5.0.0/22","SubnetMax":"10.5.2.0"}`, records: []record{{"10.5.1.0-24", `{"PublicIP":"192.0.2.2"}`, 0}}, want: "10.5.2.0/24"},
		{name: "bad records take their subnets", config: `{"Network":"10.5.0.0/22","SubnetMax":"10.5.2.0"}`, records: []record{{"10.5.1.0-24", "garbage", day}, {"alien", "x", 0}, {"10.5.2.0-24x", "x", 0}}, want: "10.5.2.0/24"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store := subnettest.NewMemory()
				for _, r := range tt.records {
					store.SetRaw(r.key, r.value, r.ttl)
				}
				if tt.config == "" {
					tt.config = network
				}
				var prev []netip.Prefix
				for _, p := range tt.prev {
					sn, _ := netip.ParsePrefix(p)
					prev = append(prev, sn)
				}
				before := subnets(t, store)
				l, err := manager(t, store, tt.config).Acquire(t.Context(), self, prev...)
				if err != nil {
					t.Fatal(err)
				}
				if tt.want != "any" && l.Subnet.String() != tt.want {
					t.Errorf("got %v, want %v", l.Subnet, tt.want)
				}
				after := subnets(t, store)
				if tt.left != nil && !slices.Equal(after, tt.left) {
					t.Errorf("the store holds %v, want %v", after, tt.left)
				}
				for _, r := range before {
					if !strings.Contains(r, "192.0.2.1") && !slices.Contains(after, r) {
						t.Errorf("%s of another node was changed: %v", r, after)
					}
				}
				if !l.Reserved() && time.Until(l.Expires) != subnet.TTL {
					t.Errorf("expires in %v", time.Until(l.Expires))
				}
			})
		})
	}
}

func TestAcquireExhausted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := subnettest.NewMemory()
		create(t, store, "10.5.1.0/24", bob)
		_, err := manager(t, store, `{"Network":"10.5.0.0/22","SubnetMax":"10.5.1.0"}`).Acquire(t.Context(), self)
		if !errors.Is(err, ipam.ErrExhausted) || !strings.Contains(err.Error(), "no free /24 from 10.5.1.0 to 10.5.1.0 in 10.5.0.0/22") {
			t.Errorf("error %v", err)
		}
	})
}

// Twenty nodes that start at once on 23 subnets all get one, without overlap.
func TestAcquireRace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := subnettest.NewMemory()
		got := make(chan netip.Prefix, 20)
		for i := range 20 {
			m := manager(t, store, `{"Network":"10.5.0.0/19","SubnetMax":"10.5.23.0"}`)
			a := subnet.Attrs{PublicIP: netip.AddrFrom4([4]byte{192, 0, 2, byte(i + 1)})}
			go func() {
				l, err := m.Acquire(t.Context(), a)
				if err != nil {
					t.Error(err)
				}
				got <- l.Subnet
			}()
		}
		seen := map[netip.Prefix]bool{}
		for range 20 {
			sn := <-got
			if seen[sn] {
				t.Errorf("%v was given twice", sn)
			}
			seen[sn] = true
		}
	})
}

func TestAcquireOutlivesTrouble(t *testing.T) {
	for _, op := range []string{"list", "create"} {
		t.Run(op, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store := subnettest.NewMemory()
				left := 5
				store.Fail(func(o string) error {
					if o == op && left > 0 {
						left--
						return errors.New("connection refused")
					}
					return nil
				})
				m := manager(t, store, network)
				told := 0
				m.Trouble = func(why error) {
					if told++; !strings.Contains(why.Error(), "connection refused") {
						t.Errorf("trouble %v", why)
					}
				}
				if _, err := m.Acquire(t.Context(), self); err != nil || left != 0 || told != 5 {
					t.Errorf("error %v with %d failures to come, told %d times", err, left, told)
				}
			})
		})
	}
}

func TestAcquireEndsWithContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := subnettest.NewMemory()
		store.Fail(func(string) error { return errors.New("connection refused") })
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if _, err := manager(t, store, network).Acquire(ctx, self); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error %v", err)
		}
	})
}

func TestWaitConfig(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := subnettest.NewMemory()
		var log strings.Builder
		start := time.Now()
		go func() {
			time.Sleep(3500 * time.Millisecond)
			store.SetConfig(`{"Network":"10.5.0.0/29"}`)
			time.Sleep(3 * time.Second)
			store.SetConfig(network)
		}()
		cfg, err := subnet.WaitConfig(t.Context(), store, "/coreos.com/network/config", func(why error) { fmt.Fprintln(&log, why) })
		if err != nil || cfg.Network != prefix("10.5.0.0/16") {
			t.Errorf("%+v, %v", cfg, err)
		}
		if d := time.Since(start); d != 7*time.Second {
			t.Errorf("took %v, want 7s: one try a second", d)
		}
		for _, want := range []string{"no network config", "/coreos.com/network/config is invalid: Network 10.5.0.0/29: want a prefix length of 28 or less"} {
			if !strings.Contains(log.String(), want) {
				t.Errorf("the log does not say %q:\n%s", want, log.String())
			}
		}
	})
}
