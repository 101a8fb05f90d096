package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"tweed/subnet"
	"tweed/test/lab"
)

// crowdConfig is of the alloc backend, which only leases. With vxlan, each
// daemon would use more time for the others' routes than for its lease.
const crowdConfig = `{"Network":"10.64.0.0/10","SubnetLen":24,"Backend":{"Type":"alloc"}}`

// crowdCalm is for how long nobody may have asked etcd anything for all to have
// heard of all.
const crowdCalm = 500 * time.Millisecond

// A crowd is daemons that start together, each on a host of its own.
type crowd struct {
	hosts   []*lab.Host
	daemons []*lab.Process
	name    string
}

// measureCrowds starts an eighth of the daemons at once, then a quarter, half
// and all of them.
func (s *scaling) measureCrowds(ctx context.Context, r *scaleResult) error {
	most := s.opts.scale.daemons
	if most == 0 {
		return nil
	}
	hosts := make([]*lab.Host, most)
	err := runSteps(ctx, s.progress, "", []step{{fmt.Sprintf("adding %s", count(most, "host")), otherTime, func(ctx context.Context) error {
		return inParallel(ctx, fleetWriters, most, func(ctx context.Context, i int) (err error) {
			hosts[i], err = s.lab.AddHost(ctx, fmt.Sprintf("c%d", i+1))
			return err
		})
	}}})
	if err != nil {
		return err
	}
	for _, size := range slices.Compact([]int{max(1, most/8), max(1, most/4), max(1, most/2), most}) {
		c := &crowd{hosts: hosts[:size], daemons: make([]*lab.Process, size), name: fmt.Sprintf("crowd-%d", size)}
		var result crowdResult
		err := runSteps(ctx, s.progress, "", []step{
			{fmt.Sprintf("starting %s at once", count(size, "flanneld")), otherTime, func(ctx context.Context) (err error) {
				result, err = s.startCrowd(ctx, c)
				return err
			}},
			{fmt.Sprintf("stopping %s", count(size, "flanneld")), otherTime, func(ctx context.Context) error {
				return inParallel(ctx, size, size, func(_ context.Context, i int) error { return c.daemons[i].Stop() })
			}},
		})
		if err != nil {
			return err
		}
		r.Crowds = append(r.Crowds, result)
	}
	return nil
}

func (s *scaling) startCrowd(ctx context.Context, c *crowd) (crowdResult, error) {
	n := len(c.hosts)
	r := crowdResult{Daemons: n}
	prefix := crowdPrefix + "/" + c.name
	if err := s.lab.Etcd.Set(ctx, prefix+"/config", crowdConfig, 0); err != nil {
		return r, err
	}
	before := s.counter.counts()
	cpu, err := ownCPU()
	if err != nil {
		return r, err
	}
	began := time.Now()
	ready := make([]float64, n) // seconds
	err = inParallel(ctx, n, n, func(ctx context.Context, i int) (err error) {
		h := c.hosts[i]
		// No rules: all iptables of this machine share one lock, which those
		// of two hundred machines do not.
		c.daemons[i], err = h.StartFlanneld(ctx, "-etcd-prefix="+prefix, "-iptables-forward-rules=false",
			"-subnet-file="+h.Path(c.name+".env"), "-state-dir="+h.Path(c.name))
		if err == nil {
			err = c.daemons[i].WaitReady(ctx)
		}
		ready[i] = time.Since(began).Seconds()
		return err
	})
	if err != nil {
		return r, err
	}
	r.Median, r.Last = newStats(ready).Median, slices.Max(ready)
	asked, settled, err := s.counter.awaitSilence(ctx, crowdCalm)
	if err != nil {
		return r, fmt.Errorf("the daemons do not stop asking etcd: %w", err)
	}
	r.Asked, r.Settled = asked.minus(before), max(r.Last, settled.Sub(began).Seconds())
	after, err := ownCPU()
	if err != nil {
		return r, err
	}
	r.EtcdCPUSeconds = (after - cpu).Seconds()
	for _, d := range c.daemons {
		used, err := processCPU(d.PID)
		if err != nil {
			return r, d.Errorf("%w", err)
		}
		r.CPUSeconds += used.Seconds()
		memory, err := readProc(fmt.Sprintf("/proc/%d/smaps_rollup", d.PID), proportionalMemory)
		if err != nil {
			return r, d.Errorf("%w", err)
		}
		r.MemoryBytes += memory
	}
	return r, s.checkLeases(ctx, c, prefix)
}

// checkLeases makes sure that every daemon has a lease of its own, and that
// subnet.env and etcd agree on it.
func (s *scaling) checkLeases(ctx context.Context, c *crowd, prefix string) error {
	records, err := s.lab.Leases(ctx, prefix)
	if err != nil {
		return err
	}
	owners := make(map[netip.Prefix]netip.Addr, len(records))
	for _, r := range records {
		sn, err := subnet.ParseKey(r.Key[len(prefix+"/subnets/"):])
		var a subnet.Attrs
		if err == nil {
			err = json.Unmarshal([]byte(r.Value), &a)
		}
		if err != nil {
			return fmt.Errorf("lease %s: %w", r.Key, err)
		}
		owners[sn] = a.PublicIP
	}
	if len(owners) != len(c.hosts) {
		return fmt.Errorf("%s for %s", count(len(owners), "lease"), count(len(c.hosts), "host"))
	}
	seen := make(map[netip.Prefix]string, len(c.hosts))
	for _, h := range c.hosts {
		env, err := lab.ReadSubnetEnv(h.Path(c.name + ".env"))
		if err != nil {
			return err
		}
		if owners[env.Subnet] != h.Addr || seen[env.Subnet] != "" {
			return fmt.Errorf("host %s has subnet %s, which etcd says is of %s, as has host %q", h.Name, env.Subnet, owners[env.Subnet], seen[env.Subnet])
		}
		seen[env.Subnet] = h.Name
	}
	return nil
}
