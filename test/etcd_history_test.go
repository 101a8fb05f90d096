package test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"tweed/test/nstest"
)

// TestEtcdHistoryGone cuts daemons off while 2000 changes are written, twice as
// many as etcd remembers: after that they know what there is, soon and quietly.
func TestEtcdHistoryGone(t *testing.T) {
	t.Parallel()
	e := newEnsemble(t, config(`"vxlan"`))
	a, b := e.addNode(), e.addNode()
	a.wantPeers(1)
	b.wantPeers(1)
	before := [][]string{a.mustOverlay(), b.mustOverlay()}
	key, leaves := stranger("vxlan", 99)

	for _, tt := range []struct {
		what string
		long bool
	}{{"cut off for a moment", false}, {"cut off until the daemons know it", true}} {
		e.put(key, leaves.value(), time.Hour)
		e.inForce(leaves, 0, time.Now(), a, b)
		calm := e.keepVigil(a, b)
		calm.fickle = true
		from := []int{a.said(), b.said()}
		for _, m := range e.members {
			m.silence()
		}
		if tt.long {
			a.wantLogFrom(from[0], "Couldn't watch the leases")
			b.wantLogFrom(from[1], "Couldn't watch the leases")
		}
		began := time.Now()
		stay := e.write2000()
		e.some("delete "+key, func(m *member) error {
			_, err := m.do("DELETE", "/v2/keys"+key, nil)
			return err
		})
		wrote := time.Since(began)
		for _, m := range e.members {
			m.hear()
		}
		began = time.Now()
		for i, n := range []*node{a, b} {
			if err := nstest.Await(e.ctx, 40*time.Second, func() error { return n.hasOverlay(slices.Concat(before[i], stay)) }); err != nil {
				t.Errorf("%s: %v", n.Name, err)
			}
		}
		took := time.Since(began)
		t.Logf("%s: 2000 changes written in %.1f s; all is right %.1f s after the cut", tt.what, wrote.Seconds(), took.Seconds())
		if took > 20*time.Second {
			t.Errorf("%s: right after %v, want seconds", tt.what, took)
		}
		calm.end("2000 changes while "+tt.what, calmLines)
	}
}

// write2000 changes the records of twenty strangers a hundred times each, and
// returns the entries of what they are at the end.
func (e *ensemble) write2000() (entries []string) {
	e.t.Helper()
	const strangers, times = 20, 100
	var wg sync.WaitGroup
	errs := make([]error, strangers)
	for i := range strangers {
		key, p := stranger("vxlan", byte(1+i))
		m := e.members[i%len(e.members)]
		mac := p.mac
		wg.Go(func() {
			for k := range times {
				p.mac = fmt.Sprintf("0e:00:00:00:01:%02x", 128+(i+k)%100)
				if k == times-1 {
					p.mac = mac
				}
				if err := m.put(key, p.value(), time.Hour); err != nil {
					errs[i] = err
					return
				}
			}
		})
		entries = append(entries, p.entries()...)
	}
	wg.Wait()
	for _, err := range errs {
		e.must(err)
	}
	return entries
}

// hasOverlay complains unless the kernel has exactly these entries.
func (n *node) hasOverlay(want []string) error {
	want = slices.Sorted(slices.Values(want))
	got, err := n.overlay()
	if err == nil && !slices.Equal(got, want) {
		err = fmt.Errorf("the entries are\n\t%s\nwant\n\t%s", strings.Join(got, "\n\t"), strings.Join(want, "\n\t"))
	}
	return err
}

// TestEtcdRestored brings back the data of all members as they were before the
// third node came: etcd's index goes back and a lease is forgotten. The daemons
// keep their subnets, and the third publishes its own again. Then a new cluster
// is made of a backup of one member, as etcd's guide to disaster recovery has it.
func TestEtcdRestored(t *testing.T) {
	t.Parallel()
	e := newEnsemble(t, config(`"vxlan"`))
	a, b := e.addNode(), e.addNode()
	e.killAll()
	for _, m := range e.members {
		e.must(os.CopyFS(m.Path("backup"), os.DirFS(m.Path("data"))))
	}
	e.startAll()
	third := e.addNode()
	for i := range byte(40) { // the index is far beyond that of the backup
		key, p := stranger("vxlan", 99)
		p.mac = fmt.Sprintf("0e:00:00:00:01:%02x", i)
		e.put(key, p.value(), time.Hour)
	}
	all := []*node{a, b, third}
	for _, n := range all {
		n.wantPeers(3)
	}
	envs := []string{a.env.Subnet.String(), b.env.Subnet.String(), third.env.Subnet.String()}
	value := e.get(third.key())

	calm := e.keepVigil(a, b)
	calm.fickle, calm.absent = true, third // what the backup does not know
	others := e.pinging(a.pod.NS, third.pod.Addr)
	e.killAll()
	for _, m := range e.members {
		e.must(os.RemoveAll(m.Path("data")))
		e.must(os.Rename(m.Path("backup"), m.Path("data")))
	}
	began := time.Now()
	e.startAll()
	e.wantPublished(third, value)
	t.Logf("the forgotten lease was published again %.1f s after the start of the members", time.Since(began).Seconds())
	e.wantNews(1, "restored from a backup", all...)
	e.wantPing(a.pod.NS, third.pod.Addr)
	t.Logf("the node whose lease was forgotten lost %d of %d pings", others.lost(), others.sent.Load())
	calm.end("restored from a backup", 2*calmLines)

	calm = e.keepVigil(all...)
	first := e.members[0]
	first.backUp()
	e.killAll()
	e.must(os.Rename(first.Path("data"), first.Path("lost")))
	e.must(os.Rename(first.Path("backup"), first.Path("data")))
	first.start("--force-new-cluster")
	e.wantHealthy(first)
	e.wantNews(2, "a new cluster of a backup", all...)
	calm.end("a new cluster of a backup", 2*calmLines)
	for i, n := range all {
		if env, err := n.SubnetEnv(); err != nil || env.Subnet.String() != envs[i] {
			t.Errorf("%s: subnet %s (%v), want %s still", n.Name, env.Subnet, err, envs[i])
		}
	}
}

func (e *ensemble) killAll() {
	e.t.Helper()
	for _, m := range e.members {
		m.kill()
	}
}

// backUp makes a backup of the running member. A member's log tells that an entry
// was committed only together with a later one, and a new cluster drops what is
// not known to be committed: so something else is written last.
func (m *member) backUp() {
	m.e.t.Helper()
	for range 2 {
		m.e.must(m.put("/last", "", 0))
	}
	m.e.in(m.NS, "env", "ETCDCTL_API=2", "etcdctl", "backup", "--data-dir="+m.Path("data"), "--backup-dir="+m.Path("backup"))
}

// wantPublished waits until the record of the node's subnet has this value.
func (e *ensemble) wantPublished(n *node, value string) {
	e.t.Helper()
	if err := nstest.Await(e.ctx, time.Minute, func() error {
		if got := e.get(n.key()); got != value {
			return fmt.Errorf("it holds %q", got)
		}
		return nil
	}); err != nil {
		e.t.Errorf("waited for %s: %v", filepath.Base(n.key()), err)
	}
}

// wantNews has a stranger come and waits until all the nodes know it.
func (e *ensemble) wantNews(number byte, what string, nodes ...*node) {
	e.t.Helper()
	key, p := stranger("vxlan", number)
	began := time.Now()
	e.put(key, p.value(), time.Hour)
	e.t.Logf("%s: a new lease was in force after %.1f s", what, e.inForce(p, 0, began, nodes...).Seconds())
}
