package subnet_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"tweed/subnet"
	"tweed/subnet/subnettest"
)

// daemon does what flanneld does with a Manager: it acquires again in place.
type daemon struct {
	attrs subnet.Attrs

	mu      sync.Mutex
	lease   subnet.Lease
	changes []netip.Prefix // subnets that it had
	fewest  int            // peers since it was set
}

func (d *daemon) run(ctx context.Context, m *subnet.Manager, prev netip.Prefix) error {
	for {
		l, err := m.Acquire(ctx, d.attrs, prev)
		if err != nil {
			return nil // the end
		}
		d.mu.Lock()
		if d.lease.Subnet != l.Subnet {
			d.changes = append(d.changes, l.Subnet)
		}
		d.lease, prev = l, l.Subnet
		d.mu.Unlock()
		err = m.Run(ctx, l, func(_ context.Context, peers []subnet.Lease) error {
			d.mu.Lock()
			defer d.mu.Unlock()
			d.fewest = min(d.fewest, len(peers))
			return nil
		})
		if !errors.Is(err, subnet.ErrLeaseLost) {
			return err
		}
	}
}

// etcd is down for 30 hours, longer than a lease lives: nobody loses a peer for it.
// Afterwards all records have expired, and are made again for the same subnets.
func TestOutageOf30Hours(t *testing.T) {
	for name, forget := range map[string]bool{"expired": false, "history is gone too": true} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, store *subnettest.Memory) {
				ctx, cancel := context.WithCancel(t.Context())
				done := make(chan error, 3)
				var all []*daemon
				for i := range 3 {
					d := &daemon{attrs: subnet.Attrs{PublicIP: netip.AddrFrom4([4]byte{192, 0, 2, byte(i + 1)})}}
					all = append(all, d)
					m := manager(t, store, network)
					go func() { done <- d.run(ctx, m, prefix(fmt.Sprintf("10.5.%d.0/24", i+1))) }()
				}
				time.Sleep(10 * time.Hour)
				for _, d := range all {
					d.mu.Lock()
					d.fewest = 2
					d.mu.Unlock()
				}
				before := subnets(t, store)
				store.Fail(func(string) error { return errors.New("no route to host") })
				time.Sleep(30 * time.Hour)
				synctest.Wait()
				for i, d := range all {
					d.mu.Lock()
					if d.fewest != 2 {
						t.Errorf("node %d had only %d peers during the outage", i, d.fewest)
					}
					d.mu.Unlock()
				}
				store.Fail(nil)
				if forget {
					store.Compact()
				}
				time.Sleep(5 * time.Minute)
				after := subnets(t, store)
				if len(before) != 3 || !slices.Equal(before, after) {
					t.Errorf("the store holds %v, before %v", after, before)
				}
				for i, d := range all {
					d.mu.Lock()
					if len(d.changes) != 1 {
						t.Errorf("node %d had the subnets %v", i, d.changes)
					}
					d.fewest = 2
					d.mu.Unlock()
				}
				time.Sleep(48 * time.Hour)
				for i, d := range all {
					d.mu.Lock()
					if d.fewest != 2 {
						t.Errorf("node %d has only %d peers afterwards", i, d.fewest)
					}
					d.mu.Unlock()
				}
				cancel()
				for range all {
					if err := <-done; err != nil {
						t.Error(err)
					}
				}
			})
		})
	}
}

// Someone deletes the lease directory: all take their subnets again, and nobody loses
// a peer that comes back in time, though not all are as quick as the first. One that
// does not is gone then.
func TestAllRecordsDeleted(t *testing.T) {
	inBubble(t, func(t *testing.T, store *subnettest.Memory) {
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 3)
		var all []*daemon
		for i := range 3 {
			d := &daemon{attrs: subnet.Attrs{PublicIP: netip.AddrFrom4([4]byte{192, 0, 2, byte(i + 1)})}}
			all = append(all, d)
			m := manager(t, laggard{store, time.Duration(i) * 3 * time.Second}, network)
			go func() { done <- d.run(ctx, m, prefix(fmt.Sprintf("10.5.%d.0/24", i+1))) }()
		}
		create(t, store, "10.5.9.0/24", subnet.Attrs{PublicIP: netip.MustParseAddr("192.0.2.9")}) // dead
		time.Sleep(time.Hour)
		fewest := func(n int) {
			for _, d := range all {
				d.mu.Lock()
				d.fewest = n
				d.mu.Unlock()
			}
		}
		check := func(when string, want int) {
			t.Helper()
			synctest.Wait()
			for i, d := range all {
				d.mu.Lock()
				if d.fewest != want || len(d.changes) != 1 {
					t.Errorf("%s: node %d had %d peers at the fewest, want %d, and the subnets %v", when, i, d.fewest, want, d.changes)
				}
				d.mu.Unlock()
			}
		}
		fewest(3)
		store.RemoveAll()
		time.Sleep(25 * time.Second)
		check("at first", 3)
		if got := subnets(t, store); len(got) != 3 {
			t.Errorf("the store holds %v", got)
		}
		time.Sleep(25 * time.Second)
		check("then", 2)
		fewest(9)
		time.Sleep(48 * time.Hour)
		check("for good", 2)
		cancel()
		for range all {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
	})
}

// laggard takes its time for Create.
type laggard struct {
	subnet.Store
	late time.Duration
}

func (s laggard) Create(ctx context.Context, sn netip.Prefix, a subnet.Attrs, ttl time.Duration) (subnet.Lease, error) {
	time.Sleep(s.late)
	return s.Store.Create(ctx, sn, a, ttl)
}
