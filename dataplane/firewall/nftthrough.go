package firewall

import (
	"fmt"

	"github.com/google/nftables"
	"github.com/google/nftables/userdata"
)

// forwards reports whether c is a base chain that filters routed packets.
func forwards(c *nftables.Chain) bool {
	return c.Type == nftables.ChainTypeFilter && c.Hooknum != nil && *c.Hooknum == *nftables.ChainHookForward
}

// ensureThrough lets the network's packets through a foreign forward chain
// whose policy is to drop, such as the one that Docker makes of ip filter
// FORWARD: a packet must pass every base chain of the hook, so accepting it in
// our own is not enough. The two accept rules go to the top, marked with a
// comment, and are removed when they are no longer wanted.
//
// Out of reach are rules that drop further up, which are an operator's will,
// and the chains of iptables-legacy, which nftables does not list.
//
// Our two need not stay at the top. Other programs insert there too, and two
// that both insist would never rest.
func (n *nft) ensureThrough(c *nftables.Chain) ([]Change, error) {
	all, err := n.listRules(c)
	if err != nil {
		return nil, err
	}
	var have []nftRule
	for _, r := range all {
		if r.comment == tag(n.rules) {
			have = append(have, r)
		}
	}
	var want []rule
	if n.rules.Forward && c.Policy != nil && *c.Policy == nftables.ChainPolicyDrop {
		want = n.rules.forward()
	}
	same, err := sameRules(have, want, c.Table.Family)
	if err != nil || same {
		return nil, err
	}
	for i := len(want) - 1; i >= 0; i-- { // each goes to the very top
		n.write.InsertRule(&nftables.Rule{Table: c.Table, Chain: c,
			Exprs:    want[i].exprs(c.Table.Family),
			UserData: userdata.AppendString(nil, userdata.TypeComment, tag(n.rules))})
	}
	for _, r := range have {
		if err := n.write.DelRule(&nftables.Rule{Table: c.Table, Chain: c, Handle: r.handle}); err != nil {
			return nil, err
		}
	}
	done := []Change{{c.Table.Name, c.Name, len(want), len(have)}}
	if err := n.write.Flush(); err != nil {
		return done, fmt.Errorf("insert accept rules: %w", err)
	}
	return done, nil
}

// family returns the name that nft(8) has for the table's family.
func family(t *nftables.Table) string {
	if t.Family == nftables.TableFamilyINet {
		return "inet"
	}
	return "ip"
}
