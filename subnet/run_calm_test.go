package subnet_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"tweed/subnet"
	"tweed/subnet/subnettest"
)

func peerRecord(i int) (key, value string) {
	return fmt.Sprintf("10.5.%d.0-24", i), fmt.Sprintf(`{"PublicIP":"192.0.2.%d"}`, i)
}

// What happens while the peers are applied is applied together; the first event
// does not wait.
func TestRunGathersEvents(t *testing.T) {
	inBubble(t, func(t *testing.T, store *subnettest.Memory) {
		n := startNode(t, store)
		defer n.stop()
		n.set(nil)
		n.slow = time.Second
		began := time.Now()
		want := []string{}
		for i := 2; i < 202; i++ {
			key, value := peerRecord(i)
			store.SetRaw(key, value, 0)
			synctest.Wait() // one event after the other
		}
		for i := 2; i < 202; i++ {
			want = append(want, fmt.Sprintf("10.5.%d.0/24", i))
		}
		time.Sleep(2500 * time.Millisecond)
		n.want(want...)
		if got := n.set(nil); got != 2 {
			t.Errorf("%d syncs for 200 events during the first one, want 2", got)
		}
		if time.Since(began) > 3*time.Second {
			t.Errorf("took %v", time.Since(began))
		}
	})
}

// What does not concern the peers needs no sync: our own renewal, a peer's, a
// config, junk, and a list of what is known.
func TestRunSyncsForPeersOnly(t *testing.T) {
	inBubble(t, func(t *testing.T, store *subnettest.Memory) {
		bobs := create(t, store, "10.5.2.0/24", bob)
		n := startNode(t, store)
		defer n.stop()
		time.Sleep(time.Second)
		n.set(nil)
		if _, err := store.Update(t.Context(), bobs, subnet.TTL); err != nil {
			t.Fatal(err)
		}
		store.SetRaw("10.5.1.0-24", `{"PublicIP":"192.0.2.1"}`, subnet.TTL)
		store.SetRaw("172.16.0.0-24", `{"PublicIP":"192.0.2.4"}`, 0)
		store.SetRaw("alien", `x`, 0)
		store.SetConfig(network)
		store.Compact()
		time.Sleep(5 * time.Second)
		if got := n.set(nil); got != 0 {
			t.Errorf("%d syncs for nothing", got)
		}
		n.want("10.5.2.0/24")
		if n.m.Refused() != 1 || n.m.BadRecords() != 1 {
			t.Errorf("%d refused, %d bad, want 1 and 1", n.m.Refused(), n.m.BadRecords())
		}
		store.Remove("172.16.0.0-24")
		synctest.Wait()
		if n.m.Refused() != 0 {
			t.Errorf("%d refused, and it is gone", n.m.Refused())
		}
	})
}

// A watch that brings more than can be kept waits, and nothing is lost.
func TestRunBoundsEvents(t *testing.T) {
	inBubble(t, func(t *testing.T, store *subnettest.Memory) {
		sent := 0
		m := manager(t, eventStore{store, func(ctx context.Context, fn func([]subnet.Event) error) error {
			for i := range 20000 {
				sn := prefix(fmt.Sprintf("10.5.%d.0/24", 2+i%200))
				l := subnet.Lease{Subnet: sn, Attrs: subnet.Attrs{PublicIP: bob.PublicIP}, Revision: int64(i + 10)}
				if i%3 == 0 {
					l.Attrs.PublicIP = eve.PublicIP
				}
				if err := fn([]subnet.Event{{Kind: subnet.Put, Lease: l, Revision: l.Revision}}); err != nil {
					return err
				}
				sent++
			}
			<-ctx.Done()
			return ctx.Err()
		}}, network)
		own, err := m.Acquire(t.Context(), self, prefix("10.5.1.0/24"))
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		syncs, most := 0, 0
		var last []subnet.Lease
		release := make(chan struct{})
		done := make(chan error, 1)
		go func() {
			done <- m.Run(ctx, own, func(_ context.Context, peers []subnet.Lease) error {
				if syncs++; syncs == 1 {
					<-release
				}
				last = append(last[:0], peers...)
				return nil
			})
		}()
		synctest.Wait()
		if most = sent; most > 2*4096 {
			t.Errorf("%d events are applied or waiting, want 4096 each at most", most)
		}
		close(release)
		time.Sleep(time.Second)
		synctest.Wait()
		if sent != 20000 || len(last) != 200 {
			t.Errorf("%d events sent, %d peers, want 20000 and 200", sent, len(last))
		}
		if syncs > 30 {
			t.Errorf("%d syncs", syncs)
		}
		for _, l := range last {
			if i := l.Revision - 10; (i%3 == 0) != (l.Attrs.PublicIP == eve.PublicIP) || i < 20000-200 {
				t.Errorf("peer %+v is not the last one", l)
			}
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// eventStore is a Store with a watch of its own making.
type eventStore struct {
	subnet.Store
	watch func(context.Context, func([]subnet.Event) error) error
}

func (s eventStore) Watch(ctx context.Context, _ int64, fn func([]subnet.Event) error) error {
	return s.watch(ctx, fn)
}

// Run does not leave a write behind that is not over.
func TestRunWaitsForItsWrite(t *testing.T) {
	inBubble(t, func(t *testing.T, store *subnettest.Memory) {
		n := startNode(t, store)
		hang := make(chan struct{})
		store.Fail(func(op string) error {
			if op == "update" {
				<-hang
			}
			return nil
		})
		time.Sleep(23*time.Hour + time.Second)
		n.cancel()
		synctest.Wait()
		select {
		case err := <-n.done:
			t.Errorf("Run ended before its write: %v", err)
		default:
		}
		close(hang)
		if err := <-n.done; err != nil {
			t.Error(err)
		}
	})
}

// A store that does not answer a renewal keeps no peer waiting.
func TestRunSyncsWhileRenewing(t *testing.T) {
	inBubble(t, func(t *testing.T, store *subnettest.Memory) {
		n := startNode(t, store)
		n.set(nil)
		hang := make(chan struct{})
		store.Fail(func(op string) error {
			if op == "update" {
				<-hang
				return errors.New("i/o timeout")
			}
			return nil
		})
		time.Sleep(23*time.Hour + time.Second)
		n.set(nil)
		create(t, store, "10.5.2.0/24", bob)
		n.want("10.5.2.0/24")
		time.Sleep(30 * time.Second)
		if got := n.set(nil); got < 3 {
			t.Errorf("%d syncs", got)
		}
		store.Fail(nil)
		close(hang)
		time.Sleep(5 * time.Minute)
		n.stop()
		if got := n.logged("Lease renewed"); got != 1 {
			t.Errorf("renewed %d times:\n%s", got, n.log.String())
		}
	})
}
