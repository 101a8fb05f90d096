package subnet_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
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
				if _, err := manager(t, store, network).Acquire(t.Context(), self); err != nil || left != 0 {
					t.Errorf("error %v with %d failures to come", err, left)
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

// node is a Manager at work inside a synctest bubble.
type node struct {
	t      *testing.T
	store  *subnettest.Memory
	lease  subnet.Lease
	cancel context.CancelFunc
	done   chan error

	mu    sync.Mutex
	peers []subnet.Lease
	syncs int
	fail  error
}

func startNode(t *testing.T, store *subnettest.Memory) *node {
	t.Helper()
	m := manager(t, store, network)
	l, err := m.Acquire(t.Context(), self, prefix("10.5.1.0/24"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	n := &node{t: t, store: store, lease: l, cancel: cancel, done: make(chan error, 1)}
	go func() {
		n.done <- m.Run(ctx, l, func(_ context.Context, peers []subnet.Lease) error {
			n.mu.Lock()
			defer n.mu.Unlock()
			n.peers, n.syncs = peers, n.syncs+1
			return n.fail
		})
	}()
	synctest.Wait()
	return n
}

// set makes further syncs fail with err, and returns how many there were since
// it was called last.
func (n *node) set(err error) (syncs int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	syncs, n.syncs, n.fail = n.syncs, 0, err
	return syncs
}

// want checks the peers that the last sync was told.
func (n *node) want(subnets ...string) {
	n.t.Helper()
	synctest.Wait()
	n.mu.Lock()
	defer n.mu.Unlock()
	got := []string{}
	for _, l := range n.peers {
		got = append(got, l.Subnet.String())
	}
	if !slices.Equal(got, subnets) {
		n.t.Errorf("peers are %v, want %v", got, subnets)
	}
}

// wantLost checks that Run has ended with ErrLeaseLost, for a reason.
func (n *node) wantLost(reason string) {
	n.t.Helper()
	synctest.Wait()
	select {
	case err := <-n.done:
		if !errors.Is(err, subnet.ErrLeaseLost) || !strings.Contains(err.Error(), reason) {
			n.t.Errorf("Run ended with %v, want ErrLeaseLost: %s", err, reason)
		}
	default:
		n.t.Errorf("Run goes on, want ErrLeaseLost: %s", reason)
		n.stop()
	}
}

func (n *node) stop() {
	n.t.Helper()
	n.cancel()
	synctest.Wait()
	select {
	case err := <-n.done:
		if err != nil {
			n.t.Errorf("Run ended with %v", err)
		}
	default:
		n.t.Error("Run does not end with its context")
	}
}

func inBubble(t *testing.T, f func(t *testing.T, store *subnettest.Memory)) {
	synctest.Test(t, func(t *testing.T) { f(t, subnettest.NewMemory()) })
}

func TestRunFollowsPeers(t *testing.T) {
	inBubble(t, func(t *testing.T, store *subnettest.Memory) {
		create(t, store, "10.5.2.0/24", bob)
		n := startNode(t, store)
		defer n.stop()
		n.want("10.5.2.0/24")
		create(t, store, "10.5.3.0/24", eve)
		n.want("10.5.2.0/24", "10.5.3.0/24")
		store.Remove("10.5.2.0-24")
		n.want("10.5.3.0/24")

		// A changed record under the same key reaches sync whole.
		store.SetRaw("10.5.3.0-24", `{"PublicIP":"192.0.2.77","BackendType":"vxlan"}`, time.Hour)
		n.want("10.5.3.0/24")
		n.mu.Lock()
		got := n.peers[0].Attrs
		n.mu.Unlock()
		if got.PublicIP.String() != "192.0.2.77" || got.BackendType != "vxlan" {
			t.Errorf("sync was told %+v", got)
		}
		time.Sleep(2 * time.Hour) // expires
		n.want()
	})
}

func TestRunRepairs(t *testing.T) {
	inBubble(t, func(t *testing.T, store *subnettest.Memory) {
		n := startNode(t, store)
		defer n.stop()
		n.set(nil)
		time.Sleep(time.Minute + time.Second)
		if got := n.set(errors.New("no such device")); got < 6 {
			t.Errorf("%d syncs in a minute without news, want one every 10 s", got)
		}
		time.Sleep(11 * time.Second)
		if got := n.set(nil); got < 2 {
			t.Errorf("%d syncs in 11 s, want a failed one to be tried again soon", got)
		}
	})
}

func TestRunSkipsWhatIsNoPeer(t *testing.T) {
	inBubble(t, func(t *testing.T, store *subnettest.Memory) {
		create(t, store, "10.5.2.0/24", bob)
		n := startNode(t, store)
		defer n.stop()
		for key, value := range map[string]string{
			"10.5.4.0-24":    `{"PublicIP":"192.0.2.1"}`, // ourselves
			"172.16.0.0-24":  `{"PublicIP":"192.0.2.4"}`, // outside
			"10.0.0.0-8":     `{"PublicIP":"192.0.2.4"}`, // wider than the network
			"10.5.1.128-25":  `{"PublicIP":"192.0.2.4"}`, // inside our subnet
			"10.5.5.0-24":    `{"PublicIP":`,             // cut off
			"10.5.6.0-24":    `{"PublicIP":"fd00::1"}`,   // IPv6
			"not-a-subnet":   `{"PublicIP":"192.0.2.4"}`, // alien key
			"10.5.7.0-24-24": `{"PublicIP":"192.0.2.4"}`,
		} {
			store.SetRaw(key, value, 0)
		}
		n.want("10.5.2.0/24")
		store.Compact() // the same by way of a list
		time.Sleep(time.Minute)
		n.want("10.5.2.0/24")
	})
}

// A record that becomes unreadable must not take its peer's route away.
func TestRunKeepsPeerWithBadRecord(t *testing.T) {
	inBubble(t, func(t *testing.T, store *subnettest.Memory) {
		create(t, store, "10.5.2.0/24", bob)
		create(t, store, "10.5.3.0/24", eve)
		n := startNode(t, store)
		defer n.stop()
		store.SetRaw("10.5.2.0-24", "garbage", time.Hour)
		n.want("10.5.2.0/24", "10.5.3.0/24")
		store.Compact()
		time.Sleep(time.Minute)
		n.want("10.5.2.0/24", "10.5.3.0/24")
		store.Remove("10.5.2.0-24")
		n.want("10.5.3.0/24")
	})
}

// Nothing that goes wrong with the store removes a peer, and what happened
// meanwhile is seen afterwards.
func TestRunOutlivesStoreTrouble(t *testing.T) {
	inBubble(t, func(t *testing.T, store *subnettest.Memory) {
		create(t, store, "10.5.2.0/24", bob)
		n := startNode(t, store)
		defer n.stop()
		store.Fail(func(string) error { return errors.New("connection refused") })
		store.Compact()
		time.Sleep(10 * time.Minute)
		n.want("10.5.2.0/24")
		store.SetRaw("10.5.3.0-24", `{"PublicIP":"192.0.2.3"}`, subnet.TTL)
		store.Remove("10.5.2.0-24")
		store.Fail(nil)
		time.Sleep(time.Minute)
		n.want("10.5.3.0/24")
	})
}

func TestRunRenews(t *testing.T) {
	inBubble(t, func(t *testing.T, store *subnettest.Memory) {
		n := startNode(t, store)
		defer n.stop()
		time.Sleep(10 * 24 * time.Hour) // would have expired nine times
		n.want()
		if got := subnets(t, store); !slices.Equal(got, []string{"10.5.1.0/24 192.0.2.1"}) {
			t.Errorf("the store holds %v", got)
		}
	})
}

func TestRunRenewsInTime(t *testing.T) {
	inBubble(t, func(t *testing.T, store *subnettest.Memory) {
		var updates []time.Duration
		start := time.Now()
		n := startNode(t, store)
		store.Fail(func(op string) error {
			if op == "update" {
				updates = append(updates, time.Since(start))
				if len(updates) < 4 {
					return errors.New("connection refused")
				}
			}
			return nil
		})
		time.Sleep(24 * time.Hour)
		n.stop()
		if len(updates) != 4 || updates[0] != 23*time.Hour {
			t.Errorf("renewals at %v, want the first after 23h and then until it works", updates)
		}
		if last := updates[len(updates)-1]; last > 23*time.Hour+3*time.Minute {
			t.Errorf("the last try came at %v: too slow", last)
		}
	})
}

func TestRunLeaseLost(t *testing.T) {
	tests := map[string]struct {
		do     func(store *subnettest.Memory)
		reason string
	}{
		"removed":           {func(s *subnettest.Memory) { s.Remove("10.5.1.0-24") }, "was removed"},
		"taken by another":  {func(s *subnettest.Memory) { s.SetRaw("10.5.1.0-24", `{"PublicIP":"192.0.2.2"}`, time.Hour) }, "now belongs to 192.0.2.2"},
		"missing in a list": {func(s *subnettest.Memory) { s.Fail(failing("watch")); s.Remove("10.5.1.0-24"); s.Compact() }, "there is no record of 10.5.1.0/24"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, store *subnettest.Memory) {
				n := startNode(t, store)
				tt.do(store)
				time.Sleep(10 * time.Minute)
				n.wantLost(tt.reason)
			})
		})
	}
}

func failing(op string) func(string) error {
	return func(o string) error {
		if o == op {
			return errors.New("connection refused")
		}
		return nil
	}
}

// While the store was unreachable our lease expired and another node took the
// subnet: it must not be overwritten.
func TestRunNeverTakesBack(t *testing.T) {
	inBubble(t, func(t *testing.T, store *subnettest.Memory) {
		n := startNode(t, store)
		store.Fail(func(string) error { return errors.New("no route to host") })
		store.Compact()
		time.Sleep(25 * time.Hour)
		store.SetRaw("10.5.1.0-24", `{"PublicIP":"192.0.2.2"}`, time.Hour)
		store.Fail(nil)
		time.Sleep(2 * time.Minute)
		n.wantLost("192.0.2.2")
		if got := subnets(t, store); !slices.Equal(got, []string{"10.5.1.0/24 192.0.2.2"}) {
			t.Errorf("the store holds %v", got)
		}
	})
}

func TestRunPutsOwnRecordRight(t *testing.T) {
	for name, value := range map[string]string{
		"other attributes": `{"PublicIP":"192.0.2.1","BackendType":"host-gw"}`,
		"unreadable":       `{"PublicIP`,
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, store *subnettest.Memory) {
				n := startNode(t, store)
				defer n.stop()
				store.SetRaw("10.5.1.0-24", value, time.Hour)
				time.Sleep(10 * time.Second)
				snap, err := store.List(t.Context())
				if err != nil || len(snap.Leases) != 1 || !snap.Leases[0].Attrs.Equal(self) {
					t.Errorf("the store holds %+v (%v)", snap, err)
				}
			})
		})
	}
}

// An operator makes the running node's lease a reservation, and undoes it.
func TestRunReservation(t *testing.T) {
	inBubble(t, func(t *testing.T, store *subnettest.Memory) {
		n := startNode(t, store)
		defer n.stop()
		store.SetRaw("10.5.1.0-24", `{"PublicIP":"192.0.2.1"}`, 0)
		time.Sleep(72 * time.Hour)
		if got := subnets(t, store); !slices.Equal(got, []string{"10.5.1.0/24 192.0.2.1 reserved"}) {
			t.Errorf("the store holds %v", got)
		}
		store.SetRaw("10.5.1.0-24", `{"PublicIP":"192.0.2.1"}`, 2*time.Hour)
		time.Sleep(72 * time.Hour)
		if got := subnets(t, store); !slices.Equal(got, []string{"10.5.1.0/24 192.0.2.1"}) {
			t.Errorf("the store holds %v", got)
		}
	})
}

// A write that arrived although its answer did not is recognised as our own.
func TestAmbiguousWrites(t *testing.T) {
	for op, left := range map[string]int{"create": 1, "update": 2} {
		t.Run(op, func(t *testing.T) {
			inBubble(t, func(t *testing.T, store *subnettest.Memory) {
				store.FailAfter(func(o string) error {
					if o == op && left > 0 {
						left--
						return errors.New("i/o timeout")
					}
					return nil
				})
				n := startNode(t, store)
				time.Sleep(48 * time.Hour)
				n.stop()
				if got := subnets(t, store); left != 0 || !slices.Equal(got, []string{"10.5.1.0/24 192.0.2.1"}) {
					t.Errorf("the store holds %v, %d failures to come", got, left)
				}
			})
		})
	}
}

// etcd was restored from a backup: our record is there, with a lower revision.
func TestRunSurvivesRestoredStore(t *testing.T) {
	inBubble(t, func(t *testing.T, store *subnettest.Memory) {
		for range 50 { // revisions that the restored store has not reached
			store.SetRaw("10.5.2.0-24", `{"PublicIP":"192.0.2.2"}`, 0)
		}
		restored := &switchStore{Store: store}
		m := manager(t, restored, network)
		own, err := m.Acquire(t.Context(), self, prefix("10.5.1.0/24"))
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() {
			done <- m.Run(ctx, own, func(context.Context, []subnet.Lease) error { return nil })
		}()
		backup := subnettest.NewMemory()
		backup.SetRaw("10.5.1.0-24", `{"PublicIP":"192.0.2.1"}`, 24*time.Hour)
		synctest.Wait() // nobody reads the field while it changes
		restored.Store = backup
		store.Compact()
		time.Sleep(72 * time.Hour)
		if got := subnets(t, backup); !slices.Equal(got, []string{"10.5.1.0/24 192.0.2.1"}) {
			t.Errorf("the restored store holds %v", got)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// switchStore is a Store whose content can be swapped.
type switchStore struct{ subnet.Store }
