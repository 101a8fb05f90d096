package subnet_test

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"tweed/subnet"
	"tweed/subnet/subnettest"
)

// node is a Manager at work inside a synctest bubble.
type node struct {
	t      *testing.T
	m      *subnet.Manager
	store  *subnettest.Memory
	lease  subnet.Lease
	cancel context.CancelFunc
	done   chan error
	log    lockedBuffer
	slow   time.Duration // what a sync takes

	mu    sync.Mutex
	peers []subnet.Lease
	syncs int
	fail  error
}

func startNode(t *testing.T, store *subnettest.Memory) *node {
	t.Helper()
	n := newNode(t, store)
	n.acquire(self, "10.5.1.0/24")
	n.run(n.lease)
	return n
}

func newNode(t *testing.T, store *subnettest.Memory) *node {
	t.Helper()
	n := &node{t: t, store: store, done: make(chan error, 1)}
	cfg, err := subnet.ParseConfig([]byte(network))
	if err != nil {
		t.Fatal(err)
	}
	n.m = subnet.NewManager(store, cfg, time.Hour, slog.New(slog.NewTextHandler(&n.log, nil)))
	return n
}

func (n *node) acquire(a subnet.Attrs, prev string) {
	n.t.Helper()
	l, err := n.m.Acquire(n.t.Context(), a, prefix(prev))
	if err != nil {
		n.t.Fatal(err)
	}
	n.lease = l
}

func (n *node) run(own subnet.Lease) {
	ctx, cancel := context.WithCancel(n.t.Context())
	n.cancel = cancel
	go func() {
		n.done <- n.m.Run(ctx, own, func(_ context.Context, peers []subnet.Lease) error {
			if n.slow > 0 {
				time.Sleep(n.slow)
			}
			n.mu.Lock()
			defer n.mu.Unlock()
			n.peers, n.syncs = slices.Clone(peers), n.syncs+1
			return n.fail
		})
	}()
	synctest.Wait()
}

// logged counts the lines with a text.
func (n *node) logged(text string) int { return strings.Count(n.log.String(), text) }

// A lockedBuffer is written by several goroutines.
type lockedBuffer struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
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

func (n *node) wantBad(records int64) {
	n.t.Helper()
	if got := n.m.BadRecords(); got != records {
		n.t.Errorf("%d bad records, want %d", got, records)
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
		store.SetRaw("alien", "x", 0)
		n.want("10.5.2.0/24", "10.5.3.0/24")
		n.wantBad(2)
		store.Compact()
		time.Sleep(time.Minute)
		n.want("10.5.2.0/24", "10.5.3.0/24")
		n.wantBad(2)
		store.Remove("10.5.2.0-24")
		n.want("10.5.3.0/24")
		n.wantBad(1)
		store.Remove("alien")
		store.Compact()
		time.Sleep(time.Minute)
		n.wantBad(0)
		store.SetRaw("10.5.3.0-24", "garbage", time.Hour)
		synctest.Wait()
		n.wantBad(1)
		store.SetRaw("10.5.3.0-24", `{"PublicIP":"192.0.2.3"}`, time.Hour)
		n.want("10.5.3.0/24")
		n.wantBad(0)
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
