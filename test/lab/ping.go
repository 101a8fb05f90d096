package lab

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"
)

// pingTime bounds the wait for one answer.
const pingTime = time.Second

// ErrNoReply: nobody answered a ping in time.
var ErrNoReply = errors.New("no reply")

// A Reply is an answer to a ping.
type Reply struct {
	RTT time.Duration
	TTL int // that is left of it; Linux starts with 64
}

// Ping sends one ICMP echo request (RFC 792) and waits up to a second for the
// answer: ErrNoReply, or the ICMP error that came back.
func (n NS) Ping(ctx context.Context, dst netip.Addr) (Reply, error) {
	return n.PingSize(ctx, dst, 84)
}

// PingSize is Ping with an IPv4 packet of so many bytes, 44 or more, that must
// not be fragmented: it shows the path MTU.
func (n NS) PingSize(ctx context.Context, dst netip.Addr, size int) (Reply, error) {
	reply, err := n.ping(ctx, dst, size)
	if err != nil {
		return Reply{}, fmt.Errorf("ping %s from %s: %w", dst, n, err)
	}
	return reply, nil
}

// AwaitPing repeats Ping until an answer comes or ctx ends.
func (n NS) AwaitPing(ctx context.Context, dst netip.Addr) (Reply, error) {
	tick := time.NewTicker(50 * time.Millisecond) // where an error comes back at once
	defer tick.Stop()
	for {
		reply, err := n.Ping(ctx, dst)
		if err == nil {
			return reply, nil
		}
		select {
		case <-ctx.Done():
			return Reply{}, err
		case <-tick.C:
		}
	}
}

// ICMPv4 echo inside IPv4, both without options.
const echoOverhead = ipv4.HeaderLen + 8

func (n NS) ping(ctx context.Context, dst netip.Addr, size int) (Reply, error) {
	if err := ctx.Err(); err != nil {
		return Reply{}, err
	}
	if size < echoOverhead+16 || size > 65535 {
		return Reply{}, fmt.Errorf("packet size %d: want %d to 65535 bytes", size, echoOverhead+16)
	}
	conn, err := n.openICMP()
	if err != nil {
		return Reply{}, err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(ctx, pingTime)
	defer cancel()
	// A past deadline ends the blocked read.
	defer context.AfterFunc(ctx, func() { conn.SetReadDeadline(time.Unix(1, 0)) })()

	// A raw socket sees the answers to all pings of its namespace; ours is
	// known by its random content.
	data := make([]byte, size-echoOverhead)
	rand.Read(data[:16])
	id := int(binary.BigEndian.Uint16(data))
	request := icmp.Message{Type: ipv4.ICMPTypeEcho, Body: &icmp.Echo{ID: id, Seq: 1, Data: data}}
	packet, err := request.Marshal(nil)
	if err != nil {
		return Reply{}, err
	}
	start := time.Now()
	if _, err := conn.WriteTo(packet, nil, &net.IPAddr{IP: dst.AsSlice()}); err != nil {
		return Reply{}, err
	}
	return awaitReply(conn, start, packet)
}

// openICMP opens a raw socket that sets DF and reports the TTL of packets.
func (n NS) openICMP() (*ipv4.PacketConn, error) {
	var conn *ipv4.PacketConn
	err := n.Do(func() error {
		c, err := net.ListenIP("ip4:icmp", &net.IPAddr{IP: net.IPv4zero})
		if err != nil {
			return err
		}
		raw, err := c.SyscallConn()
		if err == nil {
			control := raw.Control(func(fd uintptr) {
				err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DO)
			})
			err = errors.Join(err, control)
		}
		conn = ipv4.NewPacketConn(c)
		if err == nil {
			err = conn.SetControlMessage(ipv4.FlagTTL, true)
		}
		if err != nil {
			c.Close()
		}
		return err
	})
	return conn, err
}

// awaitReply reads until the answer to the request comes, an ICMP error about
// it, or the read deadline.
func awaitReply(conn *ipv4.PacketConn, start time.Time, request []byte) (Reply, error) {
	buf := make([]byte, 1<<16)
	for {
		size, control, from, err := conn.ReadFrom(buf)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return Reply{}, ErrNoReply
		}
		if err != nil {
			return Reply{}, err
		}
		rtt := time.Since(start)
		msg, err := icmp.ParseMessage(1, buf[:size]) // 1 is ICMPv4
		if err != nil {
			continue
		}
		switch body := msg.Body.(type) {
		case *icmp.Echo:
			if msg.Type == ipv4.ICMPTypeEchoReply && bytes.Equal(body.Data, request[8:]) {
				reply := Reply{RTT: rtt}
				if control != nil {
					reply.TTL = control.TTL
				}
				return reply, nil
			}
		case *icmp.DstUnreach:
			if about(body.Data, request) {
				return Reply{}, fmt.Errorf("%v (code %d), says %v", msg.Type, msg.Code, from)
			}
		case *icmp.TimeExceeded:
			if about(body.Data, request) {
				return Reply{}, fmt.Errorf("%v (code %d), says %v", msg.Type, msg.Code, from)
			}
		}
	}
}

// about reports whether an ICMP error, which quotes the IP header and at least
// 8 bytes behind it, answers our request.
func about(quote, request []byte) bool {
	if len(quote) < ipv4.HeaderLen {
		return false
	}
	header := int(quote[0]&0xf) * 4
	return len(quote) >= header+8 && bytes.Equal(quote[header:header+8], request[:8])
}
