package tun

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Two kernels talk TCP through two TUNs, both ways.
func TestTransfer(t *testing.T) {
	for _, offload := range [][2]bool{{true, true}, {true, false}, {false, true}, {false, false}} {
		t.Run(fmt.Sprintf("%v to %v", offload[0], offload[1]), func(t *testing.T) {
			quietNamespace(t)
			a := mustOpen(t, "left", Options{Offload: offload[0]})
			configure(t, a, "10.9.0.1/24")
			listener, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(10, 9, 0, 1)})
			if err != nil {
				t.Fatal(err)
			}
			defer listener.Close()
			quietNamespace(t) // the old one lives as long as the listener
			b := mustOpen(t, "right", Options{Offload: offload[1]})
			configure(t, b, "10.9.0.2/24")
			connect(t, a, b, maxMerge)

			client, err := net.DialTCP("tcp4", nil, listener.Addr().(*net.TCPAddr))
			if err != nil {
				t.Fatal(err)
			}
			defer client.Close()
			server, err := listener.Accept()
			if err != nil {
				t.Fatal(err)
			}
			defer server.Close()
			transfer(t, client, server, 8<<20)
			transfer(t, server, client, 8<<20)

			for i, d := range []*Device{a, b} {
				s := d.Stats()
				t.Logf("%s: %+v", d.Name(), s)
				if got := s.RecvSupers > 0 && s.RecvSegments > s.RecvSupers; got != offload[i] {
					t.Errorf("%s received %d superpackets of %d packets", d.Name(), s.RecvSupers, s.RecvSegments)
				}
				both := offload[0] && offload[1] // a plain TUN gives one packet at a time
				if got := s.SendSupers > 0 && s.SendSegments > s.SendSupers; got != both {
					t.Errorf("%s sent %d superpackets of %d packets", d.Name(), s.SendSupers, s.SendSegments)
				}
				if s.RecvMalformed != 0 || s.Fallbacks != 0 {
					t.Errorf("%s: %d malformed, %d fallbacks", d.Name(), s.RecvMalformed, s.Fallbacks)
				}
			}
		})
	}
}

// transfer sends random bytes and compares what arrives.
func transfer(t *testing.T, from, to net.Conn, size int) {
	t.Helper()
	deadline := time.Now().Add(patience)
	from.SetDeadline(deadline)
	to.SetDeadline(deadline)
	data := make([]byte, size)
	rand.NewChaCha8([32]byte{1}).Read(data)
	sent := make(chan error, 1)
	go func() {
		_, err := from.Write(data)
		sent <- err
	}()
	hash := sha256.New()
	if _, err := io.CopyN(hash, to, int64(size)); err != nil {
		t.Fatalf("receive: %v", errors.Join(err, <-sent))
	}
	if err := <-sent; err != nil {
		t.Fatal(err)
	}
	if want := sha256.Sum256(data); !bytes.Equal(hash.Sum(nil), want[:]) {
		t.Error("other bytes arrived than were sent")
	}
}

// A sender with UDP_SEGMENT makes superpackets; datagrams keep their content
// and their boundaries, also where a receiver with UDP_GRO takes many at once.
func TestDatagrams(t *testing.T) {
	for _, receiver := range []string{"plain", "UDP_GRO"} {
		for _, offload := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s/offload %v", receiver, offload), func(t *testing.T) {
				quietNamespace(t)
				a := mustOpen(t, "left", Options{Offload: offload})
				if offload {
					needUSO(t, a)
				}
				configure(t, a, "10.9.0.1/24")
				from := listen(t, "10.9.0.1:1000")
				quietNamespace(t)
				b := mustOpen(t, "right", Options{Offload: offload})
				configure(t, b, "10.9.0.2/24")
				to := listen(t, "10.9.0.2:2000")
				if receiver == "UDP_GRO" {
					setUDPOption(t, to, unix.UDP_GRO, 1)
				}
				connect(t, a, b, maxMerge)

				calls, datagrams := 0, 0
				for _, tt := range []struct{ size, total int }{
					{1472, 44 * 1472}, {1472, 40*1472 + 1}, {1472, 40*1472 - 1}, {100, 64 * 100}, {1, 64}, {333, 10000}, {700, 700}, {9, 3},
				} {
					payload := text(tt.total, tt.size)
					sendSegments(t, from, payload, tt.size, "10.9.0.2:2000")
					want := pieces(payload, tt.size)
					got, n := readDatagrams(t, to, len(want))
					samePackets(t, got, want)
					calls += n
					datagrams += len(got)
				}
				sa, sb := a.Stats(), b.Stats()
				t.Logf("%d datagrams read in %d calls; left %+v; right %+v", datagrams, calls, sa, sb)
				if (sa.RecvSupers > 0) != offload || (sb.SendSupers > 0) != offload {
					t.Errorf("%d superpackets received, %d sent", sa.RecvSupers, sb.SendSupers)
				}
				if many := calls < datagrams; many != (offload && receiver == "UDP_GRO") {
					t.Errorf("%d datagrams came in %d calls", datagrams, calls)
				}
			})
		}
	}
}

// The kernel leaves the checksums of small packets to the TUN too.
func TestSmallChecksums(t *testing.T) {
	plainAndOffload(t, func(t *testing.T, o Options) {
		d := mustOpen(t, "flannel%d", o)
		configure(t, d, "10.9.0.1/24")
		conn := listen(t, "10.9.0.1:1000")
		for n := range 30 {
			if _, err := conn.WriteToUDP(text(n, n), &net.UDPAddr{IP: net.IPv4(10, 9, 0, 2), Port: 2000}); err != nil {
				t.Fatal(err)
			}
		}
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		if err := unix.Connect(fd, &unix.SockaddrInet4{Addr: [4]byte{10, 9, 0, 2}, Port: 2001}); err != unix.EINPROGRESS {
			t.Fatal(err)
		}
		got, _ := recvAll(t, d, 31, 7)
		for n, b := range got {
			checkCodec(t, b)
			if p := parse(b); n < 30 && !bytes.Equal(p.payload, text(n, n)) || n == 30 && p.flags != 2 {
				t.Errorf("packet %d: % x", n, b)
			}
		}
	})
}

// The kernel drops a damaged packet. Merging must not make it whole, and must
// not harm its neighbours.
func TestSendDamaged(t *testing.T) {
	plainAndOffload(t, func(t *testing.T, o Options) {
		d := mustOpen(t, "flannel%d", o)
		configure(t, d, "10.9.0.1/24")
		conn := listen(t, "10.9.0.1:40053")
		toHost := func(p packet) packet {
			p.src, p.dst = [4]byte{10, 9, 0, 2}, [4]byte{10, 9, 0, 1}
			return p
		}
		for bad, supers := range []uint64{2, 3, 3, 2} {
			pkts := encode(append(train(toHost(udpPacket(600)), 4), toHost(udpPacket(7))))
			want := payloads(pkts)
			want = append(want[:bad], want[bad+1:]...)
			pkts[bad][500] ^= 0x40
			before := snmp(t, "Udp", "InCsumErrors")
			mustSend(t, d, pkts)
			got, _ := readDatagrams(t, conn, 4)
			samePackets(t, got, want)
			if n := snmp(t, "Udp", "InCsumErrors") - before; n != 1 {
				t.Errorf("UDP packet %d damaged: %d wrong checksums counted, want 1", bad, n)
			}

			if !o.Offload {
				supers = 4
			}
			pkts = encode(train(toHost(tcpPacket(600)), 4))
			pkts[bad][500] ^= 0x40
			before, segments := snmp(t, "Tcp", "InCsumErrors"), snmp(t, "Tcp", "InSegs")
			mustSend(t, d, pkts)
			if n := snmp(t, "Tcp", "InCsumErrors") - before; n != 1 {
				t.Errorf("TCP packet %d damaged: %d wrong checksums counted, want 1", bad, n)
			}
			if n := snmp(t, "Tcp", "InSegs") - segments; n != supers {
				t.Errorf("TCP packet %d damaged: %d superpackets and packets counted, want %d", bad, n, supers)
			}
		}
		if merged := d.Stats().SendSupers > 0; merged != o.Offload {
			t.Errorf("packets merged: %v", merged)
		}
	})
}
