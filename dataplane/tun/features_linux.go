package tun

import (
	"errors"
	"os"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// features are the offloads of an interface (linux/if_tun.h). Those of reading
// say which superpackets the kernel may hand over; the ones of writing are
// switched off when the kernel refuses a superpacket.
type features struct {
	csum, tso4, tso6, uso bool // reading

	mergeTCP, mergeUDP atomic.Bool // writing
}

// A Feature is an offload, and whether it is in use.
type Feature struct {
	Name string
	On   bool
}

// probe asks for one offload after the other, so that each is had that the
// kernel knows.
func (f *features) probe(fd int, want bool) error {
	offload := func(flags int) error {
		return os.NewSyscallError("TUNSETOFFLOAD", unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, flags))
	}
	if !want {
		// A persistent interface may still have those of its last user.
		return offload(0)
	}
	flags := 0
	try := func(more int) bool {
		if offload(flags|more) != nil {
			return false
		}
		flags |= more
		return true
	}
	if f.csum = try(unix.TUN_F_CSUM); !f.csum { // all others need it
		return offload(0)
	}
	f.tso4 = try(unix.TUN_F_TSO4)
	f.tso6 = try(unix.TUN_F_TSO6)
	f.uso = try(unix.TUN_F_USO4 | unix.TUN_F_USO6) // Linux 6.2, only both together
	f.mergeTCP.Store(true)
	f.mergeUDP.Store(f.uso)
	return nil
}

// Features tells which offloads are in use at the moment.
func (d *Device) Features() []Feature {
	f := &d.features
	return []Feature{
		{"tun_csum", f.csum}, {"tun_tso4", f.tso4}, {"tun_tso6", f.tso6}, {"tun_uso", f.uso},
		{"tun_merge_tcp", f.mergeTCP.Load()}, {"tun_merge_udp", f.mergeUDP.Load()},
	}
}

// refused switches the merging of proto off, unless it was not the kernel's
// version that said no.
func (f *features) refused(proto uint8, err unix.Errno) bool {
	if !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.EOPNOTSUPP) {
		return false
	}
	if proto == protoUDP {
		f.mergeUDP.Store(false)
	} else {
		f.mergeTCP.Store(false)
	}
	return true
}
