//go:build linux

package nft

import (
	"slices"

	"github.com/weftnet/weftnet/agent/state"
)

// stages parts a change in two where elements of a map that packets already ask lead to chains that are new.
// A packet looks at the generation of the rules once, when it enters a base chain, and at that of the
// elements at each lookup. One that was on its way when a transaction came into force would find the new
// element, and behind it a chain that has no rules in the packet's generation: it would come back as from
// an empty chain, judged by nobody. So the chains are made first, and led to by a transaction of their own.
func (c Change) stages() []Change {
	if c.Drop || !c.leadsToNew() || c.renews() {
		return []Change{c}
	}
	made := map[string]bool{}
	for _, s := range c.Sets {
		made[s.Name] = true
	}
	first, then := Change{Family: c.Family, Name: c.Name, Create: c.Create, OneByOne: c.OneByOne, Counters: c.Counters, Sets: c.Sets}, c
	then.Create, then.Counters, then.Sets = false, nil, nil
	var hooked, ofHooked []state.Chain
	fresh := map[string]bool{}
	for _, ch := range c.Chains {
		if ch.Hook == "" {
			fresh[ch.Name] = true
			first.Chains = append(first.Chains, ch)
		} else {
			hooked = append(hooked, ch)
		}
	}
	for _, ch := range c.Rules {
		if fresh[ch.Name] {
			first.Rules = append(first.Rules, ch)
		} else {
			ofHooked = append(ofHooked, ch)
		}
	}
	then.Chains, then.Rules, then.Elements = hooked, ofHooked, nil
	for _, e := range c.Elements {
		if made[e.Set.Name] {
			first.Elements = append(first.Elements, e)
		} else {
			then.Elements = append(then.Elements, e)
		}
	}
	return []Change{first, then}
}

// leadsToNew tells whether a map that is there gets an element that leads to a chain that is not.
func (c Change) leadsToNew() bool {
	fresh := map[string]bool{}
	for _, ch := range c.Chains {
		fresh[ch.Name] = true
	}
	return slices.ContainsFunc(c.Elements, func(e ElementChange) bool {
		standing := !slices.ContainsFunc(c.Sets, func(s state.Set) bool { return s.Name == e.Set.Name })
		return standing && slices.ContainsFunc(e.Add, func(el state.Element) bool { return fresh[el.Verdict.Chain] })
	})
}

// renews tells whether something is deleted and made again under its name, which only one transaction can do.
func (c Change) renews() bool {
	return slices.ContainsFunc(c.Chains, func(ch state.Chain) bool { return slices.Contains(c.DelChains, ch.Name) }) ||
		slices.ContainsFunc(c.Sets, func(s state.Set) bool { return slices.Contains(c.DelSets, s.Name) }) ||
		slices.ContainsFunc(c.Counters, func(n string) bool { return slices.Contains(c.DelCounters, n) })
}

// undo takes away what a first stage has made.
func (c Change) undo() Change {
	out := Change{Family: c.Family, Name: c.Name, DelCounters: c.Counters}
	for _, ch := range c.Chains {
		out.Flush, out.DelChains = append(out.Flush, ch.Name), append(out.DelChains, ch.Name)
	}
	for _, s := range c.Sets {
		out.DelSets = append(out.DelSets, s.Name)
	}
	return out
}
