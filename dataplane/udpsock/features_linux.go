package udpsock

import (
	"sync/atomic"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The most segments that one UDP_SEGMENT send may have (linux/udp.h,
// UDP_MAX_SEGMENTS): 128 in newer kernels, 64 in older ones.
const (
	maxSegments    = 128
	maxSegmentsOld = 64
)

// features are the offloads of a socket.
type features struct {
	gro      bool         // UDP_GRO: Linux 5.0
	segments atomic.Int32 // per UDP_SEGMENT send, 1 without it: Linux 4.18
}

// A Feature is an offload, and whether it is in use.
type Feature struct {
	Name string
	On   bool
}

// Features tells which offloads are in use at the moment.
func (s *Socket) Features() []Feature {
	return []Feature{{"udp_segment", s.features.segments.Load() > 1}, {"udp_gro", s.features.gro}}
}

func (f *features) probe(fd int, want bool) {
	f.segments.Store(1)
	if !want {
		return
	}
	if unix.SetsockoptInt(fd, unix.SOL_UDP, unix.UDP_SEGMENT, 0) == nil {
		f.segments.Store(maxSegments)
	}
	f.gro = unix.SetsockoptInt(fd, unix.SOL_UDP, unix.UDP_GRO, 1) == nil
}

// refused learns from the error of a send with n segments of size bytes. It
// reports whether they should be sent again, in smaller pieces.
func (f *features) refused(errno syscall.Errno, n int) bool {
	switch errno {
	case unix.EINVAL:
		// An older kernel, or segments that do not fit the path.
		if n > maxSegmentsOld {
			f.segments.Store(maxSegmentsOld)
		}
		return true
	case unix.EMSGSIZE: // the segments do not fit the path
		return true
	case unix.EIO, unix.EOPNOTSUPP, unix.ENOPROTOOPT:
		// The device or an IPsec policy on the way does not allow it
		// (net/ipv4/udp.c, udp_send_skb).
		f.segments.Store(1)
		return true
	}
	return false
}

func getsockopt(fd, level, name int, value []uint32, size *uint32) error {
	_, _, errno := syscall.RawSyscall6(unix.SYS_GETSOCKOPT, uintptr(fd), uintptr(level), uintptr(name),
		uintptr(unsafe.Pointer(&value[0])), uintptr(unsafe.Pointer(size)), 0)
	if errno != 0 {
		return errno
	}
	return nil
}
