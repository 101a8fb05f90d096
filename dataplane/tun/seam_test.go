package tun

import (
	"bytes"

	"tweed/dataplane"
)

// These few functions are all that the pure tests know of splitter and merger.

// cut gives the packets that Recv would make of what the kernel wrote, a
// vnetHdr and what follows.
func cut(super []byte) ([][]byte, error) {
	var h vnetHdr
	h.decode(super)
	b := bytes.Clone(super[vnetHdrLen:])
	if h.gsoType == gsoNone {
		var err error
		if h.flags&needsCsum != 0 {
			err = complete(h, b)
		}
		return [][]byte{b}, err
	}
	var s splitter
	if err := s.begin(h, b); err != nil {
		return nil, err
	}
	var pkts [][]byte
	for s.left() > 0 {
		buf := make([]byte, s.left()) // a byte too many does not fit
		pkts = append(pkts, s.next(buf))
	}
	return pkts, nil
}

// merge gives what Send would write, each a vnetHdr and what follows.
func merge(pkts [][]byte) (out [][]byte) {
	m := new(merger) // used again in each round, as Send does
	for len(pkts) > 0 {
		n := min(len(pkts), maxMerge)
		var super []byte
		mergeRound(m, asPackets(pkts[:n]), func(part []byte, last bool) {
			super = append(super, part...)
			if last {
				out = append(out, super)
				super = nil
			}
		})
		pkts = pkts[n:]
	}
	return out
}

// mergeRound calls write for each part of each superpacket: its headers and
// then its payloads, or for a packet plainHdr and the packet.
func mergeRound(m *merger, pkts []dataplane.Packet, write func(part []byte, last bool)) {
	m.start()
	for i := range pkts {
		m.add(pkts, i, true, true)
	}
	for i := range m.supers {
		s := &m.supers[i]
		header, skip := plainHdr[:], 0
		if s.count > 1 {
			header, skip = m.header(pkts, s), s.headers
		}
		write(header, false)
		for i := s.first; i >= 0; i = m.next[i] {
			write(pkts[i].Bytes[skip:], m.next[i] < 0)
		}
	}
}

func asPackets(pkts [][]byte) []dataplane.Packet {
	out := make([]dataplane.Packet, len(pkts))
	for i := range pkts {
		out[i].Bytes = pkts[i]
	}
	return out
}
