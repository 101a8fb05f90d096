package test

import (
	"slices"
	"testing"

	"tweed/subnet"
	"tweed/test/lab"
)

// badRecords are what must not be in the directory of the leases. The daemon
// names the key and says what is wrong with it.
var badRecords = []struct{ key, value, log string }{
	{"10.5.160.0-24", `{"PublicIP":`, "not JSON at byte 12, near"},
	{"10.5.161.0-24", `{"PublicIP":5}`, "PublicIP: want a text in quotes, not a JSON number"},
	{"10.5.162.0-24", `[]`, "want a JSON object"},
	{"10.5.163.0-24", ``, "empty: want a JSON object"},
	{"10.5.164.0-24", `{"PublicIP":"2001:db8::1"}`, `PublicIP \"2001:db8::1\": want the IPv4 address`},
	{"10.5.165.0-24", `{"BackendType":"vxlan"}`, `PublicIP \"\": want the IPv4 address`},
	{"10.5.170.0-24", `{"PublicIP":"0.0.0.0"}`, `PublicIP \"0.0.0.0\": want the IPv4 address`},
	{"10.5.166.0-24", "\x00\xff", "not JSON"},
	{"10.5.167.7-24", `{"PublicIP":"20.0.0.67"}`, "the subnet starts at 10.5.167.0"},
	{"10.5.168.0", `{"PublicIP":"20.0.0.68"}`, "want a subnet in the form"},
	{"10.5.169.0-99", `{"PublicIP":"20.0.0.69"}`, "want a subnet in the form"},
	{"notes", `buy milk`, "want a subnet in the form"},
	{"fd00::-64", `{"PublicIP":"20.0.0.70"}`, "want a subnet in the form"},
}

// uselessRecords are leases that no vxlan node can use.
var uselessRecords = []struct{ key, value, log string }{
	{"10.5.180.0-24", `{"PublicIP":"20.0.0.80"}`, `BackendType \"\": this node runs \"vxlan\"`},
	{"10.5.181.0-24", `{"PublicIP":"20.0.0.81","BackendType":"host-gw"}`, `BackendType \"host-gw\"`},
	{"10.5.182.0-24", `{"PublicIP":"20.0.0.82","BackendType":"vxlan"}`, "BackendData is missing"},
	{"10.5.183.0-24", `{"PublicIP":"20.0.0.83","BackendType":"vxlan","BackendData":"x"}`, "want {\\\"VtepMAC\\\":"},
	{"10.5.184.0-24", `{"PublicIP":"20.0.0.84","BackendType":"vxlan","BackendData":{"VtepMAC":"zz"}}`, "want {\\\"VtepMAC\\\":"},
	{"192.168.7.0-24", `{"PublicIP":"20.0.0.85","BackendType":"vxlan","BackendData":{"VtepMAC":"0e:00:00:00:00:85"}}`, "outside of the network"},
}

// TestBadRecords has all of them there at the start, arrive while the daemon
// runs, or both: each is told of, none is removed, and no good peer suffers.
func TestBadRecords(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name         string
		atStart, now bool
	}{{"at start", true, false}, {"while running", false, true}, {"again", true, true}} {
		t.Run(tt.name, func(t *testing.T) {
			c := newLab(t, lab.Options{})
			c.set(configKey, config(`"vxlan"`), 0)
			if tt.atStart {
				c.setBadRecords()
			}
			a, b := c.addNode(), c.addNode()
			c.wantPing(a.pod.NS, b.pod.Addr)
			if tt.now {
				c.setBadRecords()
				c.set(subnetsKey+"10.0.0.0-8", `{"PublicIP":"20.0.0.86"}`, subnet.TTL)
				a.wantLog(`ignoring a lease outside of the network`, "10.0.0.0/8")
				c.must(c.Etcd.Delete(c.ctx, subnetsKey+"10.0.0.0-8"))
			}
			for _, r := range slices.Concat(badRecords, uselessRecords) {
				a.wantLog(r.log)
			}

			third := c.addNode() // the watch goes on behind all of these
			for _, n := range []*node{a, b} {
				c.wantPing(n.pod.NS, third.pod.Addr)
				c.wantPing(third.pod.NS, n.pod.Addr)
				n.wantRunning()
			}
			c.wantBadRecords()
		})
	}
}

func (c *cluster) setBadRecords() {
	c.t.Helper()
	for _, r := range slices.Concat(badRecords, uselessRecords) {
		c.set(subnetsKey+r.key, r.value, subnet.TTL)
	}
	c.set(subnetsKey+"10.5.190.0-24/PublicIP", "20.0.0.90", 0)
	c.set(subnetsKey+"folder/10.5.191.0-24", `{"PublicIP":"20.0.0.91"}`, 0)
}

func (c *cluster) wantBadRecords() {
	c.t.Helper()
	for _, r := range slices.Concat(badRecords, uselessRecords) {
		c.wantRecord(subnetsKey+r.key, r.value, true)
	}
	c.wantRecord(subnetsKey+"folder/10.5.191.0-24", `{"PublicIP":"20.0.0.91"}`, false)
	for _, dir := range []string{"10.5.190.0-24", "folder"} {
		r, err := c.Etcd.Get(c.ctx, subnetsKey+dir)
		if err == nil && !r.Dir {
			err = recordError(r)
		}
		c.must(err)
	}
}

// TestPeerTurnsBad has a good peer's record become unreadable: its entries
// stay until there is something better, or the record is gone.
func TestPeerTurnsBad(t *testing.T) {
	t.Parallel()
	c := newCluster(t, config(`"vxlan"`), 1)
	n := c.nodes[0]
	before := n.mustOverlay()
	peer := fakePeer{backend: "vxlan", subnet: overlaySubnet(177), ip: "20.0.0.77", mac: "0e:00:00:00:00:77"}
	key := subnetsKey + subnet.Key(peer.subnet)
	c.set(key, peer.value(), subnet.TTL)
	n.wantOverlay(slices.Concat(before, peer.entries())...)

	c.set(key, `{"PublicIP":`, subnet.TTL)
	n.wantLog("skipping a bad record")
	marker := fakePeer{backend: "vxlan", subnet: overlaySubnet(178), ip: "20.0.0.78", mac: "0e:00:00:00:00:78"}
	c.set(subnetsKey+subnet.Key(marker.subnet), marker.value(), subnet.TTL)
	n.wantOverlay(slices.Concat(before, peer.entries(), marker.entries())...)

	peer.mac = "0e:00:00:00:00:79"
	c.set(key, peer.value(), subnet.TTL)
	n.wantOverlay(slices.Concat(before, peer.entries(), marker.entries())...)
	c.set(key, "", subnet.TTL)
	c.must(c.Etcd.Delete(c.ctx, key))
	n.wantOverlay(slices.Concat(before, marker.entries())...)
}
