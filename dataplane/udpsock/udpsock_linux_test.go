package udpsock

import (
	"bytes"
	"errors"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tweed/dataplane"
	"tweed/test/nstest"
)

func TestSendRecv(t *testing.T) {
	for _, mode := range modes {
		t.Run(mode.name, func(t *testing.T) {
			nstest.Enter(t)
			a, b := mustListen(t, "127.0.0.1:8285", mode.from), mustListen(t, "127.0.0.2:8285", mode.to)
			pkts := []dataplane.Packet{
				{Bytes: []byte("first"), Peer: b.Addr(), Err: syscall.EIO, MTU: 7}, // of an earlier Send
				{Bytes: []byte{}, Peer: b.Addr()},
				{Peer: b.Addr()},
				{Bytes: bytes.Repeat([]byte{7}, 65507), Peer: b.Addr()},
				{Bytes: []byte("last"), Peer: b.Addr()},
			}
			mustSend(t, a, pkts, nil)
			if pkts[0].MTU != 0 {
				t.Errorf("the MTU of an earlier Send is still there: %d", pkts[0].MTU)
			}
			wantRecv(t, b, 4, from(a, pkts))
			// And back.
			back := packets(a.Addr(), 1, 2, 3)
			mustSend(t, b, back, nil)
			wantRecv(t, a, 4, from(b, back))
		})
	}
}

func TestSendNothing(t *testing.T) {
	nstest.Enter(t)
	for _, mode := range sameModes {
		s := mustListen(t, "127.0.0.1:0", mode.Options)
		mustSend(t, s, nil, nil)
		if n := s.Stats().Sends; n != 0 {
			t.Errorf("%s: %d system calls", mode.name, n)
		}
	}
}

func TestListenErrors(t *testing.T) {
	nstest.Enter(t)
	for _, mode := range sameModes {
		mustListen(t, "127.0.0.1:8285", mode.Options)
		for _, tt := range []struct {
			addr string
			want error
			text string
		}{
			{"127.0.0.1:8285", syscall.EADDRINUSE, "listen on udp 127.0.0.1:8285: bind: address already in use (another program"},
			{"0.0.0.0:8285", syscall.EADDRINUSE, "listen on udp 0.0.0.0:8285: "},
			{"192.0.2.1:8285", syscall.EADDRNOTAVAIL, "listen on udp 192.0.2.1:8285: bind: cannot assign requested address (want an address of this host)"},
			{"[::1]:8285", nil, "listen on udp [::1]:8285: want an IPv4 address"},
			{"[::ffff:127.0.0.3]:8285", nil, "listen on udp [::ffff:127.0.0.3]:8285: want an IPv4 address"},
		} {
			s, err := Listen(netip.MustParseAddrPort(tt.addr), mode.Options)
			if err == nil {
				s.Close()
				t.Errorf("%s: no error", tt.addr)
				continue
			}
			if tt.want != nil && !errors.Is(err, tt.want) || !strings.HasPrefix(err.Error(), tt.text) {
				t.Errorf("%s: %v, want %v with %q", tt.addr, err, tt.want, tt.text)
			}
		}
		if s, err := Listen(netip.AddrPort{}, mode.Options); err == nil {
			s.Close()
			t.Error("the zero address: no error")
		}
		mustListen(t, "127.0.0.9:0", mode.Options)
		if s := mustListen(t, "127.0.0.9:0", mode.Options); s.Addr().Port() == 0 || s.Addr().Addr().String() != "127.0.0.9" {
			t.Errorf("port 0 became %s", s.Addr())
		}
		nstest.Enter(t)
	}
}

func TestFeatures(t *testing.T) {
	nstest.Enter(t)
	for _, mode := range sameModes {
		s := mustListen(t, "127.0.0.1:0", mode.Options)
		want := []Feature{{"udp_segment", mode.Offload}, {"udp_gro", mode.Offload}}
		for i, f := range s.Features() {
			if i >= len(want) || f != want[i] {
				t.Errorf("%s: %v, want %v", mode.name, s.Features(), want)
			}
		}
		if len(s.Features()) != len(want) {
			t.Errorf("%s: %v, want %v", mode.name, s.Features(), want)
		}
	}
}

// A peer whose daemon is down answers with ICMP port unreachable.
func TestPortUnreachable(t *testing.T) {
	for _, mode := range sameModes {
		nstest.Enter(t)
		s := mustListen(t, "127.0.0.1:8285", mode.Options)
		dead := dataplane.Packet{Bytes: []byte("x"), Peer: netip.MustParseAddrPort("127.0.0.2:8285")}
		self := dataplane.Packet{Bytes: []byte("self"), Peer: s.Addr()}
		for range 10 {
			mustSend(t, s, []dataplane.Packet{dead, self, dead, self, dead}, nil)
			wantRecv(t, s, 8, []dataplane.Packet{self, self})
		}
	}
}

func TestBuffers(t *testing.T) {
	nstest.Enter(t)
	s := mustListen(t, "127.0.0.1:8285", Options{})
	fd, err := s.file.Enter()
	if err != nil {
		t.Fatal(err)
	}
	defer s.file.Leave()
	for opt, want := range map[int]int{unix.SO_RCVBUF: recvBuffer, unix.SO_SNDBUF: sendBuffer} {
		// The kernel doubles the value for its bookkeeping (socket(7)).
		if got, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, opt); err != nil || got != 2*want {
			t.Errorf("option %d is %d, %v, want %d", opt, got, err, 2*want)
		}
		if err := setBuffer(fd, -1, opt, want); err != nil {
			t.Errorf("without privileges: %v", err)
		}
	}
}

func TestDeadlineAndClose(t *testing.T) {
	for _, mode := range sameModes {
		t.Run(mode.name, func(t *testing.T) {
			nstest.Enter(t)
			s := mustListen(t, "127.0.0.1:8285", mode.Options)
			mustSend(t, s, []dataplane.Packet{{Bytes: []byte("waiting"), Peer: s.Addr()}}, nil)
			s.SetReadDeadline(time.Unix(1, 0))
			pkts := make([]dataplane.Packet, 1)
			if _, err := s.Recv(pkts); !errors.Is(err, os.ErrDeadlineExceeded) || isTransient(err) {
				t.Errorf("deadline in the past: %v", err)
			}
			s.SetReadDeadline(time.Time{})
			if _, err := s.Recv(pkts); err != nil {
				t.Error(err)
			}

			result := make(chan error, 1)
			recv := func() {
				pkts := make([]dataplane.Packet, 1)
				_, err := s.Recv(pkts)
				result <- err
			}
			for _, at := range []time.Duration{-time.Hour, 0, 20 * time.Millisecond} {
				go recv()
				start := time.Now()
				s.SetReadDeadline(start.Add(at))
				if err := <-result; !errors.Is(err, os.ErrDeadlineExceeded) || isTransient(err) {
					t.Errorf("deadline in %v: %v", at, err)
				}
				if took := time.Since(start); took < at || took > patience {
					t.Errorf("deadline in %v passed after %v", at, took)
				}
				s.SetReadDeadline(time.Time{})
			}

			go recv()
			if err := s.Close(); err != nil {
				t.Error(err)
			}
			recvErr := <-result
			_, afterErr := s.Recv(pkts)
			for op, err := range map[string]error{
				"blocked Recv":               recvErr,
				"Recv after Close":           afterErr,
				"Send after Close":           s.Send([]dataplane.Packet{{Peer: netip.MustParseAddrPort("127.0.0.1:1")}}),
				"SetReadDeadline at Close":   s.SetReadDeadline(time.Time{}),
				"second Close of the socket": s.Close(),
			} {
				if !errors.Is(err, os.ErrClosed) || isTransient(err) || !strings.Contains(err.Error(), "udp 127.0.0.1:8285: ") {
					t.Errorf("%s: %v", op, err)
				}
			}
			s.Stats() // must not fail
			mustListen(t, "127.0.0.1:8285", mode.Options)
		})
	}
}

// Starting and stopping, also in vain, leaves no file behind.
func TestNoLeaks(t *testing.T) {
	nstest.Enter(t)
	taken := mustListen(t, "127.0.0.1:8285", Options{})
	cycle := func() {
		for _, mode := range sameModes {
			s, err := Listen(netip.MustParseAddrPort("127.0.0.2:8285"), mode.Options)
			if err != nil {
				t.Fatal(err)
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			for _, bad := range []string{taken.Addr().String(), "192.0.2.1:1", "[::1]:1"} {
				if s, err := Listen(netip.MustParseAddrPort(bad), mode.Options); err == nil {
					s.Close()
					t.Fatalf("listen on %s: no error", bad)
				}
			}
		}
	}
	cycle()
	before := openFiles(t)
	for range 50 {
		cycle()
	}
	if n := openFiles(t); n > before {
		t.Errorf("%d open files, %d before", n, before)
	}
}

func openFiles(t *testing.T) int {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

func isTransient(err error) bool {
	_, ok := errors.AsType[dataplane.Transient](err)
	return ok
}
