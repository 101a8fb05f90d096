package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"tweed/subnet"
)

// checkSubnetFile looks whether flanneld can write its files, and which subnet
// it will ask for again.
func (c *checker) checkSubnetFile() {
	for _, f := range []struct {
		flag, path string
		result     verdict
		advice     string
	}{
		{"-subnet-file", c.opts.SubnetFile, verdictFailure, "docker would not learn its subnet: correct -subnet-file, or make the folder writable"},
		{"-state-dir", subnet.StatePath(c.opts.StateDir, c.opts.SubnetFile), verdictWarning, "the subnet is remembered in the subnet file alone, which mk-docker-opts may overwrite: correct -state-dir"},
	} {
		err := canReplace(f.path)
		switch {
		case err == nil:
		case os.Geteuid() != 0 && errors.Is(err, fs.ErrPermission):
			c.skip(checkSubnetFile, "%s: %v; whether flanneld may write it needs root", f.flag, err)
		default:
			c.add(finding{Name: checkSubnetFile, Result: f.result, Found: fmt.Sprintf("%s: %v", f.flag, err), Advice: f.advice, Data: data{"file": f.path}})
		}
	}
	c.checkPrevious()
}

// checkPrevious compares what earlier runs remembered with the config and with
// the lease.
func (c *checker) checkPrevious() {
	prev, file := c.previousSubnet()
	c.prev = prev
	d := data{"file": file, "subnet": nil}
	if !prev.IsValid() {
		if c.cfg != nil {
			c.ok(checkSubnetFile, d, "no earlier run has left a subnet in %s", c.opts.SubnetFile)
		}
		return
	}
	d["subnet"] = prev
	switch {
	case c.cfg == nil:
		c.ok(checkSubnetFile, d, "%s has subnet %s", file, prev)
	case c.own.IsValid() && c.own != prev:
		c.add(finding{Name: checkSubnetFile, Result: verdictWarning, Found: fmt.Sprintf("%s has subnet %s, but the lease of this host is %s", file, prev, c.own), Data: d,
			Advice: "if flanneld runs, look at its log; else it takes the lease when it starts, and docker has to be restarted"})
	case !c.cfg.Contains(prev):
		c.add(finding{Name: checkSubnetFile, Result: verdictWarning, Found: fmt.Sprintf("%s has subnet %s, which is not one of this config", file, prev), Data: d,
			Advice: "flanneld will lease another one: restart docker and the containers then"})
	default:
		c.ok(checkSubnetFile, d, "%s has subnet %s, which flanneld asks for again", file, prev)
	}
}

// previousSubnet asks subnet.env first, then the private copy, as flanneld
// does.
func (c *checker) previousSubnet() (prev netip.Prefix, file string) {
	statePath := subnet.StatePath(c.opts.StateDir, c.opts.SubnetFile)
	sn, err := subnet.ReadEnvSubnet(c.opts.SubnetFile)
	if err == nil && sn.IsValid() {
		return sn, c.opts.SubnetFile
	}
	if err != nil {
		c.unreadable(c.opts.SubnetFile, err)
	}
	state, err := subnet.ReadState(statePath)
	if err != nil {
		c.unreadable(statePath, err)
		return netip.Prefix{}, ""
	}
	return state.Subnet, statePath
}

func (c *checker) unreadable(file string, err error) {
	if os.Geteuid() != 0 && errors.Is(err, fs.ErrPermission) {
		c.skip(checkSubnetFile, "%v: needs root", err)
		return
	}
	c.add(finding{Name: checkSubnetFile, Result: verdictNote, Found: err.Error(), Advice: "nothing: flanneld ignores it and writes it anew", Data: data{"file": file}})
}

// canReplace returns nil if path, and the folders that are missing, could be
// made. It asks the kernel, and makes nothing.
func canReplace(path string) error {
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		return fmt.Errorf("%s is a folder: want a file", path)
	}
	dir := filepath.Dir(path)
	for {
		info, err := os.Stat(dir)
		switch {
		case errors.Is(err, fs.ErrNotExist) && dir != filepath.Dir(dir):
			dir = filepath.Dir(dir)
			continue
		case err != nil:
			return err
		case !info.IsDir():
			return fmt.Errorf("%s is not a folder", dir)
		}
		if err := unix.Access(dir, unix.W_OK|unix.X_OK); err != nil {
			return fmt.Errorf("write into %s: %w", dir, err)
		}
		return nil
	}
}
