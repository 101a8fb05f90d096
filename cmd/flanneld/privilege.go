package main

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// errNotRoot tells at once what a dozen refused system calls would tell one
// after the other.
var errNotRoot = errors.New("this process may not change the network: run flanneld as root, or with the capability CAP_NET_ADMIN")

// checkPrivileges returns errNotRoot without the capability CAP_NET_ADMIN
// (capabilities(7)), which every backend needs that carries packets.
func checkPrivileges() error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var sets [2]unix.CapUserData // 32 capabilities each
	if err := unix.Capget(&header, &sets[0]); err != nil {
		return fmt.Errorf("read the capabilities of this process: %w", err)
	}
	if sets[0].Effective&(1<<unix.CAP_NET_ADMIN) == 0 {
		return errNotRoot
	}
	return nil
}
