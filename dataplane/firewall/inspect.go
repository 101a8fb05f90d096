package firewall

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// A Forwarding is what becomes of the packets that a host forwards from and to
// the overlay network, as far as it can be read off the rules. Chains are named
// like "ip filter FORWARD".
type Forwarding struct {
	Mode   Mode
	Ours   bool     // our accept rules are there
	Drops  []string // chains that drop by default, and that our accept rules open
	Beyond []string // chains that drop by default, and that Ensure leaves alone

	// In mode IPTables, a rule that refuses everything and comes before our accept
	// rules, or before their place; it may be in a chain that FORWARD jumps to.
	Blocker string
	// In mode IPTables, a rule of table raw, chain PREROUTING, that drops what is
	// for an address of the network, such as Docker 28 makes for each container.
	Raw string
}

// Inspect reads the rules that forwarded packets meet, in the network namespace
// of the calling thread, and changes nothing; nor does it make a table of
// iptables that is not there, or load its module. Its errors are those of Ensure.
//
// It does not see rules of table filter that refuse only some packets, nor chains
// of the variant of iptables that is not in use.
func (f *Firewall) Inspect(ctx context.Context, r Rules) (Forwarding, error) {
	r, err := r.check()
	if err != nil {
		return Forwarding{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, f.limit)
	defer cancel()
	if f.iptables == nil {
		found, err := inspectNFT(ctx, r)
		return Forwarding{Mode: NFTables, Ours: found.ours, Drops: found.policy, Beyond: found.rules}, err
	}
	if err := f.iptables.version(ctx); err != nil {
		return Forwarding{}, err
	}
	if f.iptables.kind == legacyVariant {
		return f.iptables.inspect(ctx, r, legacyTableExists)
	}
	found, err := inspectNFT(ctx, r)
	if err != nil {
		return Forwarding{}, err
	}
	state, err := f.iptables.inspect(ctx, r, func(table string) bool { return slices.Contains(found.tables, table) })
	state.Beyond = slices.DeleteFunc(slices.Concat(found.policy, found.rules), func(chain string) bool { return chain == iptablesForward })
	return state, err
}

// legacyTableExists reports whether the legacy iptables has made the table;
// listing it would load the module.
func legacyTableExists(table string) bool {
	names, err := os.ReadFile("/proc/thread-self/net/ip_tables_names")
	return err == nil && slices.Contains(strings.Fields(string(names)), table)
}

// nftFound is what inspectNFT has to say.
type nftFound struct {
	ours   bool     // we have a chain of our own
	policy []string // forward chains whose policy is to drop
	rules  []string // other forward chains with a rule that refuses whatever comes to it
	tables []string // of family ip
}

func inspectNFT(ctx context.Context, r Rules) (found nftFound, err error) {
	deadline := func(c *netlink.Conn) error {
		t, _ := ctx.Deadline() // the zero time means none
		return c.SetDeadline(t)
	}
	write, err := nftables.New(nftables.WithSockOptions(deadline))
	if err != nil {
		return found, classify(fmt.Errorf("open nftables: %w", err))
	}
	read, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return found, classify(fmt.Errorf("open a netlink socket for nftables: %w", err))
	}
	defer read.Close()
	if err := deadline(read); err != nil {
		return found, err
	}
	n := &nft{rules: r, write: write, read: read}
	chains, err := n.chains()
	if err != nil {
		return found, classify(err, unix.EINVAL)
	}
	for _, c := range chains {
		if c.Table.Family == nftables.TableFamilyIPv4 && !slices.Contains(found.tables, c.Table.Name) {
			found.tables = append(found.tables, c.Table.Name)
		}
		name := strings.Join([]string{family(c.Table), c.Table.Name, c.Name}, " ")
		switch {
		case !forwards(c):
		case c.Table.Name == tableName(r) && c.Table.Family == nftables.TableFamilyIPv4:
			found.ours = true
		case c.Policy != nil && *c.Policy == nftables.ChainPolicyDrop:
			found.policy = append(found.policy, name)
		default:
			rules, err := n.listRules(c)
			if err != nil {
				return found, classify(fmt.Errorf("nftables chain %s: %w", name, err))
			}
			if refusesRest(rules) {
				found.rules = append(found.rules, name)
			}
		}
	}
	return found, nil
}

// refusesRest reports whether the first rule without a condition that decides
// drops or rejects, as at the end of firewalld's filter_FORWARD.
func refusesRest(rules []nftRule) bool {
	for _, r := range rules {
		if refuses, decides := unconditional(r); decides {
			return refuses
		}
	}
	return false
}

// unconditional tells what a rule does with every packet, if it does the same
// with all.
func unconditional(r nftRule) (refuses, decides bool) {
	for _, e := range r.exprs {
		outer, err := netlink.UnmarshalAttributes(e.Data)
		if err != nil {
			return false, false
		}
		switch name, _, _ := strings.Cut(string(attr(outer, unix.NFTA_EXPR_NAME)), "\x00"); name {
		case "counter", "log":
		case "reject":
			return true, true
		case "immediate":
			switch verdict(attr(outer, unix.NFTA_EXPR_DATA)) {
			case "drop":
				return true, true
			case "accept":
				return false, true
			}
			return false, false // a jump, or a value for a register
		default:
			return false, false
		}
	}
	return false, false
}

// verdict reads the attributes of an expression "immediate".
func verdict(data []byte) string {
	for _, kind := range []uint16{unix.NFTA_IMMEDIATE_DATA, unix.NFTA_DATA_VERDICT, unix.NFTA_VERDICT_CODE} {
		attrs, err := netlink.UnmarshalAttributes(data)
		if err != nil {
			return ""
		}
		data = attr(attrs, kind)
	}
	switch string(data) { // NF_DROP and NF_ACCEPT of linux/netfilter.h, big endian
	case "\x00\x00\x00\x00":
		return "drop"
	case "\x00\x00\x00\x01":
		return "accept"
	}
	return ""
}
