package firewall

import (
	"encoding/binary"
	"errors"
	"hash/maphash"
	"net"
	"testing"
)

// TestGeneration: whatever Ensure would repair shows in the number, and what it
// would not look at twice does not, be it itself or the packets that rules count.
func TestGeneration(t *testing.T) {
	for _, v := range variants {
		t.Run(v, func(t *testing.T) {
			f := enter(t, v)
			generation := func() uint64 {
				t.Helper()
				g, err := f.Generation(testRules())
				must(t, err)
				return g
			}
			if g, err := f.Generation(testRules()); f.Mode() == IPTables && err == nil {
				t.Errorf("before the first Ensure the generation is %d", g)
			}
			ensure(t, f, testRules(), true)
			before := generation()
			ensure(t, f, testRules(), false)
			counted(t)
			if now := generation(); now != before {
				t.Errorf("nothing has changed, but %d became %d", before, now)
			}

			damage := []string{
				"iptables -D FORWARD 1", "iptables -t nat -D POSTROUTING 2", "iptables -t nat -F POSTROUTING",
				"iptables -R FORWARD 1 -s 10.9.0.0/16 -j ACCEPT", // as long as before
				"iptables -R FORWARD 2 -s 10.5.0.0/16 -j DROP",   // in its target only
				"iptables -I FORWARD -s 10.5.0.0/16 -j ACCEPT",
				"iptables -F FORWARD; iptables -A FORWARD -d 10.5.0.0/16 -j ACCEPT; iptables -A FORWARD -s 10.5.0.0/16 -j ACCEPT",
			}
			if v == "nftables" {
				damage = []string{
					"nft delete table ip tweed-10.5.0.0-16", "nft flush chain ip tweed-10.5.0.0-16 forward",
					"nft add table ip tweed-10.5.0.0-16 '{ flags dormant; }'", "iptables -P FORWARD DROP",
				}
			}
			for _, d := range damage {
				before := generation()
				sh(t, d)
				if generation() == before {
					t.Errorf("%s: the generation is still %d", d, before)
				}
				ensure(t, f, testRules(), true)
			}
		})
	}
}

// counted sends a packet that the masquerade rules count.
func counted(t *testing.T) {
	t.Helper()
	sh(t, "ip link set lo up; ip address add 10.5.1.1/24 dev lo")
	counters := func() string { return sh(t, "iptables -t nat -L -v -n -x; nft list ruleset") }
	before := counters()
	c, err := net.Dial("udp4", "10.5.1.1:9")
	must(t, err)
	defer c.Close()
	_, err = c.Write([]byte("x"))
	must(t, err)
	if counters() == before {
		t.Fatalf("the packet was not counted: %s", before)
	}
}

func TestGenerationWithoutPermission(t *testing.T) {
	for _, v := range variants {
		t.Run(v, func(t *testing.T) {
			f := enter(t, v)
			ensure(t, f, testRules(), true)
			dropNetAdmin(t)
			if g, err := f.Generation(testRules()); !errors.Is(err, ErrPermission) {
				t.Errorf("the generation is %d, the error %v, want %v", g, err, ErrPermission)
			}
		})
	}
}

func FuzzParseGeneration(f *testing.F) {
	message := func(kind uint16, data ...byte) []byte {
		b := make([]byte, 16, 16+len(data))
		binary.NativeEndian.PutUint32(b, uint32(16+len(data)))
		binary.NativeEndian.PutUint16(b[4:], kind)
		return append(b, data...)
	}
	const newGeneration = 10<<8 | 15
	good := message(newGeneration, 0, 0, 0, 0, 8, 0, 1, 0, 0, 0, 1, 2)
	if g, err := parseGeneration(good); err != nil || g != 0x102 {
		f.Fatalf("generation %d, %v", g, err)
	}
	f.Add(good)
	f.Add(message(2, 0xff, 0xff, 0xff, 0xff))
	f.Add(message(newGeneration, 0, 0, 0, 0, 6, 0, 1, 0, 1, 2))
	f.Add(message(newGeneration, 0, 0))
	f.Fuzz(func(t *testing.T, answer []byte) {
		if g, err := parseGeneration(answer); err != nil && g != 0 {
			t.Errorf("%d beside %v", g, err)
		}
	})
}

func FuzzHashEntries(f *testing.F) {
	entry := func(length int) []byte {
		b := make([]byte, max(length, iptEntryHeader))
		binary.NativeEndian.PutUint16(b[iptNextOffset:], uint16(length))
		return b
	}
	f.Add(entry(iptEntryHeader))
	f.Add(append(entry(152), entry(176)...))
	f.Add(entry(0))
	f.Add(entry(1 << 15)[:200])
	f.Fuzz(func(t *testing.T, table []byte) {
		sum := func() (uint64, error) {
			var h maphash.Hash
			h.SetSeed(seed)
			err := hashEntries(&h, table)
			return h.Sum64(), err
		}
		before, err := sum()
		if err != nil || len(table) == 0 {
			return
		}
		table[iptCounters] ^= 1
		if counted, _ := sum(); counted != before {
			t.Error("a counter counts")
		}
		table[0] ^= 1
		if changed, _ := sum(); changed == before {
			t.Error("an address does not count")
		}
	})
}
