// Package dataplane moves IPv4 packets between a TUN device and a UDP socket
// in userspace: next-hop lookup, TTL, ICMP errors, and the loop around them.
// It knows devices only by their contract and makes no system call of its own.
//
//	pod -> bridge -> kernel route -> TUN -- Forwarder --> socket -> underlay
//	                                         | Table
//	                                         v no route
//	                                 TUN <- ICMP error
//
//	underlay -> socket -- Forwarder --> TUN -> kernel route -> bridge -> pod
//
// On the wire a datagram holds exactly one inner IPv4 packet and nothing
// else, as flannel's udp backend has it:
//
//	+-----------+-----------+------------------------------------+
//	| outer IP  | outer UDP | inner IPv4 packet                  |
//	| 20 bytes  | 8 bytes   | at most the underlay's MTU less 28 |
//	+-----------+-----------+------------------------------------+
package dataplane

import (
	"net/netip"
	"syscall"
	"time"
)

// A Packet is one inner IPv4 packet.
type Packet struct {
	// Bytes starts with the IPv4 header.
	Bytes []byte
	// Peer is the other end of the underlay. A socket's Recv sets it to where
	// the datagram came from, and Send sends to it. A TUN has no use for it:
	// Recv leaves the zero value, Send ignores it.
	Peer netip.AddrPort
	// Err is set by Send: 0, or why this packet was not sent.
	Err syscall.Errno
	// MTU is set by Send beside an Err of EMSGSIZE: how many bytes a packet to
	// Peer may have, 0 if that is not known.
	MTU int
}

// A Device is a source and a sink of packets: a TUN or a socket. Whether it
// moves one packet or many per system call, or cuts and merges packets on the
// way, is its own affair.
//
// Recv is called by one goroutine at a time; Send may be called by several.
// Recv, Send, SetReadDeadline and Close may run concurrently.
type Device interface {
	// Recv waits for packets, puts them into pkts[:n] and returns n, which is
	// at least 1 unless there is an error and never more than len(pkts).
	// len(pkts) must not be 0. Packets beyond len(pkts) wait for the next call.
	//
	// The Bytes belong to the device. The caller may change them in place; they
	// are valid until the next Recv.
	//
	// A Transient error says that nothing was received but that the next Recv
	// may do better. Any other one is final, among them
	// os.ErrDeadlineExceeded and, after Close, os.ErrClosed.
	Recv(pkts []Packet) (n int, err error)

	// Send tries to send every packet, and sets the Err of each. Packets of
	// one flow, and all packets to one Peer, leave in the order that they have
	// in pkts. A full queue of the kernel makes Send wait. An error is final:
	// the device is of no more use, and the Errs mean nothing.
	//
	// Send does not change Bytes and keeps nothing when it returns.
	Send(pkts []Packet) error

	// SetReadDeadline makes the pending Recv and the following ones fail with
	// os.ErrDeadlineExceeded from t on, even if packets wait. The zero time
	// means no deadline. It does not touch Send.
	SetReadDeadline(t time.Time) error

	// Close frees the device. A blocked Recv or Send returns.
	Close() error
}

// Transient is the error of a Recv whose Device is still alive.
type Transient syscall.Errno

func (e Transient) Error() string { return syscall.Errno(e).Error() }

// Unwrap returns the syscall.Errno.
func (e Transient) Unwrap() error { return syscall.Errno(e) }
