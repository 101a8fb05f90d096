package tun

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"tweed/dataplane"
)

// writer is the working memory of Send.
type writer struct {
	merge merger
	iovs  [1 + maxMerge]unix.Iovec
}

// plainHdr is the vnetHdr of a packet that is just what it is.
var plainHdr [vnetHdrLen]byte

// Send hands the packets to the kernel as if they had come in over the
// interface, merged where that gives the same packets in the end.
func (d *Device) Send(pkts []dataplane.Packet) error {
	fd, err := d.file.Enter()
	if err != nil {
		return d.fail("write", err)
	}
	defer d.file.Leave()
	d.sending.Lock()
	defer d.sending.Unlock()
	for len(pkts) > 0 {
		n := min(len(pkts), maxMerge)
		if err := d.send(fd, pkts[:n]); err != nil {
			return d.fail("write", err)
		}
		pkts = pkts[n:]
	}
	return nil
}

func (d *Device) send(fd int, pkts []dataplane.Packet) error {
	m := &d.writer.merge
	m.start()
	tcp, udp := d.features.mergeTCP.Load(), d.features.mergeUDP.Load()
	for i := range pkts {
		m.add(pkts, i, tcp, udp)
	}
	for i := range m.supers {
		if err := d.writeSuper(fd, pkts, &m.supers[i]); err != nil {
			return err
		}
	}
	return nil
}

// writeSuper writes what s stands for, in one piece if the kernel takes it.
// The error is final.
func (d *Device) writeSuper(fd int, pkts []dataplane.Packet, s *super) error {
	m := &d.writer.merge
	if s.count > 1 {
		iovs := append(d.writer.iovs[:0], iovec(m.header(pkts, s)))
		for i := s.first; i >= 0; i = m.next[i] {
			iovs = append(iovs, iovec(pkts[i].Bytes[s.headers:]))
		}
		errno, err := d.write(fd, iovs)
		if err != nil {
			return err
		}
		if errno == 0 {
			d.count.SendSupers.Add(1)
			d.count.SendSegments.Add(uint64(s.count))
		}
		if errno == 0 || !d.features.refused(s.proto, errno) {
			for i := s.first; i >= 0; i = m.next[i] {
				pkts[i].Err = errno
			}
			return nil
		}
		d.count.Fallbacks.Add(1)
	}
	for i := s.first; i >= 0; i = m.next[i] {
		iovs := d.writer.iovs[:0]
		if d.vnet {
			iovs = append(iovs, iovec(plainHdr[:]))
		}
		if len(pkts[i].Bytes) == 0 {
			pkts[i].Err = unix.EINVAL
			continue
		}
		var err error
		if pkts[i].Err, err = d.write(fd, append(iovs, iovec(pkts[i].Bytes))); err != nil {
			return err
		}
	}
	return nil
}

// write makes one packet of the parts. The errno concerns this packet only,
// the error is final.
func (d *Device) write(fd int, parts []unix.Iovec) (syscall.Errno, error) {
	for {
		_, _, errno := syscall.RawSyscall(unix.SYS_WRITEV, uintptr(fd), uintptr(unsafe.Pointer(&parts[0])), uintptr(len(parts)))
		switch errno {
		case 0:
			d.count.Sends.Add(1)
			return 0, nil
		case unix.EINTR:
		case unix.EAGAIN:
			if err := d.file.WaitWrite(); err != nil {
				return 0, err
			}
		case unix.EBADFD:
			return 0, errno
		default:
			return errno, nil
		}
	}
}

// iovec describes b, which must not be empty.
func iovec(b []byte) unix.Iovec {
	v := unix.Iovec{Base: &b[0]}
	v.SetLen(len(b))
	return v
}
