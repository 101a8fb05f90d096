package main

import (
	"sync"
	"time"

	"tweed/subnet"
)

// envFileRetry is the pace of tries to write the subnet file.
const envFileRetry = time.Second

// envFile writes subnet.env and the state file once for each subnet and MTU.
// Later the file is left alone, whatever becomes of it: mk-docker-opts may well
// have put docker's options there, which hold as long as those two do, even if
// the lease was lost. It is not safe for concurrent use.
type envFile struct {
	*node
	told   subnet.Env   // what was written last; the zero value if nothing was
	failed bool         // the last try to, so that the file may have either
	known  subnet.State // what was written to the state file

	notified sync.Once // READY=1
}

// write reports whether the files say what they should.
func (f *envFile) write(env subnet.Env, attrs subnet.Attrs) bool {
	remembered := f.remember(env, attrs)
	if f.told == env && !f.failed {
		return remembered
	}
	err := env.WriteFile(f.opts.SubnetFile)
	f.ready.set(condEnvFile, err)
	if f.failed = err != nil; f.failed {
		f.log.Error("Couldn't write the subnet file, trying again", "err", err)
		return false
	}
	if f.told.Subnet == env.Subnet && f.told.MTU != env.MTU {
		f.log.Error("the MTU of the pods has changed: run mk-docker-opts again, as a restart of flanneld by its unit does, then restart docker and the containers",
			"mtu", env.MTU, "was", f.told.MTU)
	}
	f.told = env
	f.log.Info("Wrote subnet file to " + f.opts.SubnetFile)
	f.notified.Do(func() { notifyReady(f.log) })
	return remembered
}

// remember writes the state file, without which the node can work.
func (f *envFile) remember(env subnet.Env, attrs subnet.Attrs) bool {
	if f.known.Network == env.Network && f.known.Subnet == env.Subnet && f.known.Attrs.Equal(attrs) {
		return true
	}
	state := subnet.State{Network: env.Network, Subnet: env.Subnet, Attrs: attrs}
	if err := state.WriteFile(f.statePath()); err != nil {
		f.log.Warn("Couldn't remember the subnet for the next start, only the subnet file has it", "err", err)
		return false
	}
	f.known = state
	return true
}
