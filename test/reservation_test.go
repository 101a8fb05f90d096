package test

import (
	"regexp"
	"testing"

	"tweed/subnet"
	"tweed/test/lab"
)

// endless is the time to the renewal of a reservation.
var endless = regexp.MustCompile(`Waiting for 2562\d{3}h\d+m[0-9.]+s to renew lease`)

func (n *node) wantEndless() {
	n.c.t.Helper()
	n.wantLog("Waiting for 2562")
	if !endless.MatchString(n.output()) {
		n.c.t.Errorf("no line matches %s in:\n%s", endless, n.output())
	}
}

// TestReservation has an operator reserve a subnet by a record without TTL
// before the first start: that is the node's, and stays a reservation.
func TestReservation(t *testing.T) {
	t.Parallel()
	c := newLab(t, lab.Options{})
	c.set(configKey, config(`"vxlan"`), 0)
	n := c.addHost()
	want := overlaySubnet(140)
	key := subnetsKey + subnet.Key(want)
	c.set(key, `{"PublicIP":"20.0.0.2"}`, 0)
	// Another one has a reservation too, and we had another subnet.
	c.set(subnetsKey+"10.5.141.0-24", `{"PublicIP":"20.0.0.99"}`, 0)
	n.writeFile("subnet.env", "FLANNEL_SUBNET=10.5.39.1/24\n")

	var value string
	check := func() {
		t.Helper()
		n.wantEndless()
		if n.env.Subnet != want {
			t.Errorf("the node has %s, want the reserved %s", n.env.Subnet, want)
		}
		if value == "" {
			value = n.lease().Value
			wantTexts(t, value, `{"PublicIP":"20.0.0.2","BackendType":"vxlan","BackendData":{"VtepMAC":`)
		}
		c.wantRecord(key, value, false)
	}
	n.start()
	check()
	n.restart()
	check()
	c.wantRecord(subnetsKey+"10.5.141.0-24", `{"PublicIP":"20.0.0.99"}`, false)
}

// TestReservedWhileRunning makes a reservation of a lease while the daemon
// runs, in the form that flannel's documentation tells: with the PublicIP
// alone.
func TestReservedWhileRunning(t *testing.T) {
	t.Parallel()
	c := newCluster(t, config(`"vxlan"`), 1)
	n := c.nodes[0]
	value := n.lease().Value
	c.set(n.key(), `{"PublicIP":"20.0.0.2"}`, 0)
	n.wantEndless()
	c.wantRecord(n.key(), value, false) // completed, and still a reservation

	// And back again, which a restart keeps as well.
	from := n.said()
	c.set(n.key(), value, subnet.TTL)
	n.wantLogFrom(from, "Waiting for 22h59m")
	before := n.env
	n.restart()
	n.wantSubnet(before)
	c.wantRecord(n.key(), value, true)
}
