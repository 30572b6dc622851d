//go:build linux

package nft

import (
	"testing"

	"github.com/weftnet/weftnet/agent/state"
)

func link(name string) state.Value { return state.IfNameValue(name) }

// standing is a map that a base chain asks, with an element that leads to a chain that drops.
func standing() state.Table {
	ways := state.Set{Name: "ways", Kind: state.KindVMap, Key: []state.DataType{state.TypeIfName},
		Elements: []state.Element{{Key: link("a"), Verdict: state.Jump("old")}}}
	return state.Table{Family: "inet", Name: "weftnet-test", Sets: []state.Set{ways}, Chains: []state.Chain{
		{Name: "forward", Type: state.ChainFilter, Hook: state.HookForward, Rules: []state.ChainRule{
			{Statements: []state.Statement{state.VMapLookup{Fields: state.Fields(state.FieldOIFName), Map: "ways"}}}}},
		{Name: "old", Rules: []state.ChainRule{{Statements: []state.Statement{state.Drop}}}},
	}}.Sorted()
}

// exchanged leads to a new chain instead, which looks a new set up.
func exchanged(key string) state.Table {
	t := standing()
	t.Sets = []state.Set{
		{Name: "marks", Key: []state.DataType{state.TypeIfName}, Elements: []state.Element{{Key: link("b")}}},
		{Name: "ways", Kind: state.KindVMap, Key: []state.DataType{state.TypeIfName}, Elements: []state.Element{{Key: link(key), Verdict: state.Jump("new")}}},
	}
	t.Chains = append(t.Chains[:1:1], state.Chain{Name: "new", Rules: []state.ChainRule{
		{Statements: []state.Statement{state.InSet{Fields: state.Fields(state.FieldIIFName), Set: "marks"}, state.Accept}},
		{Statements: []state.Statement{state.Drop}}}})
	return t.Sorted()
}

// TestNewChainsStandFirst : what a map leads to is complete before it does; whatever else is one transaction.
func TestNewChainsStandFirst(t *testing.T) {
	stages := diffTables(standing(), exchanged("a")).stages()
	want := []string{
		"add chain inet weftnet-test new\nadd set inet weftnet-test marks\nadd element inet weftnet-test marks { \"b\" }\n" +
			"add rule inet weftnet-test new iifname @marks accept\nadd rule inet weftnet-test new drop",
		"flush chain inet weftnet-test old\ndelete element inet weftnet-test ways { \"a\" : jump old }\ndelete chain inet weftnet-test old\n" +
			"add element inet weftnet-test ways { \"a\" : jump new }",
	}
	if len(stages) != len(want) {
		t.Fatalf("%d stages, want %d", len(stages), len(want))
	}
	for i, s := range stages {
		if s.String() != want[i] {
			t.Errorf("stage %d:\n%s\nwant\n%s", i, s, want[i])
		}
	}
	whole := diffTables(state.Table{Family: "inet", Name: "weftnet-test"}, exchanged("a"))
	same := diffTables(standing(), standing())
	for name, c := range map[string]Change{"all new": whole, "nothing": same, "all deleted": Delete("inet", "weftnet-test")} {
		if n := len(c.stages()); n != 1 {
			t.Errorf("%s: %d stages", name, n)
		}
	}
	renewed := diffTables(standing(), exchanged("a"))
	renewed.DelCounters, renewed.Counters = []string{"n"}, []string{"n"}
	if n := len(renewed.stages()); n != 1 {
		t.Errorf("what is deleted and made again is %d stages", n)
	}
}
