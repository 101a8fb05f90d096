package rtnl

import (
	"bytes"

	"golang.org/x/sys/unix"
)

// Links remembers what notices have said of the links of a host, to know which
// say something new: the kernel also tells of much that does not matter here.
// The zero value is ready. It is not safe for concurrent use.
type Links struct {
	seen map[int]linkState
}

// linkState is what matters of a link.
type linkState struct {
	name    string
	flags   uint32 // of those that matter
	mtu     uint32
	txQueue uint32
	mac     MAC
}

const linkFlags = unix.IFF_UP | unix.IFF_RUNNING | unix.IFF_LOWER_UP

// News returns name and index of the link that the notice tells something new
// of: that it is there, is gone, or has another name, MTU, address, length of
// queue or state.
func (l *Links) News(n Notice) (name string, index int, ok bool) {
	if n.typ != unix.RTM_NEWLINK && n.typ != unix.RTM_DELLINK || len(n.body) < unix.SizeofIfInfomsg || n.body[0] != unix.AF_UNSPEC {
		return "", 0, false
	}
	index = int(int32(native.Uint32(n.body[4:])))
	now := linkState{flags: native.Uint32(n.body[8:]) & linkFlags}
	for typ, v := range attributes(n.body[unix.SizeofIfInfomsg:]) {
		switch {
		case typ == unix.IFLA_IFNAME:
			now.name = string(bytes.TrimRight(v, "\x00"))
		case typ == unix.IFLA_MTU && len(v) == 4:
			now.mtu = native.Uint32(v)
		case typ == unix.IFLA_TXQLEN && len(v) == 4:
			now.txQueue = native.Uint32(v)
		case typ == unix.IFLA_ADDRESS && len(v) == len(now.mac):
			now.mac = MAC(v)
		}
	}
	was, known := l.seen[index]
	if n.typ == unix.RTM_DELLINK {
		delete(l.seen, index)
		return now.name, index, true
	}
	if known && was == now {
		return "", 0, false
	}
	if l.seen == nil {
		l.seen = make(map[int]linkState)
	}
	l.seen[index] = now
	return now.name, index, true
}
