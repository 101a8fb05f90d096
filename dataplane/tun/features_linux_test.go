package tun

import (
	"slices"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

func TestFeatures(t *testing.T) {
	names := []string{"tun_csum", "tun_tso4", "tun_tso6", "tun_uso", "tun_merge_tcp", "tun_merge_udp"}
	plainAndOffload(t, func(t *testing.T, o Options) {
		d := mustOpen(t, "flannel%d", o)
		if o.Offload {
			needUSO(t, d)
		}
		var got []string
		for _, f := range d.Features() {
			got = append(got, f.Name)
			if f.On != o.Offload {
				t.Errorf("%s: %v, want %v", f.Name, f.On, o.Offload)
			}
		}
		if !slices.Equal(got, names) {
			t.Errorf("features %v, want %v", got, names)
		}
	})
}

// A kernel that does not know an offload says EINVAL to TUNSETOFFLOAD; here a
// seccomp filter does, for the flags that it would not know.
func TestOldKernel(t *testing.T) {
	for _, tt := range []struct {
		name    string
		unknown uint32
		want    map[string]bool
	}{
		{"before USO", unix.TUN_F_USO4 | unix.TUN_F_USO6, map[string]bool{"tun_csum": true, "tun_tso4": true, "tun_tso6": true, "tun_merge_tcp": true}},
		{"no TSO6", unix.TUN_F_TSO6, map[string]bool{"tun_csum": true, "tun_tso4": true, "tun_uso": true, "tun_merge_tcp": true, "tun_merge_udp": true}},
		{"no checksums", unix.TUN_F_CSUM, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			quietNamespace(t)
			needUSO(t, mustOpen(t, "probe", Options{Offload: true}))
			refuse(t, unix.EINVAL,
				argument{at: offsetOfCall, is: unix.SYS_IOCTL},
				argument{at: offsetOfArgument(1), is: unix.TUNSETOFFLOAD},
				argument{at: offsetOfArgument(2), has: tt.unknown})
			d := mustOpen(t, "flannel%d", Options{Offload: true})
			for _, f := range d.Features() {
				if f.On != tt.want[f.Name] {
					t.Errorf("%s: %v, want %v", f.Name, f.On, tt.want[f.Name])
				}
			}
			configure(t, d, "10.9.0.1/24")
			echo(t, d, tt.want["tun_uso"])

			tcp := train(tcpPacket(1000), 10)
			before := d.Stats().SendSupers
			mustSend(t, d, encode(tcp))
			if merged := d.Stats().SendSupers > before; merged != tt.want["tun_merge_tcp"] {
				t.Errorf("TCP merged: %v", merged)
			}
		})
	}
}

// A kernel that refuses superpackets gets their packets one by one, and is not
// asked again. Kernels before 6.2 say EINVAL to those of UDP; here a seccomp
// filter does, for every writev of more than a header and a packet.
func TestFallback(t *testing.T) {
	for _, errno := range []unix.Errno{unix.EINVAL, unix.EOPNOTSUPP} {
		t.Run(unix.ErrnoName(errno), func(t *testing.T) {
			quietNamespace(t)
			d := mustOpen(t, "flannel%d", Options{Offload: true})
			needUSO(t, d)
			configure(t, d, "10.9.0.1/24")
			conn := listen(t, "10.9.0.1:40053")
			refuse(t, errno,
				argument{at: offsetOfCall, is: unix.SYS_WRITEV},
				argument{at: offsetOfArgument(2), above: 2})

			expect := func(fallbacks uint64, tcp, udp bool) {
				t.Helper()
				s := d.Stats()
				if s.Fallbacks != fallbacks || s.SendSupers != 0 {
					t.Errorf("%d fallbacks, %d superpackets, want %d and 0", s.Fallbacks, s.SendSupers, fallbacks)
				}
				if a, b := feature(t, d, "tun_merge_tcp"), feature(t, d, "tun_merge_udp"); a != tcp || b != udp {
					t.Errorf("merging TCP %v, UDP %v, want %v, %v", a, b, tcp, udp)
				}
			}
			toHost := func(p packet) packet {
				p.src, p.dst = [4]byte{10, 9, 0, 2}, [4]byte{10, 9, 0, 1}
				return p
			}
			expect(0, true, true)
			for range 2 { // the second time, merging is not tried
				before := snmp(t, "Tcp", "InSegs")
				mustSend(t, d, encode(train(toHost(tcpPacket(500)), 10)))
				if n := snmp(t, "Tcp", "InSegs") - before; n != 10 {
					t.Errorf("%d TCP packets arrived, want 10", n)
				}
				expect(1, false, true)
			}
			// Two superpackets of one round: both are refused, nothing is lost.
			for range 2 {
				other := toHost(udpPacket(300))
				other.sport++
				pkts := append(encode(train(toHost(udpPacket(300)), 10)), encode(train(other, 5))...)
				mustSend(t, d, pkts)
				got, calls := readDatagrams(t, conn, 15)
				samePackets(t, got, payloads(pkts))
				if calls != 15 {
					t.Errorf("%d calls", calls)
				}
				expect(3, false, false)
			}
		})
	}
}

// A Send of a superpacket that fails for another reason, here as if memory was
// short, loses its packets and keeps merging.
func TestNoFallback(t *testing.T) {
	quietNamespace(t)
	d := mustOpen(t, "flannel%d", Options{Offload: true})
	configure(t, d, "10.9.0.1/24")
	refuse(t, unix.ENOMEM,
		argument{at: offsetOfCall, is: unix.SYS_WRITEV},
		argument{at: offsetOfArgument(2), above: 2})
	pkts := asPackets(append(encode(train(tcpPacket(500), 3)), udpPacket(3).bytes()))
	if err := d.Send(pkts); err != nil {
		t.Fatal(err)
	}
	for i, want := range []unix.Errno{unix.ENOMEM, unix.ENOMEM, unix.ENOMEM, 0} {
		if pkts[i].Err != want {
			t.Errorf("packet %d: %v, want %v", i, pkts[i].Err, want)
		}
	}
	if d.Stats().Fallbacks != 0 || !feature(t, d, "tun_merge_tcp") {
		t.Error("an error that means something else passed for a refusal of the offload")
	}
}

// An argument is a condition on a system call: a word that has a value, any of
// some bits, or is above a value.
type argument struct {
	at             uint32 // offset in struct seccomp_data (linux/seccomp.h)
	is, has, above uint32
}

const offsetOfCall = 0

// offsetOfArgument gives the low half of the argument.
func offsetOfArgument(n uint32) uint32 {
	one := uint16(1)
	bigEndian := *(*byte)(unsafe.Pointer(&one)) == 0
	if bigEndian {
		return 16 + 8*n + 4
	}
	return 16 + 8*n
}

// refuse makes system calls of the test's own thread that meet all conditions
// fail with errno, in the kernel (seccomp(2)). The thread must be one that ends
// with the test, as nstest.Enter has it.
func refuse(t testing.TB, errno unix.Errno, conditions ...argument) {
	t.Helper()
	var filter []unix.SockFilter
	for i, c := range conditions {
		test := unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: c.is}
		switch {
		case c.has != 0:
			test = unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K, K: c.has}
		case c.above != 0:
			test = unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JGT | unix.BPF_K, K: c.above}
		}
		test.Jf = uint8(2*(len(conditions)-i) - 1) // past the refusal
		filter = append(filter, unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: c.at}, test)
	}
	filter = append(filter,
		unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(errno)},
		unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW})
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	if err := unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&program)), 0, 0); err != nil {
		t.Fatalf("seccomp filter: %v", err)
	}
}
