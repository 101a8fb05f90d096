package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"tweed/subnet"
	"tweed/subnet/etcdv2"
)

// maxSkew is how far a clock may be off before it is worth a note. Leases do not
// depend on clocks, but certificates and logs do.
const maxSkew = 5 * time.Second

// checkEndpoints asks every endpoint by itself. One that is of no use is a
// failure only if no other is of use either, because flanneld goes on to the
// next.
func (c *checker) checkEndpoints(ctx context.Context) []etcdv2.Answer {
	if !c.opts.askEtcd {
		c.skip(checkEndpoint, "the config is not from etcd; give -etcd-endpoints to ask them all the same")
		return nil
	}
	o := c.opts.Etcd
	o.RequestTimeout = min(3*time.Second, c.opts.timeout/3)
	c.checkTLSFiles(o)
	limited, cancel := share(ctx)
	defer cancel()
	answers, err := etcdv2.Probe(limited, o)
	if err != nil {
		if errors.Is(err, etcdv2.ErrEndpoints) {
			c.add(finding{Name: checkEndpoint, Result: verdictFailure, Found: err.Error(), Advice: "flanneld would not start: correct -etcd-endpoints"})
		} else {
			c.skip(checkEndpoint, "needs usable TLS files")
		}
		return nil
	}
	usable := slices.ContainsFunc(answers, func(a etcdv2.Answer) bool { return a.Err == nil })
	for _, a := range answers {
		c.add(endpointFinding(a, usable))
		c.checkServerCert(a)
		if skew := a.Skew.Abs(); skew > maxSkew {
			c.add(finding{Name: checkEndpoint, Result: verdictNote, Data: data{"url": a.URL, "skew_seconds": a.Skew.Seconds()},
				Found:  fmt.Sprintf("%s: its clock is %s %s this host's", a.URL, skew.Round(time.Second), aheadOrBehind(a.Skew)),
				Advice: "let both take the time from NTP: certificates are judged by it"})
		}
	}
	c.checkCluster(answers)
	return answers
}

func aheadOrBehind(d time.Duration) string {
	if d < 0 {
		return "behind"
	}
	return "ahead of"
}

func endpointFinding(a etcdv2.Answer, usable bool) finding {
	f := finding{Name: checkEndpoint, Data: data{"url": a.URL, "version": a.Version, "cluster_id": a.ClusterID, "latency_ms": milliseconds(a.Latency), "v3_has_config": a.InV3}}
	etcd := "etcd " + a.Version
	if a.Version == "" {
		etcd = "etcd of an unknown version"
	}
	switch {
	case a.Err != nil:
		f.Result, f.Found = verdictFailure, strings.TrimPrefix(a.Err.Error(), "read "+a.ConfigKey+": ")
		f.Advice = adviceFor(a)
		if usable {
			f.Result = verdictWarning
			f.Advice += "; flanneld can do without it as long as another endpoint works"
		}
	case a.Unhealthy != "":
		f.Result, f.Found = verdictWarning, fmt.Sprintf("%s: %s answers, but is not healthy: %s", a.URL, etcd, a.Unhealthy)
		f.Advice = "look at `etcdctl cluster-health` and at the log of this member"
	default:
		f.Result, f.Found = verdictOK, fmt.Sprintf("%s: %s, v2 API, answers in %.1f ms", a.URL, etcd, milliseconds(a.Latency))
	}
	if !strings.Contains(f.Found, a.URL) {
		f.Found = a.URL + ": " + f.Found
	}
	return f
}

func adviceFor(a etcdv2.Answer) string {
	if etcdv2.IsV2Off(a.Err) && a.InV3 {
		return fmt.Sprintf("start etcd with --enable-v2 and write the config there: the API v3, where %s is, has keys of its own", a.ConfigKey)
	}
	if etcdv2.IsV2Off(a.Err) {
		return "start etcd with --enable-v2, which etcd 3.6 and later do not have"
	}
	return "see that etcd runs there, that its port can be reached, and that it is what -etcd-endpoints and the other -etcd flags say"
}

func milliseconds(d time.Duration) float64 {
	return float64(d.Microseconds()) / 1000
}

// checkCluster compares what the endpoints say: they must be members of one
// cluster and have one config.
func (c *checker) checkCluster(answers []etcdv2.Answer) {
	byID := make(map[string][]string)
	var ids []string
	for _, a := range answers {
		if a.ClusterID == "" {
			continue
		}
		if byID[a.ClusterID] == nil {
			ids = append(ids, a.ClusterID)
		}
		byID[a.ClusterID] = append(byID[a.ClusterID], a.URL)
	}
	switch {
	case len(ids) > 1:
		var parts []string
		for _, id := range ids {
			parts = append(parts, fmt.Sprintf("%s: %s", id, strings.Join(byID[id], ", ")))
		}
		c.add(finding{Name: checkCluster, Result: verdictFailure, Found: "the endpoints belong to different clusters: " + strings.Join(parts, "; "),
			Advice: "name members of one cluster only, or two hosts will get one subnet", Data: data{"clusters": byID}})
	case len(ids) == 1 && len(answers) > 1:
		c.ok(checkCluster, data{"clusters": byID}, "%d of %d endpoints answer, all of cluster %s", len(byID[ids[0]]), len(answers), ids[0])
	}
}

// fromEtcd returns the first answer with a config, else the first without
// error.
func fromEtcd(answers []etcdv2.Answer) (best etcdv2.Answer, ok bool) {
	for _, a := range answers {
		if a.Err == nil && (!ok || best.ConfigErr != nil && a.ConfigErr == nil) {
			best, ok = a, true
		}
	}
	return best, ok
}

// adviseNoConfig says how to write a config, or that it is where flanneld does
// not look.
func adviseNoConfig(a etcdv2.Answer) finding {
	f := finding{Name: checkConfig, Result: verdictFailure, Data: data{"key": a.ConfigKey},
		Found:  fmt.Sprintf("%s does not exist", a.ConfigKey),
		Advice: "write it, or correct -etcd-prefix: " + a.SetConfig}
	if a.InV3 {
		f.Found += " in the v2 API, but in v3, which has keys of its own"
	}
	return f
}

// checkLeases tells how full the network is, and what is not in order there.
func (c *checker) checkLeases() {
	if c.leases == nil {
		if c.opts.askEtcd {
			c.skip(checkLeases, "needs an endpoint that answers")
		}
		return
	}
	const shown = 5
	for i, bad := range c.leases.Bad {
		if i == shown {
			c.add(finding{Name: checkLeases, Result: verdictWarning, Found: fmt.Sprintf("and %s more of that kind", count(len(c.leases.Bad)-shown, "record"))})
			break
		}
		c.add(finding{Name: checkLeases, Result: verdictWarning, Found: fmt.Sprintf("%s is not a lease: %v", bad.Key, bad.Err),
			Advice: "delete it, unless flanneld of another version wrote it; flanneld leaves it out", Data: data{"key": bad.Key}})
	}
	if c.cfg != nil {
		c.checkRoom()
		c.checkStrangers()
	}
}

// checkRoom counts subnets and finds our own.
func (c *checker) checkRoom() {
	used := make([]netip.Prefix, 0, len(c.leases.Leases))
	reserved := 0
	for _, l := range c.leases.Leases {
		used = append(used, l.Subnet)
		if l.Reserved() {
			reserved++
		}
		if c.under != nil && l.Attrs.PublicIP == c.under.PublicIP && c.cfg.Contains(l.Subnet) && !c.own.IsValid() {
			c.own = l.Subnet
		}
	}
	for _, bad := range c.leases.Bad {
		used = append(used, bad.Subnet)
	}
	total, free := c.cfg.Total(), c.cfg.Free(used)
	f := finding{Name: checkLeases, Result: verdictOK,
		Found: fmt.Sprintf("%s, %d of them reserved; %d of %d subnets free; ", count(len(c.leases.Leases), "lease"), reserved, free, total),
		Data:  data{"leases": len(c.leases.Leases), "reservations": reserved, "total": total, "free": free, "own": nil}}
	if c.own.IsValid() {
		f.Found += "this host has " + c.own.String()
		f.Data["own"] = c.own
	} else {
		f.Found += "this host has none"
	}
	switch {
	case free == 0 && !c.own.IsValid():
		f.Result, f.Advice = verdictFailure, "flanneld would not start: delete leases of hosts that are gone, or take a larger Network or SubnetLen"
	case free*10 < total:
		f.Result, f.Advice = verdictNote, "few are left: delete leases of hosts that are gone, or plan a larger network"
	}
	c.add(f)
}

// checkStrangers counts the leases that do not fit the config.
func (c *checker) checkStrangers() {
	outside, other := 0, 0
	for _, l := range c.leases.Leases {
		switch {
		case !c.cfg.Contains(l.Subnet):
			outside++
		case c.profile != nil && l.Attrs.BackendType != c.profile.Published:
			other++
		}
	}
	if outside > 0 {
		c.add(finding{Name: checkLeases, Result: verdictNote, Data: data{"outside": outside},
			Found:  fmt.Sprintf("%s outside the subnets of this config", count(outside, "lease")),
			Advice: "their hosts take other subnets when their flanneld starts anew, and docker has to be restarted there"})
	}
	if other > 0 {
		c.add(finding{Name: checkLeases, Result: verdictNote, Data: data{"other_backend": other},
			Found:  fmt.Sprintf("%s of another backend than %s", count(other, "lease"), c.profile.Type),
			Advice: "restart flanneld on their hosts, so that all have the same backend"})
	}
}

var errNoAnswers = errors.New("no endpoint has answered")

// configFromEtcd takes the config of the best answer.
func (c *checker) configFromEtcd(answers []etcdv2.Answer) error {
	a, ok := fromEtcd(answers)
	switch {
	case !ok:
		return errNoAnswers
	case errors.Is(a.ConfigErr, subnet.ErrNoConfig):
		c.add(adviseNoConfig(a))
		return a.ConfigErr
	}
	c.text = a.Config
	return nil
}
