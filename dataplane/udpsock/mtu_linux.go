package udpsock

import (
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

const outerHeaders = 20 + 8 // bytes of IPv4 and UDP

// discoverMTU turns the system's default, which is to fragment what does not
// fit a path that is known to be narrow, into an error (ip(7)). A tunnel whose
// outer packets are fragmented is slow, and its users never learn why.
func discoverMTU(fd int) error {
	mode, err := unix.GetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_MTU_DISCOVER)
	if err == nil && mode == unix.IP_PMTUDISC_WANT {
		err = unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DO)
	}
	return os.NewSyscallError("setsockopt IP_MTU_DISCOVER", err)
}

// pathMTU asks the kernel for path MTUs. It remembers the last one, because a
// sender that has yet to learn it sends many packets that do not fit.
type pathMTU struct {
	fd int // a socket of its own, since only a connected one can tell

	peer netip.AddrPort
	mtu  int
	at   time.Time
}

// open makes the socket, in the network namespace of the calling thread.
func (m *pathMTU) open(from netip.Addr) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: from.As4()}); err != nil {
		unix.Close(fd)
		return explain(os.NewSyscallError("bind", err))
	}
	m.fd = fd
	return nil
}

func (m *pathMTU) close() error { return os.NewSyscallError("close", unix.Close(m.fd)) }

// ask returns how many bytes a packet to peer may have, 0 if that is unknown.
func (m *pathMTU) ask(peer netip.AddrPort) int {
	if now := time.Now(); peer != m.peer || now.Sub(m.at) > 100*time.Millisecond {
		// IP_MTU (ip(7)) is that of the route which connect looks up.
		if unix.Connect(m.fd, &unix.SockaddrInet4{Addr: peer.Addr().As4(), Port: int(peer.Port())}) != nil {
			return 0
		}
		mtu, err := unix.GetsockoptInt(m.fd, unix.IPPROTO_IP, unix.IP_MTU)
		if err != nil {
			return 0
		}
		m.peer, m.mtu, m.at = peer, max(0, mtu-outerHeaders), now
	}
	return m.mtu
}
