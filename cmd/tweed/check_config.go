package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strings"

	"tweed/backend"
	"tweed/backend/alloc"
	"tweed/backend/hostgw"
	"tweed/backend/udp"
	"tweed/backend/vxlan"
	"tweed/cmd/flanneld/flags"
	"tweed/subnet"
	"tweed/subnet/etcdv2"
)

// maxConfig bounds what is read of a config; real ones have 100 bytes.
const maxConfig = 1 << 20

// readFile reads CONFIGFILE; without one there is nothing to read.
func (c *checker) readFile(ctx context.Context) ([]byte, error) {
	if c.opts.file == "" {
		return nil, nil
	}
	limited, cancel := share(ctx)
	defer cancel()
	return readText(limited, c.opts.file, c.stdin)
}

// settleConfig takes the config from where it was asked for, with text and err
// of CONFIGFILE, and the leases from etcd.
func (c *checker) settleConfig(text []byte, err error, answers []etcdv2.Answer) {
	a, answered := fromEtcd(answers)
	if answered {
		c.leases = &a.Leases
	}
	if c.opts.file == "" {
		if err := c.configFromEtcd(answers); errors.Is(err, errNoAnswers) {
			c.skip(checkConfig, "needs an endpoint that answers")
		}
		return
	}
	if err != nil {
		c.add(finding{Name: checkConfig, Result: verdictFailure, Found: err.Error(), Advice: "want a file with the network config, a JSON object, or - for standard input"})
		return
	}
	c.text = text
	if answered && a.ConfigErr == nil && !sameJSON(a.Config, text) {
		c.add(finding{Name: checkConfig, Result: verdictNote, Found: fmt.Sprintf("etcd has another config in %s: %s", a.ConfigKey, excerpt(a.Config)),
			Advice: "what follows is about the new one, with the leases of the old; hosts take it over when flanneld restarts"})
	}
}

// readText reads a file or standard input, no longer than until ctx ends: it
// may be a pipe or a terminal.
func readText(ctx context.Context, name string, stdin io.Reader) ([]byte, error) {
	type result struct {
		text []byte
		err  error
	}
	done := make(chan result, 1)
	go func() {
		from := stdin
		if name != "-" {
			f, err := os.Open(name)
			if err != nil {
				done <- result{nil, err}
				return
			}
			defer f.Close()
			from = f
		}
		text, err := io.ReadAll(io.LimitReader(from, maxConfig+1))
		if err == nil && len(text) > maxConfig {
			err = fmt.Errorf("read %s: larger than %d bytes", name, maxConfig)
		}
		done <- result{text, err}
	}()
	select {
	case r := <-done:
		return r.text, r.err
	case <-ctx.Done():
		return nil, fmt.Errorf("read %s: no end within two thirds of -timeout", name)
	}
}

func sameJSON(a, b []byte) bool {
	var x, y bytes.Buffer
	return json.Compact(&x, a) == nil && json.Compact(&y, b) == nil && bytes.Equal(x.Bytes(), y.Bytes())
}

// excerpt is as much of a text as one line bears.
func excerpt(text []byte) string {
	const limit = 120
	s := strings.Join(strings.Fields(string(text)), " ")
	if len(s) > limit {
		s = s[:limit] + "..."
	}
	return s
}

// profiles are those of the backends that flanneld has.
func profiles() map[string]func(subnet.Config) (backend.Profile, error) {
	return map[string]func(subnet.Config) (backend.Profile, error){
		vxlan.Type: vxlan.NewProfile, udp.Type: udp.NewProfile, hostgw.Type: hostgw.NewProfile, alloc.Type: alloc.NewProfile,
	}
}

// checkConfig says what flanneld refuses in the config, and what it ignores.
func (c *checker) checkConfig() {
	if c.text == nil {
		return
	}
	cfg, err := subnet.ParseConfig(c.text)
	if err != nil {
		c.add(finding{Name: checkConfig, Result: verdictFailure, Found: err.Error(), Advice: "flanneld would wait for a valid config: correct this field", Data: data{"config": excerpt(c.text)}})
		return
	}
	c.cfg = &cfg
	known := profiles()
	newProfile, ok := known[cfg.BackendType]
	if !ok {
		names := strings.Join(slices.Sorted(maps.Keys(known)), ", ")
		f := finding{Name: checkConfig, Result: verdictFailure, Found: fmt.Sprintf("Backend: Type %q is not a backend: want %s", cfg.BackendType, names), Advice: "flanneld would not start: correct Backend.Type"}
		if near := flags.Closest(cfg.BackendType, slices.Sorted(maps.Keys(known))); near != "" {
			f.Advice += fmt.Sprintf(" (did you mean %q?)", near)
		}
		c.add(f)
		c.unknownFields(c.text, "", []string{"Network", "SubnetLen", "SubnetMin", "SubnetMax", "Backend"})
		return
	}
	p, err := newProfile(cfg)
	if err != nil {
		c.add(finding{Name: checkConfig, Result: verdictFailure, Found: err.Error(), Advice: "flanneld would not start: correct this field"})
	} else {
		c.profile = &p
		c.ok(checkConfig, data{"backend": cfg.BackendType, "network": cfg.Network}, "Network %s, backend %s%s", cfg.Network, cfg.BackendType, defaulted(cfg))
	}
	c.unknownFields(c.text, "", []string{"Network", "SubnetLen", "SubnetMin", "SubnetMax", "Backend"})
	c.unknownFields(cfg.Backend, "Backend: ", append(p.Keys, "Type"))
}

func defaulted(cfg subnet.Config) string {
	if cfg.Backend == nil {
		return ", because no Backend is named"
	}
	return ""
}

// ofLaterFlannel are fields that flannel v0.10 does not have, and neither do we.
var ofLaterFlannel = []string{
	"EnableIPv4", "EnableIPv6", "EnableNFTables", "IPv6Network", "IPv6SubnetLen", "IPv6SubnetMin", "IPv6SubnetMax",
	"Backend: Learning", "Backend: MTU",
}

// unknownFields notes the fields of a JSON object that flanneld ignores. Names
// count in any case.
func (c *checker) unknownFields(object []byte, where string, known []string) {
	var fields map[string]json.RawMessage
	if json.Unmarshal(object, &fields) != nil {
		return
	}
	is := func(name string) func(string) bool {
		return func(k string) bool { return strings.EqualFold(k, name) }
	}
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		if slices.ContainsFunc(known, is(name)) {
			continue
		}
		f := finding{Name: checkConfig, Result: verdictNote, Found: fmt.Sprintf("%s%s is not a field that flanneld knows, and is ignored", where, name),
			Advice: "remove it, or correct its name", Data: data{"field": where + name}}
		near := flags.Closest(name, known)
		switch {
		case slices.ContainsFunc(ofLaterFlannel, is(where+name)):
			f.Found = fmt.Sprintf("%s%s is a field of later versions of flannel, and is ignored", where, name)
			f.Advice = "do not count on what it asks for"
		case near != "":
			f.Advice = fmt.Sprintf("did you mean %s?", near)
		}
		c.add(f)
	}
}

// checkNetwork says what the config means.
func (c *checker) checkNetwork() {
	if c.cfg == nil {
		c.skip(checkNetwork, "needs a valid network config")
		return
	}
	p := c.cfg.Plan
	first, last := netip.PrefixFrom(p.SubnetMin, p.SubnetLen), netip.PrefixFrom(p.SubnetMax, p.SubnetLen)
	hosts := 1<<(32-p.SubnetLen) - 2
	c.ok(checkNetwork, data{"network": p.Network, "subnet_len": p.SubnetLen, "subnets": p.Total(), "first": first, "last": last, "addresses": hosts},
		"%d subnets for as many hosts, from %s to %s, each with %d addresses for pods and their gateway", p.Total(), first, last, hosts)
	// The network may be written with host bits, which flannel cuts off.
	var raw struct{ Network netip.Prefix }
	if json.Unmarshal(c.text, &raw) == nil && raw.Network != p.Network {
		c.add(finding{Name: checkNetwork, Result: verdictNote, Found: fmt.Sprintf("Network %s means %s", raw.Network, p.Network), Advice: "write it so"})
	}
	if !isPrivate(p.Network) {
		c.add(finding{Name: checkNetwork, Result: verdictNote, Found: fmt.Sprintf("Network %s is not private: pods cannot reach the hosts that own it", p.Network),
			Advice: "take a part of 10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16 (RFC 1918) or 100.64.0.0/10 (RFC 6598), unless it is yours"})
	}
}

func isPrivate(p netip.Prefix) bool {
	for _, private := range []string{"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10"} {
		if whole := netip.MustParsePrefix(private); whole.Bits() <= p.Bits() && whole.Contains(p.Addr()) {
			return true
		}
	}
	return false
}

// checkMTU says what the pods get.
func (c *checker) checkMTU() {
	if !c.needs(checkMTU, true, true) {
		return
	}
	if c.profile.Type == hostgw.Type {
		if err := hostgw.CheckUnderlay(*c.under); err != nil {
			c.add(finding{Name: checkInterface, Result: verdictFailure, Found: err.Error(), Advice: "flanneld would not start: see above, or take another backend"})
		}
	}
	mtu, err := c.profile.MTU(c.under.MTU)
	if err != nil {
		c.add(finding{Name: checkMTU, Result: verdictFailure, Found: fmt.Sprintf("%s: %v", c.under.Name, err), Advice: "flanneld would not start: choose another interface or raise its MTU"})
		return
	}
	d := data{"interface": c.under.MTU, "pods": mtu, "overhead": c.under.MTU - mtu}
	if c.under.MTU == mtu {
		c.ok(checkMTU, d, "%d for pods, that of %s", mtu, c.under.Name)
		return
	}
	c.ok(checkMTU, d, "%d for pods, the %d of %s less %d for %s", mtu, c.under.MTU, c.under.Name, c.under.MTU-mtu, c.profile.Type)
}
