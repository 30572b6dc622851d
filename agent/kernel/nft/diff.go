//go:build linux

package nft

import (
	"cmp"
	"slices"

	"github.com/weftnet/weftnet/agent/state"
)

// Diff says what turns have into want. Chains whose rules are intact are not touched, so that the
// counts in their rules go on; named counters are never touched while they are wanted.
func Diff(have Observed, want state.Table) Change {
	want = want.Sorted()
	c := Change{Family: want.Family, Name: want.Name}
	if !have.Exists {
		return createAll(c, want)
	}
	c.Create = have.Dormant
	for _, n := range want.Counters {
		if !slices.Contains(have.Counters, n) {
			c.Counters = append(c.Counters, n)
		}
	}
	for _, n := range have.Counters {
		if !slices.Contains(want.Counters, n) {
			c.DelCounters = append(c.DelCounters, n)
		}
	}
	replaced := map[string]bool{} // sets and chains that are made anew: what refers to them is rewritten
	remade := diffChainHeads(&c, have, want, replaced)
	diffSets(&c, have, want, replaced)
	diffRules(&c, have, want, replaced, remade)
	return c
}

func createAll(c Change, want state.Table) Change {
	c.Create = true
	c.Counters = want.Counters
	for _, s := range want.Sets {
		c.addSet(s)
	}
	for _, ch := range want.Chains {
		c.addChain(ch)
	}
	return c
}

// Delete is the change that takes the whole table away.
func Delete(family, name string) Change { return Change{Family: family, Name: name, Drop: true} }

func (c *Change) addSet(s state.Set) {
	elements := s.Elements
	s.Elements = nil
	c.Sets = append(c.Sets, s)
	if len(elements) > 0 && !s.Dynamic {
		c.Elements = append(c.Elements, ElementChange{Set: s, Add: elements})
	}
}

func (c *Change) addChain(ch state.Chain) {
	if len(ch.Rules) > 0 {
		c.Rules = append(c.Rules, ch)
	}
	ch.Rules = nil
	c.Chains = append(c.Chains, ch)
}

// diffChainHeads settles which chains come, go and are made anew; the last are returned by name.
func diffChainHeads(c *Change, have Observed, want state.Table, replaced map[string]bool) map[string]bool {
	fresh := map[string]bool{}
	old := map[string]ObservedChain{}
	for _, h := range have.Chains {
		old[h.Chain.Name] = h
		if _, ok := want.Chain(h.Chain.Name); !ok {
			c.Flush = append(c.Flush, h.Chain.Name)
			c.DelChains = append(c.DelChains, h.Chain.Name)
		}
	}
	for _, w := range want.Chains {
		h, ok := old[w.Name]
		switch {
		case !ok:
			fresh[w.Name] = true
			c.addChain(w)
		case !h.Chain.SameBase(w):
			fresh[w.Name], replaced[w.Name] = true, true
			c.Flush = append(c.Flush, w.Name)
			c.DelChains = append(c.DelChains, w.Name)
			c.addChain(w)
		case h.Chain.EffectivePolicy() != w.EffectivePolicy():
			w.Rules = nil
			c.Policies = append(c.Policies, w)
		}
	}
	return fresh
}

func diffSets(c *Change, have Observed, want state.Table, replaced map[string]bool) {
	old := map[string]ObservedSet{}
	for _, h := range have.Sets {
		old[h.Head.name] = h
		if _, ok := want.Set(h.Head.name); !ok {
			c.DelSets = append(c.DelSets, h.Head.name)
		}
	}
	for _, w := range want.Sets {
		h, ok := old[w.Name]
		switch {
		case !ok:
			c.addSet(w)
		case h.Head != headOf(w):
			replaced[w.Name] = true
			c.DelSets = append(c.DelSets, w.Name)
			c.addSet(w)
		case !w.Dynamic:
			if e := diffElements(h.Elements, w, replaced); len(e.Add)+len(e.Delete) > 0 {
				c.Elements = append(c.Elements, e)
			}
		}
	}
}

// diffElements merges two sorted lists. An element whose data changed is deleted and added, since
// the kernel does not overwrite; so is one that leads to a chain that is made anew.
func diffElements(have []state.Element, want state.Set, replaced map[string]bool) ElementChange {
	wanted := state.SortElements(want.Elements)
	want.Elements = nil
	out := ElementChange{Set: want}
	if len(replaced) == 0 && state.ElementsEqual(have, wanted) {
		return out
	}
	for len(have) > 0 || len(wanted) > 0 {
		switch order := nextElement(have, wanted); {
		case order < 0:
			out.Delete = append(out.Delete, have[0])
			have = have[1:]
		case order > 0:
			out.Add = append(out.Add, wanted[0])
			wanted = wanted[1:]
		default:
			if have[0] != wanted[0] || replaced[wanted[0].Verdict.Chain] {
				out.Delete = append(out.Delete, have[0])
				out.Add = append(out.Add, wanted[0])
			}
			have, wanted = have[1:], wanted[1:]
		}
	}
	return out
}

// nextElement tells whose first element comes first by key.
func nextElement(a, b []state.Element) int {
	switch {
	case len(b) == 0:
		return -1
	case len(a) == 0:
		return 1
	default:
		return cmp.Or(cmp.Compare(a[0].Key, b[0].Key), cmp.Compare(a[0].KeyEnd, b[0].KeyEnd))
	}
}

// diffRules rewrites chains whose rules are not intact or refer to something made anew.
func diffRules(c *Change, have Observed, want state.Table, replaced, fresh map[string]bool) {
	for _, h := range have.Chains {
		w, ok := want.Chain(h.Chain.Name)
		if !ok || fresh[w.Name] {
			continue
		}
		if h.intact(w.Rules) && !refersTo(w, replaced) {
			continue
		}
		if h.length() > 0 {
			c.Flush = append(c.Flush, w.Name)
		}
		if len(w.Rules) > 0 {
			c.Rules = append(c.Rules, w)
		}
	}
}

func refersTo(c state.Chain, names map[string]bool) bool {
	if len(names) == 0 {
		return false
	}
	for _, r := range c.Rules {
		for _, s := range r.Statements {
			if set, chain := references(s); names[set] || names[chain] {
				return true
			}
		}
	}
	return false
}

// references names the set and the chain that a statement needs, if any.
func references(s state.Statement) (set, chain string) {
	switch s := s.(type) {
	case state.InSet:
		return s.Set, ""
	case state.VMapLookup:
		return s.Map, ""
	case state.SetMark:
		return s.Map, ""
	case state.NAT:
		return s.Map, ""
	case state.Remember:
		return s.Set, ""
	case state.Forget:
		return s.Set, ""
	case state.Verdict:
		return "", s.Chain
	default:
		return "", ""
	}
}
