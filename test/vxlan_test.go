package test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"tweed/test/lab"
)

// TestVXLANDevice looks at the device and the entries that a config makes.
func TestVXLANDevice(t *testing.T) {
	tests := []struct {
		name, backend string
		vni, port     int
		gbp           bool
	}{
		{"default", `"vxlan"`, 1, 8472, false},
		{"options", `"VXLAN","VNI":4242,"Port":4790,"GBP":true`, 4242, 4790, true},
		{"VNI 0", `"vxlan","vni":0`, 0, 8472, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t, config(tt.backend), 2)
			a, b := c.nodes[0], c.nodes[1]
			c.wantPing(a.pod.NS, b.pod.Addr)
			name := fmt.Sprintf("flannel.%d", tt.vni)
			dev := a.vxlan(name)
			eth0, err := a.NS.Link("eth0")
			c.must(err)
			want := fmt.Sprint(tt.vni, tt.port, tt.gbp, false, 1450, 0, a.Addr, eth0.Attrs().Index)
			got := fmt.Sprint(dev.VxlanId, dev.Port, dev.GBP, dev.Learning, dev.MTU, dev.TxQLen, dev.SrcAddr, dev.VtepDevIndex)
			if got != want {
				t.Errorf("device has %s, want %s", got, want)
			}
			a.wantEntries(name, b)
			if addr := a.run("ip -o -4 addr show dev %s", name); !strings.Contains(addr, fmt.Sprintf("inet %s/32 scope global", a.env.Subnet.Addr())) {
				t.Errorf("address %q, want %s/32", addr, a.env.Subnet.Addr())
			}
		})
	}
}

// wantEntries checks that the node reaches exactly these peers by a vxlan
// device.
func (n *node) wantEntries(dev string, peers ...*node) {
	n.c.t.Helper()
	neighbours, err := n.NS.Neighbours(dev)
	n.c.must(err)
	fdb, err := n.NS.FDB(dev)
	n.c.must(err)
	var wantNeighbours, wantFDB []string
	for _, p := range peers {
		mac := p.vxlan(dev).HardwareAddr
		wantNeighbours = append(wantNeighbours, fmt.Sprint(p.env.Subnet.Addr(), " ", mac))
		wantFDB = append(wantFDB, fmt.Sprint(p.publicIP(), " ", mac))
		n.wantRoute(p.env.Subnet, fmt.Sprintf("via %s dev %s onlink", p.env.Subnet.Addr(), dev))
	}
	n.wantList("neighbours", permanent(neighbours), wantNeighbours)
	n.wantList("fdb", permanent(fdb), wantFDB)
}

func permanent(list []lab.Neighbour) (texts []string) {
	for _, e := range list {
		if e.Permanent {
			texts = append(texts, fmt.Sprint(e.Addr, " ", e.MAC))
		}
	}
	return texts
}

func (n *node) wantList(what string, have, want []string) {
	n.c.t.Helper()
	slices.Sort(have)
	slices.Sort(want)
	if strings.Join(have, ",") != strings.Join(want, ",") {
		n.c.t.Errorf("%s: %s %q, want %q", n.Name, what, have, want)
	}
}

// publicIP is the address that the node has published.
func (n *node) publicIP() netip.Addr {
	n.c.t.Helper()
	_, rest, _ := strings.Cut(n.lease().Value, `"PublicIP":"`)
	ip, _, _ := strings.Cut(rest, `"`)
	addr, err := netip.ParseAddr(ip)
	n.c.must(err)
	return addr
}

// TestVXLANReuse restarts with another config: a compatible device is kept,
// others are made anew, and the peer can be reached each time.
func TestVXLANReuse(t *testing.T) {
	t.Parallel()
	c := newCluster(t, config(`"vxlan"`), 2)
	a, b := c.nodes[0], c.nodes[1]
	was := a.vxlan("flannel.1")
	steps := []struct {
		backend string
		keeps   bool
		log     string
	}{
		{`"vxlan"`, true, ""},
		{`"vxlan","Port":8472`, true, ""},
		{`"vxlan","Port":4790`, false, "port is 8472, not 4790"},
		{`"vxlan","Port":4790,"GBP":true`, false, "gbp is false, not true"},
		{`"vxlan","Port":4790,"GBP":true,"DirectRouting":false`, true, ""},
	}
	for _, step := range steps {
		c.set(configKey, config(step.backend), 0)
		a.restart()
		b.restart()
		is := a.vxlan("flannel.1")
		if (is.Index == was.Index) != step.keeps {
			t.Errorf("%s: index %d, was %d: kept should be %v", step.backend, is.Index, was.Index, step.keeps)
		}
		if is.HardwareAddr.String() != was.HardwareAddr.String() {
			t.Errorf("%s: MAC %s, was %s", step.backend, is.HardwareAddr, was.HardwareAddr)
		}
		if !strings.Contains(a.lease().Value, `{"VtepMAC":"`+is.HardwareAddr.String()+`"}`) {
			t.Errorf("%s: lease %s, but the device has %s", step.backend, a.lease().Value, is.HardwareAddr)
		}
		if step.log != "" {
			a.wantLog(step.log)
		}
		c.wantPing(a.pod.NS, b.pod.Addr)
		c.wantPing(b.pod.NS, a.pod.Addr)
		a.wantEntries("flannel.1", b)
		was = is
	}
}
