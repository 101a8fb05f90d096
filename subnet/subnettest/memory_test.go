package subnettest

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"tweed/subnet"
)

func TestMemoryConformance(t *testing.T) {
	Conformance(t, func(t *testing.T) Fixture {
		m := NewMemory()
		return Fixture{
			Store:     m,
			SetConfig: m.SetConfig,
			SetRaw:    m.SetRaw,
			Remove:    m.Remove,
			RemoveAll: m.RemoveAll,
			Compact:   m.Compact,
			TTL:       50 * time.Millisecond,
		}
	})
}

func TestMemoryUnderSynctest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := NewMemory()
		l, err := m.Create(t.Context(), subnetN(1), attrsN(1), subnet.TTL)
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		mine := errors.New("mine")
		err = m.Watch(t.Context(), l.Revision, func(events []subnet.Event) error {
			if len(events) != 1 || events[0].Kind != subnet.Removed {
				t.Errorf("events %+v", events)
			}
			return mine
		})
		if err != mine || time.Since(began) != subnet.TTL {
			t.Errorf("%v after %v", err, time.Since(began))
		}
	})
}

func TestMemoryFaults(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := NewMemory()
		fault := errors.New("fault")
		only := func(want string) func(string) error {
			return func(op string) error {
				if op == want {
					return fault
				}
				return nil
			}
		}
		watched := make(chan error, 1)
		go func() {
			watched <- m.Watch(context.Background(), 1, func([]subnet.Event) error { return nil })
		}()
		synctest.Wait()
		m.Fail(only("watch"))
		if err := <-watched; err != fault {
			t.Errorf("running watch: %v", err)
		}
		m.Fail(only("create"))
		if _, err := m.Create(t.Context(), subnetN(1), attrsN(1), subnet.TTL); err != fault {
			t.Errorf("create: %v", err)
		}
		if keys := m.Keys(); len(keys) != 0 {
			t.Errorf("failed before it began, and wrote %v", keys)
		}
		m.Fail(nil)
		m.FailAfter(only("create"))
		if _, err := m.Create(t.Context(), subnetN(1), attrsN(1), subnet.TTL); err != fault {
			t.Errorf("create: %v", err)
		}
		if keys := m.Keys(); !slices.Equal(keys, []string{"10.5.1.0-24"}) {
			t.Errorf("failed after its work, and the keys are %v", keys)
		}
		const value = `{"PublicIP":"192.0.2.1","BackendType":"vxlan","BackendData":{"VtepMAC":"0e:00:00:00:00:01"}}`
		if got, ok := m.Value("10.5.1.0-24"); !ok || got != value {
			t.Errorf("value %q, want %q", got, value)
		}
	})
}
