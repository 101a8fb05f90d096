// Package udpsock is the dataplane.Device on a UDP socket: each datagram holds
// one packet.
package udpsock

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"tweed/dataplane"
)

const (
	// maxDatagram is the largest UDP payload in bytes, so that none is cut
	// short.
	maxDatagram = 65507

	// recvBuffer absorbs what arrives while the forwarder is not scheduled,
	// in bytes as the kernel accounts for them.
	recvBuffer = 8 << 20

	// sendBuffer is many times what the kernel queues for a neighbour that
	// does not answer ARP (neigh/default/unres_qlen_bytes, 208 KiB, for three
	// seconds). In a buffer of the usual 208 KiB two dead peers would stop the
	// traffic to all others.
	sendBuffer = 8 << 20
)

// Socket is an unconnected UDP socket over IPv4. Path MTU discovery stays as
// the system has it (net.ipv4.ip_no_pmtu_disc), as with flannel v0.10: with an
// MTU of the pods that leaves room for the outer headers, nothing is
// fragmented.
//
// An error about one datagram, such as one that a firewall rejects, is
// Transient.
type Socket struct {
	conn *net.UDPConn
	buf  [maxDatagram]byte
}

var _ dataplane.Device = (*Socket)(nil)

// Listen opens a socket on addr, in the network namespace of the calling
// thread.
func Listen(addr netip.AddrPort) (*Socket, error) {
	conn, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(addr))
	if err != nil {
		// The inner error without "listen udp4 addr", which is said here.
		if op, ok := errors.AsType[*net.OpError](err); ok {
			err = op.Err
		}
		return nil, fmt.Errorf("listen on udp %s: %w", addr, explain(err))
	}
	if err := setOptions(conn); err != nil {
		conn.Close()
		return nil, fmt.Errorf("udp %s: %w", addr, err)
	}
	return &Socket{conn: conn}, nil
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

func setOptions(conn *net.UDPConn) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var optErr error
	err = raw.Control(func(fd uintptr) {
		optErr = errors.Join(
			setBuffer(int(fd), unix.SO_RCVBUFFORCE, unix.SO_RCVBUF, recvBuffer),
			setBuffer(int(fd), unix.SO_SNDBUFFORCE, unix.SO_SNDBUF, sendBuffer),
			// Go allows broadcasts. A peer at a broadcast address is a mistake.
			os.NewSyscallError("setsockopt", unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_BROADCAST, 0)))
	})
	return errors.Join(err, optErr)
}

// setBuffer sets a buffer size past the system's limit (net.core.rmem_max,
// wmem_max), or up to it where CAP_NET_ADMIN is missing (socket(7)).
func setBuffer(fd, force, plain, size int) error {
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, force, size) == nil {
		return nil
	}
	return os.NewSyscallError("setsockopt", unix.SetsockoptInt(fd, unix.SOL_SOCKET, plain, size))
}

// Addr is the address that the socket is bound to.
func (s *Socket) Addr() netip.AddrPort { return s.conn.LocalAddr().(*net.UDPAddr).AddrPort() }

// Recv reads one datagram.
func (s *Socket) Recv(pkts []dataplane.Packet) (int, error) {
	n, peer, err := s.conn.ReadFromUDPAddrPort(s.buf[:])
	if err != nil {
		return 0, s.fail("receive on", err)
	}
	pkts[0] = dataplane.Packet{Bytes: s.buf[:n], Peer: peer}
	return 1, nil
}

// Send sends each packet to its Peer, which must be an IPv4 one.
func (s *Socket) Send(pkts []dataplane.Packet) (int, error) {
	for i := range pkts {
		if !pkts[i].Peer.Addr().Is4() {
			return i, dataplane.Transient(unix.EDESTADDRREQ)
		}
		if _, err := s.conn.WriteToUDPAddrPort(pkts[i].Bytes, pkts[i].Peer); err != nil {
			return i, s.fail("send from", err)
		}
	}
	return len(pkts), nil
}

// fail turns an error of the socket into one of the dataplane.Device contract.
// Whatever errno a datagram meets on its way, the socket outlives it.
func (s *Socket) fail(op string, err error) error {
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		return dataplane.Transient(errno)
	}
	if errors.Is(err, net.ErrClosed) {
		err = os.ErrClosed
	}
	return fmt.Errorf("%s udp %s: %w", op, s.Addr(), err)
}

// SetReadDeadline implements dataplane.Device.
func (s *Socket) SetReadDeadline(t time.Time) error { return s.conn.SetReadDeadline(t) }

// Close implements dataplane.Device.
func (s *Socket) Close() error { return s.conn.Close() }
