package subnet_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"tweed/subnet"
	"tweed/subnet/subnettest"
)

// startConfigured runs a node whose store holds its config.
func startConfigured(t *testing.T, store *subnettest.Memory, config string) *node {
	t.Helper()
	store.SetConfig(config)
	n := newNode(t, store)
	n.acquire(self, "10.5.1.0/24")
	n.run(n.lease)
	return n
}

// told returns what was logged of the config since it was asked last.
func (n *node) told() (lines []string) {
	synctest.Wait()
	n.log.mu.Lock()
	defer n.log.mu.Unlock()
	for line := range strings.Lines(n.log.b.String()) {
		if strings.Contains(line, "the network config") {
			lines = append(lines, line)
		}
	}
	n.log.b.Reset()
	return lines
}

func TestRunTellsConfigChanges(t *testing.T) {
	inBubble(t, func(t *testing.T, store *subnettest.Memory) {
		n := startConfigured(t, store, network)
		defer n.stop()
		for _, tt := range []struct {
			config  string
			want    []string // texts of the one line; none if nil
			without string
			differs bool
		}{
			{config: network},
			{config: ` {"network":"10.5.0.0/16", "SubnetLen":24, "SubnetMin":"10.5.1.0", "SubnetMax":"10.5.255.0", "Backend":{"Type":"UDP"}}`},
			{config: `{"Network":"10.6.0.0/16","SubnetLen":25}`, want: []string{"level=WARN", "Network 10.5.0.0/16 -> 10.6.0.0/16, SubnetLen 24 -> 25, SubnetMin 10.5.1.0 -> 10.6.0.128",
				"goes on with what it was started with: restart flanneld on every node, one after the other; containers get"}, differs: true},
			{config: `{"Network":"10.6.0.0/16", "SubnetLen":25}`, differs: true}, // has been said
			{config: `{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan","VNI":7,"DirectRouting":true,"PSK":"hunter2","L":[1]}}`, without: "hunter2",
				want: []string{"Backend.Type udp -> vxlan", "Backend.VNI unset -> 7", "Backend.DirectRouting unset -> true", "Backend.PSK unset -> (not shown)", "Backend.L unset -> (not shown)"}, differs: true},
			{config: "", want: []string{"level=WARN", "deleted", "goes on", "write it again"}, differs: true},
			{config: `{"Network":"10.5.0.0/29"}`, want: []string{"level=WARN", "invalid one: Network 10.5.0.0/29: want", "correct it"}, differs: true},
			{config: `{"Network"`, want: []string{"invalid one: not JSON"}, differs: true},
			{config: network, want: []string{"level=INFO", "again the one"}},
			{config: `{"Network":"10.5.0.0/16","SubnetMax":"10.5.9.0"}`, want: []string{"SubnetMax 10.5.255.0 -> 10.5.9.0"}, without: "containers", differs: true},
		} {
			store.SetConfig(tt.config)
			time.Sleep(2 * time.Second) // it may just have been read
			lines := n.told()
			if len(lines) > 1 || (len(lines) == 1) != (tt.want != nil) {
				t.Fatalf("%s: told %q", tt.config, lines)
			}
			for _, text := range tt.want {
				if !strings.Contains(lines[0], text) || tt.without != "" && strings.Contains(lines[0], tt.without) {
					t.Errorf("%s: told %q, want %q without %q", tt.config, lines[0], text, tt.without)
				}
			}
			if n.m.ConfigDiffers() != tt.differs {
				t.Errorf("%s: differs is %v", tt.config, n.m.ConfigDiffers())
			}
			time.Sleep(time.Hour) // lists, which say it no second time
			if lines := n.told(); lines != nil {
				t.Errorf("%s: told %q again", tt.config, lines)
			}
		}
	})
}

// A change that no event told is found with the next list, also by the first one
// of a Run; one that was told is not told again by the next Run.
func TestRunFindsConfigChange(t *testing.T) {
	inBubble(t, func(t *testing.T, store *subnettest.Memory) {
		n := startConfigured(t, store, network)
		store.Fail(failing("watch"))
		store.SetConfig(`{"Network":"10.6.0.0/16"}`)
		time.Sleep(6 * time.Minute)
		if got := n.told(); len(got) != 1 {
			t.Errorf("told %q", got)
		}
		n.stop()
		store.Fail(nil)
		n.run(n.lease)
		if got := n.told(); len(got) != 0 {
			t.Errorf("told again: %q", got)
		}
		n.stop()
		store.SetConfig(network)
		n.run(n.lease)
		if got := n.told(); len(got) != 1 || n.m.ConfigDiffers() {
			t.Errorf("told %q", got)
		}
		n.stop()
	})
}

// An error is no change, costs few requests, and hides none for long.
func TestRunConfigErrors(t *testing.T) {
	inBubble(t, func(t *testing.T, store *subnettest.Memory) {
		n := startConfigured(t, store, network)
		defer n.stop()
		var requests atomic.Int32
		store.Fail(func(op string) error {
			if op == "config" {
				requests.Add(1)
				return errors.New("i/o timeout")
			}
			return nil
		})
		store.SetConfig(`{"Network":"10.6.0.0/16"}`)
		time.Sleep(time.Hour)
		asked := requests.Load()
		if got := n.told(); got != nil || n.m.ConfigDiffers() || asked < 12 || asked > 60 {
			t.Errorf("told %q, asked %d times in an hour", got, asked)
		}
		store.Fail(nil)
		time.Sleep(6 * time.Minute)
		if got := n.told(); len(got) != 1 {
			t.Errorf("told %q", got)
		}
		// One that fails once is not waited for until the next list.
		time.Sleep(time.Minute)
		store.Fail(failing("config"))
		store.SetConfig(network)
		time.Sleep(time.Second)
		store.Fail(nil)
		time.Sleep(20 * time.Second)
		if got := n.told(); len(got) != 1 {
			t.Errorf("told %q", got)
		}
	})
}

// At rest the config is read once per list.
func TestRunConfigRequests(t *testing.T) {
	inBubble(t, func(t *testing.T, store *subnettest.Memory) {
		n := startConfigured(t, store, network)
		defer n.stop()
		var mu sync.Mutex
		asked := map[string]int{}
		store.Fail(func(op string) error {
			mu.Lock()
			defer mu.Unlock()
			asked[op]++
			return nil
		})
		time.Sleep(2 * time.Hour)
		synctest.Wait()
		mu.Lock()
		defer mu.Unlock()
		if asked["config"] != asked["list"] || asked["list"] < 24 || asked["list"] > 36 || asked["update"] != 0 {
			t.Errorf("in two hours: %v", asked)
		}
	})
}

// Somebody writes the config in a loop: it is read once a second, and the last one
// is seen.
func TestRunConfigStorm(t *testing.T) {
	inBubble(t, func(t *testing.T, store *subnettest.Memory) {
		n := startConfigured(t, store, network)
		defer n.stop()
		var asked atomic.Int32
		store.Fail(func(op string) error {
			if op == "config" {
				asked.Add(1)
			}
			return nil
		})
		for range 10_000 {
			store.SetConfig(network)
			time.Sleep(time.Millisecond)
		}
		if got := asked.Load(); got < 5 || got > 12 {
			t.Errorf("asked %d times in 10 s", got)
		}
		store.SetConfig(`{"Network":"10.6.0.0/16"}`)
		time.Sleep(2 * time.Second)
		if got := n.told(); len(got) != 1 {
			t.Errorf("told %q", got)
		}
	})
}

func TestRunExitsOnConfigChange(t *testing.T) {
	for config, exits := range map[string]bool{
		`{"Network":"10.6.0.0/16"}`:                              true,
		`{"Network":"10.5.0.0/16","Backend":{"Port":9}}`:         true,
		`{"Network":"10.5.0.0/16","Backend":{"Type":"udp"}}`:     false,
		`{"Network":"10.5.0.0/16","SubnetLen":24,"Unknown":"1"}`: false,
		`{"Network":"10.6.0.0/29"}`:                              false,
		``:                                                       false,
	} {
		inBubble(t, func(t *testing.T, store *subnettest.Memory) {
			store.SetConfig(network)
			n := newNode(t, store)
			n.m.ExitOnConfigChange = true
			n.acquire(self, "10.5.1.0/24")
			n.run(n.lease)
			store.SetConfig(config)
			time.Sleep(time.Hour)
			if !exits {
				n.stop()
				return
			}
			select {
			case err := <-n.done:
				if !errors.Is(err, subnet.ErrConfigChanged) || !strings.Contains(err.Error(), " -> ") {
					t.Errorf("%s: Run ended with %v", config, err)
				}
			default:
				t.Errorf("%s: Run goes on", config)
				n.stop()
			}
		})
	}
}

// Changed at the same time as the context ends: that is no error.
func TestRunConfigChangeAtTheEnd(t *testing.T) {
	inBubble(t, func(t *testing.T, store *subnettest.Memory) {
		store.SetConfig(`{"Network":"10.6.0.0/16"}`)
		m := manager(t, store, network)
		m.ExitOnConfigChange = true
		own, err := m.Acquire(t.Context(), self)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		store.Fail(func(op string) error {
			if op == "config" {
				cancel()
			}
			return nil
		})
		if err := m.Run(ctx, own, func(context.Context, []subnet.Lease) error { return nil }); err != nil {
			t.Error(err)
		}
	})
}
