package vxlan

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"tweed/backend"
	"tweed/dataplane/rtnl"
	"tweed/subnet"
)

func TestParseOptions(t *testing.T) {
	tests := []struct {
		options string
		want    options
		err     string
	}{
		{``, options{VNI: 1}, ""},
		{`,"VNI":0`, options{}, ""},
		{`,"VNI":null,"Unknown":[]`, options{VNI: 1}, ""},
		{`,"vni":9999999,"PORT":65535,"gbp":true,"directrouting":true`, options{9999999, 65535, true, true}, ""},

		{`,"VNI":-1`, options{}, "Backend: VNI -1: want a number from 0 to 9999999"},
		{`,"VNI":10000000`, options{}, "Backend: VNI 10000000: want a number from 0 to 9999999"},
		{`,"VNI":16777216`, options{}, "Backend: VNI 16777216"},
		{`,"VNI":1e3000`, options{}, "VNI"},
		{`,"VNI":1.5`, options{}, "VNI: want a whole number"},
		{`,"VNI":"1"`, options{}, "VNI: want a whole number, not a JSON string"},
		{`,"Port":-1`, options{}, "Backend: Port -1: want a UDP port from 1 to 65535"},
		{`,"Port":65536`, options{}, "Backend: Port 65536"},
		{`,"Port":[8472]`, options{}, "Port: want a whole number, not a JSON array"},
		{`,"GBP":1`, options{}, "GBP: want true or false, not a JSON number"},
		{`,"DirectRouting":"yes"`, options{}, "DirectRouting: want true or false, not a JSON string"},
	}
	for _, tt := range tests {
		got, err := parseOptions(config(t, tt.options))
		if tt.err == "" && err != nil || tt.err != "" && (err == nil || !strings.Contains(err.Error(), tt.err)) {
			t.Errorf("%s: error %v, want %q", tt.options, err, tt.err)
		}
		if got != tt.want {
			t.Errorf("%s: %+v, want %+v", tt.options, got, tt.want)
		}
	}
}

func TestDeriveMAC(t *testing.T) {
	a, b := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	const golden = "b2:9b:d5:83:01:c9" // another one would change when a node is upgraded
	if m := deriveMAC(a, 1); m.String() != golden {
		t.Errorf("192.0.2.1, VNI 1: %s, want %s", m, golden)
	}
	seen := make(map[rtnl.MAC]bool)
	for vni := range 100 {
		for _, ip := range []netip.Addr{a, b} {
			m := deriveMAC(ip, vni)
			if !m.IsStation() || m[0]&0x02 == 0 || seen[m] {
				t.Errorf("%s, VNI %d: %s: want a local station address of its own", ip, vni, m)
			}
			seen[m] = true
		}
	}
}

func TestAttrs(t *testing.T) {
	x := newLab(t)
	a := x.node("near", "192.0.2.1/24", "10.5.1.0/24")
	// Behind NAT: the outer source stays the interface's own address.
	a.under.PublicIP = netip.MustParseAddr("203.0.113.1")
	a.start(`,"VNI":7,"Port":4789,"GBP":true`)
	want := `{"PublicIP":"203.0.113.1","BackendType":"vxlan","BackendData":{"VtepMAC":"` + a.dev.MAC.String() + `"}}`
	if got, err := json.Marshal(a.Attrs()); err != nil || string(got) != want {
		t.Errorf("publishes %s, %v\nwant %s", got, err, want)
	}
	l, err := netlink.LinkByName("flannel.7")
	must(t, err)
	dev := l.(*netlink.Vxlan)
	if dev.VxlanId != 7 || dev.Port != 4789 || !dev.GBP || dev.SrcAddr.String() != "192.0.2.1" || a.MTU() != 1450 || dev.MTU != 1450 || dev.TxQLen != 0 || dev.HardwareAddr.String() != a.dev.MAC.String() {
		t.Errorf("device %+v", dev)
	}
	// Another configuration makes it anew and says so.
	a.Close()
	a.start(`,"VNI":7,"Port":4789`)
	if log := a.log.String(); strings.Count(log, "\n") != 1 || !strings.Contains(log, "gbp is true, not false") {
		t.Errorf("log:\n%s", log)
	}
}

func TestOpenErrors(t *testing.T) {
	x := newLab(t)
	a := x.node("near", "192.0.2.1/24", "10.5.1.0/24")
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "flannel.5"
	must(t, netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}))
	attrs.Name = "vxlan9"
	must(t, netlink.LinkAdd(&netlink.Vxlan{LinkAttrs: attrs, VxlanId: 9}))
	missing, tiny := a.under, a.under
	missing.Name = "eth9"
	tiny.MTU = 117
	tests := []struct {
		under   backend.Underlay
		options string
		err     string
	}{
		{a.under, `,"VNI":-1`, "vxlan: Backend: VNI -1"},
		{a.under, `,"VNI":5`, "vxlan: flannel.5 is a link of kind bridge: want a vxlan device"},
		{a.under, `,"VNI":9`, "vxlan9 has the same VNI 9"},
		{missing, ``, "vxlan: find link eth9: no such network interface"},
		{tiny, ``, "vxlan: mtu 117 of eth0: want 118 or more"},
	}
	for _, tt := range tests {
		_, err := Open(t.Context(), tt.under, config(t, tt.options), subnet.Attrs{}, slog.New(slog.DiscardHandler))
		if err == nil || !strings.Contains(err.Error(), tt.err) {
			t.Errorf("%s on %s: error %v, want %q", tt.options, tt.under.Name, err, tt.err)
		}
	}
}

const goodData = `{"VtepMAC":"0e:00:00:00:00:02"}`

func TestUsablePeers(t *testing.T) {
	under := backend.Underlay{Name: "eth0", Addr: netip.MustParseAddr("192.0.2.1"), PublicIP: netip.MustParseAddr("203.0.113.1")}
	lease := func(rev int64, sn, ip, typ, data string) subnet.Lease {
		return subnet.Lease{Revision: rev, Subnet: netip.MustParsePrefix(sn),
			Attrs: subnet.Attrs{PublicIP: netip.MustParseAddr(ip), BackendType: typ, BackendData: []byte(data)}}
	}
	good := lease(5, "10.5.2.0/24", "192.0.2.2", "vxlan", goodData)
	tests := []struct {
		name string
		l    subnet.Lease
		err  string // empty: usable
	}{
		{"two subnets of one node", lease(4, "10.5.3.0/24", "192.0.2.2", "vxlan", goodData), ""},
		{"fields of later versions", lease(4, "10.5.3.0/24", "192.0.2.3", "vxlan", `{"VNI":1,"VtepMAC":"0e:00:00:00:00:03"}`), ""},
		{"key in lower case", lease(4, "10.5.3.0/24", "192.0.2.3", "vxlan", `{"vtepmac":"0E-00-00-00-00-03"}`), ""},

		{"udp", lease(4, "10.5.3.0/24", "192.0.2.3", "", ""), `BackendType \"\": this node runs \"vxlan\"`},
		{"host-gw", lease(4, "10.5.3.0/24", "192.0.2.3", "host-gw", goodData), `BackendType \"host-gw\"`},
		{"no data", lease(4, "10.5.3.0/24", "192.0.2.3", "vxlan", ""), "BackendData is missing"},
		{"not JSON", lease(4, "10.5.3.0/24", "192.0.2.3", "vxlan", `{"VtepMAC`), `BackendData {\"VtepMAC: `},
		{"a text", lease(4, "10.5.3.0/24", "192.0.2.3", "vxlan", `"0e:00:00:00:00:03"`), "want a JSON object, not a JSON string"},
		{"no MAC", lease(4, "10.5.3.0/24", "192.0.2.3", "vxlan", `{"VNI":1}`), "VtepMAC is missing"},
		{"null MAC", lease(4, "10.5.3.0/24", "192.0.2.3", "vxlan", `{"VtepMAC":null}`), "VtepMAC is missing"},
		{"number", lease(4, "10.5.3.0/24", "192.0.2.3", "vxlan", `{"VtepMAC":7}`), "VtepMAC: want a text in quotes, not a JSON number"},
		{"short MAC", lease(4, "10.5.3.0/24", "192.0.2.3", "vxlan", `{"VtepMAC":"0e:00"}`), "want six bytes"},
		{"zero MAC", lease(4, "10.5.3.0/24", "192.0.2.3", "vxlan", `{"VtepMAC":"00:00:00:00:00:00"}`), "one station"},
		{"group MAC", lease(4, "10.5.3.0/24", "192.0.2.3", "vxlan", `{"VtepMAC":"01:00:5e:00:00:01"}`), "one station"},
		{"our MAC", lease(4, "10.5.3.0/24", "192.0.2.3", "vxlan", `{"VtepMAC":"0e:00:00:00:00:01"}`), "is our own"},
		{"MAC of another", lease(4, "10.5.0.0/24", "192.0.2.3", "vxlan", goodData), "belongs to 10.5.2.0/24 at 192.0.2.2"},
		{"overlaps another", lease(4, "10.5.2.0/25", "192.0.2.3", "vxlan", `{"VtepMAC":"0e:00:00:00:00:03"}`), "overlaps 10.5.2.0/24"},
		{"our public IP", lease(4, "10.5.3.0/24", "203.0.113.1", "vxlan", `{"VtepMAC":"0e:00:00:00:00:03"}`), "PublicIP 203.0.113.1 is our own"},
		{"our address", lease(4, "10.5.3.0/24", "192.0.2.1", "vxlan", `{"VtepMAC":"0e:00:00:00:00:03"}`), "PublicIP 192.0.2.1 is our own"},
	}
	for _, tt := range tests {
		var log bytes.Buffer
		b := &Backend{
			dev:   rtnl.VXLAN{MAC: rtnl.MAC{0x0e, 0, 0, 0, 0, 1}},
			peers: backend.Peers{Type: Type, Underlay: under, Log: slog.New(slog.NewTextHandler(&log, nil))},
		}
		want := 2
		if tt.err != "" {
			want = 1
		}
		for range 3 {
			if got := b.usable(inOrder(tt.l, good)); len(got) != want || !slices.ContainsFunc(got, func(p peer) bool { return p.Subnet == good.Subnet }) {
				t.Errorf("%s: usable %v, want %d, with the good one", tt.name, got, want)
			}
		}
		if tt.err == "" {
			if log.Len() != 0 {
				t.Errorf("%s: log %s", tt.name, &log)
			}
			continue
		}
		line := log.String()
		if strings.Count(line, "\n") != 1 || !strings.Contains(line, tt.err) || !strings.Contains(line, fmt.Sprintf("subnet=%s peer=%s", tt.l.Subnet, tt.l.Attrs.PublicIP)) {
			t.Errorf("%s: log %q, want one line with %q", tt.name, line, tt.err)
		}
		// Mended, then broken again: told again.
		b.usable([]subnet.Lease{good})
		b.usable(inOrder(good, tt.l))
		if n := strings.Count(log.String(), "\n"); n != 2 {
			t.Errorf("%s: %d lines, want a second one for the second time", tt.name, n)
		}
	}
}

// inOrder sorts leases as Sync gets them.
func inOrder(leases ...subnet.Lease) []subnet.Lease {
	slices.SortFunc(leases, func(a, b subnet.Lease) int { return a.Subnet.Compare(b.Subnet) })
	return leases
}

func FuzzParseVTEP(f *testing.F) {
	f.Add([]byte(goodData))
	f.Add([]byte(`{"VNI":1,"VtepMAC":"0e:00:00:00:00:02"}`))
	f.Add([]byte(`{"VtepMAC":null}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		mac, err := parseVTEP(data)
		if err != nil {
			return
		}
		if !mac.IsStation() {
			t.Errorf("%q gives %s", data, mac)
		}
		if again, err := parseVTEP([]byte(`{"VtepMAC":"` + mac.String() + `"}`)); err != nil || again != mac {
			t.Errorf("%s written and read gives %s, %v", mac, again, err)
		}
	})
}

// FuzzVTEP: the fast way reads nothing differently from the slow one.
func FuzzVTEP(f *testing.F) {
	for _, data := range []string{`{"VtepMAC":"0e:12:34:56:78:9a"}`, `{"VtepMAC":"0E:12:34:56:78:9a"}`, `{"VtepMAC":"01:12:34:56:78:9a"}`, `{"VtepMAC":"0e-12-34-56-78-9a"}`} {
		f.Add([]byte(data))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		fast, ok := plainVTEP(data)
		if !ok {
			return
		}
		var v struct{ VtepMAC rtnl.MAC }
		if err := json.Unmarshal(data, &v); err != nil || v.VtepMAC != fast {
			t.Errorf("%q is %s, want %s (%v)", data, fast, v.VtepMAC, err)
		}
	})
}

// BenchmarkSync is what one event costs among many peers, but for the kernel.
func BenchmarkSync(b *testing.B) {
	for _, n := range []int{10000, 50000} {
		be := &Backend{peers: backend.Peers{Type: Type, Log: slog.New(slog.DiscardHandler)}, net: netip.MustParsePrefix("10.0.0.0/8"), index: 7, watched: true, sure: true, tables: new(rtnl.Handle).Tables()}
		peers := make([]subnet.Lease, n)
		for i := range peers {
			peers[i] = subnet.Lease{
				Subnet:   netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 0}), 24),
				Revision: int64(i * 7919 % n),
				Attrs: subnet.Attrs{
					PublicIP:    netip.AddrFrom4([4]byte{192, 0, byte(i >> 8), byte(i)}),
					BackendType: Type,
					BackendData: fmt.Appendf(nil, `{"VtepMAC":"0e:00:00:00:%02x:%02x"}`, i>>8, byte(i)),
				},
			}
		}
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				be.wanted = be.usable(peers)
				if _, err := be.entries(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
