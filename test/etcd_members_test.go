package test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"tweed/subnet"
	"tweed/test/lab"
	"tweed/test/nstest"
)

// memberTime bounds one request to a member: without a leader it would wait for
// seconds.
const memberTime = time.Second

// A member is one etcd of three: a process on a host of its own, so that it can
// be killed, suspended, and cut off.
type member struct {
	*lab.Host
	e    *ensemble
	proc *lab.Process
	args []string // more of them
	wrap string   // if set, a shell script in namespaces of mounts and processes that runs its arguments
	http *http.Client
}

// An ensemble is a cluster whose etcd has three members: real etcd-servers.
type ensemble struct {
	*cluster
	members []*member
}

// newEnsemble starts three members. Without a config, the network has none.
func newEnsemble(t *testing.T, config string, o ...func(*member)) *ensemble {
	t.Helper()
	nstest.NeedRoot(t)
	if _, err := exec.LookPath("etcd"); err != nil {
		nstest.Missing(t, "etcd")
	}
	e := &ensemble{cluster: newLab(t, lab.Options{NoEtcd: true})}
	t.Cleanup(func() {
		for _, m := range e.members {
			if m.proc != nil { // the last ones wait for a majority when told to end
				m.proc.Kill()
			}
		}
	})
	for i := range 3 {
		h, err := e.AddHost(e.ctx, fmt.Sprintf("etcd%d", i))
		e.must(err)
		m := &member{Host: h, e: e}
		m.http = &http.Client{Transport: &http.Transport{DialContext: h.NS.DialContext}}
		t.Cleanup(m.http.CloseIdleConnections)
		for _, f := range o {
			f(m)
		}
		e.members = append(e.members, m)
	}
	e.startAll()
	if config != "" {
		e.put(configKey, config, 0)
	}
	return e
}

func (m *member) client() string { return fmt.Sprintf("http://%s:2379", m.Addr) }

func (e *ensemble) endpoints() string {
	var urls []string
	for _, m := range e.members {
		urls = append(urls, m.client())
	}
	return strings.Join(urls, ",")
}

// start starts the member, for the first time or again, and does not wait.
func (m *member) start(args ...string) {
	m.e.t.Helper()
	var initial []string
	for _, o := range m.e.members {
		initial = append(initial, fmt.Sprintf("%s=http://%s:2380", o.Name, o.Addr))
	}
	peer := fmt.Sprintf("http://%s:2380", m.Addr)
	command := append([]string{"etcd",
		"--name=" + m.Name, "--data-dir=" + m.Path("data"), "--enable-v2", "--logger=zap", "--log-level=error",
		"--listen-client-urls=" + m.client(), "--advertise-client-urls=" + m.client(),
		"--listen-peer-urls=" + peer, "--initial-advertise-peer-urls=" + peer,
		"--initial-cluster=" + strings.Join(initial, ","), "--initial-cluster-state=new",
		"--heartbeat-interval=100", "--election-timeout=1000",
	}, slices.Concat(m.args, args)...)
	if m.wrap != "" {
		// A process namespace ends with its first process, whatever is left in it.
		command = append([]string{"unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", m.wrap, m.Path("data")}, command...)
	}
	var err error
	m.proc, err = m.Start(m.e.ctx, lab.Command{Name: "etcd", Path: command[0], Args: command[1:]})
	m.e.must(err)
}

// startAll starts those that do not run, and waits until all know the leader.
func (e *ensemble) startAll(args ...string) {
	e.t.Helper()
	for _, m := range e.members {
		if m.proc == nil || !m.proc.Running() {
			m.start(args...)
		}
	}
	e.wantHealthy(e.members...)
}

// wantHealthy waits until these members answer with the consent of a majority.
func (e *ensemble) wantHealthy(members ...*member) {
	e.t.Helper()
	for _, m := range members {
		if err := nstest.Await(e.ctx, 30*time.Second, func() error {
			_, err := m.do("GET", "/v2/keys/?quorum=true", nil)
			return err
		}); err != nil {
			e.t.Fatalf("waited for etcd on %s: %v", m.Name, err)
		}
	}
}

// kill ends the member as a crash does.
func (m *member) kill() {
	m.e.t.Helper()
	m.e.must(m.proc.Kill())
}

// do asks the member from its own host, which no cut of its cable hinders.
func (m *member) do(method, path string, form url.Values) ([]byte, error) {
	ctx, cancel := context.WithTimeout(m.e.ctx, memberTime)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, m.client()+path, strings.NewReader(form.Encode()))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	resp, err := m.http.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode/100 != 2 {
		err = &etcdError{status: resp.StatusCode, text: fmt.Sprintf("%s %s: %s: %s", method, path, resp.Status, b)}
	}
	return b, err
}

type etcdError struct {
	status int
	text   string
}

func (e *etcdError) Error() string { return e.text }

func (m *member) put(key, value string, ttl time.Duration) error {
	form := url.Values{"value": {value}}
	if ttl > 0 {
		form.Set("ttl", strconv.Itoa(int(ttl.Seconds())))
	}
	_, err := m.do("PUT", "/v2/keys"+key, form)
	return err
}

// put writes by whichever of the members takes it, without the given ones.
func (e *ensemble) put(key, value string, ttl time.Duration, without ...*member) {
	e.t.Helper()
	e.some("write "+key, func(m *member) error { return m.put(key, value, ttl) }, without...)
}

// some has f succeed with one of the members.
func (e *ensemble) some(what string, f func(*member) error, without ...*member) {
	e.t.Helper()
	if err := nstest.Await(e.ctx, 30*time.Second, func() error {
		err := errors.New("no member is left")
		for _, m := range e.members {
			if slices.Contains(without, m) || !m.proc.Running() {
				continue
			}
			if err = f(m); err == nil {
				return nil
			}
		}
		return err
	}); err != nil {
		e.t.Fatalf("%s: %v", what, err)
	}
}

// get reads a key with the consent of a majority; "" if there is none.
func (e *ensemble) get(key string) (value string) {
	e.t.Helper()
	e.some("read "+key, func(m *member) error {
		b, err := m.do("GET", "/v2/keys"+key+"?quorum=true", nil)
		var no *etcdError
		if errors.As(err, &no) && no.status == http.StatusNotFound {
			value = ""
			return nil
		}
		if err != nil {
			return err
		}
		var answer struct{ Node struct{ Value string } }
		err = json.Unmarshal(b, &answer)
		value = answer.Node.Value
		return err
	})
	return value
}

// stat reads one figure of the member's statistics.
func (m *member) stat(path, name string) string {
	b, err := m.do("GET", "/v2/stats/"+path, nil)
	var all map[string]any
	if err == nil {
		err = json.Unmarshal(b, &all)
	}
	if err != nil {
		return err.Error()
	}
	return fmt.Sprint(all[name])
}

// leader is the member that leads.
func (e *ensemble) leader() *member {
	e.t.Helper()
	return e.find("leads", func(m *member) bool { return m.stat("self", "state") == "StateLeader" })
}

// inUse is the member that the daemons watch.
func (e *ensemble) inUse() *member {
	e.t.Helper()
	return e.find("is watched", func(m *member) bool {
		n, err := strconv.Atoi(m.stat("store", "watchers"))
		return err == nil && n > 0
	})
}

func (e *ensemble) find(what string, is func(*member) bool) (found *member) {
	e.t.Helper()
	if err := nstest.Await(e.ctx, 20*time.Second, func() error {
		for _, m := range e.members {
			if m.proc.Running() && is(m) {
				found = m
				return nil
			}
		}
		return errors.New("none does")
	}); err != nil {
		e.t.Fatalf("waited for a member that %s: %v", what, err)
	}
	return found
}

// silence drops all packets of clients, in both directions and without a word.
func (m *member) silence() {
	m.e.t.Helper()
	m.e.in(m.NS, "nft", `add table ip cut
		add chain ip cut in { type filter hook input priority 0; }
		add chain ip cut out { type filter hook output priority 0; }
		add rule ip cut in iifname eth0 tcp dport 2379 drop
		add rule ip cut out oifname eth0 tcp sport 2379 drop`)
}

// hear undoes silence.
func (m *member) hear() {
	m.e.t.Helper()
	m.e.in(m.NS, "nft", "delete table ip cut")
}

func (m *member) signal(s syscall.Signal) {
	m.e.t.Helper()
	m.e.must(m.proc.Signal(s))
}

// addNode adds a node with a running daemon and a pod.
func (e *ensemble) addNode(args ...string) *node {
	e.t.Helper()
	n := e.addHost()
	n.launchAt(e.endpoints(), args...)
	n.begun()
	n.addPod()
	return n
}

// launchAt starts the daemon for an etcd elsewhere than the lab's own.
func (n *node) launchAt(endpoints string, args ...string) {
	n.c.t.Helper()
	n.launchWith(nil, n.fileArgs(append([]string{"-etcd-endpoints=" + endpoints, "-healthz-port=8081"}, args...)...)...)
}

// begun waits until the daemon has told systemd that it is ready.
func (n *node) begun() {
	n.c.t.Helper()
	ctx, cancel := context.WithTimeout(n.c.ctx, 30*time.Second)
	defer cancel()
	n.c.must(n.daemon.WaitReady(ctx))
	var err error
	n.env, err = n.SubnetEnv()
	n.c.must(err)
}

// stranger is the record of a node that is not there, one for each number from
// 0 to 99.
func stranger(backend string, number byte) (key string, p fakePeer) {
	p = fakePeer{
		backend: backend,
		subnet:  overlaySubnet(150 + number),
		ip:      netip.AddrFrom4([4]byte{20, 0, 0, 150 + number}).String(),
		mac:     fmt.Sprintf("0e:00:00:00:01:%02x", number),
	}
	return subnetsKey + subnet.Key(p.subnet), p
}
