package dataplane

import "encoding/binary"

const (
	moreFragments = 0x2000
	offsetMask    = 0x1fff // in units of 8 bytes
)

// DontFragment reports whether the DF bit is set.
func (p IPv4) DontFragment() bool { return p[6]&0x40 != 0 }

// fragment cuts the packet into fragments of at most mtu bytes (RFC 791, 3.2,
// "An Example Fragmentation Procedure") and appends them to frags and buf,
// which hold their headers and data. It returns frags unchanged if the mtu
// leaves no room for data. The packet may itself be a fragment; one that ends
// beyond the largest datagram is not cut, because its offsets would wrap.
func (p IPv4) fragment(frags [][]byte, buf []byte, mtu int) ([][]byte, []byte) {
	header, rest := p[:p.HeaderLen()], p[p.HeaderLen():]
	room := (mtu - len(header)) &^ 7
	field := binary.BigEndian.Uint16(p[6:])
	if room < 8 || int(field&offsetMask)*8+len(rest) > 65535 {
		return frags, buf
	}
	for first := true; len(rest) > 0; first = false {
		data := rest[:min(room, len(rest))]
		rest = rest[len(data):]
		start := len(buf)
		if first {
			buf = append(buf, header...)
		} else {
			buf = appendCopiedHeader(buf, header)
		}
		f := buf[start:]
		out := field
		if len(rest) > 0 {
			out |= moreFragments
		}
		binary.BigEndian.PutUint16(f[2:], uint16(len(f)+len(data)))
		binary.BigEndian.PutUint16(f[6:], out)
		field += uint16(len(data) / 8)
		f[10], f[11] = 0, 0
		binary.BigEndian.PutUint16(f[10:], ^Sum(0, f))
		buf = append(buf, data...)
		frags = append(frags, buf[start:len(buf):len(buf)])
	}
	return frags, buf
}

// appendCopiedHeader appends a header with those options only that belong into
// every fragment: the copied flag is the high bit of their type (RFC 791, 3.1).
func appendCopiedHeader(buf, header []byte) []byte {
	start := len(buf)
	buf = append(buf, header[:minHeader]...)
	for opts := header[minHeader:]; len(opts) > 0 && opts[0] != 0; { // 0 ends the list
		n := 1 // of type 1, no operation
		if opts[0] != 1 {
			if len(opts) < 2 || opts[1] < 2 || int(opts[1]) > len(opts) {
				break // malformed: the rest cannot be told apart
			}
			n = int(opts[1])
		}
		if opts[0]&0x80 != 0 {
			buf = append(buf, opts[:n]...)
		}
		opts = opts[n:]
	}
	for (len(buf)-start)%4 != 0 {
		buf = append(buf, 0)
	}
	buf[start] = 4<<4 | byte((len(buf)-start)/4)
	return buf
}
