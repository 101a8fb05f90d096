package etcdv2

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A network that drops everything, without a word, must be noticed in time for
// another endpoint to be in use within 10 s. A watch only listens, so the kernel
// has to ask whether the other side is still there: after 4 s without a word,
// and again 1 s later; after 6 s the connection is broken. On a connection that
// is open that is 15 probes a minute: 65 536 nodes send 16 400 a second, or
// 9 Mbit/s, to all members together, which no process sees.
//
// userTimeout is how long sent data, too, may stay unacknowledged. Linux takes
// it in the place of the number of probes (tcp(7), TCP_USER_TIMEOUT), so it lies
// between the second probe and the moment for a third.
const (
	keepAliveIdle     = 4 * time.Second
	keepAliveInterval = time.Second
	userTimeout       = 5500 * time.Millisecond
)

func newDialer() *net.Dialer {
	return &net.Dialer{
		Timeout:         dialTimeout,
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: keepAliveIdle, Interval: keepAliveInterval, Count: 2},
		ControlContext:  setUserTimeout,
	}
}

// setUserTimeout is a net.Dialer.ControlContext.
func setUserTimeout(_ context.Context, _, _ string, c syscall.RawConn) error {
	var err error
	if cerr := c.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(userTimeout.Milliseconds()))
	}); cerr != nil {
		return cerr
	}
	return err
}

type dialFunc = func(ctx context.Context, network, address string) (net.Conn, error)

// dialled remembers which addresses there were connections to. It is safe for
// concurrent use.
type dialled struct {
	by dialFunc

	mu sync.Mutex
	at map[string]netip.Addr // by host:port, the last
}

func (d *dialled) dial(ctx context.Context, network, address string) (net.Conn, error) {
	c, err := d.by(ctx, network, address)
	if err != nil {
		return nil, err
	}
	if tcp, ok := c.RemoteAddr().(*net.TCPAddr); ok {
		d.mu.Lock()
		d.at[address] = tcp.AddrPort().Addr().Unmap()
		d.mu.Unlock()
	}
	return c, nil
}

// Addresses returns where etcd is: the addresses in the URLs of the endpoints,
// and those that their names, or a proxy's, had at the last connection. They are
// in order, each there once.
func (s *Store) Addresses() []netip.Addr {
	var all []netip.Addr
	for _, ep := range s.endpoints {
		if a, err := netip.ParseAddr(ep.host); err == nil {
			all = append(all, a.Unmap().WithZone(""))
		}
	}
	d := &s.transports.peers
	d.mu.Lock()
	for _, a := range d.at {
		all = append(all, a.WithZone(""))
	}
	d.mu.Unlock()
	slices.SortFunc(all, netip.Addr.Compare)
	return slices.Compact(all)
}
