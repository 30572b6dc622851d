//go:build linux

package nft

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/weftnet/weftnet/agent/state"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// anyTable draws a table whose parts all exist that it refers to.
func anyTable(t *rapid.T) state.Table {
	table := state.Table{Family: "inet", Name: state.TableName}
	table.Counters = rapid.SliceOfDistinct(rapid.SampledFrom([]string{"a", "b", "c"}), rapid.ID).Draw(t, "counters")
	names := rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"one", "two", "three", "four"}), 0, 4, rapid.ID)
	chains := names.Draw(t, "chains")
	for _, n := range names.Draw(t, "sets") {
		table.Sets = append(table.Sets, anySet(t, n, chains))
	}
	for i, n := range chains {
		c := state.Chain{Name: n}
		if i == 0 || rapid.Bool().Draw(t, "base") {
			c.Type, c.Hook = state.ChainFilter, state.HookForward
			c.Priority = rapid.Int32Range(-2, 2).Draw(t, "priority")
			c.Policy = rapid.SampledFrom([]state.ChainPolicy{"", state.PolicyAccept, state.PolicyDrop}).Draw(t, "policy")
		}
		for range rapid.IntRange(0, 3).Draw(t, "rules") {
			c.Rules = append(c.Rules, anyRule(t, table, chains[i+1:]))
		}
		table.Chains = append(table.Chains, c)
	}
	return table
}

func anySet(t *rapid.T, name string, chains []string) state.Set {
	s := state.Set{Name: name, Key: []state.DataType{state.TypeIPv4}}
	s.Interval = rapid.Bool().Draw(t, "interval")
	switch kind := rapid.IntRange(0, 2).Draw(t, "kind"); {
	case kind == 1:
		s.Kind, s.Data = state.KindMap, []state.DataType{state.TypeMark}
	case kind == 2 && len(chains) > 0:
		s.Kind = state.KindVMap
	}
	for _, b := range rapid.SliceOfDistinct(rapid.Byte(), rapid.ID).Draw(t, "elements") {
		e := state.Element{Key: state.AddrValue(netip.AddrFrom4([4]byte{10, b, 0, 0}))}
		if s.Interval {
			e = state.PrefixElement(netip.PrefixFrom(netip.AddrFrom4([4]byte{10, b, 0, 0}), rapid.IntRange(16, 32).Draw(t, "bits")))
		}
		switch s.Kind {
		case state.KindMap:
			e.Data = state.MarkValue(rapid.Uint32Range(0, 2).Draw(t, "data"))
		case state.KindVMap:
			e.Verdict = rapid.SampledFrom([]state.Verdict{state.Drop, state.Goto(chains[len(chains)-1])}).Draw(t, "verdict")
		case state.KindSet:
		}
		s.Elements = append(s.Elements, e)
	}
	return s
}

func anyRule(t *rapid.T, table state.Table, later []string) state.ChainRule {
	choices := [][]state.Statement{{state.Drop}, {state.Count{}, state.Accept}}
	for _, c := range table.Counters {
		choices = append(choices, []state.Statement{state.Count{Name: c}})
	}
	for _, s := range table.Sets {
		switch s.Kind {
		case state.KindSet:
			choices = append(choices, []state.Statement{state.InSet{Fields: state.Fields(state.FieldIPSaddr), Set: s.Name}, state.Drop})
		case state.KindMap:
			choices = append(choices, []state.Statement{state.SetMark{Fields: state.Fields(state.FieldIPDaddr), Map: s.Name}})
		case state.KindVMap: // its elements may lead anywhere, which could be a loop
		}
	}
	for _, c := range later {
		choices = append(choices, []state.Statement{state.Jump(c)})
	}
	return state.ChainRule{Statements: rapid.SampledFrom(choices).Draw(t, "rule")}
}

// TestApplyOfDiffIsWant is the law of this package, over random histories of tables.
func TestApplyOfDiffIsWant(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		fake := NewFake()
		for i := range rapid.IntRange(1, 4).Draw(rt, "steps") {
			want := anyTable(rt)
			have, err := fake.Observe(t.Context())
			if err != nil {
				rt.Fatal(err)
			}
			change := Diff(have, want)
			if err := fake.Apply(t.Context(), change); err != nil {
				rt.Fatalf("step %d: %v\n%s", i, err, change)
			}
			got, _ := fake.Table()
			if !got.Equal(want) {
				rt.Fatalf("step %d: after\n%s\nthe table is\n%s\nwant\n%s", i, change, got, want)
			}
			if have, err = fake.Observe(t.Context()); err != nil || !Diff(have, want).Empty() {
				rt.Fatalf("step %d: there is still\n%s", i, Diff(have, want))
			}
		}
	})
}

// TestOrderDoesNotMatter shuffles everything but the rules of a chain.
func TestOrderDoesNotMatter(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		have, want := observedFrom(anyTable(rt)), anyTable(rt)
		random := rand.New(rand.NewPCG(rapid.Uint64().Draw(rt, "seed"), 1))
		if got, expected := Diff(have, shuffled(random, want)).String(), Diff(have, want).String(); got != expected {
			rt.Fatalf("in another order the change is\n%s\nnot\n%s", got, expected)
		}
	})
}

func shuffled(random *rand.Rand, t state.Table) state.Table {
	t = clone(t)
	random.Shuffle(len(t.Counters), func(i, j int) { t.Counters[i], t.Counters[j] = t.Counters[j], t.Counters[i] })
	random.Shuffle(len(t.Sets), func(i, j int) { t.Sets[i], t.Sets[j] = t.Sets[j], t.Sets[i] })
	random.Shuffle(len(t.Chains), func(i, j int) { t.Chains[i], t.Chains[j] = t.Chains[j], t.Chains[i] })
	for i := range t.Sets {
		e := slices.Clone(t.Sets[i].Elements)
		random.Shuffle(len(e), func(i, j int) { e[i], e[j] = e[j], e[i] })
		t.Sets[i].Elements = e
	}
	return t
}

// BenchmarkDiffOneOf40000 is what comparing a large map costs.
func BenchmarkDiffOneOf40000(b *testing.B) {
	s := state.Set{Name: "many", Key: []state.DataType{state.TypeIPv4}}
	for i := range 40_000 {
		s.Elements = append(s.Elements, state.Element{Key: state.AddrValue(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}))})
	}
	table := state.Table{Family: "inet", Name: state.TableName, Sets: []state.Set{s}}
	have := observedFrom(table)
	changed := s
	changed.Elements = slices.Clone(s.Elements)[1:]
	table.Sets = []state.Set{changed}
	for b.Loop() {
		if c := Diff(have, table); len(c.Elements) != 1 {
			b.Fatal(fmt.Sprint(c))
		}
	}
}
