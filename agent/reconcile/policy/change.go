//go:build linux

package policy

import (
	desired "github.com/weftnet/weftnet/agent/desired/policy"
	"github.com/weftnet/weftnet/agent/kernel/nft"
)

// change is a patch as the table takes it.
func change(p desired.Patch) nft.Change {
	c := nft.Change{
		Family: "inet", Name: desired.TableName, Create: p.Create,
		Flush: p.DelChains, DelSets: p.DelSets, DelChains: p.DelChains, DelCounters: p.DelCounters, Counters: p.AddCounters,
	}
	for _, d := range p.Deltas {
		c.Elements = append(c.Elements, nft.ElementChange{Set: d.Set, Delete: d.Delete, Add: d.Add})
	}
	for _, s := range p.AddSets {
		elements := s.Elements
		s.Elements = nil
		c.Sets = append(c.Sets, s)
		if len(elements) > 0 {
			c.Elements = append(c.Elements, nft.ElementChange{Set: s, Add: elements})
		}
	}
	for _, ch := range p.AddChains {
		if len(ch.Rules) > 0 {
			c.Rules = append(c.Rules, ch)
		}
		ch.Rules = nil
		c.Chains = append(c.Chains, ch)
	}
	return c
}
