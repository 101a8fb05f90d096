package test

import (
	"testing"
)

// TestRivalDevice has another program fight over the device itself and its
// address, with which entries go: those are not put back at full speed either.
func TestRivalDevice(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, backend string
		rivals        []rival
	}{
		{"vxlan", `"vxlan"`, []rival{
			{"device", "ip link del flannel.1", lacks("flannel.1 vxlan"), "flannel.1", "ip route add 10.5.222.0/24 via 20.0.0.1 proto 84", lacks("10.5.222.0/24")},
			{"down", "ip link set flannel.1 down", has("flannel.1 vxlan mtu 1450 qlen 0 up false"), "flannel.1", "ip route add 10.5.222.0/24 via 20.0.0.1 proto 84", lacks("10.5.222.0/24")},
			{"address", "ip addr del OWN/32 dev flannel.1", lacks("OWN/32"), "OWN/32", "ip route add 10.5.222.0/24 via 20.0.0.1 proto 84", lacks("10.5.222.0/24")},
			{"second address", "ip addr add 10.5.255.1/24 dev flannel.1", has("10.5.255.1/24 dev flannel.1"), "10.5.255.1", "ip route del LAST/24", has("LAST/24 via")},
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t, config(tt.backend), max(3, len(tt.rivals)), readyArgs)
			c.wantWell()
			for i, r := range tt.rivals {
				n := c.nodes[i]
				words := c.unfill(i)
				in := func(is func(string) bool) func(string) bool {
					return func(state string) bool { return is(words.Replace(state)) }
				}
				r := rival{r.name, c.fill(r.command, i), in(r.wins), c.fill(r.entry, i), c.fill(r.other, i), in(r.repaired)}
				t.Run(r.name, func(t *testing.T) {
					t.Parallel()
					n.fight(t, r)
				})
			}
		})
	}
}
