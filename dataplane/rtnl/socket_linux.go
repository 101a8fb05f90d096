package rtnl

import (
	"errors"
	"fmt"
	"iter"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// batchBytes and batchMessages bound what is sent at once: as much as fits
	// the default send buffer (net.core.wmem_default, 208 KiB), and no more than
	// the receive buffer has room for refusals of.
	batchBytes    = 32 << 10
	batchMessages = 400
	receiveBuffer = 1 << 20
	// dumpBytes makes the kernel answer dumps in the largest pieces that it
	// knows (netlink_dump in net/netlink/af_netlink.c).
	dumpBytes = 32 << 10
)

var errDumpInterrupted = errors.New("the table kept changing while it was read")

// A socket sends requests in batches, and reads dumps without making an object
// of each entry. It is safe for concurrent use.
type socket struct {
	mu  sync.Mutex
	fd  int
	seq uint32
	buf []byte
}

func openSocket() (*socket, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open netlink socket: %w", err)
	}
	tv := unix.NsecToTimeval(requestTimeout.Nanoseconds())
	err = errors.Join(
		unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &tv),
	)
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("set up netlink socket: %w", err)
	}
	// These are for speed and for better messages; older kernels lack some.
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, receiveBuffer) != nil {
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, receiveBuffer)
	}
	for _, option := range []int{unix.NETLINK_EXT_ACK, unix.NETLINK_CAP_ACK, unix.NETLINK_GET_STRICT_CHK} {
		unix.SetsockoptInt(fd, unix.SOL_NETLINK, option, 1)
	}
	return &socket{fd: fd, buf: make([]byte, dumpBytes)}, nil
}

func (s *socket) close() { unix.Close(s.fd) }

// send carries the requests out in their order, whatever becomes of each, and
// calls failed with the index and the error of each that failed. It fails itself
// only if it is not known what became of them.
func (s *socket) send(r *requests, failed func(i int, err error)) error {
	if r.len() == 0 {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for from := 0; from < r.len(); {
		to, end := from, r.each[from].start
		first := s.seq + 1
		for to < r.len() && to-from < batchMessages && (to == from || end+len(r.message(to))-r.each[from].start <= batchBytes) {
			m := r.message(to)
			s.seq++
			native.PutUint32(m[8:], s.seq)
			end += len(m)
			to++
		}
		// Refusals are told always, success only of the last.
		last := r.message(to - 1)
		native.PutUint16(last[6:], native.Uint16(last[6:])|unix.NLM_F_ACK)
		if err := retry(func() error {
			return unix.Sendto(s.fd, r.buf[r.each[from].start:end], 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
		}); err != nil {
			return fmt.Errorf("send %d netlink requests: %w", to-from, err)
		}
		err := s.receive(func(h header, body []byte) (bool, error) {
			if h.typ != unix.NLMSG_ERROR || h.seq-first >= uint32(to-from) || len(body) < 4 {
				return false, nil // of an earlier request
			}
			if err := answer(h.flags, body); err != nil {
				failed(from+int(h.seq-first), err)
			}
			return h.seq == s.seq, nil
		})
		if err != nil {
			return fmt.Errorf("wait for the answer to %d netlink requests: %w", to-from, err)
		}
		from = to
	}
	return nil
}

// dump calls each with every message that the kernel answers the request with,
// less its header. The bytes are only good during the call. A table that changed
// meanwhile is errDumpInterrupted, after all of it.
func (s *socket) dump(typ uint16, fixed []byte, attrs func(*requests), each func(body []byte)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var r requests
	r.begin(add, typ, unix.NLM_F_DUMP, fixed)
	if attrs != nil {
		attrs(&r)
	}
	r.end()
	s.seq++
	want := s.seq
	native.PutUint32(r.buf[8:], want)
	if err := retry(func() error {
		return unix.Sendto(s.fd, r.buf, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
	}); err != nil {
		return err
	}
	interrupted := false
	err := s.receive(func(h header, body []byte) (bool, error) {
		if h.seq != want {
			return false, nil
		}
		interrupted = interrupted || h.flags&unix.NLM_F_DUMP_INTR != 0
		switch h.typ {
		case unix.NLMSG_DONE, unix.NLMSG_ERROR:
			if len(body) < 4 {
				return true, nil
			}
			return true, answer(h.flags, body)
		}
		each(body)
		return false, nil
	})
	if err == nil && interrupted {
		err = errDumpInterrupted
	}
	return err
}

// receive calls each with the messages that come, until it says that there will
// be no more, or fails.
func (s *socket) receive(each func(h header, body []byte) (last bool, err error)) error {
	for {
		var n int
		var from unix.Sockaddr
		err := retry(func() (err error) {
			n, from, err = unix.Recvfrom(s.fd, s.buf, 0)
			return err
		})
		switch {
		case errors.Is(err, unix.EAGAIN):
			return fmt.Errorf("no answer of the kernel within %s", requestTimeout.Round(time.Second))
		case err != nil:
			return err
		}
		if a, ok := from.(*unix.SockaddrNetlink); !ok || a.Pid != 0 {
			continue // not of the kernel
		}
		for h, body := range messages(s.buf[:n]) {
			if last, err := each(h, body); last || err != nil {
				return err
			}
		}
	}
}

// A header is that of a netlink message.
type header struct {
	typ, flags uint16
	seq        uint32
}

// messages yields header and body of each message. It ends where one is cut off.
func messages(b []byte) iter.Seq2[header, []byte] {
	return func(yield func(header, []byte) bool) {
		for len(b) >= headerLen {
			n := int(native.Uint32(b))
			if n < headerLen || n > len(b) || !yield(header{native.Uint16(b[4:]), native.Uint16(b[6:]), native.Uint32(b[8:])}, b[headerLen:n]) {
				return
			}
			b = b[min((n+3)&^3, len(b)):]
		}
	}
}

// answer returns the error in the body of an NLMSG_ERROR or NLMSG_DONE message,
// with the words that the kernel has for it, if any.
func answer(flags uint16, body []byte) error {
	code := int32(native.Uint32(body))
	if code == 0 {
		return nil
	}
	err := error(syscall.Errno(-code))
	if flags&unix.NLM_F_ACK_TLVS == 0 {
		return err
	}
	rest := body[4:]
	if flags&unix.NLM_F_CAPPED != 0 && len(rest) >= headerLen { // the header of the request
		rest = rest[headerLen:]
	}
	const msg = 1 // NLMSGERR_ATTR_MSG
	for typ, v := range attributes(rest) {
		if typ == msg && len(v) > 1 {
			return fmt.Errorf("%w (%s)", err, v[:len(v)-1])
		}
	}
	return err
}

// retry repeats a system call that a signal has interrupted.
func retry(call func() error) error {
	for {
		if err := call(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
