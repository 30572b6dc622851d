//go:build linux

package nft

import (
	"fmt"
	"strings"

	"github.com/weftnet/weftnet/agent/state"
)

// ElementChange is what changes in the elements of one set, of which only the head is given.
type ElementChange struct {
	Set         state.Set
	Delete, Add []state.Element
}

// Change is what has to be done to a table, in the order of its fields. It is one transaction, or
// two: see stages.
type Change struct {
	Family, Name string
	// Drop deletes the table with all that is in it, before anything else.
	Drop bool
	// Create makes the table, or wakes it where somebody has put it to sleep.
	Create bool
	// Flush empties chains whose rules change or that go away.
	Flush []string
	// OneByOne gives each element a message of its own, so that a refusal names the element. It is
	// slow, and for finding out what is wrong.
	OneByOne bool
	// Elements are carried out in two halves: what is deleted here, what is added after Sets.
	Elements    []ElementChange
	DelSets     []string
	DelChains   []string
	DelCounters []string
	Counters    []string
	// Chains are made, without rules; Policies are chains of which only the policy changes.
	Chains   []state.Chain
	Policies []state.Chain
	// Sets are made, without elements.
	Sets []state.Set
	// Rules are the chains whose rules are written.
	Rules []state.Chain
}

// Empty tells whether there is nothing to do.
func (c Change) Empty() bool {
	return !c.Drop && !c.Create && len(c.Flush) == 0 && len(c.Elements) == 0 && len(c.DelSets) == 0 &&
		len(c.DelChains) == 0 && len(c.DelCounters) == 0 && len(c.Counters) == 0 && len(c.Chains) == 0 &&
		len(c.Policies) == 0 && len(c.Sets) == 0 && len(c.Rules) == 0
}

// maxListed bounds how many elements of a set are printed one by one.
const maxListed = 8

// String prints the change as the nft commands that it amounts to, one a line.
func (c Change) String() string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	at := c.Family + " " + c.Name
	if c.Drop {
		line("delete table %s", at)
	}
	if c.Create {
		line("add table %s", at)
	}
	for _, n := range c.Flush {
		line("flush chain %s %s", at, n)
	}
	for _, e := range c.Elements {
		elementLines(line, "delete", at, e.Set, e.Delete)
	}
	for _, n := range c.DelSets {
		line("delete set %s %s", at, n)
	}
	for _, n := range c.DelChains {
		line("delete chain %s %s", at, n)
	}
	for _, n := range c.DelCounters {
		line("delete counter %s %s", at, n)
	}
	c.additions(line, at)
	return strings.TrimSuffix(b.String(), "\n")
}

func (c Change) additions(line func(string, ...any), at string) {
	for _, n := range c.Counters {
		line("add counter %s %s", at, n)
	}
	for _, ch := range c.Chains {
		line("add chain %s %s", at, ch.Name)
	}
	for _, ch := range c.Policies {
		line("chain %s %s { policy %s; }", at, ch.Name, ch.EffectivePolicy())
	}
	for _, s := range c.Sets {
		line("add %s %s %s", setWord(s), at, s.Name)
	}
	for _, e := range c.Elements {
		elementLines(line, "add", at, e.Set, e.Add)
	}
	for _, ch := range c.Rules {
		for _, r := range ch.Rules {
			line("add rule %s %s %s", at, ch.Name, r)
		}
	}
}

func setWord(s state.Set) string {
	if s.Kind == state.KindSet {
		return "set"
	}
	return "map"
}

func elementLines(line func(string, ...any), verb, at string, s state.Set, elements []state.Element) {
	if len(elements) > maxListed {
		line("%s element %s %s { %d elements }", verb, at, s.Name, len(elements))
		return
	}
	for _, e := range elements {
		line("%s element %s %s { %s }", verb, at, s.Name, s.FormatElement(e))
	}
}
