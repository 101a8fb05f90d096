package udpsock

import (
	"bytes"
	"encoding/binary"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"tweed/dataplane"
)

// FuzzCut: whatever lengths and control messages the kernel gives, the pieces of
// each datagram are the datagram, none is larger than the segment size, and
// cutting ends.
func FuzzCut(f *testing.F) {
	f.Add([]byte{0, 0, 5, 200, 1, 44}, uint8(3), uint8(7), uint16(0))
	f.Add([]byte{255, 255}, uint8(1), uint8(1), uint16(1))
	f.Add([]byte{0, 1, 0, 0, 0, 2}, uint8(64), uint8(132), uint16(2))
	var r reader
	r.init(true)
	for i := range r.bufs {
		for j := range r.bufs[i] {
			r.bufs[i][j] = byte(i + j)
		}
	}
	f.Fuzz(func(t *testing.T, shape []byte, n, room uint8, control uint16) {
		r.have, r.at = int(n)%(len(r.msgs)+1), 0
		var want []byte
		var sizes []int
		for i := range r.have {
			m := &r.msgs[i]
			at := func(k int) uint16 {
				if len(shape) < 2 {
					return 0
				}
				k = k % (len(shape) / 2) * 2
				return binary.BigEndian.Uint16(shape[k:])
			}
			m.len = uint32(at(2*i)) % (maxDatagram + 1)
			h := (*unix.Cmsghdr)(unsafe.Pointer(m.hdr.Control))
			h.Level, h.Type = unix.SOL_UDP, unix.UDP_GRO
			if control&1 != 0 {
				h.Type++ // another message
			}
			m.hdr.SetControllen(len(r.controls[i]))
			if control&2 != 0 {
				m.hdr.SetControllen(0)
			}
			size := int32(at(2*i + 1))
			*(*int32)(unsafe.Add(unsafe.Pointer(m.hdr.Control), unix.CmsgLen(0))) = size
			if control&3 != 0 || size == 0 {
				size = maxDatagram
			}
			want = append(want, r.bufs[i][:m.len]...)
			for left := int(m.len); ; left -= int(size) {
				sizes = append(sizes, min(left, int(size)))
				if left <= int(size) {
					break
				}
			}
		}
		r.load()
		var got []byte
		pieces := 0
		pkts := make([]dataplane.Packet, max(1, room))
		for k := r.cut(pkts); k > 0; k = r.cut(pkts) {
			for _, p := range pkts[:k] {
				if pieces >= len(sizes) || len(p.Bytes) != sizes[pieces] {
					t.Fatalf("piece %d has %d bytes, want %v", pieces, len(p.Bytes), sizes)
				}
				pieces++
				got = append(got, p.Bytes...)
			}
		}
		if pieces != len(sizes) || !bytes.Equal(got, want) {
			t.Errorf("%d pieces with %d bytes, want %d with %d", pieces, len(got), len(sizes), len(want))
		}
	})
}
