package test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"tweed/test/lab"
)

// listeners counts the TCP sockets of the node that listen.
func (n *node) listeners() (count int) {
	n.c.t.Helper()
	n.c.must(n.NS.Do(func() error {
		for _, f := range []string{"/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"} {
			b, err := os.ReadFile(f)
			if err != nil {
				return err
			}
			for s := bufio.NewScanner(bytes.NewReader(b)); s.Scan(); {
				if fields := strings.Fields(s.Text()); len(fields) > 3 && fields[3] == "0A" { // TCP_LISTEN
					count++
				}
			}
		}
		return nil
	}))
	return count
}

// TestHealth follows /healthz and /readyz, as text and as JSON, from the wait
// for a config to the first peers.
func TestHealth(t *testing.T) {
	t.Parallel()
	c := newLab(t, lab.Options{})
	n := c.addHost()
	n.launch("-healthz-port=8081", "-healthz-ip=127.0.0.1")
	n.wantLog(noConfig)
	n.wantHealth("/healthz", 200, "flanneld is running")
	n.wantHealth("/readyz", 503, "flanneld is not ready yet\n", "network config: ", "lease: ", "subnet file: ", "peers: ")
	if ready, conditions := n.readyJSON(503); ready || len(conditions) == 0 || conditions["lease"] {
		t.Errorf("ready %t, %v", ready, conditions)
	}
	for _, method := range []string{"HEAD", "POST"} {
		if code, _, err := n.request(method, "http://127.0.0.1:8081/healthz", ""); err != nil || code != 200 {
			t.Errorf("%s /healthz: status %d, %v", method, code, err)
		}
	}
	if code, _ := n.health("/metricz"); code != 404 {
		t.Errorf("/metricz: status %d, want 404", code)
	}

	c.set(configKey, config(`"vxlan"`), 0)
	n.wantHealth("/readyz", 200)
	if _, body := n.health("/readyz"); body != "flanneld is ready" {
		t.Errorf("/readyz says %q", body)
	}
	if _, body := n.health("/healthz"); body != "flanneld is running" {
		t.Errorf("/healthz says %q", body)
	}
	ready, conditions := n.readyJSON(200)
	for name, ok := range conditions {
		ready = ready && ok
		if !ok {
			t.Errorf("%s is not true", name)
		}
	}
	if !ready || len(conditions) < 5 {
		t.Errorf("ready %t, %v", ready, conditions)
	}
}

func (n *node) readyJSON(code int) (ready bool, conditions map[string]bool) {
	n.c.t.Helper()
	conditions = make(map[string]bool)
	got, body, err := n.request("GET", "http://127.0.0.1:8081/readyz", "application/json")
	n.c.must(err)
	var answer struct {
		Ready      bool
		Conditions []struct {
			Name   string
			OK     bool
			Reason string
			Since  time.Time
		}
	}
	n.c.must(json.Unmarshal([]byte(body), &answer))
	for _, cond := range answer.Conditions {
		conditions[cond.Name] = cond.OK
		if cond.OK != (cond.Reason == "") || cond.Since.IsZero() {
			n.c.t.Errorf("condition %+v", cond)
		}
	}
	if got != code {
		n.c.t.Errorf("status %d, want %d: %s", got, code, body)
	}
	return answer.Ready, conditions
}

// TestEnvFileNotWritable has a plain file in the place of the folder of
// subnet.env: the daemon works, says that it is not ready, does not tell
// systemd either, and writes the file once it can.
func TestEnvFileNotWritable(t *testing.T) {
	t.Parallel()
	c := newCluster(t, config(`"vxlan"`), 1)
	other := c.nodes[0]
	n := c.addHost()
	n.writeFile("folder", "")
	file := n.Path("folder", "subnet.env")
	n.launch("-subnet-file="+file, "-healthz-port=8081")
	n.wantLog("Couldn't write the subnet file, trying again", "Running backend.")
	n.wantHealth("/readyz", 503, "subnet file: ", n.Path("folder"), "not a directory")
	other.wantPeers(1)
	c.eventually("the first peers", func() error {
		if _, conditions := n.readyJSON(503); !conditions["peers"] {
			return fmt.Errorf("conditions %v", conditions)
		}
		return nil
	})
	if n.toldReady() {
		t.Error("systemd was told that it is ready, without a subnet file")
	}

	c.must(os.Remove(n.Path("folder")))
	c.must(n.daemon.WaitReady(c.ctx))
	env, err := lab.ReadSubnetEnv(file) // it was there before READY=1
	c.must(err)
	n.env = env
	n.wantHealth("/readyz", 200)
	n.addPod()
	c.wantPing(n.pod.NS, other.pod.Addr)

	// Written once: later the file is left alone, as mk-docker-opts may have it.
	c.must(os.WriteFile(file, []byte("DOCKER_OPTS=x\n"), 0o644))
	c.set(subnetsKey+"10.5.177.0-24", fakePeer{backend: "vxlan", ip: "20.0.0.77", mac: "0e:00:00:00:00:77"}.value(), time.Hour)
	n.wantPeers(2)
	if b, _ := os.ReadFile(file); string(b) != "DOCKER_OPTS=x\n" {
		t.Errorf("the subnet file was written again: %q", b)
	}
}
