package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"tweed/subnet"
	"tweed/test/lab"
	"tweed/test/load"
)

// measureSlack is what a measurement may take besides its window.
const measureSlack = 30 * time.Second

// A benchmark is one run of `tweed bench`.
type benchmark struct {
	opts     benchOptions
	progress *progress
	measure  func(ctx context.Context, t benchTest, s *site) (sample, error)
	patience time.Duration // until every path must carry a ping

	lab   *lab.Lab
	hosts [2]*lab.Host // traffic runs from the first to the second
	sites []*site
	cores int
}

// A site is a variant with what belongs to it.
type site struct {
	benchVariant
	path    load.Path
	daemons []*lab.Process // one for each host, none on the underlay
}

func newBenchmark(o benchOptions, p *progress) *benchmark {
	b := &benchmark{opts: o, progress: p, patience: 15 * time.Second}
	b.measure = func(ctx context.Context, t benchTest, s *site) (sample, error) {
		return t.measure(ctx, s.path, load.Window{Warmup: o.warmup(), Length: o.window}, o.block<<10, b.cores)
	}
	return b
}

// run fills in r as far as it comes.
func (b *benchmark) run(ctx context.Context, r *benchResult) error {
	err := runSteps(ctx, b.progress, "", []step{
		{"starting etcd and two hosts", buildTime, b.build},
		{"starting a flanneld of every variant on both hosts", readyTime, b.startDaemons},
		{"adding a pod of every variant to both hosts", buildTime, b.addPods},
		{"pinging over every variant", b.patience, b.ping},
		{"looking at the machine", buildTime, func(context.Context) error { return b.look(r) }},
	})
	if err != nil {
		return err
	}
	if err := b.measureAll(ctx, r); err != nil {
		return err
	}
	return b.readMemory(r)
}

func (b *benchmark) build(ctx context.Context) (err error) {
	if b.lab, err = newLab(ctx, lab.Options{Flanneld: b.opts.flanneld}); err != nil {
		return err
	}
	for i := range b.hosts {
		if b.hosts[i], err = b.lab.AddHost(ctx, fmt.Sprintf("n%d", i+1)); err != nil {
			return err
		}
	}
	for _, v := range b.opts.variants {
		s := &site{benchVariant: v}
		b.sites = append(b.sites, s)
		if !v.overlay() {
			s.path = load.Path{
				From: b.hosts[0].NS, FromAddr: b.hosts[0].Addr,
				To: b.hosts[1].NS, ToAddr: b.hosts[1].Addr,
			}
			continue
		}
		if err := b.lab.Etcd.Set(ctx, s.prefix()+"/config", v.config, 0); err != nil {
			return err
		}
	}
	return nil
}

// prefix is where the variant has its config and leases in etcd.
func (s *site) prefix() string { return "/bench/" + s.name }

// envFile is the subnet.env of the variant's daemon on a host.
func (s *site) envFile(h *lab.Host) string { return h.Path(s.name + ".env") }

func (b *benchmark) startDaemons(ctx context.Context) error {
	var group errgroup.Group
	for _, s := range b.sites {
		if !s.overlay() {
			continue
		}
		s.daemons = make([]*lab.Process, len(b.hosts))
		for i, h := range b.hosts {
			group.Go(func() (err error) {
				s.daemons[i], err = h.StartFlanneld(ctx,
					"-etcd-prefix="+s.prefix(),
					"-subnet-file="+s.envFile(h),
					"-state-dir="+h.Path(s.name))
				if err == nil {
					err = s.daemons[i].WaitReady(ctx)
				}
				return s.wrap(err)
			})
		}
	}
	return group.Wait()
}

func (b *benchmark) addPods(ctx context.Context) error {
	for _, s := range b.sites {
		if !s.overlay() {
			continue
		}
		var pods [2]*lab.Pod
		for i, h := range b.hosts {
			var env subnet.Env
			env, err := lab.ReadSubnetEnv(s.envFile(h))
			if err == nil {
				pods[i], err = h.AddPod(ctx, env)
			}
			if err != nil {
				return s.wrap(s.blame(err))
			}
		}
		s.path = load.Path{
			From: pods[0].NS, FromAddr: pods[0].Addr,
			To: pods[1].NS, ToAddr: pods[1].Addr,
		}
	}
	return nil
}

// ping waits until every path carries packets, both ways.
func (b *benchmark) ping(ctx context.Context) error {
	var group errgroup.Group
	for _, s := range b.sites {
		group.Go(func() error {
			_, err := s.path.From.AwaitPing(ctx, s.path.ToAddr)
			return s.wrap(s.blame(err))
		})
	}
	return group.Wait()
}

// look reads what the figures depend on.
func (b *benchmark) look(r *benchResult) (err error) {
	if r.Machine, err = readMachine(); err != nil {
		return err
	}
	b.cores = r.Machine.Cores
	// That of a pod where there is one: namespaces may differ.
	r.Machine.Congestion, err = load.CongestionControl(b.sites[len(b.sites)-1].path.From)
	return err
}

// measureAll goes over all variants within each test, and over all tests
// within each round, so that what disturbs the machine hits all alike.
func (b *benchmark) measureAll(ctx context.Context, r *benchResult) error {
	total := b.opts.rounds * len(b.opts.tests) * len(b.sites)
	start, done := time.Now(), 0
	for round := range b.opts.rounds {
		for _, t := range b.opts.tests {
			where := fmt.Sprintf("round %d of %d, %s", round+1, b.opts.rounds, t.name)
			b.progress.milestone("%s: %s", progressText(done, total, time.Since(start)), where)
			for _, s := range b.sites {
				end := b.progress.liveStep("%s: %s over %s", progressText(done, total, time.Since(start)), where, s.name)
				err := b.measureOne(ctx, t, s, r)
				end()
				if err != nil {
					return fmt.Errorf("%s over %s: %w", where, s.name, err)
				}
				done++
			}
		}
	}
	return nil
}

func (b *benchmark) measureOne(ctx context.Context, t benchTest, s *site, r *benchResult) error {
	ctx, cancel := context.WithTimeout(ctx, b.opts.warmup()+b.opts.window+measureSlack)
	defer cancel()
	found, err := b.measure(ctx, t, s)
	if err == nil {
		err = s.alive()
	}
	if err != nil {
		return s.blame(err)
	}
	r.add(t, s.name, found)
	return nil
}

// alive tells of a daemon that has ended: what was measured is not its work.
func (s *site) alive() error {
	for _, d := range s.daemons {
		if !d.Running() {
			return errors.New("the daemon has ended")
		}
	}
	return nil
}

// blame adds to err, unless it is nil, a daemon of the variant and its last
// lines: the one that has ended if there is one, else that of the sender.
func (s *site) blame(err error) error {
	var known *lab.ProcessError
	if err == nil || len(s.daemons) == 0 || errors.As(err, &known) {
		return err
	}
	suspect := s.daemons[0]
	for _, d := range s.daemons {
		if !d.Running() {
			suspect = d
		}
	}
	return suspect.Errorf("%w", err)
}

// wrap says which variant err is about.
func (s *site) wrap(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", s.name, err)
}

// readMemory asks each daemon for the most memory that it has used.
func (b *benchmark) readMemory(r *benchResult) error {
	for _, s := range b.sites {
		for i, d := range s.daemons {
			peak, err := readProc(fmt.Sprintf("/proc/%d/status", d.PID), peakMemory)
			if err != nil {
				return s.wrap(s.blame(err))
			}
			r.Memory = append(r.Memory, memoryResult{Variant: s.name, Host: b.hosts[i].Name, Bytes: peak})
		}
	}
	return nil
}

// progressText says how much is done, and how long the rest will take if it
// goes on so.
func progressText(done, total int, spent time.Duration) string {
	text := fmt.Sprintf("%d%%", 100*done/total)
	if done > 0 {
		left := spent * time.Duration(total-done) / time.Duration(done)
		text += fmt.Sprintf(", about %s left", left.Round(time.Second))
	}
	return text
}
