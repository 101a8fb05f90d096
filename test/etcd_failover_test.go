package test

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"
)

// failOver is how soon news must be in force on a node although the member that
// it used says nothing any more.
const failOver = 10 * time.Second

// calmLines is what one fault of etcd may add to the log of a daemon.
const calmLines = 12

// TestEtcdMembersFail kills the leader, suspends it, and takes the member in
// use away, then a second and the third, while all nodes ping each other. News
// comes in as soon as etcd can take them, and nobody loses a packet or a peer.
func TestEtcdMembersFail(t *testing.T) {
	t.Parallel()
	for _, backend := range []string{"vxlan", "udp", "host-gw"} {
		t.Run(backend, func(t *testing.T) {
			e := newEnsemble(t, config(`"`+backend+`"`))
			a, b := e.addNode(), e.addNode()
			var number byte
			news := func(what string, began time.Time, without ...*member) {
				t.Helper()
				number++
				key, p := stranger(backend, number)
				e.put(key, p.value(), time.Hour, without...)
				written := time.Since(began)
				took := e.inForce(p, 1+int(number), began, a, b)
				e.t.Logf("%s: a new lease could be written after %.1f s and was in force after %.1f s", what, written.Seconds(), took.Seconds())
				if took-written > failOver {
					e.t.Errorf("%s: in force %v after it was written, want at most %v", what, took-written, failOver)
				}
			}
			calm := e.keepVigil(a, b)

			began := time.Now()
			leader := e.leader()
			leader.kill()
			news("leader killed", began)
			leader.start()
			e.wantHealthy(leader)
			calm.end("leader killed", calmLines)

			if backend == "vxlan" {
				for what, m := range map[string]*member{"leader": e.leader(), "member in use": e.inUse()} {
					calm = e.keepVigil(a, b)
					began = time.Now()
					m.signal(syscall.SIGSTOP)
					resume := time.AfterFunc(5*time.Second, func() { m.proc.Signal(syscall.SIGCONT) })
					news(what+" suspended for 5 s", began, m)
					resume.Stop()
					m.signal(syscall.SIGCONT)
					e.wantHealthy(m)
					calm.end(what+" suspended for 5 s", calmLines)
				}
				loseMajority(e, a, b, news)
			}
		})
	}
}

// loseMajority takes away the member in use for good, a second one, the last,
// and brings them back.
func loseMajority(e *ensemble, a, b *node, news func(string, time.Time, ...*member)) {
	calm := e.keepVigil(a, b)
	began := time.Now()
	first := e.inUse()
	first.kill()
	news("member in use lost", began)

	second := e.inUse()
	second.kill()
	e.wantNoMajority()
	for _, n := range []*node{a, b} {
		n.wantHealth("/readyz", 200) // it carries packets, which is what readiness is about
		told := n.daemon.Notified()
		e.t.Logf("one member of three left: %s says %q", n.Name, told[len(told)-1])
	}
	last := e.find("is left", func(*member) bool { return true })
	from := []int{len(a.daemon.Notified()), len(b.daemon.Notified())}
	last.kill()
	a.wantTold(from[0], "etcd does not answer since ")
	b.wantTold(from[1], "etcd does not answer since ")

	began = time.Now()
	e.startAll()
	news("two, then all members lost and back", began)
	for _, n := range []*node{a, b} {
		e.eventually("the status to be good again", func() error {
			told := n.daemon.Notified()
			if last := told[len(told)-1]; strings.Contains(last, "etcd") {
				return fmt.Errorf("it is %q", last)
			}
			return nil
		})
	}
	calm.end("members lost one by one, and back", 2*calmLines)
}

// TestEtcdSilent has the member in use drop all packets without a word, and
// then two of three: what is written at another is in force within failOver.
func TestEtcdSilent(t *testing.T) {
	t.Parallel()
	e := newEnsemble(t, config(`"vxlan"`))
	a, b := e.addNode(), e.addNode()
	calm := e.keepVigil(a, b)
	for number, what := range []string{"the member in use is silent", "once more"} {
		m := e.inUse()
		began := time.Now()
		m.silence()
		key, p := stranger("vxlan", byte(number+1))
		e.put(key, p.value(), time.Hour, m)
		took := e.inForce(p, 0, began, a, b)
		t.Logf("%s: a lease written elsewhere was in force after %.1f s", what, took.Seconds())
		if took > failOver {
			t.Errorf("%s: in force after %v, want at most %v", what, took, failOver)
		}
		m.hear()
	}
	calm.end("silent members", 2*calmLines)
}

// wantNoMajority waits until nothing can be written.
func (e *ensemble) wantNoMajority() {
	e.t.Helper()
	m := e.find("is left", func(*member) bool { return true })
	e.eventually("etcd to refuse", func() error {
		if err := m.put("/no", "x", 0); err == nil {
			return fmt.Errorf("it takes a write without a majority")
		}
		return nil
	})
}
