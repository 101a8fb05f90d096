// Package udpsock is the dataplane.Device on a UDP socket: each datagram holds
// one packet. Where the kernel can, datagrams of one size to one peer go to it
// in one piece (UDP_SEGMENT), and come from it in one piece (UDP_GRO), see
// udp(7) and net/ipv4/udp_offload.c.
package udpsock

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"tweed/dataplane"
	"tweed/dataplane/rawfd"
)

const (
	// maxDatagram is the largest UDP payload in bytes, and so the most that
	// one UDP_SEGMENT send or one UDP_GRO receive holds.
	maxDatagram = 65507

	// recvBuffer absorbs what arrives while the forwarder is not scheduled,
	// in bytes as the kernel accounts for them. With 1 to 2 MB thousands of
	// packets are lost at every change of the load.
	recvBuffer = 64 << 20

	// sendBuffer is many times what the kernel queues for a neighbour that
	// does not answer ARP (neigh/default/unres_qlen_bytes, 208 KiB, for three
	// seconds). In a buffer of the usual 208 KiB two dead peers would stop the
	// traffic to all others.
	sendBuffer = 8 << 20
)

// Socket is an unconnected UDP socket over IPv4.
//
// It sets DF on all datagrams, and learns path MTUs, unless the system has
// that switched off (net.ipv4.ip_no_pmtu_disc): a packet that does not fit has
// the Err EMSGSIZE.
type Socket struct {
	file     *rawfd.File
	addr     netip.AddrPort
	features features
	count    dataplane.IOCounters

	reader reader

	sending sync.Mutex // guards writer
	writer  writer
}

var _ dataplane.Device = (*Socket)(nil)

// Options say how a Socket differs from the plainest one, which moves one
// packet with each system call.
type Options struct {
	// Offload makes use of all segmentation offloads that the kernel has.
	Offload bool
}

// Listen opens a socket on addr, in the network namespace of the calling
// thread.
func Listen(addr netip.AddrPort, o Options) (*Socket, error) {
	s, err := listen(addr, o)
	if err != nil {
		return nil, fmt.Errorf("listen on udp %s: %w", addr, err)
	}
	return s, nil
}

func listen(addr netip.AddrPort, o Options) (_ *Socket, err error) {
	if !addr.Addr().Is4() {
		return nil, errors.New("want an IPv4 address")
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	defer func() {
		if err != nil {
			unix.Close(fd)
		}
	}()
	if err := errors.Join(
		setBuffer(fd, unix.SO_RCVBUFFORCE, unix.SO_RCVBUF, recvBuffer),
		setBuffer(fd, unix.SO_SNDBUFFORCE, unix.SO_SNDBUF, sendBuffer),
		setRecvTimeout(fd, rawfd.NapTime),
		discoverMTU(fd)); err != nil {
		return nil, err
	}
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: addr.Addr().As4(), Port: int(addr.Port())}); err != nil {
		return nil, explain(os.NewSyscallError("bind", err))
	}
	bound, err := unix.Getsockname(fd)
	if err != nil {
		return nil, os.NewSyscallError("getsockname", err)
	}
	s := &Socket{addr: netip.AddrPortFrom(addr.Addr(), uint16(bound.(*unix.SockaddrInet4).Port))}
	s.features.probe(fd, o.Offload)
	s.reader.init(s.features.gro)
	if err := s.writer.mtu.open(addr.Addr()); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			s.writer.mtu.close()
		}
	}()
	if s.file, err = rawfd.New(fd); err != nil {
		return nil, err
	}
	return s, nil
}

// explain adds to an error of bind(2) what an operator can do.
func explain(err error) error {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("%w (another program has the port, perhaps a second flanneld)", err)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return fmt.Errorf("%w (want an address of this host)", err)
	}
	return err
}

// setBuffer sets a buffer size past the system's limit (net.core.rmem_max,
// wmem_max), or up to it where CAP_NET_ADMIN is missing (socket(7)).
func setBuffer(fd, force, plain, size int) error {
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, force, size) == nil {
		return nil
	}
	return os.NewSyscallError("setsockopt", unix.SetsockoptInt(fd, unix.SOL_SOCKET, plain, size))
}

// setRecvTimeout bounds the wait of receiving. All sending is non-blocking.
func setRecvTimeout(fd int, d time.Duration) error {
	tv := unix.NsecToTimeval(int64(d))
	return os.NewSyscallError("setsockopt SO_RCVTIMEO", unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv))
}

// Addr is the address that the socket is bound to.
func (s *Socket) Addr() netip.AddrPort { return s.addr }

// Stats returns the counters. It may be called at any time.
func (s *Socket) Stats() dataplane.IOStats {
	stats := s.count.Snapshot()
	if fd, err := s.file.Enter(); err == nil {
		stats.Overflows = overflows(fd)
		s.file.Leave()
	}
	return stats
}

// overflows is the number of datagrams that found the receive buffer full, or were
// turned away by a filter (sock_diag(7), SK_MEMINFO_DROPS). The kernel counts in 32 bits.
func overflows(fd int) uint64 {
	var info [9]uint32 // SK_MEMINFO_VARS
	n := uint32(len(info) * 4)
	if err := getsockopt(fd, unix.SOL_SOCKET, unix.SO_MEMINFO, info[:], &n); err != nil {
		return 0
	}
	return uint64(info[8])
}

// SetReadDeadline implements dataplane.Device.
func (s *Socket) SetReadDeadline(t time.Time) error {
	if err := s.file.SetReadDeadline(t); err != nil {
		return s.fail("set deadline of", err)
	}
	return nil
}

// Close implements dataplane.Device.
func (s *Socket) Close() error {
	if err := s.file.Close(); err != nil {
		return s.fail("close", err)
	}
	// Nobody sends any more.
	if err := s.writer.mtu.close(); err != nil {
		return s.fail("close", err)
	}
	return nil
}

// fail names the socket in an error that is final.
func (s *Socket) fail(op string, err error) error {
	return fmt.Errorf("%s udp %s: %w", op, s.addr, err)
}
