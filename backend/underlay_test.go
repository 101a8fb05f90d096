package backend

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"tweed/test/nstest"
)

func TestSelect(t *testing.T) {
	// The usual host: eth0 with the default route and two addresses, eth1
	// with a link-local address as well, eth2 without any, eth3 down.
	usual := func(h host) {
		h.veth("eth0", 1500, "192.0.2.1/24", "192.0.2.9/24")
		h.veth("eth1", 1400, "169.254.7.7/16", "198.51.100.1/24")
		h.veth("eth2", 1500)
		h.veth("eth3", 1500, "203.0.113.1/24")
		h.down("eth3")
		h.route("0.0.0.0/0", "192.0.2.254", "eth0", 0)
		h.route("10.77.0.0/16", "198.51.100.254", "eth1", 0)
	}
	tests := []struct {
		name  string
		host  func(host)
		s     Selector
		want  string // name, address, MTU and public address, or
		err   string // texts in the error, separated by |
		log   string // texts in the log, separated by |
		nolog string // text not in the log
	}{
		// The default route.
		{name: "default route", host: usual, want: "eth0 192.0.2.1 1500 192.0.2.1",
			log:   "Using interface with name eth0 and address 192.0.2.1|Defaulting external address to interface address (192.0.2.1)",
			nolog: "Could not find"},
		{name: "lowest metric wins", host: func(h host) {
			h.veth("eth0", 1500, "192.0.2.1/24")
			h.veth("eth1", 1500, "198.51.100.1/24")
			h.veth("eth2", 1500, "203.0.113.1/24")
			h.route("0.0.0.0/0", "192.0.2.254", "eth0", 300)
			h.route("0.0.0.0/0", "198.51.100.254", "eth1", 100)
			h.route("0.0.0.0/0", "203.0.113.254", "eth2", 2000)
		}, want: "eth1 198.51.100.1 1500 198.51.100.1"},
		{name: "default route on a device", host: func(h host) {
			h.veth("ppp0", 1492, "192.0.2.1/32")
			h.route("0.0.0.0/0", "", "ppp0", 0)
		}, want: "ppp0 192.0.2.1 1492 192.0.2.1"},
		{name: "default route by two hops", host: func(h host) {
			h.veth("eth0", 1500, "192.0.2.1/24")
			h.veth("eth1", 1500, "198.51.100.1/24")
			h.multipath("192.0.2.254", "eth0", "198.51.100.254", "eth1")
		}, want: "eth0 192.0.2.1 1500 192.0.2.1"},
		{name: "unnumbered: the route's source", host: func(h host) {
			h.addr("lo", "192.0.2.1/32")
			h.veth("eth0", 1500)
			h.routeFrom("192.0.2.1", "eth0")
		}, want: "eth0 192.0.2.1 1500 192.0.2.1"},
		{name: "numbered: the interface's own", host: func(h host) {
			h.veth("eth0", 1500, "192.0.2.1/24", "192.0.2.9/24")
			h.routeFrom("192.0.2.9", "eth0")
		}, want: "eth0 192.0.2.1 1500 192.0.2.1"},
		{name: "not by type of service", host: func(h host) {
			h.veth("eth0", 1500, "192.0.2.1/24")
			h.veth("eth1", 1500, "198.51.100.1/24")
			h.routeTOS(0x10, "192.0.2.254", "eth0")
			h.route("0.0.0.0/0", "198.51.100.254", "eth1", 100)
		}, want: "eth1 198.51.100.1 1500 198.51.100.1"},
		{name: "half of the address space is no default", host: func(h host) {
			h.veth("eth0", 1500, "192.0.2.1/24")
			h.route("0.0.0.0/1", "192.0.2.254", "eth0", 0)
		}, err: "no IPv4 default route|-iface="},
		{name: "blackhole is no default", host: func(h host) {
			h.veth("eth0", 1500, "192.0.2.1/24")
			h.blackhole()
		}, err: "no IPv4 default route"},
		{name: "no default route", host: func(h host) { h.veth("eth0", 1500, "192.0.2.1/24") },
			err: "no interface to use|no IPv4 default route|eth0 192.0.2.1/24|lo 127.0.0.1/8|-iface=NAME"},
		{name: "unnumbered without source", host: func(h host) {
			h.veth("eth0", 1500)
			h.route("0.0.0.0/0", "", "eth0", 0)
		}, err: "eth0 has no usable IPv4 address|eth0 without IPv4 address"},

		// By name and address.
		{name: "name", host: usual, s: Selector{Ifaces: []string{"eth1"}}, want: "eth1 198.51.100.1 1400 198.51.100.1"},
		{name: "link-local only", host: func(h host) { h.veth("eth0", 1500, "169.254.1.1/16", "169.254.1.2/16") },
			s: Selector{Ifaces: []string{"eth0"}}, want: "eth0 169.254.1.1 1500 169.254.1.1"},
		{name: "peer address", host: func(h host) { h.peerAddr("ppp0", "192.0.2.1", "198.51.100.1") },
			s: Selector{Ifaces: []string{"ppp0"}}, want: "ppp0 192.0.2.1 1500 192.0.2.1"},
		{name: "address", host: usual, s: Selector{Ifaces: []string{"198.51.100.1"}}, want: "eth1 198.51.100.1 1400 198.51.100.1"},
		{name: "secondary address", host: usual, s: Selector{Ifaces: []string{"192.0.2.9"}}, want: "eth0 192.0.2.9 1500 192.0.2.9"},
		{name: "mapped address", host: usual, s: Selector{Ifaces: []string{"::ffff:192.0.2.9"}}, want: "eth0 192.0.2.9 1500 192.0.2.9"},
		{name: "down", host: usual, s: Selector{Ifaces: []string{"eth3"}}, want: "eth3 203.0.113.1 1500 203.0.113.1", log: "interface is down"},
		{name: "loopback address", host: usual, s: Selector{Ifaces: []string{"127.0.0.1"}}, want: "lo 127.0.0.1 65536 127.0.0.1", log: "no other host can reach it"},
		{name: "address on two interfaces", host: func(h host) {
			h.veth("eth0", 1500, "192.0.2.1/24")
			h.down("eth0")
			h.veth("eth1", 1400, "192.0.2.1/24")
		}, s: Selector{Ifaces: []string{"192.0.2.1"}}, want: "eth1 192.0.2.1 1400 192.0.2.1"},
		{name: "in order, misses are told", host: usual, s: Selector{Ifaces: []string{"nope", "192.0.2.77", "eth2", "eth1", "eth0"}},
			want: "eth1 198.51.100.1 1400 198.51.100.1",
			log:  "-iface=nope: no interface has this name|-iface=192.0.2.77: no interface has this address|-iface=eth2: eth2 has no usable IPv4 address"},
		{name: "no such name", host: usual, s: Selector{Ifaces: []string{"eth9"}}, err: "-iface=eth9: no interface has this name|eth1 169.254.7.7/16 198.51.100.1/24|eth3 203.0.113.1/24 (down)", nolog: "Could not find"},
		{name: "name is no prefix", host: usual, s: Selector{Ifaces: []string{"eth"}}, err: "no interface has this name"},
		{name: "empty name", host: usual, s: Selector{Ifaces: []string{""}}, err: "no interface has this name"},
		{name: "address of nobody", host: usual, s: Selector{Ifaces: []string{"192.0.2.2"}}, err: "-iface=192.0.2.2: no interface has this address"},
		{name: "IPv6 address", host: usual, s: Selector{Ifaces: []string{"fe80::1"}}, err: "-iface=fe80::1: IPv6 is not supported"},
		{name: "loopback has no global address", host: usual, s: Selector{Ifaces: []string{"lo"}}, err: "lo has no usable IPv4 address"},
		{name: "all misses in the error", host: usual, s: Selector{Ifaces: []string{"a", "b"}, Regexes: []string{"^c$"}, CanReach: "192.0.2.1"}, err: "-iface=a|-iface=b|-iface-regex=^c$|-iface-can-reach=192.0.2.1"},

		// By regular expression.
		{name: "regex on address", host: usual, s: Selector{Regexes: []string{`^198\.`}}, want: "eth1 198.51.100.1 1400 198.51.100.1"},
		{name: "regex is not on secondary addresses", host: usual, s: Selector{Regexes: []string{`2\.9$`}}, err: `-iface-regex=2\.9$: no preferred IPv4 address and no interface name matches`},
		{name: "regex on first address", host: usual, s: Selector{Regexes: []string{"1$"}}, want: "eth0 192.0.2.1 1500 192.0.2.1"},
		{name: "addresses come before names", host: usual, s: Selector{Regexes: []string{"eth0|203"}}, want: "eth3 203.0.113.1 1500 203.0.113.1"},
		{name: "regex on name only", host: usual, s: Selector{Regexes: []string{"^eth[1-9]$"}}, want: "eth1 198.51.100.1 1400 198.51.100.1"},
		{name: "iface comes before regex", host: usual, s: Selector{Ifaces: []string{"eth1"}, Regexes: []string{"eth0"}}, want: "eth1 198.51.100.1 1400 198.51.100.1"},
		{name: "second regex", host: usual, s: Selector{Regexes: []string{"^wlan", "^eth1"}}, want: "eth1 198.51.100.1 1400 198.51.100.1", log: "-iface-regex=^wlan"},
		{name: "regex finds one without address", host: usual, s: Selector{Regexes: []string{"^eth2$"}}, err: "eth2 has no usable IPv4 address"},
		{name: "bad regex", host: usual, s: Selector{Regexes: []string{"eth["}}, err: `-iface-regex "eth[": error parsing regexp`},
		{name: "bad regex behind a good name", host: usual, s: Selector{Ifaces: []string{"eth0"}, Regexes: []string{"("}}, err: `-iface-regex "("`},

		// By route.
		{name: "can reach by default route", host: usual, s: Selector{CanReach: "8.8.8.8"}, want: "eth0 192.0.2.1 1500 192.0.2.1"},
		{name: "can reach by another route", host: usual, s: Selector{CanReach: "10.77.1.1"}, want: "eth1 198.51.100.1 1400 198.51.100.1"},
		{name: "can reach by an unnumbered link", host: func(h host) {
			h.addr("lo", "192.0.2.1/32")
			h.veth("eth0", 1500)
			h.routeFrom("192.0.2.1", "eth0")
		}, s: Selector{CanReach: "8.8.8.8"}, want: "eth0 192.0.2.1 1500 192.0.2.1"},
		{name: "iface comes before can reach", host: usual, s: Selector{Ifaces: []string{"eth0"}, CanReach: "10.77.1.1"}, want: "eth0 192.0.2.1 1500 192.0.2.1"},
		{name: "can reach after a miss", host: usual, s: Selector{Regexes: []string{"nope"}, CanReach: "10.77.1.1"}, want: "eth1 198.51.100.1 1400 198.51.100.1"},
		{name: "cannot reach", host: func(h host) { h.veth("eth0", 1500, "192.0.2.1/24") }, s: Selector{CanReach: "8.8.8.8"}, err: "-iface-can-reach=8.8.8.8: look up route|unreachable"},
		{name: "can reach ourselves", host: usual, s: Selector{CanReach: "192.0.2.1"}, err: "not another host's address"},
		{name: "can reach a name", host: usual, s: Selector{CanReach: "example.org"}, err: `-iface-can-reach "example.org": not an IP address: want the IPv4 address of another host`},
		{name: "can reach IPv6", host: usual, s: Selector{CanReach: "2001:db8::1"}, err: "IPv6 is not supported"},

		// The public address.
		{name: "public address", host: usual, s: Selector{PublicIP: "203.0.113.77"}, want: "eth0 192.0.2.1 1500 203.0.113.77",
			log: "Using 203.0.113.77 as external address", nolog: "Defaulting"},
		{name: "mapped public address", host: usual, s: Selector{PublicIP: "::ffff:203.0.113.77"}, want: "eth0 192.0.2.1 1500 203.0.113.77"},
		{name: "public name", host: usual, s: Selector{PublicIP: "example.org"}, err: `-public-ip "example.org": not an IP address: want the IPv4 address that peers can send to`},
		{name: "public IPv6", host: usual, s: Selector{PublicIP: "2001:db8::1"}, err: `-public-ip "2001:db8::1": IPv6 is not supported`},
		{name: "public with port", host: usual, s: Selector{PublicIP: "192.0.2.1:80"}, err: "-public-ip"},
		{name: "public with length", host: usual, s: Selector{PublicIP: "192.0.2.1/24"}, err: "-public-ip"},
		{name: "public with blank", host: usual, s: Selector{PublicIP: " 192.0.2.1"}, err: "-public-ip"},
		{name: "public with leading zero", host: usual, s: Selector{PublicIP: "192.0.2.01"}, err: "-public-ip"},
		{name: "public unspecified", host: usual, s: Selector{PublicIP: "0.0.0.0"}, err: "not the address of one host"},
		{name: "public multicast", host: usual, s: Selector{PublicIP: "224.0.0.1"}, err: "not the address of one host"},
		{name: "public broadcast", host: usual, s: Selector{PublicIP: "255.255.255.255"}, err: "not the address of one host"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			nstest.Enter(t)
			tt.host(host{t})
			var out bytes.Buffer
			u, err := tt.s.Select(slog.New(slog.NewTextHandler(&out, nil)))
			for want := range strings.SplitSeq(tt.log, "|") {
				if !strings.Contains(out.String(), want) {
					t.Errorf("no %q in the log:\n%s", want, out.String())
				}
			}
			if tt.nolog != "" && strings.Contains(out.String(), tt.nolog) {
				t.Errorf("%q in the log:\n%s", tt.nolog, out.String())
			}
			if tt.err != "" {
				for want := range strings.SplitSeq(tt.err, "|") {
					if err == nil || !strings.Contains(err.Error(), want) {
						t.Errorf("error %v, want one with %q", err, want)
					}
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := fmt.Sprint(u.Name, " ", u.Addr, " ", u.MTU, " ", u.PublicIP); got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
}

func TestZeroMTU(t *testing.T) {
	w := way{"-iface=x", func(nics []nic) (choice, error) { return byNameOrAddr(nics, "x") }}
	_, err := w.choose([]nic{{name: "x", addrs: prefixes("192.0.2.1/24")}})
	if err == nil || !strings.Contains(err.Error(), "x has MTU 0") {
		t.Errorf("got %v", err)
	}
}

func TestInventoryIsBounded(t *testing.T) {
	many := make([]nic, 500)
	if got := inventory(many); len(got) > 1000 || !strings.HasSuffix(got, "and 480 more") {
		t.Errorf("got %d bytes: %s", len(got), got)
	}
	if got := inventory(nil); got != "no interface" {
		t.Errorf("got %q", got)
	}
}

func FuzzSelectorNeverPanics(f *testing.F) {
	f.Add("eth0", "192.0.2.1", "^eth", "203.0.113.1")
	f.Add("192.0.2.9", "::1", "(", "fe80::1%eth0")
	nics := []nic{{name: "eth0", index: 2, mtu: 1500, addrs: prefixes("192.0.2.1/24", "192.0.2.9/24")}, {name: "eth1"}}
	f.Fuzz(func(t *testing.T, iface, second, regex, public string) {
		s := Selector{Ifaces: []string{iface, second}, Regexes: []string{regex}, PublicIP: public}
		if ip, err := s.publicIP(); err == nil && ip.IsValid() != (public != "") || ip.IsValid() && !ip.Is4() {
			t.Errorf("public %q is %v (%v)", public, ip, err)
		}
		ways, err := s.ways()
		if err != nil {
			return
		}
		c, err := firstUsable(ways, nics, slog.New(slog.DiscardHandler))
		if err == nil && (c.nic.mtu == 0 || !c.nic.owns(c.addr)) {
			t.Errorf("chose %+v", c)
		}
	})
}
