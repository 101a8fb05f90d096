package udp

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"testing"
	"time"
	"unsafe"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"github.com/google/gopacket/pcapgo"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// singleDatagrams makes eth0 of the host show on the wire what a network card
// would send: the kernel cuts superpackets and fills in all checksums before
// the veth gets them.
func (h *host) singleDatagrams() {
	h.t.Helper()
	h.do(func() error {
		eth0, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		return errors.Join(netlink.LinkSetGSOMaxSegs(eth0, 1), setTxChecksum("eth0", false))
	})
}

// setTxChecksum is `ethtool -K NAME tx on|off` (linux/ethtool.h).
func setTxChecksum(name string, on bool) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	value := struct{ cmd, data uint32 }{cmd: unix.ETHTOOL_STXCSUM}
	if on {
		value.data = 1
	}
	request := struct {
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte
	}{data: unsafe.Pointer(&value)}
	copy(request.name[:], name)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&request))); errno != 0 {
		return fmt.Errorf("ethtool tx off: %w", errno)
	}
	return nil
}

// A capture writes what passes an interface to a pcapng file in memory.
type capture struct {
	fd   int
	file bytes.Buffer
	w    *pcapgo.NgWriter
	done chan error
}

// capture captures what comes in by eth0 of the host.
func (h *host) capture(t *testing.T) *capture {
	t.Helper()
	c := &capture{done: make(chan error, 1)}
	h.do(func() (err error) {
		proto := binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, unix.ETH_P_IP))
		if c.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(proto)); err != nil {
			return err
		}
		eth0, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		return errors.Join(
			unix.SetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 64<<20),
			unix.SetsockoptTimeval(c.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 100_000}),
			unix.Bind(c.fd, &unix.SockaddrLinklayer{Protocol: proto, Ifindex: eth0.Attrs().Index}))
	})
	var err error
	if c.w, err = pcapgo.NewNgWriter(&c.file, layers.LinkTypeEthernet); err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	go func() { c.done <- c.read(stop) }()
	t.Cleanup(func() {
		close(stop)
		unix.Close(c.fd)
	})
	return c
}

// read writes packets until the timeout passes in which none came after the
// first.
func (c *capture) read(stop <-chan struct{}) error {
	buf := make([]byte, 1<<17)
	for quiet, some := 0, false; ; {
		select {
		case <-stop:
			return nil
		default:
		}
		n, _, err := unix.Recvfrom(c.fd, buf, unix.MSG_TRUNC)
		switch {
		case err == unix.EAGAIN:
			if quiet++; some && quiet == 5 {
				return c.w.Flush()
			}
			continue
		case err == unix.EINTR:
			continue
		case err != nil:
			return err
		}
		quiet, some = 0, true
		info := gopacket.CaptureInfo{Timestamp: time.Now(), CaptureLength: n, Length: n}
		if err := c.w.WritePacket(info, buf[:n]); err != nil {
			return err
		}
	}
}

// packets waits for the end of the traffic and reads the file back.
func (c *capture) packets(t *testing.T) (all []gopacket.Packet) {
	t.Helper()
	if err := <-c.done; err != nil {
		t.Fatal(err)
	}
	r, err := pcapgo.NewNgReader(&c.file, pcapgo.DefaultNgReaderOptions)
	if err != nil {
		t.Fatal(err)
	}
	for {
		data, info, err := r.ReadPacketData()
		if err == io.EOF {
			return all
		}
		if err != nil || info.Length != info.CaptureLength {
			t.Fatalf("packet %d: %v, %+v", len(all), err, info)
		}
		all = append(all, gopacket.NewPacket(data, layers.LayerTypeEthernet, gopacket.NoCopy))
	}
}

// innerOf checks everything about the outside of a packet and the headers
// inside, and returns the inner packet.
func innerOf(p gopacket.Packet, src, dst netip.Addr, mtu int) (gopacket.Packet, error) {
	outer, _ := p.Layer(layers.LayerTypeIPv4).(*layers.IPv4)
	datagram, _ := p.Layer(layers.LayerTypeUDP).(*layers.UDP)
	switch {
	case outer == nil || datagram == nil:
		return nil, errors.New("not UDP")
	case outer.SrcIP.String() != src.String() || outer.DstIP.String() != dst.String() || datagram.SrcPort != 8285 || datagram.DstPort != 8285:
		return nil, fmt.Errorf("from %s:%d to %s:%d", outer.SrcIP, datagram.SrcPort, outer.DstIP, datagram.DstPort)
	case outer.Flags&layers.IPv4DontFragment == 0 || outer.Flags&layers.IPv4MoreFragments != 0 || outer.FragOffset != 0:
		return nil, fmt.Errorf("flags %v, want DF and no fragment", outer.Flags)
	case int(outer.Length) > mtu || int(datagram.Length) != int(outer.Length)-20 || len(datagram.Payload) != int(datagram.Length)-8:
		return nil, fmt.Errorf("lengths %d and %d with %d bytes", outer.Length, datagram.Length, len(datagram.Payload))
	case outer.IHL != 5 || outer.TTL != 64:
		return nil, fmt.Errorf("header of %d words, TTL %d", outer.IHL, outer.TTL)
	}
	if datagram.Checksum != 0 {
		if err := sameChecksums(outer.Contents, datagram.Payload, outer, datagram); err != nil {
			return nil, fmt.Errorf("outer: %w", err)
		}
	}
	inner := gopacket.NewPacket(datagram.Payload, layers.LayerTypeIPv4, gopacket.NoCopy)
	ip, _ := inner.Layer(layers.LayerTypeIPv4).(*layers.IPv4)
	if ip == nil || int(ip.Length) != len(datagram.Payload) {
		return nil, fmt.Errorf("%d bytes that are not one IPv4 packet: % x", len(datagram.Payload), datagram.Payload[:min(40, len(datagram.Payload))])
	}
	if ip.Flags&layers.IPv4MoreFragments != 0 || ip.FragOffset > 0 {
		return inner, nil
	}
	var transport gopacket.SerializableLayer
	switch l := inner.TransportLayer().(type) {
	case *layers.TCP:
		transport = l
	case *layers.UDP:
		transport = l
	default:
		return inner, nil
	}
	if err := sameChecksums(ip.Contents, inner.TransportLayer().LayerPayload(), ip, transport); err != nil {
		return nil, fmt.Errorf("inner: %w", err)
	}
	return inner, nil
}

// sameChecksums builds the packet anew, with checksums computed by gopacket, and
// wants the same headers.
func sameChecksums(header, payload []byte, ip *layers.IPv4, transport gopacket.SerializableLayer) error {
	var want []byte
	again := *ip
	switch l := transport.(type) {
	case *layers.TCP:
		c := *l
		c.SetNetworkLayerForChecksum(&again)
		transport, want = &c, l.Contents
	case *layers.UDP:
		c := *l
		c.SetNetworkLayerForChecksum(&again)
		transport, want = &c, l.Contents
	}
	buf := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(buf, gopacket.SerializeOptions{ComputeChecksums: true}, &again, transport, gopacket.Payload(payload)); err != nil {
		return err
	}
	got := buf.Bytes()
	if !bytes.Equal(got[:len(header)], header) || !bytes.Equal(got[len(header):len(header)+len(want)], want) {
		return fmt.Errorf("headers\n% x% x, want\n% x", header, want, got[:len(header)+len(want)])
	}
	return nil
}

// What is on the wire, packet by packet, beside what the pods sent and got: one
// raw IPv4 packet per datagram, none larger than the MTU less 28, one hop less,
// with right checksums.
func TestOnTheWire(t *testing.T) {
	for _, mix := range mixes {
		t.Run(mix.name, func(t *testing.T) {
			a, b := newHosts(t)
			a.backend, b.backend = mix.a, mix.b
			onA, onB := start(t, a, b)
			mustPing(t, a, b)
			a.singleDatagrams()
			wire := b.capture(t)

			// Datagrams of all sizes, many by one call with UDP_SEGMENT.
			from, to := a.udp(t), b.udp(t)
			to.SetReadBuffer(8 << 20)
			to.SetReadDeadline(time.Now().Add(patience))
			dst := netip.MustParseAddrPort(to.LocalAddr().String())
			var sent [][]byte
			for i, size := range []int{0, 1, 2, 333, 1443, 1444} {
				data := bytes.Repeat([]byte{byte(i + 1)}, size)
				sent = append(sent, data)
				if _, err := from.WriteToUDPAddrPort(data, dst); err != nil {
					t.Fatal(err)
				}
			}
			if err := sockopt(from, func(fd int) error { return unix.SetsockoptInt(fd, unix.SOL_UDP, unix.UDP_SEGMENT, 1444) }); err != nil {
				t.Fatal(err)
			}
			large := make([]byte, 1444*30+77)
			for i := range large {
				large[i] = byte(i ^ i>>8)
			}
			if _, err := from.WriteToUDPAddrPort(large, dst); err != nil {
				t.Fatal(err)
			}
			for rest := large; len(rest) > 0; rest = rest[min(1444, len(rest)):] {
				sent = append(sent, rest[:min(1444, len(rest))])
			}
			var got [][]byte
			buf := make([]byte, 2000)
			for len(got) < len(sent) {
				n, err := to.Read(buf)
				if err != nil {
					t.Fatal(err)
				}
				got = append(got, bytes.Clone(buf[:n]))
			}
			// And TCP, whose stream must be what transfer sends.
			const size = 2 << 20
			if err := transfer(a, b, size); err != nil {
				t.Error(err)
			}

			var datagrams [][]byte
			stream := make([]byte, size)
			seen := make([]bool, size)
			var first uint32
			largest, count := 0, 0
			for i, p := range wire.packets(t) {
				if u, ok := p.Layer(layers.LayerTypeUDP).(*layers.UDP); !ok || u.DstPort != 8285 {
					continue
				}
				count++
				inner, err := innerOf(p, a.addr, b.addr, 1500)
				if err != nil {
					t.Fatalf("packet %d: %v", i, err)
				}
				ip := inner.NetworkLayer().(*layers.IPv4)
				if ip.TTL != 63 || !ip.SrcIP.Equal(a.pod().AsSlice()) || !ip.DstIP.Equal(b.pod().AsSlice()) {
					t.Fatalf("packet %d: from %s to %s with TTL %d", i, ip.SrcIP, ip.DstIP, ip.TTL)
				}
				largest = max(largest, int(ip.Length))
				switch l := inner.TransportLayer().(type) {
				case *layers.UDP:
					datagrams = append(datagrams, l.Payload)
				case *layers.TCP:
					if l.SYN {
						first = l.Seq + 1
					}
					at := int(l.Seq - first)
					if len(l.Payload) > 0 && at >= 0 && at+len(l.Payload) <= size {
						copy(stream[at:], l.Payload)
						for j := range l.Payload {
							seen[at+j] = true
						}
					}
				}
			}
			same := func(what string, list [][]byte) {
				t.Helper()
				if len(list) != len(sent) {
					t.Errorf("%d datagrams %s, want %d", len(list), what, len(sent))
				}
				for i := range min(len(list), len(sent)) {
					if !bytes.Equal(list[i], sent[i]) {
						t.Errorf("datagram %d %s: %d bytes, want %d", i, what, len(list[i]), len(sent[i]))
					}
				}
			}
			same("received", got)
			same("on the wire", datagrams)
			for i := range stream {
				if !seen[i] || stream[i] != byte(i^i>>8^i>>16) {
					t.Fatalf("byte %d of the TCP stream is not on the wire (seen %t)", i, seen[i])
				}
			}
			if largest != onA.MTU() {
				t.Errorf("the largest inner packet has %d bytes, want %d", largest, onA.MTU())
			}
			if s := onA.Stats(); onA.offload != (s.Socket.SendSupers > 0) || s.Socket.Fallbacks > 0 {
				t.Errorf("%+v", s.Socket)
			}
			if s := onB.Stats().FromPeers; total(s.Dropped) > 0 {
				t.Errorf("%+v", s)
			}
		})
	}
}
