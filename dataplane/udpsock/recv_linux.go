package udpsock

import (
	"encoding/binary"
	"net/netip"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"tweed/dataplane"
	"tweed/dataplane/rawfd"
)

const (
	// maxMessages is how many datagrams, or pieces of UDP_GRO, one call of
	// recvmmsg(2) brings at most.
	maxMessages = 64

	// wanted is how many packets a call should bring: what a forwarder takes
	// at a time. More would only leave the cache before they are used.
	wanted = 128
)

// mmsghdr is struct mmsghdr of recvmmsg(2).
type mmsghdr struct {
	hdr unix.Msghdr
	len uint32
}

// control holds one control message with an int.
type control [64]byte

// reader is the working memory of Recv.
type reader struct {
	msgs     []mmsghdr
	iovs     []unix.Iovec
	names    []unix.RawSockaddrInet4
	controls []control
	bufs     [][maxDatagram]byte

	ask  int  // messages to ask for
	full bool // the last call brought as many as were asked for
	have int  // messages of the last call
	at   int  // the one being cut
	rest []byte
	size int // of its segments
	peer netip.AddrPort
}

func (r *reader) init(gro bool) {
	n := 1
	if gro {
		n = maxMessages
	}
	r.msgs = make([]mmsghdr, n)
	r.iovs = make([]unix.Iovec, n)
	r.names = make([]unix.RawSockaddrInet4, n)
	r.controls = make([]control, n)
	r.bufs = make([][maxDatagram]byte, n)
	for i := range n {
		r.iovs[i].Base = &r.bufs[i][0]
		r.iovs[i].SetLen(maxDatagram)
		h := &r.msgs[i].hdr
		h.Iov = &r.iovs[i]
		h.SetIovlen(1)
		h.Name = (*byte)(unsafe.Pointer(&r.names[i]))
		h.Control = &r.controls[i][0]
	}
	r.ask = n
}

// Recv takes datagrams from the socket, and cuts what the kernel had joined.
func (s *Socket) Recv(pkts []dataplane.Packet) (int, error) {
	fd, err := s.file.Enter()
	if err != nil {
		return 0, s.fail("receive on", err)
	}
	defer s.file.Leave()
	if err := s.file.Check(); err != nil {
		return 0, s.fail("receive on", err)
	}
	r := &s.reader
	for {
		if n := r.cut(pkts); n > 0 {
			return n, nil
		}
		switch errno := s.receive(fd); errno {
		case 0:
		case unix.EAGAIN, unix.EINTR:
			if err := s.file.SleepRead(); err != nil {
				return 0, s.fail("receive on", err)
			}
		default:
			return 0, dataplane.Transient(errno)
		}
	}
}

// receive asks the kernel once. It waits up to rawfd.NapTime for the first
// message, and not at all for more: waiting and receiving in one call.
func (s *Socket) receive(fd int) syscall.Errno {
	r := &s.reader
	r.have, r.at = 0, 0
	for i := range r.msgs[:r.ask] {
		h := &r.msgs[i].hdr
		h.Namelen = unix.SizeofSockaddrInet4
		h.SetControllen(len(control{}))
	}
	n, _, errno := syscall.RawSyscall6(unix.SYS_RECVMMSG, uintptr(fd),
		uintptr(unsafe.Pointer(&r.msgs[0])), uintptr(r.ask), unix.MSG_WAITFORONE, 0, 0)
	if errno != 0 {
		return errno
	}
	r.have = int(n)
	r.load()
	s.count.Recvs.Add(1)

	supers, segments := 0, 0
	packets := 0
	for i := range r.msgs[:n] {
		m := &r.msgs[i]
		k := 1
		if size := segmentSize(m); size > 0 && int(m.len) > size {
			k = (int(m.len) + size - 1) / size
			supers++
			segments += k
		}
		packets += k
	}
	if supers > 0 {
		s.count.RecvSupers.Add(uint64(supers))
		s.count.RecvSegments.Add(uint64(segments))
	}
	r.full = int(n) == r.ask
	// As many next time as make the wanted number of packets.
	r.ask = min(max(1, wanted*int(n)/max(1, packets)), len(r.msgs))
	return 0
}

// Waiting reports whether there are packets behind those of the last Recv. It
// may be called by whoever calls Recv.
func (s *Socket) Waiting() bool {
	if r := &s.reader; r.at < r.have || !r.full {
		return r.at < r.have
	}
	fd, err := s.file.Enter()
	if err != nil {
		return false
	}
	defer s.file.Leave()
	return rawfd.Readable(fd)
}

// load makes message number at the one to cut.
func (r *reader) load() {
	if r.at >= r.have {
		return
	}
	m := &r.msgs[r.at]
	name := &r.names[r.at]
	r.rest = r.bufs[r.at][:m.len]
	r.size = segmentSize(m)
	if r.size == 0 {
		r.size = len(r.rest)
	}
	port := *(*[2]byte)(unsafe.Pointer(&name.Port)) // in network byte order
	r.peer = netip.AddrPortFrom(netip.AddrFrom4(name.Addr), binary.BigEndian.Uint16(port[:]))
}

// cut puts what has been received and not yet been cut into pkts.
func (r *reader) cut(pkts []dataplane.Packet) (n int) {
	for n < len(pkts) && r.at < r.have {
		size := min(r.size, len(r.rest))
		pkts[n] = dataplane.Packet{Bytes: r.rest[:size:size], Peer: r.peer}
		r.rest = r.rest[size:]
		n++
		if len(r.rest) == 0 {
			r.at++
			r.load()
		}
	}
	return n
}

// segmentSize is the size of all datagrams but the last that a message was
// joined of, 0 if it is one datagram.
func segmentSize(m *mmsghdr) int {
	if m.hdr.Controllen < unix.SizeofCmsghdr+4 {
		return 0
	}
	// There is only the one control message that was asked for.
	h := (*unix.Cmsghdr)(unsafe.Pointer(m.hdr.Control))
	if h.Level != unix.SOL_UDP || h.Type != unix.UDP_GRO {
		return 0
	}
	data := unsafe.Add(unsafe.Pointer(m.hdr.Control), unix.CmsgLen(0))
	return int(*(*int32)(data))
}
