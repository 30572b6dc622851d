package state

import (
	"cmp"
	"fmt"
	"reflect"
	"slices"
	"time"
)

// The names of the nftables tables that Weftnet owns, all of family inet. Each part has its own,
// so that it writes and recovers alone, and the kernel validates no more than what that part wrote.
const (
	// TableName is the mesh's: fail-closed rules and host ports.
	TableName = "weftnet"
	// ServiceTableName is the service proxy's.
	ServiceTableName = "weftnet-service"
	// PolicyTableName is the network policies'.
	PolicyTableName = "weftnet-policy"
)

// TableNames lists them all, for whoever cleans up or looks.
func TableNames() []string { return []string{TableName, ServiceTableName, PolicyTableName} }

// Table is a whole nftables table as it shall be. Its order carries no meaning except that of
// the rules within a chain; Sorted gives the one form that is compared and printed.
type Table struct {
	// Family is the nftables family: "inet", "ip" or "ip6".
	Family   string
	Name     string
	Counters []string
	Sets     []Set
	Chains   []Chain
}

// ChainType is the kind of a base chain.
type ChainType string

// The kinds of base chains in use.
const (
	ChainFilter ChainType = "filter"
	ChainNAT    ChainType = "nat"
	ChainRoute  ChainType = "route"
)

// Hook is the place in a packet's way at which a base chain is called.
type Hook string

// The hooks of the inet family.
const (
	HookPrerouting  Hook = "prerouting"
	HookInput       Hook = "input"
	HookForward     Hook = "forward"
	HookOutput      Hook = "output"
	HookPostrouting Hook = "postrouting"
)

// The kernel's own priorities, between which the chains of a table are placed.
const (
	PriorityRaw       int32 = -300
	PriorityConntrack int32 = -200
	PriorityMangle    int32 = -150
	PriorityDstNAT    int32 = -100
	PriorityFilter    int32 = 0
	PrioritySecurity  int32 = 50
	PrioritySrcNAT    int32 = 100
)

// ChainPolicy is what a base chain does with a packet that reaches its end. Empty means accept.
type ChainPolicy string

// The policies.
const (
	PolicyAccept ChainPolicy = "accept"
	PolicyDrop   ChainPolicy = "drop"
)

// Chain is a list of rules; with a Hook it is a base chain, called by the kernel itself.
type Chain struct {
	Name     string
	Type     ChainType
	Hook     Hook
	Priority int32
	Policy   ChainPolicy
	Rules    []ChainRule
}

// IsBase tells whether the kernel calls the chain at a hook.
func (c Chain) IsBase() bool { return c.Hook != "" }

// SameBase tells whether both are called alike: only then can one become the other in place.
func (c Chain) SameBase(o Chain) bool {
	return c.Type == o.Type && c.Hook == o.Hook && c.Priority == o.Priority
}

// Equal tells whether both chains do the same in the same order.
func (c Chain) Equal(o Chain) bool {
	return c.Name == o.Name && c.SameBase(o) && c.EffectivePolicy() == o.EffectivePolicy() &&
		slices.EqualFunc(c.Rules, o.Rules, ChainRule.Equal)
}

// EffectivePolicy is the policy with the default filled in; empty for a chain without a hook.
func (c Chain) EffectivePolicy() ChainPolicy {
	if !c.IsBase() {
		return ""
	}
	return cmp.Or(c.Policy, PolicyAccept)
}

// ChainRule is one rule of a chain: its statements are carried out from left to right until one
// does not match.
type ChainRule struct {
	Statements []Statement
	// Comment is shown by `nft list`; at most 127 bytes.
	Comment string
}

// Equal tells whether both rules do the same and say the same.
func (r ChainRule) Equal(o ChainRule) bool {
	return r.Comment == o.Comment && slices.EqualFunc(r.Statements, o.Statements, func(a, b Statement) bool {
		return reflect.DeepEqual(a, b)
	})
}

// SetKind says what a set maps its keys to.
type SetKind uint8

// The kinds.
const (
	KindSet  SetKind = iota // keys only
	KindMap                 // keys to data
	KindVMap                // keys to verdicts
)

// Set is a named set, map or verdict map.
type Set struct {
	Name string
	Kind SetKind
	// Key is the type of the keys, several where they are concatenated.
	Key []DataType
	// Data is the type of a map's values, several where they are concatenated.
	Data []DataType
	// Interval lets elements be ranges, which may not overlap.
	Interval bool
	// Dynamic sets are filled by rules; their elements are the packets' business, and only the
	// set itself is compared.
	Dynamic bool
	// HasTimeout lets elements have an expiry; Timeout is the default one.
	HasTimeout bool
	Timeout    time.Duration
	// Size bounds the number of elements; 0 means no bound.
	Size uint32
	// ElementCounters gives each element a packet counter.
	ElementCounters bool
	Comment         string
	Elements        []Element
}

// SameHead tells whether both are declared alike, so that only their elements may differ.
func (s Set) SameHead(o Set) bool {
	return s.Name == o.Name && s.Kind == o.Kind && slices.Equal(s.Key, o.Key) && slices.Equal(s.Data, o.Data) &&
		s.Interval == o.Interval && s.Dynamic == o.Dynamic && s.HasTimeout == o.HasTimeout && s.Timeout == o.Timeout &&
		s.Size == o.Size && s.ElementCounters == o.ElementCounters && s.Comment == o.Comment
}

// Equal tells whether both are declared alike and hold the same elements, in any order.
func (s Set) Equal(o Set) bool {
	if !s.SameHead(o) {
		return false
	}
	return s.Dynamic || ElementsEqual(s.Elements, o.Elements)
}

// Element is one element of a set or map.
type Element struct {
	// Key is the value of the key; in an interval set the lowest one.
	Key Value
	// KeyEnd is the highest value of the range, itself included; empty means that Key stands alone.
	KeyEnd Value
	// Data is the value that a map gives.
	Data Value
	// Verdict is what a verdict map does.
	Verdict Verdict
	Comment string
}

// Compare orders elements by key; equal keys by the rest.
func (e Element) Compare(o Element) int {
	// Most elements differ in their keys, and there may be very many.
	if c := cmp.Compare(e.Key, o.Key); c != 0 {
		return c
	}
	return cmp.Or(
		cmp.Compare(e.KeyEnd, o.KeyEnd),
		cmp.Compare(e.Data, o.Data),
		cmp.Compare(e.Verdict.Kind, o.Verdict.Kind),
		cmp.Compare(e.Verdict.Chain, o.Verdict.Chain),
		cmp.Compare(e.Comment, o.Comment),
	)
}

// SortElements returns the elements sorted and without repetition. A slice that already is so is
// returned as it is, since maps may hold many thousands.
func SortElements(in []Element) []Element {
	sorted := true
	for i := 1; i < len(in) && sorted; i++ {
		sorted = in[i-1].Compare(in[i]) < 0
	}
	if sorted {
		return in
	}
	out := slices.Clone(in)
	slices.SortFunc(out, Element.Compare)
	return slices.Compact(out)
}

// ElementsEqual tells whether both hold the same elements, in any order. Two views of one array
// are equal without a look, which makes large unchanged maps free to compare.
func ElementsEqual(a, b []Element) bool {
	if len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0]) {
		return true
	}
	return slices.Equal(SortElements(a), SortElements(b))
}

// Sorted is the table with counters, sets and chains by name and elements by key. Rules keep
// their order. Nothing of t is changed.
func (t Table) Sorted() Table {
	t.Counters = slices.Sorted(slices.Values(t.Counters))
	t.Counters = slices.Compact(t.Counters)
	t.Sets = slices.Clone(t.Sets)
	for i := range t.Sets {
		t.Sets[i].Elements = SortElements(t.Sets[i].Elements)
	}
	slices.SortFunc(t.Sets, func(a, b Set) int { return cmp.Compare(a.Name, b.Name) })
	t.Chains = slices.Clone(t.Chains)
	slices.SortFunc(t.Chains, func(a, b Chain) int { return cmp.Compare(a.Name, b.Name) })
	return t
}

// Equal tells whether both tables do the same.
func (t Table) Equal(o Table) bool {
	a, b := t.Sorted(), o.Sorted()
	return a.Family == b.Family && a.Name == b.Name && slices.Equal(a.Counters, b.Counters) &&
		slices.EqualFunc(a.Sets, b.Sets, Set.Equal) && slices.EqualFunc(a.Chains, b.Chains, Chain.Equal)
}

// Set finds a set or map by its name.
func (t Table) Set(name string) (Set, bool) {
	for _, s := range t.Sets {
		if s.Name == name {
			return s, true
		}
	}
	return Set{}, false
}

// Chain finds a chain by its name.
func (t Table) Chain(name string) (Chain, bool) {
	for _, c := range t.Chains {
		if c.Name == name {
			return c, true
		}
	}
	return Chain{}, false
}

// VerdictKind is what a verdict does with a packet.
type VerdictKind uint8

// The verdicts. VerdictNone is the zero value and means that there is none.
const (
	VerdictNone VerdictKind = iota
	VerdictAccept
	VerdictDrop
	VerdictReturn
	VerdictJump
	VerdictGoto
)

// Verdict ends a rule, or is what a verdict map gives.
type Verdict struct {
	Kind VerdictKind
	// Chain is where a jump or goto leads.
	Chain string
}

// The verdicts without a target.
var (
	Accept = Verdict{Kind: VerdictAccept}
	Drop   = Verdict{Kind: VerdictDrop}
	Return = Verdict{Kind: VerdictReturn}
)

// Jump calls a chain and comes back at its end.
func Jump(chain string) Verdict { return Verdict{Kind: VerdictJump, Chain: chain} }

// Goto continues in a chain and does not come back.
func Goto(chain string) Verdict { return Verdict{Kind: VerdictGoto, Chain: chain} }

func (v Verdict) String() string {
	switch v.Kind {
	case VerdictNone:
		return ""
	case VerdictAccept:
		return "accept"
	case VerdictDrop:
		return "drop"
	case VerdictReturn:
		return "return"
	case VerdictJump:
		return "jump " + v.Chain
	case VerdictGoto:
		return "goto " + v.Chain
	default:
		return fmt.Sprintf("verdict(%d)", v.Kind)
	}
}
