package rtnl

import (
	"bytes"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"
)

// FuzzMessages has the kernel, or who pretends to be it, send anything.
func FuzzMessages(f *testing.F) {
	var r requests
	r.route(add, prefix4{ip4{10, 5, 3, 0}, 24}, target{via: ip4{10, 5, 3, 0}, hasVia: true, link: 7, onLink: true}, 9)
	r.neigh(add, unix.AF_INET, 7, ip4{10, 5, 3, 0}, MAC{0x0e, 1, 2, 3, 4, 5})
	r.neigh(remove, unix.AF_BRIDGE, 7, ip4{192, 0, 2, 3}, MAC{0x0e, 1, 2, 3, 4, 5})
	f.Add(r.buf)
	f.Add(r.buf[:len(r.buf)-3])
	link := make([]byte, unix.SizeofIfInfomsg)
	link[4] = 7
	r.begin(add, unix.RTM_NEWLINK, 0, link)
	r.attr(unix.IFLA_IFNAME, []byte("flannel.1\x00"))
	r.end()
	f.Add(r.buf)
	f.Add([]byte{255, 255, 255, 255, 24, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		h := &Handle{}
		t1 := h.Tables()
		t1.want = &desired{
			scope:      Scope{Within: netip.MustParsePrefix("10.5.0.0/16"), Link: 7},
			neighbours: map[ip4]MAC{{10, 5, 3, 0}: {0x0e, 1, 2, 3, 4, 5}},
			fdb:        map[MAC]ip4{{0x0e, 1, 2, 3, 4, 5}: {192, 0, 2, 3}},
			routes:     map[prefix4]target{{ip4{10, 5, 3, 0}, 24}: {via: ip4{10, 5, 3, 0}, hasVia: true, link: 7, onLink: true}},
		}
		var links Links
		for head, body := range messages(b) {
			n := Notice{head.typ, body}
			t1.sure = true
			if key := t1.Differs(n); (key == "") != t1.sure {
				t.Errorf("Differs says %q, sure is %t", key, t1.sure)
			}
			n.Addr()
			n.Route(t1.want.scope)
			n.Blackhole()
			if name, _, ok := links.News(n); ok {
				// The same again is no news, unless the link is gone.
				if again, _, ok := links.News(n); ok && head.typ != unix.RTM_DELLINK {
					t.Errorf("link %q is news twice, as %q", name, again)
				}
			}
			answer(head.flags, append([]byte{1, 0, 0, 0}, body...))
		}
	})
}

// TestRequestsAreReadBack: what is asked for is what a notice about it says, in
// the words of ip and bridge.
func TestRequestsAreReadBack(t *testing.T) {
	var r requests
	dst, to := prefix4{ip4{10, 5, 3, 0}, 24}, target{via: ip4{10, 5, 3, 0}, hasVia: true, onLink: true}
	r.route(replace, dst, to, 0)
	r.neigh(add, unix.AF_INET, 0, ip4{10, 5, 3, 0}, MAC{0x0e, 1, 2, 3, 4, 5})
	r.neigh(remove, unix.AF_BRIDGE, 0, ip4{192, 0, 2, 3}, MAC{0x0e, 1, 2, 3, 4, 5})
	k, ok := parseRoute(r.message(0)[headerLen:])
	if !ok || k.dst != dst || k.to != to || !k.is(to) || k.table != unix.RT_TABLE_MAIN {
		t.Errorf("the route is read back as %+v, %t", k, ok)
	}
	var keys []string
	for i := range r.len() {
		keys = append(keys, r.key(i))
	}
	equal(t, "keys", keys, "route 10.5.3.0/24", "neighbour 10.5.3.0", "fdb entry 0e:01:02:03:04:05")
	if !bytes.Equal(r.message(2), r.buf[r.each[2].start:]) {
		t.Error("the last message does not end with the last byte")
	}
	for i, body := range [][]byte{nil, make([]byte, 11), {unix.AF_INET, 33, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}, {unix.AF_INET6, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}} {
		if k, ok := parseRoute(body); ok {
			t.Errorf("body %d is a route: %+v", i, k)
		}
	}
}

// FuzzDifference: the kernel as it was, after the changes, is what is wanted.
func FuzzDifference(f *testing.F) {
	f.Add([]byte{1, 1, 2, 2}, []byte{1, 2, 3, 3})
	f.Add([]byte{}, []byte{1, 2, 1, 2})
	f.Fuzz(func(t *testing.T, before, after []byte) {
		model := func(b []byte) map[ip4]byte {
			m := make(map[ip4]byte)
			for ; len(b) >= 2; b = b[2:] {
				m[ip4{b[0] % 8}] = b[1] % 4
			}
			return m
		}
		was, is := model(before), model(after)
		have := model(before)
		changed := 0
		changes(was, is, &plan{}, func(_ *requests, v verb, k ip4, val byte) {
			changed++
			old, had := have[k]
			if had == (v == add) || v == replace && old == val {
				t.Errorf("%s %v=%d, there is %d (%t)", v, k, val, old, had)
			}
			if v == remove {
				delete(have, k)
			} else {
				have[k] = val
			}
		})
		if len(have) != len(is) {
			t.Errorf("%v became %v, want %v", was, have, is)
		}
		for k, v := range is {
			if have[k] != v {
				t.Errorf("%v became %v, want %v", was, have, is)
			}
		}
		changes(is, is, &plan{}, func(_ *requests, v verb, k ip4, _ byte) { t.Errorf("%s %v without a change", v, k) })
	})
}
