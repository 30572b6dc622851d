//go:build linux

package nft

import (
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weftnet/agent/kernel/wire"
	"github.com/weftnet/weftnet/agent/state"
)

// FuzzDecode looks for replies on which reading fails or does not end.
func FuzzDecode(f *testing.F) {
	msgs, err := encode(Diff(Observed{}, sampleTables()["all statements"]))
	if err != nil {
		f.Fatal(err)
	}
	for _, m := range msgs {
		f.Add(netfilter(m.family, 0, m.data))
	}
	f.Fuzz(func(_ *testing.T, b []byte) {
		attrs := payload(b)
		_ = decodeChain(attrs)
		rule := decodeRule(attrs)
		_ = rule.intact(state.ChainRule{Statements: []state.Statement{state.Drop}})
		head := decodeSet(attrs)
		var entries []entry
		for _, e := range wire.Parse(wire.Find(attrs, unix.NFTA_SET_ELEM_LIST_ELEMENTS)) {
			entries = append(entries, decodeEntry(head, wire.Parse(e.Data)))
		}
		_ = joinRanges(entries)
		_ = findUdata(b, udataRuleHash)
	})
}

func TestRangesSurviveTheWire(t *testing.T) {
	for _, s := range sampleSets() {
		if !s.Interval || len(s.Key) > 1 {
			continue
		}
		var entries []entry
		for _, el := range s.Elements {
			b, err := appendElement(nil, s, el, true)
			if err != nil {
				t.Fatal(err)
			}
			for _, a := range wire.Parse(b) {
				entries = append(entries, decodeEntry(headOf(s), wire.Parse(a.Data)))
			}
		}
		if got := state.SortElements(joinRanges(entries)); !state.ElementsEqual(got, s.Elements) {
			t.Errorf("%s: elements came back as %v", s.Name, got)
		}
	}
}

func TestEncodeRefusesWhatTheKernelWould(t *testing.T) {
	set := state.Set{Name: "s", Key: []state.DataType{state.TypeIPv4}}
	chain := func(s ...state.Statement) []state.Chain {
		return []state.Chain{{Name: "c", Rules: []state.ChainRule{{Statements: s}}}}
	}
	for name, c := range map[string]Change{
		"family":         {Family: "bridge"},
		"key too short":  {Family: "inet", Elements: []ElementChange{{Set: set, Add: []state.Element{{Key: "x"}}}}},
		"key of IPv6":    {Family: "inet", Elements: []ElementChange{{Set: set, Add: []state.Element{{Key: addr("fd00::1")}}}}},
		"no fields":      {Family: "inet", Rules: chain(state.InSet{Set: "s"})},
		"other family":   {Family: "inet", Rules: chain(state.InPrefix{Field: state.FieldIPSaddr, Prefix: prefix6})},
		"family unknown": {Family: "inet", Rules: chain(state.NAT{Family: state.IPv4, Addr: prefix6.Addr()})},
		"no modulus":     {Family: "inet", Rules: chain(state.VMapLookup{Fields: state.Fields(state.Numgen(0)), Map: "m"})},
		"key too long": {Family: "inet", Rules: chain(state.InSet{Set: "s", Fields: state.Fields(
			state.FieldIP6Saddr, state.FieldIP6Daddr, state.FieldIP6Saddr, state.FieldIP6Daddr, state.FieldTHDport)})},
	} {
		if _, err := encode(c); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

var prefix6 = netip.MustParsePrefix("fd00::/64")
