//go:build netns

package nft

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/weftnet/weftnet/agent/state"
	"github.com/weftnet/weftnet/test/nstest"
)

// BenchmarkUpdate is one element more or less, in small tables and beside a large map.
func BenchmarkUpdate(b *testing.B) {
	for _, row := range []struct {
		name  string
		large int
	}{{"small", 0}, {"beside 40000", 40_000}} {
		b.Run(row.name, func(b *testing.B) {
			ns := nstest.New(b)
			var k *Kernel
			var err error
			ns.Do(b, func() { k, err = New() })
			if err != nil {
				b.Fatal(err)
			}
			defer func() { _ = k.Close() }()
			if _, err := k.Subscribe(b.Context()); err != nil {
				b.Fatal(err)
			}
			table := sampleTables()["all statements"]
			large := state.Set{Name: "large", Key: []state.DataType{state.TypeIPv4}, Size: 1 << 17}
			a := netip.MustParseAddr("10.0.0.0")
			for range row.large {
				a = a.Next()
				large.Elements = append(large.Elements, state.Element{Key: state.AddrValue(a)})
			}
			table.Sets = append(slices.Clone(table.Sets), large, state.Set{Name: "moving", Key: []state.DataType{state.TypeIPv4}})
			i := 0
			for b.Loop() {
				i++
				table.Sets = slices.Clone(table.Sets)
				table.Sets[len(table.Sets)-1].Elements = []state.Element{{Key: state.AddrValue(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}))}}
				if _, err := k.Update(b.Context(), table); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
