package tun

import (
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"tweed/dataplane"
	"tweed/dataplane/rawfd"
)

const (
	// maxPacket is the largest packet or superpacket in bytes.
	maxPacket = 65535

	// roomSize is how many bytes of packets one Recv gives at most: a batch of
	// full packets on an Ethernet, and one packet of any size.
	roomSize = 256 << 10

	// crowd is from how many small packets in one batch on Recv lets more
	// gather for restTime, as network cards do with their interrupts
	// (ethtool(8), adaptive-rx): small packets that come fast are cheaper to
	// carry in large batches, and so need not wait for each other elsewhere.
	// Superpackets are batches by themselves.
	crowd    = 4
	restTime = 60 * time.Microsecond
)

// reader is the working memory of Recv.
type reader struct {
	split splitter
	raw   [vnetHdrLen + maxPacket]byte // as read; split cuts it
	room  [roomSize]byte               // the packets of the last Recv

	drained bool // by the last read, so that waiting comes first
	small   int  // packets of the last batch that were read one by one
}

// Recv reads what the kernel routed into the interface, until nothing more is
// there or pkts are full.
func (d *Device) Recv(pkts []dataplane.Packet) (int, error) {
	fd, err := d.file.Enter()
	if err != nil {
		return 0, d.fail("read", err)
	}
	defer d.file.Leave()
	if err := d.file.Check(); err != nil {
		return 0, d.fail("read", err)
	}
	for {
		switch r := &d.reader; {
		case r.drained && r.small >= crowd:
			rawfd.Rest(restTime)
		case r.drained:
			if err := d.file.WaitRead(); err != nil {
				return 0, d.fail("read", err)
			}
		}
		n, errno := d.fill(fd, pkts)
		d.reader.drained = errno == unix.EAGAIN
		switch {
		case n > 0:
			return n, nil
		case errno == unix.EAGAIN:
		case errno == unix.EINTR:
		case errno == unix.EBADFD, errno == unix.EFAULT: // deleted before the call, and during it
			return 0, d.fail("read", unix.EBADFD)
		default:
			return 0, dataplane.Transient(errno)
		}
	}
}

// fill puts packets into pkts and returns how many. If there are none it says
// why: EAGAIN if there was nothing to read.
func (d *Device) fill(fd int, pkts []dataplane.Packet) (n int, errno syscall.Errno) {
	r := &d.reader
	room := r.room[:]
	r.small = 0
	segments := 0
	for n < len(pkts) {
		size := r.split.left()
		if size == 0 {
			if len(room) < maxPacket || n > 0 && !d.vnet {
				break
			}
			var b []byte
			if b, errno = d.read(fd); errno != 0 {
				break
			}
			if b == nil {
				continue // cut it, or malformed
			}
			copy(room, b)
			r.small++
			size = len(b)
		} else if size > len(room) {
			break
		} else {
			r.split.next(room)
			segments++
		}
		pkts[n] = dataplane.Packet{Bytes: room[:size:size]}
		room = room[size:]
		n++
	}
	d.count.RecvSegments.Add(uint64(segments))
	return n, errno
}

// read reads one packet, nil if it is a superpacket, which goes to the
// splitter, or makes no sense.
func (d *Device) read(fd int) ([]byte, syscall.Errno) {
	r := &d.reader
	n, _, errno := syscall.RawSyscall(unix.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(&r.raw)), uintptr(len(r.raw)))
	if errno != 0 {
		return nil, errno
	}
	d.count.Recvs.Add(1)
	b := r.raw[:n]
	if !d.vnet {
		return b, 0
	}
	if n < vnetHdrLen {
		d.count.RecvMalformed.Add(1)
		return nil, 0
	}
	var h vnetHdr
	h.decode(b)
	b = b[vnetHdrLen:]
	var err error
	switch {
	case len(b) == 0 || b[0]>>4 != 4:
		return b, 0 // IPv6, which nobody forwards
	case h.gsoType != gsoNone:
		d.count.RecvSupers.Add(1)
		err, b = r.split.begin(h, b), nil
	case h.flags&needsCsum != 0:
		err = complete(h, b)
	}
	if err != nil {
		d.count.RecvMalformed.Add(1)
		return nil, 0
	}
	return b, 0
}
