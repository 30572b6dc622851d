//go:build netns

package nft

import (
	"net/netip"
	"testing"

	"github.com/weftnet/weftnet/agent/state"
)

// TestManyElements writes maps as large as a large cluster's in one go, and changes one element.
func TestManyElements(t *testing.T) {
	const count = 100_000
	k, _ := inNamespace(t)
	s := state.Set{
		Name: "many", Kind: state.KindMap, Key: []state.DataType{state.TypeIPv4, state.TypePort}, Data: []state.DataType{state.TypeIPv4, state.TypePort},
		Size: 1 << 17, // a table of fixed size, which the kernel need not grow
	}
	addr := netip.MustParseAddr("10.0.0.0")
	for i := range count {
		addr = addr.Next()
		s.Elements = append(s.Elements, state.Element{
			Key:  state.Concat(state.AddrValue(addr), state.PortValue(uint16(i))),
			Data: state.Concat(state.AddrValue(addr), state.PortValue(80)),
		})
	}
	table := state.Table{Family: "inet", Name: state.TableName, Sets: []state.Set{s}}
	if _, err := k.Ensure(t.Context(), table); err != nil {
		t.Fatal(err)
	}
	have, err := k.Observe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if c := Diff(have, table); !c.Empty() {
		t.Errorf("after writing there is still %s", c)
	}
	one := ElementChange{Set: s, Delete: s.Elements[:1]}
	one.Set.Elements = nil
	if err := k.Apply(t.Context(), Change{Family: "inet", Name: state.TableName, Elements: []ElementChange{one}}); err != nil {
		t.Fatal(err)
	}
	table.Sets[0].Elements = s.Elements[1:]
	if have, err = k.Observe(t.Context()); err != nil {
		t.Fatal(err)
	}
	if c := Diff(have, table); !c.Empty() {
		t.Errorf("after deleting one element there is still %s", c)
	}
}
