package policy

import (
	"hash/fnv"

	"github.com/weftnet/weftnet/agent/state"
)

// segmentSize is about how many NetworkPolicies share a chain where a Pod has more of them. The kernel
// finds the set of each rule that it is given by a walk over all sets of the table, so that writing a
// thousand policies again for a change of one would take a third of a second.
const segmentSize = 8

// passedMark is the bit of a packet's mark that says, on the way from a segment to the chain that
// jumped there, that the packet is allowed to leave. No packet has it outside.
const passedMark uint32 = 0x0001_0000

// segmented judges by chains that each hold some of the policies. A policy that comes, changes or goes
// makes one of them anew, and this list of jumps.
func (b *builder) segmented(policies []*policy) []state.ChainRule {
	var out []state.ChainRule
	passed := []state.Statement{state.Masked{Field: state.FieldMark, Not: true, Mask: passedMark}}
	for _, part := range segments(policies) {
		rules := b.allowed(part, b.accept())
		if b.d == Egress {
			rules = marking(rules)
		}
		name := b.chain("part", rules)
		if name == "" {
			continue
		}
		out = append(out, ruleOf("", nil, state.Jump(name)))
		if b.d == Egress {
			out = append(out, ruleOf("", passed, state.Goto(chainPassed)))
		}
	}
	return out
}

// marking has rules that return say that they did so because they matched: at egress an accept would
// end the judgement of ingress too.
func marking(rules []state.ChainRule) []state.ChainRule {
	for i, r := range rules {
		n := len(r.Statements) - 1
		match, then := r.Statements[:n:n], r.Statements[n]
		rules[i] = ruleOf(r.Comment, match, state.SetMark{Mask: passedMark, Value: passedMark}, then)
	}
	return rules
}

// segments cuts a list of policies behind those whose names fall so: wherever one comes or goes, the
// others stay together.
func segments(policies []*policy) [][]*policy {
	var out [][]*policy
	begin := 0
	for i, p := range policies {
		h := fnv.New32a()
		_, _ = h.Write([]byte(p.name))
		// The high bits differ where only the end of the name does.
		if sum := h.Sum32(); (sum^sum>>16)%segmentSize == 0 || i == len(policies)-1 {
			out = append(out, policies[begin:i+1])
			begin = i + 1
		}
	}
	return out
}
