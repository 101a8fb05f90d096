// Package tun is the dataplane.Device on a Linux TUN interface
// (Documentation/networking/tuntap.rst, drivers/net/tun.c).
package tun

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"tweed/dataplane"
)

const devNetTun = "/dev/net/tun"

// maxPacket is the largest IPv4 packet in bytes, so that none is cut short
// whatever the MTU of the interface is.
const maxPacket = 65535

// Device is a TUN interface without packet information: each read and each
// write is one IP packet. The interface lives as long as the Device is open.
//
// The errors of Recv and Send name the interface. If it was deleted, both fail
// for good, with syscall.EBADFD. While it is down, Send fails with a Transient
// syscall.EIO and Recv waits.
type Device struct {
	file  *os.File
	name  string
	index int
	buf   [maxPacket]byte
}

var _ dataplane.Device = (*Device)(nil)

// Open makes a TUN interface, down and without an address, in the network
// namespace of the calling thread. A %d in name, as in "flannel%d", stands for
// the lowest number that is free.
func Open(name string) (*Device, error) {
	d, err := open(name)
	if err != nil {
		return nil, fmt.Errorf("open tun %s: %w", name, err)
	}
	return d, nil
}

func open(name string) (*Device, error) {
	ifr, err := unix.NewIfreq(name)
	if err != nil || name == "" {
		return nil, fmt.Errorf("name: want 1 to %d bytes", unix.IFNAMSIZ-1)
	}
	fd, err := unix.Open(devNetTun, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, explain(&os.PathError{Op: "open", Path: devNetTun, Err: err})
	}
	// The interface must be attached before the runtime polls the file: until
	// then the kernel reports an error to poll.
	ifr.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr); err != nil {
		unix.Close(fd)
		return nil, explain(os.NewSyscallError("TUNSETIFF", err))
	}
	index, err := indexOf(ifr.Name())
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	return &Device{file: os.NewFile(uintptr(fd), devNetTun), name: ifr.Name(), index: index}, nil
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

// Recv reads one packet that the kernel routed into the interface.
func (d *Device) Recv(pkts []dataplane.Packet) (int, error) {
	n, err := d.file.Read(d.buf[:])
	if err != nil {
		return 0, d.fail("read", err)
	}
	pkts[0] = dataplane.Packet{Bytes: d.buf[:n]}
	return 1, nil
}

// Send hands the packets to the kernel as if they had come in over the
// interface.
func (d *Device) Send(pkts []dataplane.Packet) (int, error) {
	for i := range pkts {
		if _, err := d.file.Write(pkts[i].Bytes); err != nil {
			return i, d.fail("write", err)
		}
	}
	return len(pkts), nil
}

// fail turns an error of the file into one of the dataplane.Device contract.
func (d *Device) fail(op string, err error) error {
	errno, ok := errors.AsType[syscall.Errno](err)
	switch {
	case errors.Is(err, os.ErrClosed), errors.Is(err, os.ErrDeadlineExceeded):
		return fmt.Errorf("%s tun %s: %w", op, d.name, err)
	case !ok, errno == unix.EBADFD:
		// No errno means that poll reported an error, which it does only for a
		// file without an interface (tun_chr_poll).
		return fmt.Errorf("%s tun %s: the interface is gone: %w", op, d.name, unix.EBADFD)
	}
	return dataplane.Transient(errno)
}

// SetReadDeadline implements dataplane.Device.
func (d *Device) SetReadDeadline(t time.Time) error { return d.file.SetReadDeadline(t) }

// Close deletes the interface, with its addresses and routes.
func (d *Device) Close() error {
	if err := d.file.Close(); err != nil {
		return fmt.Errorf("close tun %s: %w", d.name, err)
	}
	return nil
}
