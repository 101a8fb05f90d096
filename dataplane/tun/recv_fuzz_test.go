package tun

import (
	"bytes"
	"encoding/binary"
	"testing"

	"golang.org/x/sys/unix"

	"tweed/dataplane"
	"tweed/dataplane/rawfd"
)

// newFed returns a Device that reads what is written to the other descriptor,
// datagram by datagram, as from /dev/net/tun.
func newFed(f *testing.F) (d *Device, feed int) {
	f.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		f.Fatal(err)
	}
	file, err := rawfd.New(fds[0])
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() {
		file.Close()
		unix.Close(fds[1])
	})
	return &Device{file: file, vnet: true}, fds[1]
}

// FuzzRecv: whatever stands in the header in front of a packet, Recv gives
// packets that lie beside each other in its memory, none larger than an IPv4
// packet can be, and goes on with the next one.
func FuzzRecv(f *testing.F) {
	f.Add(tcpPacket(3000).superpacket(1000), uint16(2))
	f.Add(udpPacket(300).superpacket(7), uint16(128))
	f.Add(tcpPacket(60000).superpacket(1), uint16(40))
	f.Add([]byte{1, 0, 0, 0, 0, 0, 20, 0, 16, 0, 0x45, 0, 0, 20}, uint16(1))
	f.Add(append(make([]byte, vnetHdrLen), 0x60, 0, 0), uint16(3))
	d, feed := newFed(f)
	next := append(make([]byte, vnetHdrLen), udpPacket(5).bytes()...)
	pkts := make([]dataplane.Packet, 300)
	f.Fuzz(func(t *testing.T, written []byte, room uint16) {
		if len(written) == 0 || len(written) > vnetHdrLen+maxPacket {
			return
		}
		for _, b := range [][]byte{written, next} {
			if _, err := unix.Write(feed, b); err != nil {
				t.Fatal(err)
			}
		}
		before := d.Stats()
		pkts := pkts[:1+int(room)%len(pkts)]
		total, payload := 0, 0
		for last := false; !last; {
			n, err := d.Recv(pkts)
			if err != nil || n == 0 || n > len(pkts) {
				t.Fatalf("%d packets, %v", n, err)
			}
			end := 0 // in d.reader.room
			for _, p := range pkts[:n] {
				if len(p.Bytes) > maxPacket || cap(p.Bytes) != len(p.Bytes) {
					t.Fatalf("%d bytes of %d", len(p.Bytes), cap(p.Bytes))
				}
				if len(p.Bytes) > 0 && &p.Bytes[0] != &d.reader.room[end] {
					t.Fatalf("a packet of %d bytes is not at %d", len(p.Bytes), end)
				}
				end += len(p.Bytes)
				payload += len(p.Bytes)
			}
			total += n
			last = bytes.Equal(pkts[n-1].Bytes, next[vnetHdrLen:]) && drained(d)
		}
		s := d.Stats()
		segments := int(s.RecvSegments - before.RecvSegments)
		bad := int(s.RecvMalformed - before.RecvMalformed)
		switch {
		case s.RecvSupers > before.RecvSupers:
			if total != segments+1 || (bad == 1) != (segments == 0) || segments > maxPacket {
				t.Errorf("%d packets, %d segments, %d malformed", total, segments, bad)
			}
			// Every byte of payload is there once, behind headers of at most 120.
			if payload > len(written)+120*segments+len(next) {
				t.Errorf("%d bytes became %d in %d packets", len(written), payload, total)
			}
		case total+bad != 2 || segments != 0:
			t.Errorf("%d packets, %d segments, %d malformed", total, segments, bad)
		}
		if bad > 0 && len(written) > vnetHdrLen && written[0] == 0 && written[1] == 0 {
			t.Errorf("a plain packet is malformed: % x", written[:min(len(written), 40)])
		}
		if len(written) > vnetHdrLen && written[1] != gsoNone && written[vnetHdrLen]>>4 == 4 && binary.NativeEndian.Uint16(written[4:]) == 0 && bad == 0 {
			t.Error("segments of 0 bytes")
		}
	})
}

// drained reports whether Recv would have to wait.
func drained(d *Device) bool {
	if d.reader.split.left() > 0 {
		return false
	}
	fd, err := d.file.Enter()
	if err != nil {
		return true
	}
	defer d.file.Leave()
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	for {
		if n, err := unix.Poll(fds, 0); err != unix.EINTR {
			return n == 0
		}
	}
}
