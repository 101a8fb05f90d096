package rtnl

import (
	"encoding/binary"
	"fmt"
	"iter"
	"net/netip"

	"golang.org/x/sys/unix"
)

// The messages about routes and neighbours are written and read here and not by
// a library, because there may be a hundred thousand of them. Numbers are in the
// byte order of the host (netlink(7), rtnetlink(7), linux/rtnetlink.h,
// linux/neighbour.h):
//
//	nlmsghdr 16 | rtmsg or ndmsg 12 | attribute | attribute ...
//	             attribute: length 2, type 2, value, padded to 4 bytes
const (
	headerLen  = unix.SizeofNlMsghdr
	rtmsgLen   = unix.SizeofRtMsg
	ndmsgLen   = unix.SizeofNdMsg
	attrMask   = 0x3fff // of the type: without NLA_F_NESTED and NLA_F_NET_BYTEORDER
	rtaNHID    = 30     // RTA_NH_ID
	ndaVNI     = 7      // NDA_VNI
	ndaIfIndex = 8      // NDA_IFINDEX
	ndaNHID    = 13     // NDA_NH_ID
)

var native = binary.NativeEndian

// ip4 is an IPv4 address that takes no more room than it needs.
type ip4 [4]byte

func (a ip4) addr() netip.Addr { return netip.AddrFrom4(a) }

// A prefix4 is an IPv4 prefix, likewise.
type prefix4 struct {
	ip   ip4
	bits uint8
}

func (p prefix4) prefix() netip.Prefix { return netip.PrefixFrom(p.ip.addr(), int(p.bits)) }

// requests are messages to the kernel, ready to be sent.
type requests struct {
	buf  []byte
	each []request
}

// A request is one message of requests.
type request struct {
	start int // in requests.buf
	verb  verb

	failed bool // as far as it was sent
}

// A verb is what a request does, for messages.
type verb uint8

const (
	add verb = iota
	replace
	remove
)

func (v verb) String() string { return [...]string{"add", "replace", "delete"}[v] }

func (r *requests) len() int { return len(r.each) }

// message returns request i.
func (r *requests) message(i int) []byte {
	b := r.buf[r.each[i].start:]
	return b[:native.Uint32(b)]
}

// begin starts a message of the given type and flags with a fixed part.
func (r *requests) begin(v verb, typ, flags uint16, fixed []byte) {
	r.each = append(r.each, request{start: len(r.buf), verb: v})
	r.buf = native.AppendUint32(r.buf, 0) // the length, by end
	r.buf = native.AppendUint16(r.buf, typ)
	r.buf = native.AppendUint16(r.buf, flags|unix.NLM_F_REQUEST)
	r.buf = append(r.buf, 0, 0, 0, 0, 0, 0, 0, 0) // sequence number, by the socket, and port
	r.buf = append(r.buf, fixed...)
}

func (r *requests) attr(typ uint16, value []byte) {
	r.buf = native.AppendUint16(r.buf, uint16(unix.SizeofNlAttr+len(value)))
	r.buf = native.AppendUint16(r.buf, typ)
	r.buf = append(r.buf, value...)
	for len(r.buf)%4 != 0 {
		r.buf = append(r.buf, 0)
	}
}

func (r *requests) attr32(typ uint16, value uint32) {
	var b [4]byte
	native.PutUint32(b[:], value)
	r.attr(typ, b[:])
}

func (r *requests) end() {
	start := r.each[len(r.each)-1].start
	native.PutUint32(r.buf[start:], uint32(len(r.buf)-start))
}

// route asks for a route of ours, added where there is none to its destination
// (else EEXIST), put in the place of the first, or removed, whatever its scope.
func (r *requests) route(v verb, dst prefix4, to target, scope uint8) {
	fixed := [rtmsgLen]byte{unix.AF_INET, dst.bits, 0, 0, unix.RT_TABLE_MAIN, Protocol, scope, unix.RTN_UNICAST}
	if v == remove {
		fixed[6] = unix.RT_SCOPE_NOWHERE
		r.begin(v, unix.RTM_DELROUTE, 0, fixed[:])
	} else {
		if to.onLink {
			native.PutUint32(fixed[8:], unix.RTNH_F_ONLINK)
		}
		flags := uint16(unix.NLM_F_CREATE | unix.NLM_F_EXCL)
		if v == replace {
			flags = unix.NLM_F_CREATE | unix.NLM_F_REPLACE
		}
		r.begin(v, unix.RTM_NEWROUTE, flags, fixed[:])
	}
	r.attr(unix.RTA_DST, dst.ip[:])
	if to.hasVia {
		r.attr(unix.RTA_GATEWAY, to.via[:])
	}
	if to.link != 0 {
		r.attr32(unix.RTA_OIF, uint32(to.link))
	}
	r.end()
}

// neigh asks for a permanent entry of the neighbour table (AF_INET) or of the
// forwarding database (AF_BRIDGE), added in the place of the first for its key,
// or removed.
func (r *requests) neigh(v verb, family uint8, link int, ip ip4, mac MAC) {
	var flags uint8
	if family == unix.AF_BRIDGE {
		flags = unix.NTF_SELF
	}
	fixed := ndmsg(family, link, unix.NUD_PERMANENT, flags)
	if v == remove {
		r.begin(v, unix.RTM_DELNEIGH, 0, fixed[:])
	} else {
		r.begin(v, unix.RTM_NEWNEIGH, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, fixed[:])
	}
	r.attr(unix.NDA_DST, ip[:])
	r.attr(unix.NDA_LLADDR, mac[:])
	r.end()
}

func ndmsg(family uint8, link int, state uint16, flags uint8) (b [ndmsgLen]byte) {
	b[0], b[10] = family, flags
	native.PutUint32(b[4:], uint32(link))
	native.PutUint16(b[8:], state)
	return b
}

// strike asks for the removal of what the kernel has told of by body, the
// message of a dump without its header.
func (r *requests) strike(typ uint16, body []byte) {
	if typ != unix.RTM_DELROUTE {
		r.begin(remove, typ, 0, body)
		r.end()
		return
	}
	fixed := [rtmsgLen]byte(body)
	// Flags of a route tell of its link, such as that it has no carrier, and are
	// not for requests.
	clear(fixed[8:])
	r.begin(remove, typ, 0, fixed[:])
	byObject := false
	for typ := range attributes(body[rtmsgLen:]) {
		byObject = byObject || typ == rtaNHID
	}
	for typ, v := range attributes(body[rtmsgLen:]) {
		switch typ {
		case unix.RTA_OIF, unix.RTA_GATEWAY, unix.RTA_VIA, unix.RTA_MULTIPATH, unix.RTA_ENCAP, unix.RTA_ENCAP_TYPE:
			if byObject { // the kernel tells of its content, too, but wants one of both
				continue
			}
		}
		r.attr(typ, v)
	}
	r.end()
}

// A target is where a route leads.
type target struct {
	via            ip4
	link           int32
	hasVia, onLink bool
}

// A kernelRoute is a route as the kernel tells of it.
type kernelRoute struct {
	family, tos, protocol, scope, typ uint8

	dst      prefix4
	to       target
	table    uint32
	priority uint32
	more     bool // it has what no route of ours has, such as a second gateway
}

// parseRoute reads the body of an RTM_NEWROUTE or RTM_DELROUTE message.
func parseRoute(b []byte) (k kernelRoute, ok bool) {
	if len(b) < rtmsgLen || b[1] > 32 {
		return k, false
	}
	k = kernelRoute{family: b[0], tos: b[3], table: uint32(b[4]), protocol: b[5], scope: b[6], typ: b[7]}
	k.dst.bits = b[1]
	k.to.onLink = native.Uint32(b[8:])&unix.RTNH_F_ONLINK != 0
	k.more = b[2] != 0
	if k.family != unix.AF_INET {
		return k, false
	}
	for typ, v := range attributes(b[rtmsgLen:]) {
		switch {
		case typ == unix.RTA_DST && len(v) == 4:
			k.dst.ip = ip4(v)
		case typ == unix.RTA_GATEWAY && len(v) == 4:
			k.to.via, k.to.hasVia = ip4(v), true
		case typ == unix.RTA_OIF && len(v) == 4:
			k.to.link = int32(native.Uint32(v))
		case typ == unix.RTA_TABLE && len(v) == 4:
			k.table = native.Uint32(v)
		case typ == unix.RTA_PRIORITY && len(v) == 4:
			k.priority = native.Uint32(v)
		case typ == unix.RTA_DST, typ == unix.RTA_PREFSRC, typ == unix.RTA_METRICS, typ == unix.RTA_MULTIPATH,
			typ == unix.RTA_VIA, typ == unix.RTA_ENCAP, typ == rtaNHID, typ == unix.RTA_FLOW:
			k.more = true
		}
	}
	return k, true
}

// A kernelNeigh is an entry of either table as the kernel tells of it.
type kernelNeigh struct {
	family, flags uint8
	link          int
	state         uint16
	ip            ip4
	hasIP         bool // false also for IPv6
	mac           MAC
	more          bool // it has what no entry of ours has, such as a port of its own
}

// parseNeigh reads the body of an RTM_NEWNEIGH or RTM_DELNEIGH message.
func parseNeigh(b []byte) (k kernelNeigh, ok bool) {
	if len(b) < ndmsgLen {
		return k, false
	}
	k = kernelNeigh{family: b[0], link: int(int32(native.Uint32(b[4:]))), state: native.Uint16(b[8:]), flags: b[10]}
	for typ, v := range attributes(b[ndmsgLen:]) {
		switch {
		case typ == unix.NDA_DST && len(v) == 4:
			k.ip, k.hasIP = ip4(v), true
		case typ == unix.NDA_LLADDR && len(v) == len(k.mac):
			k.mac = MAC(v)
		case typ == unix.NDA_PORT, typ == ndaVNI, typ == ndaIfIndex, typ == ndaNHID:
			k.more = true
		}
	}
	return k, true
}

// permanent reports whether somebody made the entry, rather than the kernel. A
// device enslaved to a bridge is in that bridge's database, too (with
// NTF_MASTER): that is not ours.
func (k kernelNeigh) permanent() bool {
	return k.state&unix.NUD_PERMANENT != 0 && k.flags&unix.NTF_PROXY == 0 && (k.family != unix.AF_BRIDGE || k.flags&unix.NTF_SELF != 0)
}

// attributes yields type and value of each attribute. It ends where one is cut
// off.
func attributes(b []byte) iter.Seq2[uint16, []byte] {
	return func(yield func(uint16, []byte) bool) {
		for len(b) >= unix.SizeofNlAttr {
			n := int(native.Uint16(b))
			if n < unix.SizeofNlAttr || n > len(b) || !yield(native.Uint16(b[2:])&attrMask, b[unix.SizeofNlAttr:n]) {
				return
			}
			b = b[min((n+3)&^3, len(b)):]
		}
	}
}

// describe writes what request i is about, as ip-route(8), ip-neighbour(8) and
// bridge(8) do.
func (h *Handle) describe(r *requests, i int) string {
	b := r.message(i)
	return r.each[i].verb.String() + " " + h.describeBody(native.Uint16(b[4:]), b[headerLen:])
}

func (h *Handle) describeBody(typ uint16, body []byte) string {
	switch typ {
	case unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
		k, _ := parseRoute(body)
		return "route " + h.describeRoute(k.dst, k.to)
	default:
		k, _ := parseNeigh(body)
		if k.family == unix.AF_BRIDGE {
			return fmt.Sprintf("fdb entry %s dev %s dst %s", k.mac, h.linkName(k.link), k.ip.addr())
		}
		return fmt.Sprintf("neighbour %s dev %s lladdr %s", k.ip.addr(), h.linkName(k.link), k.mac)
	}
}

func (h *Handle) describeRoute(dst prefix4, to target) string {
	text := dst.prefix().String()
	if to.hasVia {
		text += " via " + to.via.addr().String()
	}
	if to.link != 0 {
		text += " dev " + h.linkName(int(to.link))
	}
	if to.onLink {
		text += " onlink"
	}
	return text
}
