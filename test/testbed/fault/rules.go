// Package fault makes faults: packets that vanish on the underlay, and
// processes that are killed or held. The packet faults in force are one list;
// the ruleset that brings them about follows from it and replaces the one
// before as a whole.
package fault

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/weftnet/weftnet/test/testbed/layout"
	"github.com/weftnet/weftnet/test/testbed/underlay"
)

// Any stands for every node, and the machine, on that side of a rule.
const Any layout.Node = 0

// Rule drops packets that go from one node to another over the underlay.
type Rule struct {
	From layout.Node `json:"from"`
	To   layout.Node `json:"to"`
	// UDP drops UDP only, and with it WireGuard, while TCP to the API server
	// and to kubelets goes on.
	UDP bool `json:"udp,omitempty"`
	// Percent is the share that is lost, 100 for a cut. It may be a fraction
	// down to 0.01.
	Percent float64 `json:"percent"`
}

// Cut drops everything.
const Cut = 100

// Validate refuses a rule that means nothing.
func (r Rule) Validate() error {
	var errs []error
	if r.From == r.To {
		errs = append(errs, errors.New("the two sides of a fault are the same"))
	}
	if r.Percent < 0.01 || r.Percent > 100 {
		errs = append(errs, fmt.Errorf("loss of %v percent: want 0.01 to 100", r.Percent))
	}
	return errors.Join(errs...)
}

// String is the rule for people.
func (r Rule) String() string {
	what := "everything"
	if r.UDP {
		what = "udp"
	}
	if r.Percent < Cut {
		what = fmt.Sprintf("%v%% of %s", r.Percent, what)
	}
	return fmt.Sprintf("%s -> %s: drop %s", side(r.From), side(r.To), what)
}

func side(n layout.Node) string {
	if n == Any {
		return "any"
	}
	return n.String()
}

// Pair is the two rules, one per direction, or only the first.
func Pair(a, b layout.Node, oneWay, udp bool, percent float64) []Rule {
	rules := []Rule{{From: a, To: b, UDP: udp, Percent: percent}}
	if !oneWay {
		rules = append(rules, Rule{From: b, To: a, UDP: udp, Percent: percent})
	}
	return rules
}

// Add puts rules into the list, in the place of any with the same sides.
func Add(have, more []Rule) []Rule {
	out := Remove(have, func(r Rule) bool {
		return slices.ContainsFunc(more, func(m Rule) bool { return m.From == r.From && m.To == r.To })
	})
	out = append(out, more...)
	slices.SortFunc(out, func(a, b Rule) int {
		return int(a.From-b.From)*(layout.MaxNodes+1) + int(a.To-b.To)
	})
	return out
}

// Remove takes the matching rules out of the list.
func Remove(have []Rule, match func(Rule) bool) []Rule {
	var out []Rule
	for _, r := range have {
		if !match(r) {
			out = append(out, r)
		}
	}
	return out
}

// Between matches the rules between two nodes, in both directions.
func Between(a, b layout.Node) func(Rule) bool {
	return func(r Rule) bool {
		return r.From == a && r.To == b || r.From == b && r.To == a
	}
}

const table = "bridge tb-faults"

// Ruleset is the whole ruleset in nft syntax; loading it replaces the one
// before. With no rules it removes the table. Packets between nodes pass the
// forward hook, those from and to the machine itself output and input.
func Ruleset(rules []Rule) string {
	// The first line makes the second succeed when there is no table.
	text := "table " + table + "\ndelete table " + table + "\n"
	if len(rules) == 0 {
		return text
	}
	text += "table " + table + " {\n"
	for _, hook := range []string{"forward", "input", "output"} {
		text += fmt.Sprintf("\tchain %s {\n\t\ttype filter hook %s priority filter; policy accept;\n", hook, hook)
		for _, r := range rules {
			if match, ok := matchAt(hook, r); ok {
				text += "\t\t" + match + "\n"
			}
		}
		text += "\t}\n"
	}
	return text + "}\n"
}

// matchAt is the rule at one hook. The machine itself is on one side at input
// and output, so only a rule with Any on that side concerns it.
func matchAt(hook string, r Rule) (string, bool) {
	var parts []string
	if hook == "input" && r.To != Any || hook == "output" && r.From != Any {
		return "", false
	}
	if r.From != Any {
		parts = append(parts, fmt.Sprintf("iifname %q", r.From.Port()))
	}
	if r.To != Any {
		parts = append(parts, fmt.Sprintf("oifname %q", r.To.Port()))
	}
	if r.UDP {
		parts = append(parts, "meta l4proto udp")
	}
	if r.Percent < Cut {
		parts = append(parts, fmt.Sprintf("numgen random mod 10000 < %d", int(r.Percent*100+0.5)))
	}
	return strings.Join(append(parts, "counter", "drop"), " "), true
}

// Load puts the rules in force on this machine's bridge.
func Load(rules []Rule) error {
	if err := underlay.LoadRuleset(Ruleset(rules)); err != nil {
		return fmt.Errorf("set packet faults: %w", err)
	}
	return nil
}
