package main

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"tweed/backend"
	"tweed/backend/alloc"
	"tweed/subnet"
	"tweed/subnet/subnettest"
)

// TestLeaseLostWhileMoving: the backend ends, as it does when the underlay has
// moved, while a lost lease cannot be taken again yet. The next backend must go on
// with that lease, rather than with any.
func TestLeaseLostWhileMoving(t *testing.T) {
	opts := testOptions(t)
	synctest.Test(t, func(t *testing.T) {
		n := newNode(opts, slog.New(slog.DiscardHandler))
		cfg, err := subnet.ParseConfig([]byte(`{"Network":"` + ownNetwork.String() + `"}`))
		if err != nil {
			t.Fatal(err)
		}
		memory := subnettest.NewMemory()
		store := &watchedStore{memory, n.alive, 15 * time.Second}
		m := subnet.NewManager(store, cfg, time.Hour, n.log)
		open, err := alloc.Open(t.Context(), backend.Underlay{PublicIP: netip.MustParseAddr("192.0.2.1")}, cfg, n.log)
		if err != nil {
			t.Fatal(err)
		}
		be := &hangingBackend{Backend: open}
		lease, err := m.Acquire(t.Context(), be.Attrs(), ownSubnet)
		if err != nil {
			t.Fatal(err)
		}
		// Without a network the firewall refuses the rules: the host keeps its own.
		s := &membership{node: n, store: store, m: m, lease: lease, file: envFile{node: n}}
		hold := func() (stop func()) {
			ctx, cancel := context.WithCancel(t.Context())
			ended := make(chan error)
			go func() { ended <- s.holdLease(ctx, be) }()
			time.Sleep(time.Minute)
			return func() {
				cancel()
				if err := <-ended; err != nil && !errors.Is(err, context.Canceled) {
					t.Error(err)
				}
			}
		}
		key := subnet.Key(lease.Subnet)
		stop := hold()
		memory.Fail(func(op string) error {
			if op == "create" {
				return errors.New("no quorum")
			}
			return nil
		})
		memory.Remove(key)
		time.Sleep(time.Minute)
		if _, found := memory.Value(key); found {
			t.Fatal("taken again while nothing can be written")
		}
		stop()
		if s.lease.Subnet != lease.Subnet {
			t.Errorf("the lease is %v by now, want %v", s.lease.Subnet, lease.Subnet)
		}
		memory.Fail(nil)
		stop = hold()
		if _, found := memory.Value(key); !found {
			t.Errorf("not taken again: %q", memory.Keys())
		}
		stop()
	})
}

// TestUnderlayNeverRests: interfaces that change all the time are judged all the
// same, and not at each change.
func TestUnderlayNeverRests(t *testing.T) {
	var out bytes.Buffer
	opts := testOptions(t)
	opts.Iface = backend.Selector{Ifaces: []string{"tweed-none"}}
	synctest.Test(t, func(t *testing.T) {
		n := newNode(opts, slog.New(slog.NewTextHandler(&out, nil)))
		s := &membership{node: n, under: backend.Underlay{Name: "tweed-none", Addr: netip.MustParseAddr("192.0.2.1")}}
		ctx, cancel := context.WithCancel(t.Context())
		notices, ended := make(chan struct{}), make(chan error)
		go func() { ended <- s.judgeUnderlay(ctx, notices) }()
		began := time.Now()
		for !strings.Contains(out.String(), "tweed-none is gone") && time.Since(began) < time.Minute {
			notices <- struct{}{}
			time.Sleep(100 * time.Millisecond)
			synctest.Wait()
		}
		if took := time.Since(began); took < underlayPatience || took > underlayPatience+underlaySettle {
			t.Errorf("judged after %s, want %s", took, underlayPatience)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// TestNewMTUIsTold also where the file could not be written at first.
func TestNewMTUIsTold(t *testing.T) {
	var out bytes.Buffer
	opts := testOptions(t)
	n := newNode(opts, slog.New(slog.NewTextHandler(&out, nil)))
	f := envFile{node: n}
	env := subnet.Env{Network: ownNetwork, Subnet: ownSubnet, MTU: 1450}
	f.write(env, subnet.Attrs{})
	env.MTU = 1400
	f.opts.SubnetFile = filepath.Join(opts.SubnetFile, "no", "folder")
	if f.write(env, subnet.Attrs{}) {
		t.Error("wrote into what is no folder")
	}
	f.opts.SubnetFile = opts.SubnetFile
	for range 2 {
		f.write(env, subnet.Attrs{PublicIP: netip.MustParseAddr("192.0.2.1")})
	}
	// There and back again, which is no change.
	f.opts.SubnetFile = filepath.Join(opts.SubnetFile, "no", "folder")
	f.write(subnet.Env{Network: ownNetwork, Subnet: ownSubnet, MTU: 1300}, subnet.Attrs{})
	f.opts.SubnetFile = opts.SubnetFile
	f.write(env, subnet.Attrs{})
	if b, err := os.ReadFile(opts.SubnetFile); err != nil || !strings.Contains(string(b), "FLANNEL_MTU=1400") {
		t.Errorf("the file has %q (%v)", b, err)
	}
	if n := strings.Count(out.String(), "the MTU of the pods has changed"); n != 1 || !strings.Contains(out.String(), "mtu=1400 was=1450") {
		t.Errorf("told %d times:\n%s", n, &out)
	}
}

// TestFilesDoNotDriveTheFirewall: a file that cannot be written is tried each
// second, which is no reason to run iptables as often.
func TestFilesDoNotDriveTheFirewall(t *testing.T) {
	var out bytes.Buffer
	opts := testOptions(t)
	opts.StateDir = filepath.Join(opts.StateDir, "file", "no", "folder")
	if err := os.WriteFile(filepath.Join(filepath.Dir(opts.SubnetFile), "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		n := newNode(opts, slog.New(slog.NewTextHandler(&out, nil)))
		// Without a network the firewall refuses the rules: the host keeps its own.
		var cfg subnet.Config
		ctx, cancel := context.WithCancel(t.Context())
		m := subnet.NewManager(hangingStore{}, cfg, time.Hour, n.log)
		ended := make(chan error)
		go func() {
			ended <- n.hold(ctx, cfg, new(alloc.Backend), m, subnet.Lease{Subnet: ownSubnet}, &envFile{node: n}, 0)
		}()
		time.Sleep(59 * time.Second)
		cancel()
		if err := <-ended; err != nil && !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
	files, rules := strings.Count(out.String(), "only the subnet file has it"), strings.Count(out.String(), "set the firewall rules")
	if files < 55 || rules != 12 {
		t.Errorf("in 59 s %d tries to write the file, want about 60, and %d of the rules, want 12", files, rules)
	}
}
