package test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tweed/subnet"
	"tweed/test/lab"
)

// TestLeaseDeleted deletes the lease record, and then the whole directory,
// under a running daemon: it takes the same subnet again and lives on.
func TestLeaseDeleted(t *testing.T) {
	t.Parallel()
	for _, backend := range []string{"vxlan", "udp", "host-gw"} {
		t.Run(backend, func(t *testing.T) {
			c := newCluster(t, config(`"`+backend+`"`), 2)
			a, b := c.nodes[0], c.nodes[1]
			c.wantPing(a.pod.NS, b.pod.Addr)
			record := a.lease()

			from := a.said()
			a.forget()
			a.wantLogFrom(from, "Lease has been revoked. Acquiring it again", "Allocated lease ("+a.env.Subnet.String()+")", "Running backend.")
			c.wantRecord(record.Key, record.Value, true)
			c.wantPing(b.pod.NS, a.pod.Addr)

			other := b.lease()
			c.must(c.Etcd.Delete(c.ctx, lab.DefaultPrefix+"/subnets"))
			c.wantRecord(record.Key, record.Value, true)
			c.wantRecord(other.Key, other.Value, true)
			c.wantPing(a.pod.NS, b.pod.Addr)
			c.wantPing(b.pod.NS, a.pod.Addr)
			for _, n := range c.nodes {
				n.wantRunning()
				env, err := n.SubnetEnv()
				c.must(err)
				n.wantSubnet(env)
			}
		})
	}
}

// TestLeaseTaken has another node own our record while we run: we move to
// another subnet and leave its record alone.
func TestLeaseTaken(t *testing.T) {
	t.Parallel()
	for _, backend := range []string{"vxlan", "host-gw", "udp"} {
		t.Run(backend, func(t *testing.T) {
			c := newCluster(t, config(`"`+backend+`"`), 2)
			a, b := c.nodes[0], c.nodes[1]
			lost := a.env.Subnet
			foreign := fakePeer{backend: backend, subnet: lost, ip: "20.0.0.99", mac: "0e:00:00:00:00:99"}
			from := a.said()
			c.set(a.key(), foreign.value(), subnet.TTL)

			a.wantLogFrom(from, lost.String()+" now belongs to 20.0.0.99", "the subnet of this node has changed", "Wrote subnet file to")
			var err error
			a.env, err = a.SubnetEnv()
			c.must(err)
			if a.env.Subnet.Overlaps(lost) {
				t.Errorf("subnet.env has %s, which is another's", a.env.Subnet)
			}
			c.wantRecord(subnetsKey+subnet.Key(lost), foreign.value(), true)
			if got := a.lease(); got.TTL == 0 {
				t.Errorf("the new lease %s does not expire", got.Key)
			}
			a.addPod()
			c.wantPing(a.pod.NS, b.pod.Addr)
			c.wantPing(b.pod.NS, a.pod.Addr)
			a.wantRunning()
		})
	}
}

// TestOwnRecordChanged has someone write nonsense, or another MAC, under our
// key: it is put right, and the subnet stays.
func TestOwnRecordChanged(t *testing.T) {
	t.Parallel()
	c := newCluster(t, config(`"vxlan"`), 2)
	a, b := c.nodes[0], c.nodes[1]
	record := a.lease()
	for _, value := range []string{
		"", "{", `{"PublicIP":"2001:db8::1"}`,
		fakePeer{backend: "vxlan", ip: a.Addr.String(), mac: "0e:00:00:00:00:99"}.value(),
	} {
		c.set(record.Key, value, subnet.TTL)
		c.wantRecord(record.Key, record.Value, true)
	}
	c.wantPing(b.pod.NS, a.pod.Addr)
	a.wantRunning()
}

// TestRenewal shortens the life of the lease to a little more than the margin:
// it is renewed when only that is left, even if the first try meets no etcd.
func TestRenewal(t *testing.T) {
	t.Parallel()
	c := newCluster(t, config(`"vxlan"`), 1)
	n := c.nodes[0]
	record := n.lease()
	renewed := func() {
		t.Helper()
		c.eventually("the lease to have 24 h again", func() error {
			r, err := c.Etcd.Get(c.ctx, record.Key)
			if err == nil && (r.Value != record.Value || r.TTL < subnet.TTL-time.Minute || r.TTL > subnet.TTL) {
				err = recordError(r)
			}
			return err
		})
	}
	from := n.said()
	c.set(record.Key, record.Value, time.Hour+time.Second)
	n.wantLogFrom(from, "Waiting for ", "Lease renewed, new expiration: ", "Waiting for 22h59m")
	renewed()

	from = n.said()
	c.set(record.Key, record.Value, time.Hour+4*time.Second)
	n.wantLogFrom(from, "Waiting for ")
	c.stopEtcd()
	n.wantLogFrom(from, "Error renewing lease (trying again in ")
	c.startEtcd()
	n.wantLogFrom(from, "Lease renewed, new expiration: ")
	renewed()
	n.wantRunning()
}

// TestNodesComeAndGo has a third node join, carry packets, and leave: the
// others then know as much of it as before it came.
func TestNodesComeAndGo(t *testing.T) {
	t.Parallel()
	for _, backend := range []string{"vxlan", "udp", "host-gw"} {
		t.Run(backend, func(t *testing.T) {
			c := newCluster(t, config(`"`+backend+`"`), 2)
			a, b := c.nodes[0], c.nodes[1]
			c.wantPing(a.pod.NS, b.pod.Addr)
			c.wantPing(b.pod.NS, a.pod.Addr)
			before := [][]string{a.mustOverlay(), b.mustOverlay()}

			third := c.addNode()
			for _, n := range []*node{a, b} {
				c.wantPing(n.pod.NS, third.pod.Addr)
				c.wantPing(third.pod.NS, n.pod.Addr)
			}
			if backend != "udp" && slices.Equal(before[0], a.mustOverlay()) {
				t.Error("nothing in the kernel tells of the third node")
			}

			c.must(third.daemon.Kill())
			third.forget()
			a.wantOverlay(before[0]...)
			b.wantOverlay(before[1]...)
			if backend == "udp" {
				a.wantUnreachable(third.pod.Addr)
			}
			c.wantNoPing(a.pod.NS, third.pod.Addr)
			c.wantPing(a.pod.NS, b.pod.Addr)
		})
	}
}

// wantUnreachable waits until a TCP connection from the pod is answered by an
// ICMP error.
func (n *node) wantUnreachable(dst netip.Addr) {
	n.c.t.Helper()
	n.c.eventually(fmt.Sprintf("%s to be unreachable", dst), func() error {
		ctx, cancel := context.WithTimeout(n.c.ctx, time.Second)
		defer cancel()
		conn, err := n.pod.NS.DialTCP(ctx, netip.AddrPortFrom(dst, 9))
		switch {
		case err == nil:
			conn.Close()
			return errors.New("it answers")
		case !errors.Is(err, unix.ENETUNREACH):
			return err
		}
		return nil
	})
}

// TestPeerChanges changes what a peer publishes under the same subnet.
func TestPeerChanges(t *testing.T) {
	t.Parallel()
	for _, backend := range []string{"vxlan", "host-gw"} {
		t.Run(backend, func(t *testing.T) {
			c := newLab(t, lab.Options{})
			c.set(configKey, config(`"`+backend+`"`), 0)
			n := c.addHost()
			n.start()
			n.addPod()
			before := n.mustOverlay()
			peer := fakePeer{backend: backend, subnet: overlaySubnet(177), ip: "20.0.0.77", mac: "0e:00:00:00:00:77"}
			key := subnetsKey + subnet.Key(peer.subnet)
			show := func() {
				c.t.Helper()
				c.set(key, peer.value(), subnet.TTL)
				n.wantOverlay(slices.Concat(before, peer.entries())...)
			}
			show()
			peer.ip = "20.0.0.78"
			show()
			peer.mac = "0e:00:00:00:00:79"
			show()
			peer.ip, peer.mac = "20.0.0.80", "0e:00:00:00:00:80"
			show()
			c.must(c.Etcd.Delete(c.ctx, key))
			n.wantOverlay(before...)

			c.set(key, peer.value(), 2*time.Second)
			n.wantOverlay(slices.Concat(before, peer.entries())...)
			n.wantOverlay(before...) // once it has expired
		})
	}
}

// TestPeerChangesUDP sees by the packets that udp follows a peer's PublicIP.
func TestPeerChangesUDP(t *testing.T) {
	t.Parallel()
	c := newCluster(t, config(`"udp"`), 1)
	n := c.nodes[0]
	peer := fakePeer{backend: "udp", subnet: overlaySubnet(177)}
	for range 2 {
		h := c.addHost()
		conn, err := h.NS.ListenPacket(c.ctx, netip.AddrPortFrom(h.Addr, 8285))
		c.must(err)
		defer conn.Close()
		peer.ip = h.Addr.String()
		c.set(subnetsKey+subnet.Key(peer.subnet), peer.value(), subnet.TTL)
		buf := make([]byte, 2048)
		c.eventually("a packet at "+peer.ip, func() error {
			n.pod.NS.Ping(c.ctx, netip.MustParseAddr("10.5.177.2")) // nobody answers
			conn.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
			_, from, err := conn.ReadFromUDPAddrPort(buf)
			if err == nil && from.Addr() != n.Addr {
				err = fmt.Errorf("it comes from %s", from)
			}
			return err
		})
	}
}
