package test

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"tweed/subnet"
	"tweed/test/lab"
)

// startPhases are those of a start, by the lines of the log that begin each.
// Between some lines there is next to no time, so only the long phases must be
// hit.
var startPhases = []struct {
	name   string
	await  string        // the line behind which to kill, of the phases that must be hit
	within time.Duration // at most so long behind it; 0 for half a start
	lines  []string
}{
	{name: "exec"},
	{"etcd", "Created subnet manager", 2 * time.Millisecond, []string{"Using interface with name", "Created subnet manager"}},
	{"config", "Found network config", 2 * time.Millisecond, []string{"Found network config"}}, // the device may be made here
	{name: "device", lines: []string{"opened udp backend"}},
	{name: "lease", lines: []string{"Picking subnet in range", "Allocated lease", "Found lease"}},
	{name: "firewall", lines: []string{"Set the firewall rules"}},
	{"running", "Running backend.", 0, []string{"Running backend.", "to renew lease"}},
	{name: "file", lines: []string{"Wrote subnet file"}},
}

// A mortal is a node whose daemon is killed again and again.
type mortal struct {
	*node
	backend string
	prefix  string        // in etcd; each node has a network of its own
	start   time.Duration // about how long it takes to be there
	kernel  string        // as it ought to be
	rules   string
	deaths  map[string]int // by phase
}

// TestKillAtStart kills daemons by SIGKILL at every step of their start: half of
// the time a moment after the first line of each phase, and half of the time at
// random. Sometimes nothing of them is left in the kernel, as after a reboot. None leaves a torn file, no start behind one fails, and in the end all
// is as if there had been one start.
func TestKillAtStart(t *testing.T) {
	t.Parallel()
	needIPTables(t)
	c := newLab(t, lab.Options{})
	var all []*mortal
	for i, backend := range []string{"vxlan", "udp", "host-gw"} {
		all = append(all, c.addMortal(backend, i))
	}
	runs := 240
	if testing.Short() {
		runs = 60
	}
	began := time.Now()
	for i := range runs {
		m := all[i%len(all)]
		if i%5 == 0 {
			m.reboot()
		}
		m.launch("-etcd-prefix="+m.prefix, "-ip-masq")
		if phase := startPhases[i/6%len(startPhases)]; i%2 == 0 && phase.await != "" {
			if !m.awaitLine(phase.await) {
				t.Errorf("%s: no line %q, it said:\n%s", m.backend, phase.await, m.output())
			}
			time.Sleep(rand.N(cmp.Or(phase.within, m.start/2)))
		} else {
			time.Sleep(rand.N(m.start * 5 / 4))
		}
		m.kill()
	}
	t.Logf("%d deaths in %s", runs, time.Since(began).Round(100*time.Millisecond))
	for _, m := range all {
		var text []string
		for _, phase := range startPhases {
			text = append(text, fmt.Sprintf("%s %d", phase.name, m.deaths[phase.name]))
			if (phase.await != "" || phase.lines == nil) && m.deaths[phase.name] == 0 {
				t.Errorf("%s: no death in phase %s", m.backend, phase.name)
			}
		}
		t.Logf("%s: a start takes %s; died in phase: %s", m.backend, m.start.Round(time.Millisecond), strings.Join(text, ", "))
		m.wantWell()
	}
}

// TestKillAtStop kills daemons while they shut down, and while their peers
// change.
func TestKillAtStop(t *testing.T) {
	t.Parallel()
	needIPTables(t)
	c := newLab(t, lab.Options{})
	for i, backend := range []string{"vxlan", "udp", "host-gw"} {
		m := c.addMortal(backend, i)
		for i := range 12 {
			m.launch("-etcd-prefix="+m.prefix, "-ip-masq")
			if !m.awaitLine("to renew lease") {
				t.Fatal(m.output())
			}
			if i%2 == 0 {
				c.must(m.daemon.Signal(os.Interrupt))
			} else {
				for k := range 20 {
					p := m.peer(100 + k)
					c.set(p.key, p.value, time.Hour)
				}
			}
			time.Sleep(rand.N(5 * time.Millisecond))
			m.kill()
			if i%2 == 1 {
				for k := range 20 {
					c.must(c.Etcd.Delete(c.ctx, m.peer(100+k).key))
				}
			}
		}
		m.wantWell()
	}
}

// addMortal adds a node that had one good start, with three peers.
func (c *cluster) addMortal(backend string, i int) *mortal {
	c.t.Helper()
	m := &mortal{node: c.addHost(), backend: backend, prefix: fmt.Sprintf("/mortal%d", i), deaths: make(map[string]int)}
	c.set(m.prefix+"/config", config(`"`+backend+`"`), 0)
	for k := range 3 {
		p := m.peer(200 + k)
		c.set(p.key, p.value, subnet.TTL)
	}
	// The first makes what later ones find.
	m.node.start("-etcd-prefix="+m.prefix, "-ip-masq")
	m.stop()
	var times []time.Duration
	for range 3 {
		began := time.Now()
		m.node.start("-etcd-prefix="+m.prefix, "-ip-masq")
		m.wantLog("to renew lease")
		times = append(times, time.Since(began))
		m.awaitPeers()
		m.kernel, m.rules = m.node.kernel(), m.node.rules()
		m.stop()
	}
	m.start = slices.Min(times)
	return m
}

type record struct{ key, value string }

// peer returns the record of a peer with subnet 10.5.third.0/24.
func (m *mortal) peer(third int) record {
	sn := overlaySubnet(byte(third))
	p := fakePeer{backend: m.backend, subnet: sn, ip: fmt.Sprintf("20.0.0.%d", third), mac: fmt.Sprintf("0e:00:00:00:00:%02x", third)}
	return record{m.prefix + "/subnets/" + subnet.Key(sn), p.value()}
}

// awaitPeers waits until the kernel has what the peers need.
func (m *mortal) awaitPeers() {
	m.c.t.Helper()
	want := map[string]int{"vxlan": 9, "udp": 1, "host-gw": 3}[m.backend]
	m.c.eventually("peers of "+m.backend, func() error {
		got, err := m.overlay()
		if err == nil && len(got) != want {
			err = fmt.Errorf("%d entries, want %d: %v", len(got), want, got)
		}
		return err
	})
}

// awaitLine waits until the daemon logs it.
func (m *mortal) awaitLine(line string) bool {
	_, err := m.daemon.WaitLog(m.c.ctx, 0, line)
	return err == nil
}

// reboot takes away what does not survive one.
func (m *mortal) reboot() {
	m.c.t.Helper()
	for _, command := range []string{"ip link del flannel.1", "ip link del flannel0", "ip route flush proto 84", "iptables -w 10 -F", "iptables -w 10 -t nat -F"} {
		try(m.NS, strings.Fields(command)...) // not all are there
	}
	m.c.must(errors.Join(os.RemoveAll(m.Path("subnet.env"))))
}

// kill ends the daemon, notes where it was, and looks at what it left.
func (m *mortal) kill() {
	t := m.c.t
	t.Helper()
	m.c.must(m.daemon.Kill())
	lines := m.daemon.Lines()
	phase := startPhases[0].name
	for _, line := range lines {
		if line[0] != 'I' {
			t.Errorf("%s: it complained: %s", m.backend, line)
		}
		for _, p := range startPhases {
			if slices.ContainsFunc(p.lines, func(text string) bool { return strings.Contains(line, text) }) {
				phase = p.name
			}
		}
	}
	m.deaths[phase]++
	switch env, err := m.SubnetEnv(); {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		t.Errorf("%s: in phase %s: torn file: %v", m.backend, phase, err)
	case env != m.env:
		t.Errorf("%s: in phase %s: subnet.env has %+v, want %+v", m.backend, phase, env, m.env)
	}
	if state, err := subnet.ReadState(m.stateFile()); err != nil || state.Subnet != m.env.Subnet {
		t.Errorf("%s: in phase %s: state file: %+v, %v, want %s", m.backend, phase, state, err, m.env.Subnet)
	}
}

// wantWell starts the daemon once more and compares all that there is with how
// it was after the first starts.
func (m *mortal) wantWell() {
	t := m.c.t
	t.Helper()
	before := m.env
	m.node.start("-etcd-prefix="+m.prefix, "-ip-masq")
	m.wantSubnet(before)
	m.wantLog("to renew lease")
	m.awaitPeers()
	m.awaitKernel(m.kernel)
	same(t, m.backend+": iptables", m.rules, m.node.rules())

	records, err := m.c.Leases(m.c.ctx, m.prefix)
	m.c.must(err)
	var own []string
	for _, r := range records {
		if strings.Contains(r.Value, `"PublicIP":"`+m.Addr.String()+`"`) {
			own = append(own, strings.TrimPrefix(r.Key, m.prefix+"/subnets/"))
		}
	}
	if len(records) != 4 || len(own) != 1 || own[0] != subnet.Key(before.Subnet) {
		t.Errorf("%s: %d leases, its own %v, want 4 and %s", m.backend, len(records), own, before.Subnet)
	}
	for _, dir := range []string{m.Path(), m.Path("state")} {
		entries, err := os.ReadDir(dir)
		m.c.must(err)
		for _, e := range entries {
			switch {
			case filepath.Ext(e.Name()) == ".log", e.Name() == filepath.Base(m.daemon.Log[:len(m.daemon.Log)-len(".log")]+".notify"):
			case dir == m.Path() && (e.Name() == "subnet.env" || e.Name() == "state"):
			case dir != m.Path() && e.Name() == filepath.Base(m.stateFile()):
			default:
				t.Errorf("%s: left over: %s", m.backend, filepath.Join(dir, e.Name()))
			}
		}
	}
	m.wantAlone()
	m.stop()
}

// wantAlone waits until nothing but the daemon runs on the node: what it had
// started when it was killed, such as iptables, comes to its end by itself.
func (n *node) wantAlone() {
	n.c.t.Helper()
	n.c.eventually("nothing but the daemon on "+n.Name, func() error {
		pids := n.processes()
		if len(pids) != 1 || pids[0] != n.daemon.PID {
			return fmt.Errorf("there are processes %v, want only %d", pids, n.daemon.PID)
		}
		return nil
	})
}

// processes lists the ids of all that run on the node.
func (n *node) processes() (pids []int) {
	n.c.t.Helper()
	own, err := os.Stat(n.NS.Path())
	n.c.must(err)
	all, err := filepath.Glob("/proc/[0-9]*/ns/net")
	n.c.must(err)
	for _, path := range all {
		if ns, err := os.Stat(path); err == nil && os.SameFile(own, ns) { // which may have ended meanwhile
			pid, err := strconv.Atoi(strings.Split(path, "/")[2])
			n.c.must(err)
			pids = append(pids, pid)
		}
	}
	return pids
}
