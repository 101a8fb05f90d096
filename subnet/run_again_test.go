package subnet_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"tweed/subnet"
	"tweed/subnet/subnettest"
)

// After the lease was lost, the peers are there at once, without an answer of the
// store, but for one that overlaps the new subnet.
func TestRunAgainKnowsPeers(t *testing.T) {
	inBubble(t, func(t *testing.T, store *subnettest.Memory) {
		create(t, store, "10.5.2.0/24", bob)
		create(t, store, "10.5.3.0/24", eve)
		n := startNode(t, store)
		n.want("10.5.2.0/24", "10.5.3.0/24")
		store.SetRaw("10.5.1.0-24", `{"PublicIP":"192.0.2.9"}`, time.Hour)
		n.wantLost("192.0.2.9")
		store.Remove("10.5.3.0-24")
		n.acquire(self, "10.5.3.0/24")
		store.Fail(func(string) error { return errors.New("connection refused") })
		n.peers = nil
		n.set(nil)
		n.run(n.lease)
		n.want("10.5.2.0/24")
		time.Sleep(30 * time.Hour)
		n.want("10.5.2.0/24")
		store.Fail(nil)
		n.stop()
	})
}

// moved is self at another address.
func moved(ip string) subnet.Attrs { return subnet.Attrs{PublicIP: netip.MustParseAddr(ip)} }

// move runs the node again with other attributes, as its underlay has changed.
func (n *node) move(a subnet.Attrs) {
	n.t.Helper()
	n.stop()
	n.lease.Attrs = a
	n.run(n.lease)
}

// wantRecords checks what the store holds.
func (n *node) wantRecords(want ...string) {
	n.t.Helper()
	synctest.Wait()
	n.store.Fail(nil)
	if got := subnets(n.t, n.store); !slices.Equal(got, want) {
		n.t.Errorf("the store holds %v, want %v", got, want)
	}
}

func TestRunMoves(t *testing.T) {
	inBubble(t, func(t *testing.T, store *subnettest.Memory) {
		store.SetRaw("10.5.2.0-24", `{"PublicIP":"192.0.2.2"}`, 60*time.Hour)
		n := startNode(t, store)
		time.Sleep(50 * time.Hour) // the record has another revision than the caller knows
		n.lease.Attrs = self
		began := time.Now()
		n.move(moved("192.0.2.101"))
		n.wantRecords("10.5.1.0/24 192.0.2.101", "10.5.2.0/24 192.0.2.2")
		if d := time.Since(began); d > 0 {
			t.Errorf("published after %v", d)
		}
		n.move(moved("192.0.2.102"))
		n.move(self) // and back
		n.wantRecords("10.5.1.0/24 192.0.2.1", "10.5.2.0/24 192.0.2.2")
		for _, text := range []string{"subnet=10.5.1.0/24 was=192.0.2.1 now=192.0.2.101", "was=192.0.2.101 now=192.0.2.102", "was=192.0.2.102 now=192.0.2.1\n"} {
			if n.logged(`msg="publishing our lease anew" `) != 3 || n.logged(text) != 1 {
				t.Errorf("want %q once:\n%s", text, n.log.String())
			}
		}
		time.Sleep(50 * time.Hour)
		n.stop()
		n.wantRecords("10.5.1.0/24 192.0.2.1")
		if n.logged("someone changed") > 0 {
			t.Errorf("log:\n%s", n.log.String())
		}
	})
}

// The MAC changes, the address does not.
func TestRunMovesMAC(t *testing.T) {
	inBubble(t, func(t *testing.T, store *subnettest.Memory) {
		n := startNode(t, store)
		a := self
		a.BackendType, a.BackendData = "vxlan", json.RawMessage(`{"VtepMAC":"0e:00:00:00:00:02"}`)
		n.move(a)
		if got, _ := store.Value("10.5.1.0-24"); !strings.Contains(got, "0e:00:00:00:00:02") {
			t.Errorf("the record is %s", got)
		}
		n.stop()
	})
}

// The store is down when the address changes: peers are served, and the record is
// written once it is back.
func TestRunMovesWhileStoreIsDown(t *testing.T) {
	inBubble(t, func(t *testing.T, store *subnettest.Memory) {
		create(t, store, "10.5.2.0/24", bob)
		n := startNode(t, store)
		store.Fail(func(string) error { return errors.New("no route to host") })
		n.peers = nil
		n.move(moved("192.0.2.101"))
		n.want("10.5.2.0/24")
		time.Sleep(time.Hour)
		n.move(moved("192.0.2.102"))
		time.Sleep(time.Hour)
		n.want("10.5.2.0/24")
		store.Fail(nil)
		time.Sleep(40 * time.Second)
		n.wantRecords("10.5.1.0/24 192.0.2.102", "10.5.2.0/24 192.0.2.2")
		n.stop()
		if n.logged("someone changed") > 0 {
			t.Errorf("log:\n%s", n.log.String())
		}
	})
}

// A write of the new address arrives, but its answer does not; or the old one's
// renewal does so late.
func TestRunMovesAmbiguously(t *testing.T) {
	for name, op := range map[string]string{"update": "update", "watch too": "watch"} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, store *subnettest.Memory) {
				n := startNode(t, store)
				var failed atomic.Int32
				store.FailAfter(func(o string) error {
					if (o == "update" || o == op) && failed.Add(1) <= 3 {
						return errors.New("i/o timeout")
					}
					return nil
				})
				n.move(moved("192.0.2.101"))
				n.move(moved("192.0.2.102"))
				time.Sleep(time.Minute)
				n.wantRecords("10.5.1.0/24 192.0.2.102")
				n.stop()
			})
		})
	}
}

// Someone else wrote our record when the address changed.
func TestRunMovesInConflict(t *testing.T) {
	for name, tt := range map[string]struct{ value, lost, left string }{
		"another node":                {`{"PublicIP":"192.0.2.9"}`, "belongs to 192.0.2.9", "192.0.2.9"},
		"the old address, ours":       {`{"PublicIP":"192.0.2.1"}`, "", "192.0.2.101"},
		"the new address":             {`{"PublicIP":"192.0.2.101","BackendType":"host-gw"}`, "", "192.0.2.101"},
		"garbage":                     {`{`, "", "192.0.2.101"},
		"the old address, a stranger": {`{"PublicIP":"192.0.2.1","BackendType":"vxlan"}`, "belongs to 192.0.2.1", "192.0.2.1"},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, store *subnettest.Memory) {
				n := startNode(t, store)
				n.stop()
				var once atomic.Bool
				store.Fail(func(op string) error {
					if op == "update" && !once.Swap(true) {
						store.SetRaw("10.5.1.0-24", tt.value, time.Hour)
					}
					return nil
				})
				n.lease.Attrs = moved("192.0.2.101")
				n.run(n.lease)
				time.Sleep(time.Minute)
				if tt.lost != "" {
					n.wantLost(tt.lost)
				} else {
					n.stop()
				}
				n.wantRecords("10.5.1.0/24 " + tt.left)
			})
		})
	}
}

// Once the new address is published, a record with the former one is another
// node's that has it now, unless it is in a backup of the store.
func TestRunMovedAddressIsReused(t *testing.T) {
	inBubble(t, func(t *testing.T, store *subnettest.Memory) {
		n := startNode(t, store)
		n.move(moved("192.0.2.101"))
		time.Sleep(time.Minute)
		create(t, store, "10.5.7.0/24", self)
		n.want("10.5.7.0/24") // a peer like any other
		store.SetRaw("10.5.1.0-24", `{"PublicIP":"192.0.2.1"}`, time.Hour)
		n.wantLost("belongs to 192.0.2.1")
	})
}

// The lease was lost while the node moved: what it had is known under the former
// address, and what is left of it is nobody's.
func TestAcquireAfterMove(t *testing.T) {
	inBubble(t, func(t *testing.T, store *subnettest.Memory) {
		n := startNode(t, store)
		store.SetRaw("10.5.9.0-24", `{"PublicIP":"192.0.2.1"}`, 48*time.Hour) // a stale one of ours
		time.Sleep(time.Minute)
		n.stop()
		n.acquire(moved("192.0.2.101"), "10.5.1.0/24")
		if n.lease.Subnet != prefix("10.5.1.0/24") {
			t.Errorf("moved to %v", n.lease.Subnet)
		}
		n.wantRecords("10.5.1.0/24 192.0.2.101", "10.5.9.0/24 192.0.2.1")
		n.run(n.lease)
		n.want()
		if n.m.Refused() != 1 {
			t.Errorf("%d refused, want the stale one", n.m.Refused())
		}
		n.stop()
	})
}

// The node moved while its record was deleted, and another subnet's record has the
// former address: it is not the one that we had.
func TestAcquireAfterMoveAndLoss(t *testing.T) {
	inBubble(t, func(t *testing.T, store *subnettest.Memory) {
		n := startNode(t, store)
		store.Fail(func(op string) error {
			if op != "list" && op != "create" {
				return errors.New("i/o timeout")
			}
			return nil
		})
		n.move(moved("192.0.2.101")) // and cannot publish it
		n.stop()
		store.Fail(nil)
		store.Remove("10.5.1.0-24")
		store.SetRaw("10.5.9.0-24", `{"PublicIP":"192.0.2.1"}`, 48*time.Hour)
		n.acquire(moved("192.0.2.101"), "10.5.1.0/24")
		n.wantRecords("10.5.1.0/24 192.0.2.101", "10.5.9.0/24 192.0.2.1")
	})
}

// While the store was down the node moved, and another one got its former address
// and with it the record.
func TestAcquireAfterMoveLeavesOthersAlone(t *testing.T) {
	inBubble(t, func(t *testing.T, store *subnettest.Memory) {
		n := startNode(t, store)
		n.stop()
		store.SetRaw("10.5.1.0-24", `{"PublicIP":"192.0.2.1","BackendType":"vxlan"}`, time.Hour)
		n.acquire(moved("192.0.2.101"), "10.5.1.0/24")
		if n.lease.Subnet == prefix("10.5.1.0/24") {
			t.Error("took the subnet of another node")
		}
	})
}

// What the caller knows of the lease is days old: the record is written all the
// same, at the first try.
func TestRunMovesByItsOwnKnowledge(t *testing.T) {
	inBubble(t, func(t *testing.T, store *subnettest.Memory) {
		n := startNode(t, store)
		time.Sleep(50 * time.Hour)
		store.Fail(func(op string) error {
			if op == "list" || op == "watch" {
				return errors.New("i/o timeout")
			}
			return nil
		})
		n.move(moved("192.0.2.101"))
		n.wantRecords("10.5.1.0/24 192.0.2.101")
		n.stop()
	})
}

// The store is restored from a backup of before the move.
func TestRunMovesAgainAfterRestore(t *testing.T) {
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
		nothing := func(context.Context, []subnet.Lease) error { return nil }
		first, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := m.Run(first, own, nothing); err != nil {
			t.Fatal(err)
		}
		own.Attrs = moved("192.0.2.101")
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- m.Run(ctx, own, nothing) }()
		time.Sleep(time.Hour)
		backup := subnettest.NewMemory()
		backup.SetRaw("10.5.1.0-24", `{"PublicIP":"192.0.2.1"}`, 24*time.Hour)
		synctest.Wait() // nobody reads the field while it changes
		restored.Store = backup
		store.Compact()
		time.Sleep(time.Minute)
		synctest.Wait()
		if got := subnets(t, backup); !slices.Equal(got, []string{"10.5.1.0/24 192.0.2.101"}) {
			t.Errorf("the restored store holds %v", got)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// A store that was restored from a backup counts from a lower revision again: a node
// that has our former address by now is a peer all the same.
func TestRunFormerAddressAfterRestore(t *testing.T) {
	inBubble(t, func(t *testing.T, store *subnettest.Memory) {
		for range 50 { // revisions that the restored store has not reached
			store.SetRaw("10.5.2.0-24", `{"PublicIP":"192.0.2.2"}`, 0)
		}
		restored := &switchStore{Store: store}
		n := newNode(t, store)
		n.m = manager(t, restored, network)
		n.acquire(self, "10.5.1.0/24")
		n.run(n.lease)
		n.move(moved("192.0.2.101"))
		n.want("10.5.2.0/24")
		backup := subnettest.NewMemory()
		backup.SetRaw("10.5.1.0-24", `{"PublicIP":"192.0.2.101"}`, 0)
		backup.SetRaw("10.5.8.0-24", `{"PublicIP":"192.0.2.1"}`, 0) // may be an old one of ours
		synctest.Wait()                                             // nobody reads the field while it changes
		restored.Store = backup
		store.Compact()
		time.Sleep(time.Minute)
		n.want()
		create(t, backup, "10.5.7.0/24", self)
		n.want("10.5.7.0/24")
		n.stop()
	})
}

// The watch is silent, and a renewal shows that the record is another's.
func TestRunListsAfterConflict(t *testing.T) {
	inBubble(t, func(t *testing.T, store *subnettest.Memory) {
		m := manager(t, eventStore{store, func(ctx context.Context, _ func([]subnet.Event) error) error {
			<-ctx.Done()
			return ctx.Err()
		}}, network)
		own, err := m.Acquire(t.Context(), self)
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		time.Sleep(2 * time.Minute) // no list is due when the lease is renewed
		var once atomic.Bool
		store.Fail(func(op string) error {
			if op == "update" && !once.Swap(true) {
				store.SetRaw(subnet.Key(own.Subnet), `{"PublicIP":"192.0.2.2"}`, 0)
			}
			return nil
		})
		err = m.Run(t.Context(), own, func(context.Context, []subnet.Lease) error { return nil })
		if late := time.Since(began) - 23*time.Hour; !errors.Is(err, subnet.ErrLeaseLost) || late > 10*time.Second {
			t.Errorf("%v after the renewal: %v", late, err)
		}
	})
}
