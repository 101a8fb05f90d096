package firewall

import (
	"context"
	"fmt"
	"slices"
	"strings"
)

const iptablesForward = "ip filter FORWARD"

// inspect reads the tables that exist.
func (t *iptables) inspect(ctx context.Context, r Rules, exists func(table string) bool) (Forwarding, error) {
	state := Forwarding{Mode: IPTables}
	if exists("filter") {
		listing, err := t.listing(ctx, "filter", "FORWARD")
		if err != nil {
			return state, err
		}
		state = inspectForward(listing, r, func(chain string) []string {
			// A chain that iptables cannot show, such as one that nft(8) has changed,
			// is taken for one that lets everything pass.
			lines, _ := t.listing(ctx, "filter", chain)
			return lines
		})
	}
	if !exists("raw") {
		return state, nil
	}
	listing, err := t.listing(ctx, "raw", "PREROUTING")
	if err != nil {
		return state, err
	}
	state.Raw = inspectRaw(listing, r)
	return state, nil
}

func (t *iptables) listing(ctx context.Context, table, chain string) ([]string, error) {
	out, err := t.run(ctx, "-t", table, "-S", chain)
	if err != nil {
		return nil, fmt.Errorf("list table %s, chain %s: %w", table, chain, err)
	}
	return strings.Split(out, "\n"), nil
}

// inspectForward reads what `iptables -S FORWARD` prints; list does the same for
// chains that it jumps to.
func inspectForward(lines []string, r Rules, list func(chain string) []string) Forwarding {
	state := Forwarding{Mode: IPTables}
	missing := r.forward()
	decided := false // nothing that follows is reached by all packets
	for _, line := range lines {
		if slices.Equal(strings.Fields(line), []string{"-P", "FORWARD", "DROP"}) {
			state.Drops = append(state.Drops, iptablesForward)
		}
		if _, x, ok := parseRule(line); ok {
			missing = slices.DeleteFunc(missing, func(want rule) bool { return want == x })
			state.Ours = len(missing) == 0
		}
		if !decided && !state.Ours {
			state.Blocker, decided = follow(line, list, map[string]bool{})
		}
	}
	return state
}

// follow says what a rule does with a packet that only rules without a match
// decide about: blocker is the rule that refuses it, and decided is also true if
// it is accepted, or leaves the base chain.
func follow(line string, list func(chain string) []string, seen map[string]bool) (blocker string, decided bool) {
	op, target := unconditionalTarget(line)
	switch {
	case target == "":
		return "", false
	case target == "DROP", target == "REJECT":
		return line, true
	case target == "ACCEPT", target == "RETURN":
		return "", true
	case seen[target]:
		return "", false
	}
	seen[target] = true
	for _, inner := range list(target) {
		if _, t := unconditionalTarget(inner); t == "RETURN" {
			break
		}
		if blocker, decided = follow(inner, list, seen); decided {
			return blocker, true
		}
	}
	return "", op == "-g" // with -g, the policy is what comes next
}

// unconditionalTarget returns the target of a rule without a match, and -j or -g
// before it; a comment is no match. Both are empty for all other lines.
func unconditionalTarget(line string) (op, target string) {
	words := withoutComments(line)
	if len(words) < 4 || words[0] != "-A" || words[2] != "-j" && words[2] != "-g" {
		return "", ""
	}
	return words[2], words[3]
}

// withoutComments splits a line of `iptables -S`, where a comment may be a text
// in double quotes with blanks and \" in it, and leaves comments out.
func withoutComments(line string) []string {
	var words []string
	for word, rest := nextWord(line); word != ""; word, rest = nextWord(rest) {
		words = append(words, word)
		n := len(words)
		if n >= 4 && words[n-4] == "-m" && words[n-3] == "comment" && words[n-2] == "--comment" {
			words = words[:n-4]
		}
	}
	return words
}

func nextWord(s string) (word, rest string) {
	s = strings.TrimLeft(s, " \t")
	quoted := strings.HasPrefix(s, `"`)
	for i := 0; i < len(s); i++ {
		switch {
		case quoted && s[i] == '\\':
			i++
		case quoted && s[i] == '"' && i > 0, !quoted && (s[i] == ' ' || s[i] == '\t'):
			return strings.TrimRight(s[:i+1], " \t"), s[i+1:]
		}
	}
	return s, ""
}

// inspectRaw returns the first rule of `iptables -t raw -S PREROUTING` that
// drops what is for an address of the network. One that is only for packets of a
// named interface does not count: there it is somebody's will.
func inspectRaw(lines []string, r Rules) string {
	for _, line := range lines {
		words := withoutComments(line)
		var drops, inNetwork, byInterface bool
		for i := 2; i+1 < len(words); i++ {
			not := words[i-1] == "!"
			switch words[i] {
			case "-j":
				drops = words[i+1] == "DROP"
			case "-d":
				m, ok := parseAddrMatch(words[i+1], not)
				inNetwork = ok && !not && m.prefix.IsValid() && m.prefix.Overlaps(r.Network)
			case "-i":
				byInterface = !not
			}
		}
		if drops && inNetwork && !byInterface {
			return line
		}
	}
	return ""
}
