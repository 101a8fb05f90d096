package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"

	"tweed/dataplane/firewall"
)

// checkFirewall looks whether forwarded packets of the network would pass.
func (c *checker) checkFirewall(ctx context.Context) {
	if c.cfg == nil {
		c.skip(checkFirewall, "needs a valid network config")
		return
	}
	fw := firewall.Open(slog.New(slog.DiscardHandler))
	if !c.privileged {
		c.skip(checkFirewall, "to read the rules by %s needs root", fw.Mode())
		return
	}
	state, err := fw.Inspect(ctx, firewall.Rules{Network: c.cfg.Network, Forward: true})
	if err != nil {
		f := finding{Name: checkFirewall, Result: verdictWarning, Found: err.Error(), Advice: "flanneld would go on without its rules: masquerading and a FORWARD policy of DROP would not be dealt with", Data: data{"mode": fw.Mode()}}
		if errors.Is(err, firewall.ErrPermission) {
			f.Result, f.Advice = verdictSkipped, "run tweed check with CAP_NET_ADMIN and CAP_NET_RAW"
		}
		c.add(f)
		return
	}
	c.add(forwardingFinding(state, c.opts.ForwardRules))
	if state.Raw != "" {
		c.add(finding{Name: checkFirewall, Result: verdictFailure, Found: fmt.Sprintf("%s: the rule %q of table raw drops packets for the network, also those of other hosts", state.Mode, state.Raw),
			Advice: "Docker 28 makes such rules for its containers: from 28.2 on, start dockerd with --allow-direct-routing; remove others", Data: data{"rule": state.Raw}})
	}
	if len(state.Beyond) > 0 {
		c.add(finding{Name: checkFirewall, Result: verdictWarning, Found: fmt.Sprintf("nftables chain %s drops forwarded packets by default, and flanneld has no rules there", strings.Join(state.Beyond, ", ")),
			Advice: "accept packets from and to " + c.cfg.Network.String() + " there, if that is not done yet", Data: data{"chains": state.Beyond}})
	}
}

// forwardingFinding judges what the chains do with the network's packets.
func forwardingFinding(s firewall.Forwarding, forwardRules bool) finding {
	f := finding{Name: checkFirewall, Result: verdictOK, Data: data{"mode": s.Mode, "drops": append([]string{}, s.Drops...), "blocker": s.Blocker, "accept_rules": s.Ours}}
	chains := strings.Join(s.Drops, ", ")
	switch {
	case s.Blocker != "":
		f.Result, f.Found = verdictFailure, fmt.Sprintf("%s: the rule %q refuses forwarded packets before flanneld's rules accept them", s.Mode, s.Blocker)
		f.Advice = "remove it, or accept packets from and to the network above it"
	case len(s.Drops) > 0 && s.Ours:
		f.Found = fmt.Sprintf("%s: %s drops by default; flanneld's rules accept what is of the network", s.Mode, chains)
	case len(s.Drops) > 0 && forwardRules:
		f.Result, f.Found = verdictNote, fmt.Sprintf("%s: %s drops by default", s.Mode, chains)
		f.Advice = "nothing: flanneld accepts there what is of the network"
	case len(s.Drops) > 0:
		f.Result, f.Found = verdictWarning, fmt.Sprintf("%s: %s drops by default, and -iptables-forward-rules=false", s.Mode, chains)
		f.Advice = "accept packets from and to the network, or leave that flag out"
	default:
		f.Found = fmt.Sprintf("%s: nothing drops forwarded packets by default", s.Mode)
	}
	return f
}
