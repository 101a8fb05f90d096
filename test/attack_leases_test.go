package test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"tweed/subnet"
)

// A hijack is a lease record that would lead packets astray; log is why a node
// refuses it.
type hijack struct{ key, ip, log string }

// TestHijack writes records into etcd that claim what is not the writer's: each is
// refused by both nodes, counted and told once, nothing changes in the kernel and
// no ping is lost. When the record becomes a proper one it is served.
func TestHijack(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, config string
		hijacks      func(a, b *node) []hijack
	}{
		{"network apart from the hosts", config(`"vxlan"`), func(a, b *node) []hijack {
			half := func(n *node) string { // of its subnet
				return strings.TrimSuffix(subnet.Key(n.env.Subnet), "-24") + "-25"
			}
			return []hijack{
				{half(a), "20.0.0.66", "overlaps"},
				{half(b), "20.0.0.66", "overlaps"},
				{"10.5.0.0-16", "20.0.0.66", "overlaps"},
				{"20.0.0.0-24", "20.0.0.66", "outside of the network"},
				{"20.0.0.0-30", "20.0.0.66", "outside of the network"},
				{"127.0.0.0-8", "20.0.0.66", "outside of the network"},
				{"224.0.0.0-4", "20.0.0.66", "outside of the network"},
				{"0.0.0.0-1", "20.0.0.66", "outside of the network"},
				{"10.0.0.0-8", "20.0.0.66", "outside of the network"},
				{"10.5.240.0-24", "127.0.0.1", "no address of another host"},
				{"10.5.242.0-24", "0.1.2.3", "no address of another host"},
				{"10.5.243.0-24", "169.254.1.1", "no address of another host"},
				{"10.5.244.0-24", "10.5.244.7", "inside its own subnet"},
				{"10.5.245.0-24", a.env.Subnet.Addr().Next().String(), "is inside"},
				{"10.5.246.0-24", b.env.Subnet.Addr().Next().String(), "is inside"},
			}
		}},
		{"network over the hosts", `{"Network":"20.0.0.0/12","SubnetMin":"20.8.0.0","SubnetMax":"20.8.255.0","Backend":{"Type":"vxlan"}}`, func(a, b *node) []hijack {
			return []hijack{
				{"20.0.0.0-24", "20.1.0.66", "must stay outside of the overlay"},
				{"20.0.0.0-16", "20.1.0.66", "must stay outside of the overlay"},
				{"20.0.0.0-30", "20.1.0.66", "must stay outside of the overlay"}, // etcd
				{"20.0.0.128-25", "20.1.0.66", "must stay outside of the overlay"},
				{"20.0.0.0-12", "20.1.0.66", ""}, // for more than one reason
			}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := newCluster(t, tt.config, 2, "-healthz-port=8081")
			a, b := c.nodes[0], c.nodes[1]
			c.wantPing(a.pod.NS, b.pod.Addr)
			nodes := []*node{a, b}
			entries := a.mustOverlay()
			calm := c.keepVigil(nodes...)
			c.hijack(tt.hijacks(a, b), nodes...)
			a.wantOverlay(entries...)

			// These do not even count as leases.
			for i, ip := range []string{"224.0.0.1", "255.255.255.255", "0.0.0.0"} {
				c.set(fmt.Sprintf("%s10.5.%d.0-24", subnetsKey, 250+i), fmt.Sprintf(`{"PublicIP":%q}`, ip), subnet.TTL)
				b.wantMetric("tweed_bad_records", exactly(float64(i+1)))
			}
			a.wantOverlay(entries...)

			// Proper ones are served at once, and refused when they turn bad.
			key, p := subnetsKey+"10.5.240.0-24", fakePeer{backend: "vxlan", subnet: overlaySubnet(240), ip: "20.0.0.77", mac: "0e:00:00:00:00:77"}
			if overlayNetwork.Contains(a.env.Subnet.Addr()) {
				refused := a.metrics()["tweed_refused_leases"]
				c.set(key, p.value(), time.Hour)
				c.inForce(p, 0, time.Now(), nodes...)
				for _, n := range nodes {
					n.wantMetric("tweed_refused_leases", exactly(refused-1))
				}
				a.wantOverlay(slices.Concat(entries, p.entries())...)
			}
			calm.fickle = true
			calm.end("records that hijack", 60)
		})
	}
}

// hijack writes the records, each twice.
func (c *cluster) hijack(all []hijack, nodes ...*node) {
	c.t.Helper()
	for i, h := range all {
		value := func(port int) string { // another text for the same lease
			return fmt.Sprintf(`{"PublicIP":%q,"BackendType":"vxlan","BackendData":{"VtepMAC":"0e:00:00:00:02:%02x"},"X":%d}`, h.ip, i, port)
		}
		c.set(subnetsKey+h.key, value(1), subnet.TTL)
		for _, n := range nodes {
			n.wantMetric("tweed_refused_leases", exactly(float64(i+1)))
		}
		if c.t.Failed() {
			c.t.Fatalf("%s is not refused", h.key)
		}
		c.set(subnetsKey+h.key, value(2), subnet.TTL)
	}
	// The last news has arrived when a good record behind it has.
	key, marker := stranger("vxlan", 1)
	if overlayNetwork.Contains(nodes[0].env.Subnet.Addr()) {
		c.set(key, marker.value(), time.Hour)
		c.inForce(marker, 0, time.Now(), nodes...)
		c.must(c.Etcd.Delete(c.ctx, key))
		c.eventually("the marker to go", func() error {
			for _, n := range nodes {
				if n.carries(marker, 0) == nil {
					return fmt.Errorf("%s has it", n.Name)
				}
			}
			return nil
		})
	}
	for _, h := range all {
		text := "subnet=" + strings.Replace(h.key, "-", "/", 1)
		for _, n := range nodes {
			lines := slices.DeleteFunc(n.linesWith(text+" "), func(line string) bool { return !strings.Contains(line, "ignoring a lease") })
			if len(lines) != 1 || !strings.Contains(lines[0], h.log) {
				c.t.Errorf("%s is told of by %s in %d lines, want one with %q:\n%s", h.key, n.Name, len(lines), h.log, strings.Join(lines, "\n"))
			}
			n.wantMetric("tweed_refused_leases", exactly(float64(len(all))))
		}
	}
}
