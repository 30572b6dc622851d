//go:build linux

package nft

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"io"
	"slices"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/weftnet/weftnet/agent/kernel/wire"
	"github.com/weftnet/weftnet/agent/state"
)

// Observed is what the kernel has of a table, sorted by name.
type Observed struct {
	Family, Name string
	// Exists is false when there is no such table.
	Exists bool
	// Dormant says that somebody has put the table to sleep: its chains are not called.
	Dormant  bool
	Counters []string
	Sets     []ObservedSet
	Chains   []ObservedChain
}

// ObservedSet is a set as the kernel declares it, and its elements, sorted.
type ObservedSet struct {
	Head     setHead
	Elements []state.Element
}

// setHead is a set's declaration in the kernel's terms.
type setHead struct {
	name                                               string
	flags, keyType, keyLen, dataType, dataLen, maxSize uint32
	timeout                                            uint64 // ms
	elementCounters                                    bool
	comment                                            string
}

// ObservedChain is a chain as the kernel has it. Rules is in the kernel's order.
type ObservedChain struct {
	Chain state.Chain // without rules
	Rules []observedRule
	// written are the rules as they were written, where that is known; Rules is then empty.
	written []state.ChainRule
}

// length is the number of rules.
func (o ObservedChain) length() int { return max(len(o.Rules), len(o.written)) }

// intact tells whether the chain's rules are the wanted ones, and nothing else.
func (o ObservedChain) intact(want []state.ChainRule) bool {
	if o.written != nil {
		return slices.EqualFunc(o.written, want, state.ChainRule.Equal)
	}
	if len(o.Rules) != len(want) {
		return false
	}
	for i := range o.Rules {
		if !o.Rules[i].intact(want[i]) {
			return false
		}
	}
	return true
}

// observedRule is what identifies a rule: the hash that we gave it, and what the kernel says it does.
type observedRule struct {
	hash  ruleHash
	exprs []kernelExpr
}

// kernelExpr is one expression in wire form.
type kernelExpr struct {
	name string
	data []wire.Attr
}

const hashSize = 12

// ruleHash identifies a rule by its text and by what it is compiled to, so that an agent which
// compiles otherwise rewrites the rules of the one before.
type ruleHash [hashSize]byte

func hashRule(r state.ChainRule, exprs []kernelExpr) ruleHash {
	h := sha256.New()
	_, _ = io.WriteString(h, r.String())
	for _, e := range exprs {
		_, _ = io.WriteString(h, "\x00"+e.name)
		_, _ = h.Write(wire.Put(nil, e.data...))
	}
	return ruleHash(h.Sum(nil)[:hashSize])
}

// intact tells whether the kernel's rule is the wanted one: by its hash, and by every attribute of
// every expression that was asked for. The kernel may add attributes of its own (defaults).
func (o observedRule) intact(r state.ChainRule) bool {
	want, err := wireExprs(r)
	if err != nil || o.hash != hashRule(r, want) || len(want) != len(o.exprs) {
		return false
	}
	for i := range want {
		if !sameExpr(o.exprs[i], want[i]) {
			return false
		}
	}
	return true
}

// wireExprs compiles a rule to wire form.
func wireExprs(r state.ChainRule) ([]kernelExpr, error) {
	exprs, err := compile(r)
	if err != nil {
		return nil, err
	}
	out := make([]kernelExpr, len(exprs))
	for i, e := range exprs {
		b, err := expr.Marshal(unix.NFPROTO_INET, e)
		if err != nil {
			return nil, err
		}
		out[i] = parseExpr(b)
	}
	return out, nil
}

func parseExpr(b []byte) kernelExpr {
	attrs := wire.Parse(b)
	return kernelExpr{name: wire.String(wire.Find(attrs, unix.NFTA_EXPR_NAME)), data: wire.Parse(wire.Find(attrs, unix.NFTA_EXPR_DATA))}
}

// volatile are the attributes that do not say what an expression does: counts, and names of sets
// within one transaction.
var volatile = map[string][]uint16{
	"counter": {unix.NFTA_COUNTER_BYTES, unix.NFTA_COUNTER_PACKETS},
	"lookup":  {unix.NFTA_LOOKUP_SET_ID},
	"dynset":  {unix.NFTA_DYNSET_SET_ID, unix.NFTA_DYNSET_FLAGS},
	"reject":  {unix.NFTA_REJECT_ICMP_CODE}, // not reported for a TCP reset; the hash knows it
}

// texts are the attributes that are sent without the closing zero with which the kernel reports them.
var texts = map[string]uint16{"objref": unix.NFTA_OBJREF_IMM_NAME, "log": unix.NFTA_LOG_PREFIX}

func sameExpr(have, want kernelExpr) bool {
	if have.name != want.name {
		return false
	}
	for _, w := range want.data {
		if slices.Contains(volatile[want.name], w.Type) {
			continue
		}
		h := wire.Find(have.data, w.Type)
		if texts[want.name] == w.Type {
			h, w.Data = []byte(wire.String(h)), []byte(wire.String(w.Data))
		}
		if h == nil || !sameData(h, w.Data) {
			return false
		}
	}
	return true
}

// sameData compares the values of an attribute, without regard to the flags of nested attributes.
func sameData(a, b []byte) bool {
	if bytes.Equal(a, b) {
		return true
	}
	na, nb := wire.Parse(a), wire.Parse(b)
	if len(na) == 0 || len(na) != len(nb) || len(wire.Put(nil, na...)) != wire.Align(len(a)) {
		return false
	}
	for i := range na {
		if na[i].Type != nb[i].Type || !sameData(na[i].Data, nb[i].Data) {
			return false
		}
	}
	return true
}

// sorted puts the parts in the order of their names.
func (o Observed) sorted() Observed {
	slices.Sort(o.Counters)
	slices.SortFunc(o.Sets, func(a, b ObservedSet) int { return cmp.Compare(a.Head.name, b.Head.name) })
	slices.SortFunc(o.Chains, func(a, b ObservedChain) int { return cmp.Compare(a.Chain.Name, b.Chain.Name) })
	return o
}

// observedFrom is what the kernel reports once a table has been written.
func observedFrom(t state.Table) Observed {
	o := knownFrom(t)
	for i, c := range o.Chains {
		for _, r := range c.written {
			exprs, _ := wireExprs(r)
			o.Chains[i].Rules = append(o.Chains[i].Rules, observedRule{hash: hashRule(r, exprs), exprs: exprs})
		}
		o.Chains[i].written = nil
	}
	return o
}

// knownFrom is what is known of a table that was written and that nobody has touched since.
func knownFrom(t state.Table) Observed {
	t = t.Sorted()
	o := Observed{Family: t.Family, Name: t.Name, Exists: true, Counters: slices.Clone(t.Counters)}
	for _, s := range t.Sets {
		set := ObservedSet{Head: headOf(s)}
		if !s.Dynamic {
			set.Elements = s.Elements
		}
		o.Sets = append(o.Sets, set)
	}
	for _, c := range t.Chains {
		out := ObservedChain{Chain: c, written: c.Rules}
		out.Chain.Rules, out.Chain.Policy = nil, c.EffectivePolicy()
		o.Chains = append(o.Chains, out)
	}
	return o
}

// diffTables says what turns a table that was written as have into want.
func diffTables(have, want state.Table) Change { return Diff(knownFrom(have), want) }
