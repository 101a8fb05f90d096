package udpsock

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tweed/dataplane"
	"tweed/test/nstest"
)

// However few packets a Recv takes, all come, whole, in order, and with the
// address of the one that sent them.
func TestRecvRoom(t *testing.T) {
	for _, mode := range modes {
		for _, room := range []int{1, 7, 44, 132, 500} {
			t.Run(fmt.Sprintf("%s/%d", mode.name, room), func(t *testing.T) {
				nstest.Enter(t)
				to := mustListen(t, "127.0.0.1:8285", mode.to)
				senders := []*Socket{
					mustListen(t, "127.0.0.2:8285", mode.from), mustListen(t, "127.0.0.2:8286", mode.from),
					mustListen(t, "127.0.0.3:8285", mode.from),
				}
				r := rand.New(rand.NewPCG(3, uint64(room)))
				var want []dataplane.Packet
				for range 40 {
					s := senders[r.IntN(len(senders))]
					sizes := slices.Concat(times(r.IntN(44), 1400), []int{r.IntN(1400)}, times(r.IntN(3), 0), times(r.IntN(100), 64), []int{4000, r.IntN(4000)})
					pkts := packets(to.Addr(), sizes...)
					mustSend(t, s, pkts, nil)
					want = append(want, from(s, pkts)...)
				}
				wantRecv(t, to, room, want)
				if got := to.Stats(); mode.from.Offload && mode.to.Offload != (got.RecvSupers > 0) {
					t.Errorf("%+v", got)
				}
			})
		}
	}
}

// A plain program sends: datagrams of all sizes, none of which is lost or
// joined with another, between those that the kernel joins.
func TestRecvFromOthers(t *testing.T) {
	for _, mode := range sameModes {
		nstest.Enter(t)
		to := mustListen(t, "127.0.0.1:8285", mode.Options)
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 5}, Port: 5}); err != nil {
			t.Fatal(err)
		}
		ours := mustListen(t, "127.0.0.6:6", Options{Offload: true})
		var want []dataplane.Packet
		for _, size := range []int{0, 1, 0, 0, 19, 20, 1472, 1473, 1472, 65507, 0, 65507, 2, 2, 2} {
			p := packets(to.Addr(), size)[0]
			if err := unix.Sendto(fd, p.Bytes, 0, &unix.SockaddrInet4{Addr: to.Addr().Addr().As4(), Port: 8285}); err != nil {
				t.Fatal(err)
			}
			joined := packets(to.Addr(), 300, 300, 300, size%301)
			mustSend(t, ours, joined, nil)
			p.Peer = netip.MustParseAddrPort("127.0.0.5:5")
			want = append(append(want, p), from(ours, joined)...)
		}
		wantRecv(t, to, 5, want)
	}
}

// A deadline that passes while packets wait leaves them where they are, also
// those that were received with others and not yet handed out.
func TestDeadlineKeepsPackets(t *testing.T) {
	for _, mode := range sameModes {
		nstest.Enter(t)
		s := mustListen(t, "127.0.0.1:8285", mode.Options)
		pkts := packets(s.Addr(), times(10, 100)...)
		mustSend(t, s, pkts, nil)
		got := make([]dataplane.Packet, 3)
		if n, err := s.Recv(got[:1]); n != 1 || err != nil || string(got[0].Bytes) != string(pkts[0].Bytes) {
			t.Fatalf("%s: %d, %v", mode.name, n, err)
		}
		s.SetReadDeadline(time.Unix(1, 0))
		if n, err := s.Recv(got); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("%s: %d, %v", mode.name, n, err)
		}
		s.SetReadDeadline(time.Now().Add(patience))
		wantRecv(t, s, 3, from(s, pkts[1:]))
	}
}

// What finds the receive buffer full is counted, each datagram once.
func TestOverflows(t *testing.T) {
	for _, mode := range sameModes {
		t.Run(mode.name, func(t *testing.T) {
			nstest.Enter(t)
			to, sender := mustListen(t, "127.0.0.1:8285", mode.Options), mustListen(t, "127.0.0.2:8285", Options{})
			if n := to.Stats().Overflows; n != 0 {
				t.Fatalf("%d overflows at the start", n)
			}
			batch := packets(to.Addr(), times(50, 60000)...)
			sent := 0
			for sent < 4*recvBuffer/60000 { // in the kernel's count the buffer has twice its size
				mustSend(t, sender, batch, nil)
				sent += len(batch)
			}
			lost := int(to.Stats().Overflows)
			if lost == 0 {
				t.Fatal("no overflows")
			}
			pkts := make([]dataplane.Packet, 132)
			for got := 0; got < sent-lost; {
				n, err := to.Recv(pkts)
				if err != nil {
					t.Fatalf("%d of %d were lost, but only %d arrived: %v", lost, sent, got, err)
				}
				got += n
			}
			wantNothing(t, to)
			mustSend(t, sender, batch[:1], nil)
			wantRecv(t, to, 1, from(sender, batch[:1]))
			if n := to.Stats().Overflows; n != uint64(lost) {
				t.Errorf("%d overflows, %d before", n, lost)
			}
		})
	}
}
