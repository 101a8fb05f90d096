package vxlan

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"tweed/subnet"
)

// TestPatch has a few of the peers change, in all ways, and compares the result
// with that of looking at everything.
func TestPatch(t *testing.T) {
	x := newLab(t)
	a := x.node("near", "192.0.2.1/24", "10.5.250.0/24")
	a.start("")
	a.setWatched(true)
	rnd := rand.New(rand.NewPCG(1, 2))
	const places = 40
	type record struct{ ip, mac, kind int }
	var peers [places]*record
	change := func() {
		i := rnd.IntN(places)
		switch rnd.IntN(12) {
		case 0, 1, 2, 3:
			peers[i] = nil
		case 4, 5, 6, 7: // of its own
			peers[i] = &record{ip: i, mac: i}
		case 8: // moved, or with the address of another
			peers[i] = &record{ip: rnd.IntN(places), mac: i}
		case 9: // a second subnet of another node
			if j := peers[rnd.IntN(places)]; j != nil {
				peers[i] = &record{ip: j.ip, mac: j.mac}
			}
		case 10: // contradicts another, perhaps
			peers[i] = &record{ip: i, mac: rnd.IntN(places)}
		case 11: // is ignored, for a reason
			peers[i] = &record{ip: i, mac: i, kind: 1 + rnd.IntN(4)}
		}
	}
	patched := 0
	for step := range 1500 {
		if step%50 == 0 { // time without trouble
			clear(peers[:])
		}
		change()
		if rnd.IntN(4) == 0 {
			change()
		}
		var leases []subnet.Lease
		for i, r := range peers {
			if r == nil {
				continue
			}
			l := subnet.Lease{Subnet: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 5, byte(i), 0}), 24), Revision: int64(step*places + i)}
			l.Attrs = subnet.Attrs{PublicIP: netip.AddrFrom4([4]byte{192, 1, 0, byte(r.ip)}), BackendType: Type, BackendData: fmt.Appendf(nil, `{"VtepMAC":"0e:00:00:00:00:%02x"}`, r.mac)}
			switch r.kind {
			case 1:
				l.Attrs.BackendType = "host-gw"
			case 2:
				l.Attrs.BackendData = nil
			case 3:
				l.Attrs.PublicIP = a.under.Addr
			case 4:
				l.Attrs.BackendData = []byte(`{"VtepMAC":"` + a.dev.MAC.String() + `"}`)
			}
			leases = append(leases, l)
		}
		was := a.tables
		if a.patch(leases) {
			patched++
		} else {
			must(t, a.Sync(t.Context(), leases))
		}
		if a.tables != was {
			t.Fatal("other tables")
		}
		served := slices.Clone(a.wanted)
		a.wanted = a.usable(leases)
		if !slices.Equal(served, a.wanted) {
			t.Fatalf("step %d: serves\n%v\nwant\n%v", step, served, a.wanted)
		}
		e, err := a.entries()
		must(t, err)
		repairs, err := a.tables.Compare(e)
		if err != nil || len(repairs) > 0 {
			t.Fatalf("step %d: the kernel was not as wanted: %v, %v", step, repairs, err)
		}
	}
	if patched < 200 {
		t.Errorf("only %d of 1500 changes were small ones", patched)
	}
}
