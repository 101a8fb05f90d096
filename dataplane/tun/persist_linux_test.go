package tun

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"tweed/dataplane"
)

// A persistent interface outlives the Device and is attached to again, by a
// Device that may want other offloads than the one before.
func TestPersistent(t *testing.T) {
	quietNamespace(t)
	d := mustOpen(t, "flannel%d", Options{Offload: true})
	needUSO(t, d)
	configure(t, d, "10.9.0.1/24")
	index := d.Index()
	route := &netlink.Route{LinkIndex: index, Dst: &net.IPNet{IP: net.IPv4(10, 8, 0, 0), Mask: net.CIDRMask(16, 32)}, Scope: netlink.SCOPE_LINK}
	if err := netlink.RouteAdd(route); err != nil {
		t.Fatal(err)
	}
	if err := d.SetPersistent(true); err != nil {
		t.Fatal(err)
	}
	echo(t, d, true)
	if other, err := Open("flannel0", Options{Offload: true}); !errors.Is(err, syscall.EBUSY) {
		t.Errorf("second Open while the first one holds it: %v, %v, want EBUSY", other, err)
	}

	for _, offload := range []bool{true, false, true, false, false, true, true} {
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
		link, err := netlink.LinkByIndex(index)
		if err != nil {
			t.Fatalf("the interface is gone after Close: %v", err)
		}
		addrs, err := netlink.AddrList(link, netlink.FAMILY_V4)
		if err != nil || len(addrs) != 1 || addrs[0].IPNet.String() != "10.9.0.1/24" {
			t.Errorf("addresses %v, %v, want 10.9.0.1/24", addrs, err)
		}
		routes, err := netlink.RouteListFiltered(netlink.FAMILY_V4, route, netlink.RT_FILTER_OIF|netlink.RT_FILTER_DST)
		if err != nil || len(routes) != 1 {
			t.Errorf("routes %v, %v, want 10.8.0.0/16", routes, err)
		}
		if d, err = Open("flannel0", Options{Offload: offload}); err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		if d.Index() != index || d.Name() != "flannel0" {
			t.Errorf("attached to %s, index %d, want flannel0, index %d", d.Name(), d.Index(), index)
		}
		awaitCarrier(t, d)
		echo(t, d, offload)
	}

	if err := d.SetPersistent(false); err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := netlink.LinkByIndex(index); err == nil {
		t.Error("the interface outlives Close, although it is not persistent any more")
	}
}

// Another program made the interface and chose a header of 12 bytes, which
// stays with the interface.
func TestAttachForeign(t *testing.T) {
	for _, offload := range []bool{true, false} {
		quietNamespace(t)
		fd, err := unix.Open(devNetTun, unix.O_RDWR|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		ifr, err := unix.NewIfreq("flannel0")
		if err != nil {
			t.Fatal(err)
		}
		ifr.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
		if err := errors.Join(
			unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr),
			unix.IoctlSetPointerInt(fd, unix.TUNSETVNETHDRSZ, 12),
			unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, unix.TUN_F_CSUM|unix.TUN_F_TSO4|unix.TUN_F_TSO6|unix.TUN_F_USO4|unix.TUN_F_USO6),
			unix.IoctlSetInt(fd, unix.TUNSETPERSIST, 1),
			unix.Close(fd),
		); err != nil {
			t.Fatal(err)
		}
		d := mustOpen(t, "flannel0", Options{Offload: offload})
		configure(t, d, "10.9.0.1/24")
		echo(t, d, offload)
	}
}

// awaitCarrier waits until packets pass. An interface without a Device has no
// carrier, and when it gets one the kernel needs a moment before it sends
// (net/core/link_watch.c).
func awaitCarrier(t *testing.T, d *Device) {
	t.Helper()
	conn := listen(t, "10.9.0.1:999")
	defer conn.Close()
	start := time.Now()
	pkts := make([]dataplane.Packet, 1)
	for probe := uint64(0); time.Since(start) < patience; probe++ {
		payload := binary.BigEndian.AppendUint64(nil, probe)
		if _, err := conn.WriteToUDP(payload, &net.UDPAddr{IP: net.IPv4(10, 9, 0, 2), Port: 999}); err != nil {
			t.Fatal(err)
		}
		d.SetReadDeadline(time.Now().Add(5 * time.Millisecond))
		for {
			if _, err := d.Recv(pkts); errors.Is(err, os.ErrDeadlineExceeded) {
				break
			} else if err != nil {
				t.Fatal(err)
			}
			if bytes.HasSuffix(pkts[0].Bytes, payload) {
				t.Logf("packets pass %v after Open", time.Since(start))
				return
			}
		}
	}
	t.Fatal("no packet passes")
}

// echo sends datagrams out of the namespace through the TUN with UDP_SEGMENT,
// sends them back, and demands that superpackets went both ways if there is
// offload, and otherwise none.
func echo(t *testing.T, d *Device, offload bool) {
	t.Helper()
	conn := listen(t, "10.9.0.1:1000")
	defer conn.Close()
	before := d.Stats()
	payload := text(10*1000+1, 5)
	want := pieces(payload, 1000)
	sendSegments(t, conn, payload, 1000, "10.9.0.2:2000")
	pkts, _ := recvAll(t, d, len(want), maxMerge)
	samePackets(t, payloads(pkts), want)
	for i := range pkts {
		checkCodec(t, pkts[i])
		pkts[i] = swapped(pkts[i])
	}
	mustSend(t, d, pkts)
	got, _ := readDatagrams(t, conn, len(want))
	samePackets(t, got, want)
	s := d.Stats()
	if received, sent := s.RecvSupers > before.RecvSupers, s.SendSupers > before.SendSupers; received != offload || sent != offload {
		t.Errorf("with offload %v: superpackets received: %v, sent: %v", offload, received, sent)
	}
	if bytes.Equal(want[0], want[1]) {
		t.Error("the test cannot see a change of order")
	}
}
