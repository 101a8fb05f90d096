package main

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"tweed/backend/vxlan"
)

// checkPort looks whether the backend's UDP port can be had, or is already had
// by flanneld itself.
func (c *checker) checkPort(ctx context.Context) {
	if !c.needs(checkPort, true, true) || c.profile.Port == 0 {
		return
	}
	// The kernel's VXLAN listens on all addresses.
	at := netip.AddrPortFrom(c.under.Addr, uint16(c.profile.Port))
	if c.profile.Type == vxlan.Type {
		at = netip.AddrPortFrom(netip.IPv4Unspecified(), uint16(c.profile.Port))
	}
	d := data{"protocol": "udp", "port": c.profile.Port, "address": at.Addr(), "user": nil}
	if c.profile.Type == vxlan.Type && c.checkVXLANPort(d) {
		return
	}
	err := tryBind(ctx, "udp4", at.String())
	switch {
	case err == nil:
		c.ok(checkPort, d, "UDP port %d is free; it must be open between the hosts", c.profile.Port)
	case !errors.Is(err, unix.EADDRINUSE):
		c.add(finding{Name: checkPort, Result: verdictFailure, Found: fmt.Sprintf("UDP port %d cannot be opened: %v", c.profile.Port, err), Advice: "choose another Port in Backend, the same for all hosts", Data: d})
	default:
		c.taken(checkPort, "udp", at.Port(), d, "flanneld would not start: stop the other program, or choose another Port in Backend, the same for all hosts")
	}
}

// checkVXLANPort reports whether vxlan devices explain who has the port.
func (c *checker) checkVXLANPort(d data) bool {
	wanted := socketOptions(&netlink.Vxlan{GBP: c.profile.GBP})
	for _, l := range c.host.links {
		dev, ok := l.(*netlink.Vxlan)
		if !ok || dev.Port != c.profile.Port {
			continue
		}
		d["user"] = dev.Name
		switch {
		case dev.Name == c.profile.Link:
			c.ok(checkPort, d, "UDP port %d is in use by %s itself", c.profile.Port, dev.Name)
		case dev.VxlanId == c.profile.VNI:
			c.add(finding{Name: checkPort, Result: verdictFailure, Found: fmt.Sprintf("%s has VNI %d on UDP port %d already", dev.Name, dev.VxlanId, dev.Port), Data: d,
				Advice: "flanneld would not start: remove that device, or choose another VNI or Port in Backend, the same for all hosts"})
		case socketOptions(dev) != wanted:
			c.add(finding{Name: checkPort, Result: verdictFailure, Found: fmt.Sprintf("%s has UDP port %d with other options: %s, not %s", dev.Name, dev.Port, socketOptions(dev), wanted), Data: d,
				Advice: "flanneld would not start: remove that device, or choose another Port in Backend, the same for all hosts"})
		default:
			continue // devices with different VNIs share a port
		}
		return true
	}
	for _, l := range c.host.links {
		if dev, ok := l.(*netlink.Vxlan); ok && dev.Port == c.profile.Port {
			d["user"] = dev.Name
			c.ok(checkPort, d, "UDP port %d is shared with %s, which has another VNI", c.profile.Port, dev.Name)
			return true
		}
	}
	return false
}

// socketOptions lists what must be the same for devices to share a port
// (VXLAN_F_RCV_FLAGS in include/net/vxlan.h), by the names of ip-link(8), as far
// as netlink tells it here.
func socketOptions(dev *netlink.Vxlan) string {
	var set []string
	for _, o := range []struct {
		name string
		on   bool
	}{{"gbp", dev.GBP}, {"external", dev.FlowBased}, {"udp6zerocsumrx", dev.UDP6ZeroCSumRx}} {
		if o.on {
			set = append(set, o.name)
		}
	}
	return cmp.Or(strings.Join(set, " "), "none")
}

// checkHealthzPort looks whether the port of the health checks can be had.
func (c *checker) checkHealthzPort(ctx context.Context) {
	port := c.opts.HealthzPort
	if port <= 0 || port > math.MaxUint16 {
		return
	}
	// As flanneld has it: also a host name, or nothing for all addresses.
	at := net.JoinHostPort(c.opts.HealthzIP, strconv.Itoa(port))
	d := data{"protocol": "tcp", "port": port, "address": c.opts.HealthzIP, "user": nil}
	err := tryBind(ctx, "tcp", at)
	switch {
	case err == nil:
		c.ok(checkHealthz, d, "TCP port %d is free", port)
	case errors.Is(err, unix.EADDRINUSE):
		c.taken(checkHealthz, "tcp", uint16(port), d, "flanneld would not start: choose another -healthz-port")
	default:
		c.add(finding{Name: checkHealthz, Result: verdictFailure, Found: fmt.Sprintf("TCP %s cannot be opened: %v", at, err), Advice: "flanneld would not start: correct -healthz-ip and -healthz-port", Data: d})
	}
}

// taken tells who has the port. It is all right if that is flanneld.
func (c *checker) taken(name, protocol string, port uint16, d data, advice string) {
	text := fmt.Sprintf("%s port %d", strings.ToUpper(protocol), port)
	user, pid := portUser(protocol, port)
	if user != "" {
		d["user"], d["pid"] = user, pid
	}
	switch {
	case user == "flanneld":
		c.ok(name, d, "%s is in use by flanneld itself (pid %d)", text, pid)
	case user != "":
		c.add(finding{Name: name, Result: verdictFailure, Found: fmt.Sprintf("%s is in use by %s (pid %d)", text, user, pid), Advice: advice, Data: d})
	case os.Geteuid() != 0:
		c.add(finding{Name: name, Result: verdictSkipped, Found: text + " is in use; by whom, needs root", Advice: "run tweed check as root: it may be flanneld itself", Data: d})
	default:
		c.add(finding{Name: name, Result: verdictFailure, Found: text + " is in use, by the kernel or by a process that cannot be seen from here", Advice: advice, Data: d})
	}
}

// tryBind opens a socket for a moment, in the network namespace of the calling
// thread. It sends nothing.
func tryBind(ctx context.Context, network, at string) error {
	var lc net.ListenConfig
	if network == "tcp" {
		l, err := lc.Listen(ctx, network, at)
		if err != nil {
			return err
		}
		return l.Close()
	}
	p, err := lc.ListenPacket(ctx, network, at)
	if err != nil {
		return err
	}
	return p.Close()
}

// portUser finds the process that has a socket on the port, by the inodes of
// /proc/net (proc(5)); name is empty if none is seen.
func portUser(protocol string, port uint16) (name string, pid int) {
	inodes := make(map[string]bool)
	for _, file := range []string{protocol, protocol + "6"} {
		for _, inode := range socketInodes("/proc/thread-self/net/"+file, port) {
			inodes["socket:["+inode+"]"] = true
		}
	}
	fds, err := filepath.Glob("/proc/[0-9]*/fd/*")
	if err != nil {
		return "", 0
	}
	for _, fd := range fds {
		target, err := os.Readlink(fd)
		if err != nil || !inodes[target] {
			continue
		}
		words := strings.Split(fd, "/") // "", proc, PID, fd, N
		comm, err := os.ReadFile(filepath.Join("/proc", words[2], "comm"))
		if pid, _ := strconv.Atoi(words[2]); err == nil {
			return strings.TrimSpace(string(comm)), pid
		}
	}
	return "", 0
}

// socketInodes lists the sockets on a local port, which is the hexadecimal part
// behind the colon of the second column. TCP sockets count only if they listen
// (state 0A); for UDP all do.
func socketInodes(file string, port uint16) (inodes []string) {
	f, err := os.Open(file)
	if err != nil {
		return nil
	}
	defer f.Close()
	suffix := fmt.Sprintf(":%04X", port)
	for lines := bufio.NewScanner(f); lines.Scan(); {
		words := strings.Fields(lines.Text())
		if len(words) < 10 || !strings.HasSuffix(words[1], suffix) || words[9] == "0" {
			continue
		}
		if strings.Contains(filepath.Base(file), "tcp") && words[3] != "0A" {
			continue
		}
		inodes = append(inodes, words[9])
	}
	return inodes
}
