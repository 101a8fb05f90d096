package tun

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tweed/dataplane"
	"tweed/test/nstest"
)

// patience is how long a test waits for what must happen.
const patience = 20 * time.Second

// connect copies packets from the one TUN to the other until the test ends,
// and back.
func connect(t testing.TB, a, b *Device, batch int) {
	t.Helper()
	pump := func(from, to *Device) {
		result := make(chan error, 1)
		go func() { result <- copyPackets(from, to, batch) }()
		t.Cleanup(func() {
			from.SetReadDeadline(time.Unix(1, 0))
			if err := <-result; !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("copy from %s to %s: %v", from.Name(), to.Name(), err)
			}
		})
	}
	pump(a, b)
	pump(b, a)
}

func copyPackets(from, to *Device, batch int) error {
	pkts := make([]dataplane.Packet, batch)
	for {
		n, err := from.Recv(pkts)
		if err != nil {
			return err
		}
		if err := to.Send(pkts[:n]); err != nil {
			return err
		}
		for i := range pkts[:n] {
			if pkts[i].Err != 0 {
				return pkts[i].Err
			}
		}
	}
}

// sendSegments sends payload in datagrams of size bytes in one call.
func sendSegments(t testing.TB, conn *net.UDPConn, payload []byte, size int, to string) {
	t.Helper()
	setUDPOption(t, conn, unix.UDP_SEGMENT, size)
	if _, err := conn.WriteToUDPAddrPort(payload, netip.MustParseAddrPort(to)); err != nil {
		t.Fatal(err)
	}
}

func setUDPOption(t testing.TB, conn *net.UDPConn, option, value int) {
	t.Helper()
	raw, err := conn.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var optErr error
	err = raw.Control(func(fd uintptr) {
		optErr = unix.SetsockoptInt(int(fd), unix.IPPROTO_UDP, option, value)
	})
	if err := errors.Join(err, optErr); err != nil {
		t.Fatalf("set UDP option %d to %d: %v", option, value, err)
	}
}

// readDatagrams reads n datagrams, and says how many calls that took; a socket
// with UDP_GRO gives many at once.
func readDatagrams(t testing.TB, conn *net.UDPConn, n int) (got [][]byte, calls int) {
	t.Helper()
	conn.SetReadDeadline(time.Now().Add(patience))
	buf, oob := make([]byte, 1<<16), make([]byte, 64)
	for len(got) < n {
		size, oobSize, _, _, err := conn.ReadMsgUDP(buf, oob)
		if err != nil {
			t.Fatalf("after %d datagrams of %d: %v", len(got), n, err)
		}
		calls++
		segment := max(size, 1)
		control, err := unix.ParseSocketControlMessage(oob[:oobSize])
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range control {
			if c.Header.Level == unix.IPPROTO_UDP && c.Header.Type == unix.UDP_GRO {
				segment = int(binary.NativeEndian.Uint32(c.Data))
			}
		}
		got = append(got, pieces(bytes.Clone(buf[:size]), segment)...)
	}
	return got, calls
}

// pieces cuts b, of which the last piece may be smaller.
func pieces(b []byte, size int) (out [][]byte) {
	for len(b) > size {
		out = append(out, b[:size])
		b = b[size:]
	}
	return append(out, b)
}

// payloads are the UDP or TCP payloads of packets without IP options.
func payloads(pkts [][]byte) (out [][]byte) {
	for _, b := range pkts {
		out = append(out, parse(b).payload)
	}
	return out
}

// recvAll waits for n packets, taking up to batch at a time. What was received
// is spoilt afterwards, as its owner may.
func recvAll(t testing.TB, d *Device, n, batch int) (got [][]byte, calls int) {
	t.Helper()
	d.SetReadDeadline(time.Now().Add(patience))
	pkts := make([]dataplane.Packet, batch)
	for len(got) < n {
		k, err := d.Recv(pkts)
		if err != nil {
			t.Fatalf("after %d packets of %d: %v", len(got), n, err)
		}
		if k < 1 || k > batch {
			t.Fatalf("Recv into %d packets gave %d", batch, k)
		}
		calls++
		for i := range pkts[:k] {
			got = append(got, bytes.Clone(pkts[i].Bytes))
		}
		for i := range pkts[:k] {
			for j := range pkts[i].Bytes {
				pkts[i].Bytes[j] = 0xdb
			}
		}
	}
	return got, calls
}

// snmp reads a counter of the kernel, such as Udp InCsumErrors, in the
// namespace of the calling thread.
func snmp(t testing.TB, proto, name string) uint64 {
	t.Helper()
	text, err := os.ReadFile("/proc/thread-self/net/snmp")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if fields[0] != proto+":" {
			continue
		}
		if names == nil {
			names = fields
			continue
		}
		for i := range names {
			if names[i] == name {
				v, err := strconv.ParseUint(fields[i], 10, 64)
				if err != nil {
					t.Fatal(err)
				}
				return v
			}
		}
	}
	t.Fatalf("/proc/net/snmp has no %s %s", proto, name)
	return 0
}

// feature tells whether d has an offload in use.
func feature(t testing.TB, d *Device, name string) bool {
	t.Helper()
	for _, f := range d.Features() {
		if f.Name == name {
			return f.On
		}
	}
	t.Fatalf("no feature %s", name)
	return false
}

// needUSO skips the test on kernels before 6.2.
func needUSO(t testing.TB, d *Device) {
	t.Helper()
	if !feature(t, d, "tun_uso") {
		nstest.Missing(t, "UDP segmentation offload of TUN (Linux 6.2)")
	}
}
