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
	Mode    Mode
	Ours    bool     // our accept rules are there
	Drops   []string // chains that drop by default, and that our accept rules open
	Beyond  []string // chains that drop by default, and that Ensure leaves alone
	Blocker string   // in mode IPTables a rule that refuses everything and comes before our accept rules, or before their place
}

// Inspect reads the rules that forwarded packets meet, in the network namespace
// of the calling thread, and changes nothing; nor does it load a module of the
// kernel for the legacy variant of iptables. Its errors are those of Ensure.
//
// It does not see rules that refuse only some packets, nor chains of the variant
// of iptables that is not in use.
func (f *Firewall) Inspect(ctx context.Context, r Rules) (Forwarding, error) {
	r, err := r.check()
	if err != nil {
		return Forwarding{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, f.limit)
	defer cancel()
	if f.iptables == nil {
		drops, ours, err := inspectNFT(ctx, r)
		return Forwarding{Mode: NFTables, Ours: ours, Drops: drops}, err
	}
	if err := f.iptables.version(ctx); err != nil {
		return Forwarding{}, err
	}
	version, err := f.iptables.run(ctx, "--version") // such as "iptables v1.8.9 (nf_tables)"
	if err != nil {
		return Forwarding{}, err
	}
	legacy := !strings.Contains(version, "nf_tables")
	if legacy && !legacyTableExists("filter") {
		return Forwarding{Mode: IPTables}, nil
	}
	listing, err := f.iptables.run(ctx, "-t", "filter", "-S", "FORWARD")
	if err != nil {
		return Forwarding{}, fmt.Errorf("list table filter, chain FORWARD: %w", err)
	}
	state := inspectListing(strings.Split(listing, "\n"), r)
	if legacy {
		return state, nil
	}
	all, _, err := inspectNFT(ctx, r)
	state.Beyond = slices.DeleteFunc(all, func(chain string) bool { return chain == iptablesForward })
	return state, err
}

const iptablesForward = "ip filter FORWARD"

// legacyTableExists reports whether the legacy iptables has made the table;
// listing it would load the module.
func legacyTableExists(table string) bool {
	names, err := os.ReadFile("/proc/thread-self/net/ip_tables_names")
	return err == nil && slices.Contains(strings.Fields(string(names)), table)
}

// inspectListing reads what `iptables -S FORWARD` prints.
func inspectListing(lines []string, r Rules) Forwarding {
	state := Forwarding{Mode: IPTables}
	missing := r.forward()
	for _, line := range lines {
		words := strings.Fields(line)
		if slices.Equal(words, []string{"-P", "FORWARD", "DROP"}) {
			state.Drops = append(state.Drops, iptablesForward)
		}
		if _, x, ok := parseRule(line); ok {
			missing = slices.DeleteFunc(missing, func(want rule) bool { return want == x })
			state.Ours = len(missing) == 0
		}
		if refusesAll(words) && !state.Ours && state.Blocker == "" {
			state.Blocker = line
		}
	}
	return state
}

// refusesAll reports whether the words are a rule without a match that drops or
// rejects.
func refusesAll(words []string) bool {
	return len(words) >= 4 && words[0] == "-A" && words[2] == "-j" && (words[3] == "DROP" || words[3] == "REJECT")
}

// inspectNFT lists the chains that drop by default, and tells whether we have a
// chain of our own.
func inspectNFT(ctx context.Context, r Rules) (drops []string, ours bool, err error) {
	conn, err := nftables.New(nftables.WithSockOptions(func(c *netlink.Conn) error {
		t, _ := ctx.Deadline() // the zero time means none
		return c.SetDeadline(t)
	}))
	if err != nil {
		return nil, false, classify(fmt.Errorf("open nftables: %w", err))
	}
	chains, err := (&nft{write: conn}).chains()
	if err != nil {
		return nil, false, classify(err, unix.EINVAL)
	}
	for _, c := range chains {
		switch {
		case !forwards(c):
		case c.Table.Name == tableName(r) && c.Table.Family == nftables.TableFamilyIPv4:
			ours = true
		case c.Policy != nil && *c.Policy == nftables.ChainPolicyDrop:
			drops = append(drops, strings.Join([]string{family(c.Table), c.Table.Name, c.Name}, " "))
		}
	}
	return drops, ours, nil
}
