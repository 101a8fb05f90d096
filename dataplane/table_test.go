package dataplane

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"sync"
	"testing"
)

// slowLookup is the twin that Table is tested against.
func slowLookup(routes []Route, dst netip.Addr) (netip.AddrPort, bool) {
	best := Route{Subnet: netip.Prefix{}}
	for _, r := range routes {
		if r.Subnet.Addr().Is4() && r.Subnet.Contains(dst) && (!best.Subnet.IsValid() || r.Subnet.Bits() >= best.Subnet.Bits()) {
			best = r
		}
	}
	return best.Peer, best.Peer.IsValid()
}

func route(subnet, peer string) Route {
	r := Route{Subnet: netip.MustParsePrefix(subnet)}
	if peer != "" {
		r.Peer = netip.AddrPortFrom(netip.MustParseAddr(peer), 8285)
	}
	return r
}

func TestTable(t *testing.T) {
	tests := []struct {
		name   string
		routes []Route
		want   map[string]string // destination to peer, "" for none
	}{
		{"empty", nil, map[string]string{"10.5.1.1": "", "0.0.0.0": "", "255.255.255.255": ""}},
		{"one", []Route{route("10.5.1.0/24", "192.0.2.1")}, map[string]string{
			"10.5.1.0": "192.0.2.1", "10.5.1.255": "192.0.2.1", "10.5.0.255": "", "10.5.2.0": "",
			"0.0.0.0": "", "255.255.255.255": ""}},
		{"neighbours and a gap", []Route{route("10.5.4.0/24", "192.0.2.4"), route("10.5.1.0/24", "192.0.2.1"), route("10.5.2.0/24", "192.0.2.2")},
			map[string]string{"10.5.1.255": "192.0.2.1", "10.5.2.0": "192.0.2.2", "10.5.3.0": "", "10.5.4.7": "192.0.2.4", "10.5.5.0": ""}},
		{"nested", []Route{route("10.5.1.0/24", "192.0.2.1"), route("10.5.0.0/16", "192.0.2.2"), route("10.5.1.128/25", "192.0.2.3")},
			map[string]string{"10.5.0.1": "192.0.2.2", "10.5.1.1": "192.0.2.1", "10.5.1.200": "192.0.2.3", "10.5.2.0": "192.0.2.2", "10.6.0.0": ""}},
		{"unreachable inside", []Route{route("10.5.0.0/16", "192.0.2.2"), route("10.5.1.0/24", "")},
			map[string]string{"10.5.0.255": "192.0.2.2", "10.5.1.1": "", "10.5.2.0": "192.0.2.2"}},
		{"later one counts", []Route{route("10.5.1.0/24", "192.0.2.1"), route("10.5.1.9/24", "192.0.2.2")},
			map[string]string{"10.5.1.1": "192.0.2.2", "10.5.2.0": ""}},
		{"default and a host", []Route{route("0.0.0.0/0", "192.0.2.1"), route("255.255.255.255/32", "192.0.2.2")},
			map[string]string{"0.0.0.0": "192.0.2.1", "255.255.255.254": "192.0.2.1", "255.255.255.255": "192.0.2.2"}},
		{"ends of the space", []Route{route("0.0.0.0/8", "192.0.2.1"), route("255.0.0.0/8", "192.0.2.2")},
			map[string]string{"0.1.2.3": "192.0.2.1", "1.0.0.0": "", "254.255.255.255": "", "255.255.255.255": "192.0.2.2"}},
		{"not IPv4", []Route{{}, route("fd00::/8", "192.0.2.1"), route("10.5.1.0/24", "")}, map[string]string{"10.5.1.1": "", "fd00::1": ""}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var table Table
			table.Replace(tt.routes)
			for dst, want := range tt.want {
				peer, ok := table.Lookup(netip.MustParseAddr(dst))
				if ok != (want != "") || ok && peer.String() != want+":8285" {
					t.Errorf("%s: %v, %v, want %q", dst, peer, ok, want)
				}
			}
		})
	}
	var table Table
	if _, ok := table.Lookup(netip.MustParseAddr("10.5.1.1")); ok {
		t.Error("the zero value has a route")
	}
	if _, ok := table.Lookup(netip.Addr{}); ok {
		t.Error("the zero address has a route")
	}
}

func TestTableAgainstSlow(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	for range 300 {
		var raw []byte
		for range 5 * rng.IntN(60) {
			raw = append(raw, byte(rng.Uint32()))
		}
		checkTable(t, raw)
	}
}

func FuzzTable(f *testing.F) {
	f.Add([]byte{10, 5, 1, 0, 24, 10, 5, 0, 0, 16, 10, 5, 1, 0, 24, 255, 255, 255, 255, 32})
	f.Add([]byte{0, 0, 0, 0, 0, 128, 0, 0, 0, 1})
	f.Fuzz(checkTable)
}

// checkTable makes a route of each five bytes of raw, and looks up all
// addresses where the answer could change.
func checkTable(t *testing.T, raw []byte) {
	var routes []Route
	for i := 0; i+5 <= min(len(raw), 5*200); i += 5 {
		addr := netip.AddrFrom4([4]byte(raw[i : i+4]))
		if i%2 == 0 { // crowd half of them together
			addr = netip.AddrFrom4([4]byte{10, 5, raw[i+2], raw[i+3]})
		}
		r := Route{Subnet: netip.PrefixFrom(addr, int(raw[i+4])%33)}
		if raw[i+4] < 200 {
			r.Peer = netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(i / 5)}), 8285)
		}
		routes = append(routes, r)
	}
	var table Table
	table.Replace(routes)
	check := func(n uint32) {
		dst := toAddr(n)
		got, ok := table.Lookup(dst)
		want, wantOK := slowLookup(routes, dst)
		if ok != wantOK || ok && got != want {
			t.Fatalf("%s: %v, %v, want %v, %v; routes %v", dst, got, ok, want, wantOK, routes)
		}
	}
	for _, r := range routes {
		start := toU32(r.Subnet.Masked().Addr())
		end := start | uint32(uint64(1)<<(32-r.Subnet.Bits())-1)
		for _, n := range []uint32{start - 1, start, start + 1, end - 1, end, end + 1} {
			check(n)
		}
	}
	check(0)
	check(1<<32 - 1)
}

func TestTableHasPeer(t *testing.T) {
	var table Table
	has := func(addr string, want bool) {
		t.Helper()
		if got := table.HasPeer(netip.MustParseAddr(addr)); got != want {
			t.Errorf("%s is a peer: %v, want %v", addr, got, want)
		}
	}
	has("192.0.2.1", false)
	table.Replace([]Route{route("10.5.1.0/24", "192.0.2.1"), route("10.5.2.0/24", "192.0.2.2"), route("10.5.3.0/24", "192.0.2.2"),
		route("10.5.4.0/24", ""), route("fd00::/8", "192.0.2.6"), {Peer: netip.MustParseAddrPort("192.0.2.7:8285")}})
	has("192.0.2.1", true)
	has("192.0.2.2", true)
	has("192.0.2.3", false)
	has("10.5.1.1", false)
	has("192.0.2.6", false) // its subnet is left out
	has("192.0.2.7", false)
	has("0.0.0.0", false)
	has("fd00::1", false)
	if table.HasPeer(netip.Addr{}) {
		t.Error("the zero address is a peer")
	}
	table.Replace([]Route{route("10.5.2.0/24", "192.0.2.2")})
	has("192.0.2.1", false)
	has("192.0.2.2", true)
	table.Replace(nil)
	has("192.0.2.2", false)
}

func TestTableFirstBeside(t *testing.T) {
	var table Table
	first := func(dst, want string) {
		t.Helper()
		if got := table.firstBeside(netip.MustParseAddr(dst)); got.String() != want {
			t.Errorf("beside %s: %s, want %s", dst, got, want)
		}
	}
	first("10.5.1.9", "10.5.1.9") // the zero value
	table.Replace([]Route{route("10.5.1.0/24", "192.0.2.1"), route("10.5.2.7/24", "192.0.2.2"), route("10.6.0.0/16", "192.0.2.3"),
		route("10.6.7.0/24", "192.0.2.4"), route("255.0.0.0/8", "192.0.2.5")})
	first("10.5.1.0", "10.5.1.0")
	first("10.5.1.255", "10.5.1.0")
	first("10.5.2.9", "10.5.2.0")
	first("10.6.6.255", "10.6.0.0")
	first("10.6.7.255", "10.6.7.0")
	first("10.6.8.0", "10.6.8.0")
	first("10.6.255.255", "10.6.8.0")
	first("255.255.255.255", "255.0.0.0")
	first("9.255.255.255", "9.255.255.255")
	first("fd00::1", "fd00::1")
}

// While routes are replaced, readers find the old peer or the new one.
func TestTableConcurrent(t *testing.T) {
	var table Table
	sets := [2][]Route{}
	for i := range sets {
		for n := range 100 {
			sets[i] = append(sets[i], Route{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 5, byte(n), 0}), 24),
				netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, byte(i), byte(n)}), 8285)})
		}
	}
	table.Replace(sets[0])
	done := make(chan struct{})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for n := byte(0); ; n = (n + 1) % 100 {
				select {
				case <-done:
					return
				default:
				}
				peer, ok := table.Lookup(netip.AddrFrom4([4]byte{10, 5, n, 1}))
				if !ok || peer.Addr().As4()[3] != n {
					t.Errorf("subnet %d: %v, %v", n, peer, ok)
					return
				}
			}
		})
	}
	for i := range 2000 {
		table.Replace(sets[i%2])
	}
	close(done)
	wg.Wait()
}

func peers(n int) []Route {
	routes := make([]Route, n)
	for i := range routes {
		routes[i] = Route{
			Subnet: netip.PrefixFrom(toAddr(10<<24|uint32(i+1)<<8), 24),
			Peer:   netip.AddrPortFrom(toAddr(192<<24|uint32(i)), 8285),
		}
	}
	rand.New(rand.NewPCG(1, 1)).Shuffle(n, func(i, j int) { routes[i], routes[j] = routes[j], routes[i] })
	return routes
}

func BenchmarkTableLookup(b *testing.B) {
	for _, n := range []int{2, 100, 10000} {
		for _, spread := range []string{"dense", "sparse"} {
			b.Run(spread+"/"+itoa(n), func(b *testing.B) {
				routes := peers(n)
				if spread == "sparse" { // as with random subnets of a large network
					routes = peers(4 * n)[:n]
				}
				var table Table
				table.Replace(routes)
				dsts := make([]netip.Addr, 4096)
				for i := range dsts {
					addr := routes[rand.IntN(n)].Subnet.Addr().As4()
					addr[3] = byte(rand.Uint32())
					dsts[i] = netip.AddrFrom4(addr)
				}
				b.ReportAllocs()
				i := 0
				for b.Loop() {
					if _, ok := table.Lookup(dsts[i%len(dsts)]); !ok {
						b.Fatal(binary.BigEndian.Uint32(dsts[i%len(dsts)].AsSlice()))
					}
					i++
				}
			})
		}
	}
}

func BenchmarkTableReplace10000(b *testing.B) {
	routes := peers(10000)
	var table Table
	b.ReportAllocs()
	for b.Loop() {
		table.Replace(routes)
	}
}

func toAddr(n uint32) netip.Addr {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], n)
	return netip.AddrFrom4(b)
}
