package firewall

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// tableName returns the nftables table of a network: "tweed-10.5.0.0-16". The
// name is an identifier that nft(8) takes without quotes.
func tableName(r Rules) string {
	return fmt.Sprintf("tweed-%s-%d", r.Network.Addr(), r.Network.Bits())
}

// tag is the comment that marks a network's rules in a foreign chain.
func tag(r Rules) string { return "tweed " + r.Network.String() }

// An nftChain is a base chain of our own table. Its policy is accept.
type nftChain struct {
	name     string
	kind     nftables.ChainType
	hook     *nftables.ChainHook
	priority *nftables.ChainPriority
	rules    []rule
}

// nftChains returns the wanted content of the network's table; nothing if
// there is to be no table.
func nftChains(r Rules) []nftChain {
	var chains []nftChain
	if r.Masquerade {
		chains = append(chains, nftChain{"postrouting", nftables.ChainTypeNAT,
			nftables.ChainHookPostrouting, nftables.ChainPriorityNATSource, r.masquerade()})
	}
	if r.Forward {
		chains = append(chains, nftChain{"forward", nftables.ChainTypeFilter,
			nftables.ChainHookForward, nftables.ChainPriorityFilter, r.forward()})
	}
	return chains
}

// nft is one pass of checking and repairing by netlink. Sockets are opened for
// the pass only, in the namespace of the calling thread.
type nft struct {
	rules Rules
	write *nftables.Conn // opens a socket per call
	read  *netlink.Conn
}

// ensureNFT makes the network's own table hold exactly the rules of r, and
// lets its packets through foreign chains that would drop them.
func ensureNFT(ctx context.Context, r Rules) (done []Change, err error) {
	deadline := func(c *netlink.Conn) error {
		t, _ := ctx.Deadline() // the zero time means none
		return c.SetDeadline(t)
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	read, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return nil, classify(fmt.Errorf("open a netlink socket for nftables: %w", err))
	}
	defer read.Close()
	if err := deadline(read); err != nil {
		return nil, err
	}
	write, err := nftables.New(nftables.WithSockOptions(deadline))
	if err != nil {
		return nil, fmt.Errorf("open nftables: %w", err)
	}
	// Reading a table never takes long; a context that ends early must still
	// free a read that waits for a kernel that does not answer.
	stop := context.AfterFunc(ctx, func() { read.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()

	n := &nft{r, write, read}
	chains, err := n.chains()
	if err != nil {
		// A kernel without nf_tables does not know the subsystem.
		return nil, classify(err, unix.EINVAL)
	}
	done, err = n.ensureTable(chains)
	if err != nil {
		return done, fmt.Errorf("nftables table ip %s: %w", tableName(r), err)
	}
	for _, c := range chains {
		if c.Table.Name == tableName(r) && c.Table.Family == nftables.TableFamilyIPv4 || !forwards(c) {
			continue
		}
		changed, e := n.ensureThrough(c)
		if e != nil {
			e = classify(fmt.Errorf("nftables table %s %s, chain %s: %w", family(c.Table), c.Table.Name, c.Name, e))
		}
		done, err = append(done, changed...), errors.Join(err, e)
	}
	return done, err
}

// chains lists all chains that can see IPv4 packets.
func (n *nft) chains() ([]*nftables.Chain, error) {
	var all []*nftables.Chain
	for _, f := range []nftables.TableFamily{nftables.TableFamilyIPv4, nftables.TableFamilyINet} {
		chains, err := n.write.ListChainsOfTableFamily(f)
		if err != nil {
			return nil, fmt.Errorf("list nftables chains: %w", err)
		}
		all = append(all, chains...)
	}
	return all, nil
}

// ensureTable replaces our table in one transaction if anything in it differs
// from what is wanted, and then reads it back.
func (n *nft) ensureTable(chains []*nftables.Chain) ([]Change, error) {
	want := nftChains(n.rules)
	ok, err := n.tableIsRight(chains, want)
	if err != nil || ok {
		return nil, err
	}
	done := Change{Table: tableName(n.rules)}
	table := &nftables.Table{Name: tableName(n.rules), Family: nftables.TableFamilyIPv4}
	n.write.AddTable(table) // so that deleting it cannot fail
	n.write.DelTable(table)
	if len(want) > 0 {
		n.write.AddTable(table)
	}
	policy := nftables.ChainPolicyAccept
	for _, w := range want {
		c := n.write.AddChain(&nftables.Chain{Table: table, Name: w.name,
			Type: w.kind, Hooknum: w.hook, Priority: w.priority, Policy: &policy})
		done.Added += len(w.rules)
		for _, x := range w.rules {
			n.write.AddRule(&nftables.Rule{Table: table, Chain: c, Exprs: x.exprs(table.Family)})
		}
	}
	if err := n.write.Flush(); err != nil {
		// ENOENT: no chain of type nat, or no masq expression.
		return []Change{done}, classify(fmt.Errorf("replace: %w", err), unix.ENOENT)
	}

	// A kernel that gives back another form would have us rewrite for ever.
	if chains, err = n.chains(); err != nil {
		return []Change{done}, err
	}
	if ok, err = n.tableIsRight(chains, want); err == nil && !ok {
		err = fmt.Errorf("the kernel lists other rules than were just written: %w", ErrInterfered)
	}
	return []Change{done}, err
}

// tableIsRight compares our table, among all chains, with what is wanted.
func (n *nft) tableIsRight(chains []*nftables.Chain, want []nftChain) (bool, error) {
	tables, err := n.write.ListTablesOfFamily(nftables.TableFamilyIPv4)
	if err != nil {
		return false, fmt.Errorf("list nftables tables: %w", err)
	}
	name := tableName(n.rules)
	i := slices.IndexFunc(tables, func(t *nftables.Table) bool { return t.Name == name })
	if i < 0 || len(want) == 0 {
		return i < 0 && len(want) == 0, nil
	}
	if tables[i].Flags != 0 { // dormant: present without effect
		return false, nil
	}
	var own []*nftables.Chain
	for _, c := range chains {
		if c.Table.Name == name && c.Table.Family == nftables.TableFamilyIPv4 {
			own = append(own, c)
		}
	}
	if len(own) != len(want) {
		return false, nil
	}
	for _, w := range want {
		i := slices.IndexFunc(own, func(c *nftables.Chain) bool { return c.Name == w.name })
		if i < 0 || !w.sameKind(own[i]) {
			return false, nil
		}
		have, err := n.listRules(own[i])
		if err != nil {
			return false, err
		}
		same, err := sameRules(have, w.rules, nftables.TableFamilyIPv4)
		if err != nil || !same {
			return false, err
		}
	}
	return true, nil
}

func (w nftChain) sameKind(c *nftables.Chain) bool {
	return c.Type == w.kind && c.Hooknum != nil && *c.Hooknum == *w.hook &&
		c.Priority != nil && *c.Priority == *w.priority &&
		c.Policy != nil && *c.Policy == nftables.ChainPolicyAccept
}
