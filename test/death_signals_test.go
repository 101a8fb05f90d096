package test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"tweed/subnet"
	"tweed/test/lab"
)

// A gate stands before the lab's etcd and keeps back what it is told to: such a
// request is neither forwarded nor answered.
type gate struct {
	addr netip.AddrPort
	keep atomic.Pointer[string] // the method, "" for none
	kept chan string            // "PUT /v2/keys/..." of what is kept back
}

func (c *cluster) startGate(method string) *gate {
	c.t.Helper()
	l, err := c.Switch().Listen(c.ctx, netip.MustParseAddrPort("20.0.0.1:0"))
	c.must(err)
	g := &gate{addr: netip.MustParseAddrPort(l.Addr().String()), kept: make(chan string, 100)}
	g.hold(method)
	forward := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: etcdAddr})
	forward.Transport = &http.Transport{DialContext: c.Switch().DialContext}
	forward.FlushInterval = -1
	forward.ErrorHandler = func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) }
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == *g.keep.Load() {
			select {
			case g.kept <- r.Method + " " + r.URL.Path:
			default:
			}
			<-r.Context().Done()
			return
		}
		forward.ServeHTTP(w, r)
	})}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		server.Serve(l)
	}()
	c.t.Cleanup(func() {
		server.Close()
		<-ended
		forward.Transport.(*http.Transport).CloseIdleConnections()
	})
	return g
}

// hold makes the gate keep back requests of another method.
func (g *gate) hold(method string) { g.keep.Store(&method) }

// await waits until a request is kept back.
func (g *gate) await(c *cluster) {
	c.t.Helper()
	select {
	case <-g.kept:
	case <-time.After(daemonTime):
		c.t.Errorf("no %s came", *g.keep.Load())
	}
}

// TestSignalWhileStuck ends daemons by SIGTERM and SIGINT while something that
// they wait for does not come, beside what TestSignals has: within 5 s, with
// status 0.
func TestSignalWhileStuck(t *testing.T) {
	t.Parallel()
	c := newLab(t, lab.Options{})
	n := c.addHost()
	ctx, cancel := context.WithCancel(c.ctx)
	defer cancel()
	silent, err := c.Switch().Listen(ctx, netip.MustParseAddrPort("20.0.0.1:0")) // nobody accepts
	c.must(err)
	defer silent.Close()
	dropped, err := c.Switch().Listen(ctx, netip.MustParseAddrPort("20.0.0.1:0"))
	c.must(err)
	defer dropped.Close()
	needIPTables(t)
	c.in(c.Switch(), "iptables", "-w", "10", "-A", "INPUT", "-p", "tcp", "--dport", fmt.Sprint(netip.MustParseAddrPort(dropped.Addr().String()).Port()), "-j", "DROP")
	c.must(os.Mkdir(n.Path("hanging"), 0o755))
	c.must(os.WriteFile(n.Path("hanging", "iptables"), []byte("#!/bin/sh\necho called >>"+n.Path("called")+"\nsleep 1000\n"), 0o755))
	closed, half := c.startGate(http.MethodPut), c.startGate("")

	for i, phase := range []struct {
		name   string
		config string
		args   []string
		env    []string
		before func(prefix string)
		await  func(prefix string)
	}{
		{name: "an etcd whose packets are dropped", args: []string{"-etcd-endpoints=http://" + dropped.Addr().String()}},
		{name: "an etcd that never answers", args: []string{"-etcd-endpoints=http://" + silent.Addr().String()}},
		{name: "an etcd that never shakes hands", args: []string{"-etcd-endpoints=https://" + silent.Addr().String()}},
		{name: "a lease whose write hangs", config: config(`"vxlan"`), args: []string{"-etcd-endpoints=http://" + closed.addr.String()},
			await: func(string) { closed.await(c) }},
		{name: "a renewal that hangs", config: config(`"vxlan"`), args: []string{"-etcd-endpoints=http://" + half.addr.String()},
			before: func(string) { half.hold("") },
			await: func(prefix string) {
				n.wantLog("Waiting for 22h59m")
				half.hold(http.MethodPut)
				records, err := c.Leases(c.ctx, prefix)
				c.must(err)
				c.set(records[0].Key, `{"PublicIP":"`+n.Addr.String()+`"}`, subnet.TTL)
				n.wantLog("someone changed our lease record, writing it again")
				half.await(c)
			}},
		{name: "an iptables that hangs", config: config(`"vxlan"`), env: []string{"PATH=" + n.Path("hanging") + ":" + os.Getenv("PATH")},
			before: func(string) { os.Remove(n.Path("called")) },
			await: func(string) {
				c.eventually("a call of iptables", func() error { _, err := os.Stat(n.Path("called")); return err })
			}},
		{name: "2000 peers that are applied", config: `{"Network":"10.5.0.0/16","SubnetLen":27,"SubnetMin":"10.5.250.0","Backend":{"Type":"vxlan"}}`,
			before: func(prefix string) { c.addCrowd(prefix, 2000) },
			await: func(string) {
				n.wantLog("Running backend.")
				time.Sleep(rand.N(30 * time.Millisecond))
			}},
		{name: "a repair", config: config(`"vxlan"`),
			await: func(string) {
				n.wantLog("Waiting for 22h59m")
				n.run("ip link del flannel.1")
				time.Sleep(rand.N(30 * time.Millisecond))
			}},
		{name: "a change", config: config(`"host-gw"`),
			await: func(prefix string) {
				n.wantLog("Waiting for 22h59m")
				c.set(prefix+"/subnets/10.5.177.0-24", fakePeer{backend: "host-gw", ip: "20.0.0.77"}.value(), time.Hour)
			}},
	} {
		prefix := fmt.Sprintf("/stuck%d", i)
		if phase.config != "" {
			c.set(prefix+"/config", phase.config, 0)
		}
		for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
			c.step(phase.name+", "+sig.String(), func() {
				if phase.before != nil {
					phase.before(prefix)
				}
				n.launchWith(phase.env, n.fileArgs(append([]string{"-etcd-prefix=" + prefix, "-etcd-endpoints=http://" + etcdAddr}, phase.args...)...)...)
				n.wantLog("Created subnet manager")
				if phase.await != nil {
					phase.await(prefix)
				}
				began := time.Now()
				c.must(n.daemon.Signal(sig))
				n.wantGone(5*time.Second, 0)
				n.wantLog("Waiting for all goroutines to exit", "Exiting cleanly...")
				c.t.Logf("gone after %s", time.Since(began).Round(time.Millisecond))
			})
		}
	}
	c.eventually("no process on "+n.Name, func() error {
		if pids := n.processes(); len(pids) > 0 {
			return fmt.Errorf("there are %v", pids)
		}
		return nil
	})
}

// TestSignalWhileAnotherIsThere ends a daemon that waits for the one before it to
// go.
func TestSignalWhileAnotherIsThere(t *testing.T) {
	t.Parallel()
	c := newLab(t, lab.Options{})
	c.set(configKey, config(`"vxlan"`), 0)
	n := c.addHost()
	n.start()
	first := n.daemon
	n.launch()
	n.wantLog("Found network config")
	c.must(n.daemon.Signal(syscall.SIGTERM))
	n.wantGone(5*time.Second, 0)
	n.wantLog("Exiting cleanly...")
	if strings.Contains(n.output(), "another flanneld") {
		t.Errorf("it was not quick enough: %s", n.output())
	}
	n.daemon = first
	n.wantRunning()
}

// addCrowd writes so many vxlan records, up to 2000, with subnets of length 27
// below 10.5.250.0.
func (c *cluster) addCrowd(prefix string, peers int) {
	c.t.Helper()
	for k := range peers {
		p := crowdPeer(k)
		c.set(prefix+"/subnets/"+subnet.Key(p.subnet), p.value(), subnet.TTL)
	}
}

// crowdPeer is the fake peer number k of a crowd.
func crowdPeer(k int) fakePeer {
	return fakePeer{
		backend: "vxlan",
		subnet:  netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 5, byte(k / 8), byte(k % 8 * 32)}), 27),
		ip:      fmt.Sprintf("20.1.%d.%d", k/250, k%250+1),
		mac:     fmt.Sprintf("0e:00:00:00:%02x:%02x", k/256, k%256),
	}
}
