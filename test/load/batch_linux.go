package load

import (
	"fmt"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// batchLen is how many datagrams one call sends or receives.
const batchLen = 64

// mmsghdr is struct mmsghdr of sendmmsg(2).
type mmsghdr struct {
	hdr unix.Msghdr
	len uint32
}

// A batch is what sendmmsg and recvmmsg work on: a slot of the same size for
// each datagram, one after the other in buf.
type batch struct {
	size int
	buf  []byte
	iovs []unix.Iovec
	msgs []mmsghdr
	peer []unix.RawSockaddrInet4
}

func newBatch(slots, size int) *batch {
	b := &batch{
		size: size,
		buf:  make([]byte, slots*size),
		iovs: make([]unix.Iovec, slots),
		msgs: make([]mmsghdr, slots),
		peer: make([]unix.RawSockaddrInet4, slots),
	}
	for i := range b.msgs {
		b.iovs[i].Base = &b.buf[i*size]
		b.iovs[i].SetLen(size)
		b.msgs[i].hdr.Iov = &b.iovs[i]
		b.msgs[i].hdr.SetIovlen(1)
	}
	return b
}

func (b *batch) slot(i int) []byte { return b.buf[i*b.size:][:b.size] }

// address sends every datagram to peer, on an unconnected socket.
func (b *batch) address(peer *unix.SockaddrInet4) {
	for i := range b.msgs {
		a := &b.peer[i]
		a.Family, a.Addr = unix.AF_INET, peer.Addr
		port := (*[2]byte)(unsafe.Pointer(&a.Port)) // in network byte order
		port[0], port[1] = byte(peer.Port>>8), byte(peer.Port)
		b.name(i)
	}
}

func (b *batch) name(i int) {
	b.msgs[i].hdr.Name = (*byte)(unsafe.Pointer(&b.peer[i]))
	b.msgs[i].hdr.Namelen = unix.SizeofSockaddrInet4
}

// send sends the first n messages without waiting and without the scheduler
// noticing, and returns how many the kernel took.
func (b *batch) send(fd, n int) (int, unix.Errno) {
	sent, _, errno := unix.RawSyscall6(unix.SYS_SENDMMSG, uintptr(fd), uintptr(unsafe.Pointer(&b.msgs[0])), uintptr(n),
		unix.MSG_DONTWAIT, 0, 0)
	runtime.KeepAlive(b)
	if errno != 0 {
		return 0, errno
	}
	return int(sent), 0
}

// recv waits for a datagram, as long as the socket's SO_RCVTIMEO, and takes
// what else is there.
func (b *batch) recv(fd int) (int, unix.Errno) {
	n, _, errno := unix.Syscall6(unix.SYS_RECVMMSG, uintptr(fd), uintptr(unsafe.Pointer(&b.msgs[0])), uintptr(len(b.msgs)),
		unix.MSG_WAITFORONE, 0, 0)
	runtime.KeepAlive(b)
	if errno != 0 {
		return 0, errno
	}
	return int(n), 0
}

// received is the payload in a slot after recv. whole says that it fitted.
func (b *batch) received(i int) (payload []byte, whole bool) {
	return b.slot(i)[:b.msgs[i].len], b.msgs[i].hdr.Flags&unix.MSG_TRUNC == 0
}

// recvBuffer keeps what arrives while a receiver is not scheduled, in bytes as
// the kernel accounts for them, so that it is not the receiver that loses.
const recvBuffer = 16 << 20

// prepareReceiver makes a UDP socket wait for one tick only.
func prepareReceiver(fd int) error {
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, recvBuffer); err != nil {
		return fmt.Errorf("receive buffer of %d bytes: %w", recvBuffer, err)
	}
	t := unix.NsecToTimeval(tick.Nanoseconds())
	return os.NewSyscallError("setsockopt SO_RCVTIMEO", unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &t))
}
