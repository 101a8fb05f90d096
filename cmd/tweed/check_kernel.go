package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"tweed/backend/udp"
	"tweed/backend/vxlan"
	"tweed/dataplane/tun"
)

// checkKernel finds out whether the kernel has what the backend needs. A
// device is made only in a network namespace that vanishes with it, and only
// where that loads no module.
func (c *checker) checkKernel() {
	if !c.needs(checkKernel, true, false) {
		return
	}
	switch c.profile.Type {
	case vxlan.Type:
		c.tryDevice("vxlan", "the kernel module vxlan: modprobe vxlan, or a kernel with CONFIG_VXLAN", func() error {
			attrs := netlink.NewLinkAttrs()
			attrs.Name = c.profile.Link
			return netlink.LinkAdd(&netlink.Vxlan{LinkAttrs: attrs, VxlanId: c.profile.VNI, Port: c.profile.Port, GBP: c.profile.GBP})
		})
	case udp.Type:
		const advice = "the kernel module tun (modprobe tun), and in a container --device /dev/net/tun"
		if _, err := os.Stat("/dev/net/tun"); err != nil {
			c.add(finding{Name: checkKernel, Result: verdictFailure, Found: err.Error(), Advice: "flanneld needs " + advice, Data: data{"feature": "tun"}})
			return
		}
		c.tryDevice("tun", advice, func() error {
			d, err := tun.Open("flannel%d", tun.Options{Offload: true})
			if err != nil {
				return err
			}
			return d.Close()
		})
	default:
		c.ok(checkKernel, data{"feature": nil}, "backend %s needs nothing but routes", c.profile.Type)
	}
}

// tryDevice makes a device where that can be done without a trace.
func (c *checker) tryDevice(module, needed string, try func() error) {
	d := data{"feature": module}
	have := findModule(module)
	switch {
	case have == moduleOnDisk:
		c.ok(checkKernel, d, "the module %s is there, and is loaded when flanneld makes its device", module)
		return
	case have == moduleUnknown:
		// The kernel may look for it elsewhere, and load it.
		c.skip(checkKernel, "%s: whether a device can be made is not known: the module is %s", module, have)
		return
	case !c.privileged:
		c.skip(checkKernel, "%s: whether a device can be made needs root; the module %s is %s", module, module, have)
		return
	}
	switch err := inThrowAwayNamespace(try); {
	case errors.Is(err, errNoNamespace):
		c.skip(checkKernel, "%s: %v; the module is %s", module, err, have)
	case err != nil:
		c.add(finding{Name: checkKernel, Result: verdictFailure, Found: fmt.Sprintf("no %s device can be made: %v", module, err), Advice: "flanneld needs " + needed, Data: d})
	default:
		c.ok(checkKernel, d, "%s devices work: one was made in a namespace of its own", module)
	}
}

// What can be said of a kernel module without loading it.
const (
	moduleLoaded  = "loaded"
	moduleOnDisk  = "on disk, not loaded"
	moduleUnknown = "not known to /sys or /lib/modules"
)

// findModule looks into /sys/module, /proc/misc (of tun) and into what depmod(8) has written.
func findModule(name string) string {
	if _, err := os.Stat(filepath.Join("/sys/module", name)); err == nil {
		return moduleLoaded
	}
	// What is built in may have no parameters, and so no folder there.
	if text, err := os.ReadFile("/proc/misc"); err == nil && slices.Contains(strings.Fields(string(text)), name) {
		return moduleLoaded
	}
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return moduleUnknown
	}
	dir := filepath.Join("/lib/modules", unix.ByteSliceToString(u.Release[:]))
	for file, state := range map[string]string{"modules.builtin": moduleLoaded, "modules.dep": moduleOnDisk} {
		text, err := os.ReadFile(filepath.Join(dir, file))
		if err == nil && strings.Contains(string(text), "/"+name+".ko") {
			return state
		}
	}
	return moduleUnknown
}

var errNoNamespace = errors.New("no network namespace can be made for a trial")

// inThrowAwayNamespace calls f on a thread in a new network namespace. Both end
// with the call.
func inThrowAwayNamespace(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread dies with the goroutine
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			done <- fmt.Errorf("%w: %w", errNoNamespace, err)
			return
		}
		done <- f()
	}()
	return <-done
}
