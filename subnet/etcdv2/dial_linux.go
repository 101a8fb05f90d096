package etcdv2

import (
	"context"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// userTimeout is how long sent data may stay unacknowledged: a request into a
// network that drops everything must not wait out TCP's retransmissions.
const userTimeout = 10 * time.Second

// setUserTimeout is a net.Dialer.ControlContext: tcp(7), TCP_USER_TIMEOUT.
func setUserTimeout(_ context.Context, _, _ string, c syscall.RawConn) error {
	var err error
	if cerr := c.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(userTimeout.Milliseconds()))
	}); cerr != nil {
		return cerr
	}
	return err
}
