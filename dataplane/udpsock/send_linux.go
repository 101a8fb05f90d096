package udpsock

import (
	"encoding/binary"
	"net/netip"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"tweed/dataplane"
)

const (
	maxRound  = 132 // packets that one round of grouping looks at
	peerSlots = 256
)

// A group is packets of one size to one peer, the last of which may be
// smaller: what one UDP_SEGMENT send can carry.
type group struct {
	first, last int16
	count       int
	size, total int // bytes of the first packet, and of all
	closed      bool
	peer        netip.AddrPort
}

// writer is the working memory of Send.
type writer struct {
	groups []group
	next   [maxRound]int16  // the packet behind packet i in its group, -1 at the end
	peers  [peerSlots]uint8 // by hash: 1 + index of the latest group

	msgs     [maxRound]mmsghdr
	iovs     [maxRound]unix.Iovec
	names    [maxRound]unix.RawSockaddrInet4
	controls [maxRound]control

	mtu pathMTU
}

// Send sends each packet to its Peer, which must be an IPv4 one.
func (s *Socket) Send(pkts []dataplane.Packet) error {
	fd, err := s.file.Enter()
	if err != nil {
		return s.fail("send from", err)
	}
	defer s.file.Leave()
	s.sending.Lock()
	defer s.sending.Unlock()
	for len(pkts) > 0 {
		n := min(len(pkts), maxRound)
		s.writer.group(pkts[:n], int(s.features.segments.Load()))
		if err := s.sendGroups(fd, pkts[:n]); err != nil {
			return s.fail("send from", err)
		}
		pkts = pkts[n:]
	}
	return nil
}

// group sorts packets into groups of up to max. All packets to one peer stay in
// order: groups are sent in the order of their first packets, and a packet
// joins only the latest one of its peer.
func (w *writer) group(pkts []dataplane.Packet, max int) {
	w.groups = w.groups[:0]
	clear(w.peers[:])
	for i := range pkts {
		p := &pkts[i]
		w.next[i] = -1
		if !p.Peer.Addr().Is4() {
			p.Err = unix.EDESTADDRREQ
			continue
		}
		p.Err, p.MTU = 0, 0
		slot := &w.peers[hash(p.Peer)]
		if *slot != 0 {
			g := &w.groups[*slot-1]
			if !g.closed && g.count < max && len(p.Bytes) <= g.size && g.total+len(p.Bytes) <= maxDatagram && len(p.Bytes) > 0 && g.peer == p.Peer {
				w.next[g.last] = int16(i)
				g.last = int16(i)
				g.count++
				g.total += len(p.Bytes)
				g.closed = len(p.Bytes) < g.size
				continue
			}
		}
		w.groups = append(w.groups, group{
			first: int16(i), last: int16(i), count: 1,
			size: len(p.Bytes), total: len(p.Bytes), peer: p.Peer,
		})
		*slot = uint8(len(w.groups))
	}
}

func hash(p netip.AddrPort) uint8 {
	a := p.Addr().As4()
	h := (uint64(binary.NativeEndian.Uint32(a[:])) + uint64(p.Port())<<32) * 0x9e3779b97f4a7c15
	return uint8(h >> 56)
}

// sendGroups sends all groups. The error is final.
func (s *Socket) sendGroups(fd int, pkts []dataplane.Packet) error {
	w := &s.writer
	w.build(pkts)
	for at := 0; at < len(w.groups); {
		n, errno := s.sendmmsg(fd, w.msgs[at:len(w.groups)])
		for _, g := range w.groups[at : at+n] {
			if g.count > 1 {
				s.count.SendSupers.Add(1)
				s.count.SendSegments.Add(uint64(g.count))
			}
		}
		at += n
		switch {
		case errno == 0, errno == unix.EINTR:
		case errno == unix.EAGAIN:
			if err := s.file.WaitWrite(); err != nil {
				return err
			}
		default:
			if err := s.resend(fd, pkts, at, errno); err != nil {
				return err
			}
			at++
		}
	}
	return nil
}

// sendmmsg returns how many messages were sent; the errno is about the next.
func (s *Socket) sendmmsg(fd int, msgs []mmsghdr) (int, syscall.Errno) {
	n, _, errno := syscall.RawSyscall6(unix.SYS_SENDMMSG, uintptr(fd),
		uintptr(unsafe.Pointer(&msgs[0])), uintptr(len(msgs)), unix.MSG_DONTWAIT, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	s.count.Sends.Add(1)
	return int(n), 0
}

// build describes the groups to the kernel.
func (w *writer) build(pkts []dataplane.Packet) {
	iovs := w.iovs[:0]
	for i := range w.groups {
		g := &w.groups[i]
		start := len(iovs)
		for p := g.first; p >= 0; p = w.next[p] {
			iovs = appendIovec(iovs, start, pkts[p].Bytes)
		}
		m := &w.msgs[i]
		m.hdr = unix.Msghdr{Name: (*byte)(unsafe.Pointer(&w.names[i])), Namelen: unix.SizeofSockaddrInet4}
		if len(iovs) > start {
			m.hdr.Iov = &iovs[start]
			m.hdr.SetIovlen(len(iovs) - start)
		}
		name := unix.RawSockaddrInet4{Family: unix.AF_INET, Addr: g.peer.Addr().As4()}
		binary.BigEndian.PutUint16((*[2]byte)(unsafe.Pointer(&name.Port))[:], g.peer.Port())
		w.names[i] = name
		if g.count > 1 {
			c := &w.controls[i]
			h := (*unix.Cmsghdr)(unsafe.Pointer(c))
			h.Level, h.Type = unix.SOL_UDP, unix.UDP_SEGMENT
			h.SetLen(unix.CmsgLen(2))
			*(*uint16)(unsafe.Pointer(&c[unix.CmsgLen(0)])) = uint16(g.size)
			m.hdr.Control = &c[0]
			m.hdr.SetControllen(unix.CmsgSpace(2))
		}
	}
}

// appendIovec appends b to the parts from start on. Packets that a superpacket
// was cut into lie one behind the other, and become one part.
func appendIovec(iovs []unix.Iovec, start int, b []byte) []unix.Iovec {
	if len(b) == 0 {
		return iovs
	}
	if n := len(iovs); n > start {
		last := &iovs[n-1]
		if uintptr(unsafe.Pointer(last.Base))+uintptr(last.Len) == uintptr(unsafe.Pointer(&b[0])) {
			last.SetLen(int(last.Len) + len(b))
			return iovs
		}
	}
	v := unix.Iovec{Base: &b[0]}
	v.SetLen(len(b))
	return append(iovs, v)
}

// resend deals with group number i, which the kernel refused: where only the
// form was wrong its packets are sent one by one, so that none is lost. The
// error is final.
func (s *Socket) resend(fd int, pkts []dataplane.Packet, i int, errno syscall.Errno) error {
	w := &s.writer
	g := &w.groups[i]
	if g.count == 1 {
		s.lost(&pkts[g.first], errno)
		return nil
	}
	again := s.features.refused(errno, g.count)
	if again {
		s.count.Fallbacks.Add(1)
	}
	for p := g.first; p >= 0; p = w.next[p] {
		if !again {
			s.lost(&pkts[p], errno)
			continue
		}
		if err := s.sendOne(fd, &pkts[p]); err != nil {
			return err
		}
	}
	return nil
}

func (s *Socket) sendOne(fd int, p *dataplane.Packet) error {
	to := &unix.SockaddrInet4{Addr: p.Peer.Addr().As4(), Port: int(p.Peer.Port())}
	for {
		err := unix.Sendto(fd, p.Bytes, unix.MSG_DONTWAIT, to)
		switch err {
		case nil:
			s.count.Sends.Add(1)
			return nil
		case unix.EINTR:
		case unix.EAGAIN:
			if err := s.file.WaitWrite(); err != nil {
				return err
			}
		default:
			s.lost(p, err.(syscall.Errno))
			return nil
		}
	}
}

func (s *Socket) lost(p *dataplane.Packet, errno syscall.Errno) {
	p.Err = errno
	if errno == unix.EMSGSIZE {
		p.MTU = s.writer.mtu.ask(p.Peer)
	}
}
