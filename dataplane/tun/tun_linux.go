// Package tun is the dataplane.Device on a Linux TUN interface
// (Documentation/networking/tuntap.rst in the kernel's source).
//
// The kernel hands over superpackets of up to 64 KiB, which stand for many
// packets of one flow, and takes them; they are cut and merged here:
//
//	pods -> stack -> TUN -- read --> splitter -> packets -> Recv
//	pods <- stack <- TUN <- write -- merger <-- packets <-- Send
package tun

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"tweed/dataplane"
	"tweed/dataplane/rawfd"
)

const devNetTun = "/dev/net/tun"

// Device is a TUN interface without packet information. Unless it was made
// persistent, the interface lives as long as the Device is open.
//
// The errors of Recv and Send name the interface. If it was deleted, both fail
// for good, with syscall.EBADFD. While it is down, packets that are sent have
// the Err EIO, and Recv waits.
type Device struct {
	file     *rawfd.File
	name     string
	index    int
	vnet     bool // each packet has a vnetHdr in front
	features features
	count    dataplane.IOCounters

	reader reader

	sending sync.Mutex // guards writer
	writer  writer
}

var _ dataplane.Device = (*Device)(nil)

// Options say how a Device differs from the plainest one, which moves one
// packet with each system call.
type Options struct {
	// Offload makes use of all segmentation offloads that the kernel has.
	Offload bool
}

// Open makes a TUN interface, down and without an address, in the network
// namespace of the calling thread, or attaches to a persistent one. A %d in
// name, as in "flannel%d", stands for the lowest number that is free.
func Open(name string, o Options) (*Device, error) {
	d, err := open(name, o)
	if err != nil {
		return nil, fmt.Errorf("open tun %s: %w", name, err)
	}
	return d, nil
}

func open(name string, o Options) (_ *Device, err error) {
	ifr, err := unix.NewIfreq(name)
	if err != nil || name == "" {
		return nil, fmt.Errorf("name: want 1 to %d bytes", unix.IFNAMSIZ-1)
	}
	fd, err := unix.Open(devNetTun, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, explain(&os.PathError{Op: "open", Path: devNetTun, Err: err})
	}
	defer func() {
		if err != nil {
			unix.Close(fd)
		}
	}()
	flags := uint16(unix.IFF_TUN | unix.IFF_NO_PI)
	if o.Offload {
		flags |= unix.IFF_VNET_HDR
	}
	ifr.SetUint16(flags)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr); err != nil {
		return nil, explain(os.NewSyscallError("TUNSETIFF", err))
	}
	if o.Offload {
		// A persistent interface keeps the size that its last user chose.
		if err := unix.IoctlSetPointerInt(fd, unix.TUNSETVNETHDRSZ, vnetHdrLen); err != nil {
			return nil, os.NewSyscallError("TUNSETVNETHDRSZ", err)
		}
	}
	d := &Device{name: ifr.Name(), vnet: o.Offload}
	if d.index, err = indexOf(d.name); err != nil {
		return nil, err
	}
	if err := d.features.probe(fd, o.Offload); err != nil {
		return nil, err
	}
	if d.file, err = rawfd.New(fd); err != nil {
		return nil, err
	}
	return d, nil
}

// explain adds to an error of open(2) or TUNSETIFF what an operator can do.
func explain(err error) error {
	switch {
	case errors.Is(err, syscall.ENOENT), errors.Is(err, syscall.ENODEV), errors.Is(err, syscall.ENXIO):
		return fmt.Errorf("%w (want the kernel module tun, and in a container the device %s)", err, devNetTun)
	case errors.Is(err, syscall.EACCES), errors.Is(err, syscall.EPERM):
		return fmt.Errorf("%w (want CAP_NET_ADMIN and access to %s)", err, devNetTun)
	case errors.Is(err, syscall.EBUSY):
		return fmt.Errorf("%w (another process holds an interface of this name)", err)
	case errors.Is(err, syscall.EINVAL):
		return fmt.Errorf("%w (want the name of a TUN interface, or a name that is not in use)", err)
	}
	return err
}

// indexOf asks for the index of an interface in the namespace of the calling
// thread (netdevice(7)).
func indexOf(name string) (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	ifr, err := unix.NewIfreq(name)
	if err != nil {
		return 0, fmt.Errorf("name %q: %w", name, err)
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFINDEX, ifr); err != nil {
		return 0, os.NewSyscallError("SIOCGIFINDEX", err)
	}
	return int(ifr.Uint32()), nil
}

// Name is the name that the interface had when it was opened.
func (d *Device) Name() string { return d.name }

// Index is the number of the interface, which a rename does not change.
func (d *Device) Index() int { return d.index }

// Stats returns the counters. It may be called at any time.
func (d *Device) Stats() dataplane.IOStats { return d.count.Snapshot() }

// SetPersistent says whether the interface, with its addresses and routes,
// outlives the Device, to be attached to by the next Open of its name. It then
// belongs to this process's user: without an owner anybody who may open
// /dev/net/tun could attach to it (drivers/net/tun.c, tun_not_capable).
func (d *Device) SetPersistent(on bool) error {
	fd, err := d.file.Enter()
	if err != nil {
		return d.fail("make persistent", err)
	}
	defer d.file.Leave()
	value := 0
	if on {
		value = 1
		if err := unix.IoctlSetInt(fd, unix.TUNSETOWNER, os.Geteuid()); err != nil {
			return fmt.Errorf("tun %s: %w", d.name, os.NewSyscallError("TUNSETOWNER", err))
		}
	}
	if err := unix.IoctlSetInt(fd, unix.TUNSETPERSIST, value); err != nil {
		return fmt.Errorf("tun %s: %w", d.name, os.NewSyscallError("TUNSETPERSIST", err))
	}
	return nil
}

// SetReadDeadline implements dataplane.Device.
func (d *Device) SetReadDeadline(t time.Time) error {
	if err := d.file.SetReadDeadline(t); err != nil {
		return d.fail("set deadline of", err)
	}
	return nil
}

// Close deletes the interface, with its addresses and routes, unless it is
// persistent.
func (d *Device) Close() error {
	if err := d.file.Close(); err != nil {
		return d.fail("close", err)
	}
	return nil
}

// ErrGone: the interface was deleted.
var ErrGone = errors.New("the interface is gone")

// fail names the interface in an error that is final.
func (d *Device) fail(op string, err error) error {
	if errors.Is(err, unix.EBADFD) {
		err = fmt.Errorf("%w: %w", ErrGone, err)
	}
	return fmt.Errorf("%s tun %s: %w", op, d.name, err)
}
